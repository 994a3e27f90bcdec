"""Codes of findings about samples, besides those of calibration."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class DataCode(BaseCode):
    """How a source's samples were used, values that they share, and how their shapes compare with the profiles."""

    ROWS_APART = "rows-apart"
    ROWS_UNDECIDED = "rows-undecided"
    LABELS_OF_SOME = "labels-of-some"
    OTHER_SAMPLES = "other-samples"
    UNSTEADY = "unsteady-samples"
    LOADER_CUT = "loader-cut"
    FIXED_INPUT = "fixed-input"
    PREPARED_UNLIKE = "prepared-unlike"
    NORMALIZED_UNLIKE = "normalized-unlike"
    NOT_AS_LOCKED = "not-as-locked"
    OPT_UNLIKE_NAME = "opt-unlike-name"
    CALIBRATOR_LEFT_OUT = "calibrator-left-out"
