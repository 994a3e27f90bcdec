"""Codes of findings about the placement of a whole model, and of reasons that ``contract`` does not have."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class PlacementCode(BaseCode):
    """A finding about the placement of a whole model, or why a node is not quantized."""

    SHARED_UNLIKE = "placement-shared-unlike"
    RUN_TIME_WEIGHTS = "run-time-weights"
    LACKS_INT8 = "lacks-int8"
    UNPAIRED = "unpaired"
    BESIDE_FLOAT = "beside-float"
    WEIGHT_CLAMPED = "weight-clamped"
    BORDER_WRITTEN = "border-written"
