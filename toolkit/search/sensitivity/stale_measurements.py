"""What to say where earlier measurements cannot be used any more."""

from __future__ import annotations

from toolkit.base.log import Log
from toolkit.contract.findings import Code, Finding


def stale_measurements(log: Log) -> list[Finding]:
    """Findings that the results of a log were not used, and why; empty where they were, or where there were none."""
    return [Code.MEASURED_AGAIN(why=log.refused)] if log.refused else []
