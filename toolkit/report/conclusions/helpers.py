"""Helper passes that prepared the model for quantization, with their effect, from the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import titles
from toolkit.report.schema.report import LayerInfo, PassInfo


def helpers_used(journal: Journal, passes: Sequence[PassInfo] = ()) -> list[Finding]:
    """One finding per helper pass with its effect on the SQNR, and whether its changes were kept.

    The findings are notes of the search on passes it applied, and the passes' own notes; a pass that changed something
    without measuring gets a finding that says so.
    """
    noted = journal.of("noted")
    found = [e.why for e in noted if e.why.code is Code.SEARCH_HELPER and e.why.values["applied"]]
    measured = [e for e in noted if e.why.code in (Code.EFFECT, Code.HELPER_UNMEASURED)]
    found += [e.why for e in measured]
    for name in sorted(titles(passes, Role.HELP) - {e.by for e in measured}):
        changed = {e.node for e in journal.of("changed") if e.by == name}
        if changed:
            found.append(ReportCode.EFFECT_NOT_MEASURED(by=name, count=len(changed)))
    return list(dict.fromkeys(found))


def idle_helpers(journal: Journal, passes: Sequence[PassInfo], layers: Iterable[LayerInfo]) -> Finding | None:
    """The finding that helper passes changed the model although no layer is requested quantized; None if not so."""
    if any(layer.asked_precision is not None and layer.asked_precision.quantized for layer in layers):
        return None
    changed = sorted(titles(passes, Role.HELP) & {event.by for event in journal.of("changed")})
    return ReportCode.HELPERS_IDLE(passes=changed) if changed else None
