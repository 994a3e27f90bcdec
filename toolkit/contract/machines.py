"""Findings about the machines that work was done on."""

from __future__ import annotations

from toolkit.base.cpu import cpu_kind
from toolkit.base.places import elsewhere
from toolkit.contract.findings import Code, Finding


def machine_notes() -> list[Finding]:
    """A note if workers have CPUs of another kind, whose kernels round differently; otherwise nothing."""
    place = elsewhere()
    if place is None or not place.unlike:
        return []
    return [Code.OTHER_CPUS(kinds=sorted(place.unlike), here=cpu_kind())]
