"""Which helper passes changed the model to suit quantization, and what they gained, from the journal."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.contract.journal import Journal
from toolkit.report.findings import sentence

_PASSES = ("equalize", "smooth")
_APPLIED = "; it is applied"


def helper_lines(journal: Journal) -> list[str]:
    """One line a helper pass that changed the model, with the decibels that it measured.

    Those that a search tried and kept are named by the search's journal lines, those of the recipe by their own; of a
    pass that changed something without measuring, the line says so.
    """
    noted = journal.of("noted")
    tried = [sentence(e.why) for e in noted if e.rule == "search-helper"]
    lines = [reason.removesuffix(_APPLIED) for reason in tried if reason.endswith(_APPLIED)]
    measured = [(e.by, sentence(e.why)) for e in noted if e.rule == "effect"]
    lines += [reason for _, reason in measured]
    known = {by for by, _ in measured}
    for name in _PASSES:
        changed = {e.node for e in journal.of("changed") if e.by == name}
        if changed and name not in known:
            lines.append(f"{name}: it changed {count(len(changed), 'layer')}; what it gained was not measured")
    return list(dict.fromkeys(lines))
