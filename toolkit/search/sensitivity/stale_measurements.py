"""A note for earlier measurements that cannot be reused."""

from __future__ import annotations

from toolkit.base.log import Log
from toolkit.contract.findings import Code, Finding


def stale_measurements(log: Log) -> list[Finding]:
    """The finding that a log's results were not reused, and why; empty if they were, or if there were none."""
    return [Code.MEASURED_AGAIN(why=log.refused)] if log.refused else []
