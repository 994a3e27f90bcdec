"""Codes of findings about samples, besides those of calibration."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class DataCode(BaseCode):
    """What became of a source's samples, what they are alike in, and what their shapes have to be."""

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
