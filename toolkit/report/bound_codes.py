"""Codes of findings on a search's bound: why it does not quantize more of the work."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class BoundCode(BaseCode):
    """Why layers stay in float, from the search's measurements."""

    OUT_OF_REACH = "bound-out-of-reach"
    EVERYTHING = "bound-everything"
    LARGER_PLAN = "bound-larger-plan"
    FLOAT_TYPE = "bound-float-type"
    ONE_LAYER = "bound-one-layer"
    COSTLIEST = "bound-costliest"
    WHAT_NEXT = "bound-what-next"
