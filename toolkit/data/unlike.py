"""Whether calibration and evaluation samples were preprocessed alike: if not, ranges do not fit the evaluation."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData

_SAMPLES, _LEAST = 64, 4
"""Most samples read per data set, and the fewest that suffice: with 4 and 4, none overlap by chance in 3 % of cases."""
_TIMES, _NEGATIVE = 4.0, 0.1


@dataclass(frozen=True)
class _Levels:
    """Per sample: the root mean square of its finite values, and the share of negative values."""

    level: Array
    negative: Array


def prepared_unlike(calibration: CalibrationData, evaluation: CalibrationData, used: Container[str]) -> list[Finding]:
    """The float inputs whose values differ between the two data sets as if only one were scaled or normalized.

    An input is reported only if no two samples overlap: all of one data set are larger than all of the other and the
    median RMS at least four times as large; or one has no negative values, and each sample of the other at least a
    tenth of them. The first 64 samples of each are read. Scalar inputs are left out, since they may be settings.

    Args:
        calibration: the samples that ranges are computed from.
        evaluation: the samples that the result is evaluated on.
        used: the inputs whose values the model computes with.
    """
    first, second = _seen(calibration, used), _seen(evaluation, used)
    return [found for name, one in first.items() if name in second if (found := _unlike(name, one, second[name]))]


def _unlike(name: str, calibration: _Levels, evaluation: _Levels) -> Finding | None:
    if min(calibration.level.size, evaluation.level.size) < _LEAST:
        return None
    apart = calibration.level.min() > evaluation.level.max() or evaluation.level.min() > calibration.level.max()
    typical = float(np.median(calibration.level)), float(np.median(evaluation.level))
    if apart and max(typical) >= _TIMES * min(typical):
        return DataCode.PREPARED_UNLIKE(input=name, calibration=typical[0], evaluation=typical[1])
    signed = calibration.negative.min() >= _NEGATIVE, evaluation.negative.min() >= _NEGATIVE
    for first, other in ((calibration, signed[1]), (evaluation, signed[0])):
        if other and not first.negative.any():
            return DataCode.NORMALIZED_UNLIKE(
                input=name, signed="evaluation" if first is calibration else "calibration"
            )
    return None


def _seen(data: CalibrationData, used: Container[str]) -> dict[str, _Levels]:
    found: dict[str, list[tuple[float, float]]] = {}
    for name, values in _values(data, used):
        known = values[np.isfinite(values)].astype(np.float64)
        # an empty or all-zero sample has no level
        if known.size > 1 and known.any():
            found.setdefault(name, []).append((float(np.sqrt(np.mean(known * known))), float(np.mean(known < 0))))
    return {name: _Levels(*(np.array(column) for column in zip(*rows, strict=True))) for name, rows in found.items()}


def _values(data: CalibrationData, used: Container[str]) -> Iterator[tuple[str, Array]]:
    for sample in islice(data.samples(), _SAMPLES):
        for name, values in sample.inputs.items():
            if name in used and values.dtype.kind == "f":
                yield name, values
