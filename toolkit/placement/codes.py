"""What is said of the placement of a whole model, beside what the journal says of its nodes."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class PlacementCode(BaseCode):
    """What is said of the placement of a whole model."""

    SHARED_UNLIKE = "placement-shared-unlike"
