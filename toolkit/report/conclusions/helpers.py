"""Which helper passes changed the model to suit quantization, and what they gained, from the journal."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import titles
from toolkit.report.schema.report import PassInfo


def helpers_used(journal: Journal, passes: Sequence[PassInfo] = ()) -> list[Finding]:
    """One finding per helper pass: what it does to the SQNR, and whether it was kept for that.

    Those that a search tried and kept are named by the search's notes, those of the recipe by their own; for a pass
    that changed something without measuring, the finding says so.
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
