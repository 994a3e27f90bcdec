"""Codes of findings about nodes and given ranges that calibration makes."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class PhaseCode(BaseCode):
    """A short float type is too coarse for the argument of a periodic function."""

    COARSE = "phase-coarse"
    MAKES_IT = "phase-maker"


class RangeCode(BaseCode):
    """What becomes of ranges that are given."""

    BY_HAND_UNUSED = "range-by-hand-unused"
    BY_HAND_UNLIKE = "range-by-hand-unlike"
    OF_THE_WHOLE = "range-of-the-whole"
