"""Codes of findings about the placement of a whole model; the journal has those about its nodes."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class PlacementCode(BaseCode):
    """A finding about the placement of a whole model."""

    SHARED_UNLIKE = "placement-shared-unlike"
