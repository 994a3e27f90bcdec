"""Codes for a search's bound: why less of the work is quantized than there could be."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class BoundCode(BaseCode):
    """What keeps layers in float, by what the search measured."""

    OUT_OF_REACH = "bound-out-of-reach"
    EVERYTHING = "bound-everything"
    LARGER_PLAN = "bound-larger-plan"
    FLOAT_TYPE = "bound-float-type"
    ONE_LAYER = "bound-one-layer"
    COSTLIEST = "bound-costliest"
    WHAT_NEXT = "bound-what-next"
