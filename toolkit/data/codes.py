"""What is said of samples beside what the calibration says of them."""

from __future__ import annotations

from toolkit.contract.findings import BaseCode


class DataCode(BaseCode):
    """What became of a source's samples."""

    ROWS_APART = "rows-apart"
    ROWS_UNDECIDED = "rows-undecided"
    OTHER_SAMPLES = "other-samples"
