"""Clipping of the evaluation's values by the calibrated ranges, whose damage could be mistaken for rounding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.decibels import decibels
from toolkit.base.sums import sum_of_products
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.masks import MASK, largest_magnitude, valued
from toolkit.evaluation.tasks import AnswerTally
from toolkit.placement.existing import pairs_of

if TYPE_CHECKING:
    from toolkit.contract.ranges import Range, Ranges
    from toolkit.graph.model import Model

_WORSE_DB, _RUINED_DB = 6.0, 20.0
_LEAST_SHARE, _TIMES = 0.005, 2.0
_HARMLESS_DB = 28.0
_UNKNOWN_DB = 20.0
"""The SQNR assumed for a range set by hand or read from a file; entropy calibration can have as little."""
_SAME_RANGE = 0.97
_UNUSED, _GROWN = 4.0, 1.5


@dataclass
class Clipping:
    """Statistics of a tensor's clipped values, collected batch by batch.

    Attributes:
        amax: the largest magnitude that the tensor's pair keeps; None without a pair, so that nothing is clipped.
        largest: the largest magnitude so far.
        values: number of values so far, without NaN, infinities and masks (such as -1e9).
        clipped: number of values beyond ``amax``.
        signal: sum of squares of the values.
        noise: sum of squares of the excess beyond ``amax``.
    """

    amax: float | None
    largest: float = 0.0
    values: int = 0
    clipped: int = 0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, values: Array) -> None:
        """Add one batch of the float tensor, of any shape."""
        flat = np.asarray(values, np.float32).reshape(-1)
        largest = largest_magnitude(flat)
        if not largest < MASK:
            # squares of such large values exceed the range of float32
            flat = valued(flat).astype(np.float64)
            largest = largest_magnitude(flat)
        self.largest = max(self.largest, largest)
        self.values += flat.size
        self.signal += sum_of_products(flat, flat)
        if self.amax is not None and largest > self.amax:
            beyond = np.abs(flat[(flat > self.amax) | (flat < -self.amax)]).astype(np.float64) - self.amax
            self.clipped += beyond.size
            self.noise += sum_of_products(beyond, beyond)

    @property
    def share(self) -> float:
        """The share of clipped values, 0 to 1."""
        return self.clipped / self.values if self.values else 0.0

    @property
    def level_db(self) -> float:
        """The tensor's SQNR in dB if clipping were the only noise."""
        return decibels(self.signal, self.noise)


def kept_amax(model: Model) -> dict[str, float]:
    """The amax of the model's symmetric per-tensor pairs, by activation tensor."""
    found: dict[str, float] = {}
    for pair in pairs_of(model, subgraphs=False):
        grid = pair.grid
        if grid.axis is not None:
            continue
        precision, amax = grid.precision, grid.amax
        symmetric = grid.zero is not None and not grid.zero.any() and precision is not None and precision.quantized
        if not symmetric or amax is None:
            continue
        for tensor in (quantize.inputs[0] for quantize in pair.quantizers):
            if model.constant(tensor) is None:
                found[tensor.name] = min(amax, found.get(tensor.name, amax))
    return found


@dataclass(frozen=True)
class ClippedTensor:
    """A quantized tensor with far more clipping on the evaluation's samples than on calibration's.

    Attributes:
        tensor: its name.
        reach: its largest magnitude divided by the largest that is kept.
        share: share of its values that are clipped, 0 to 1.
        calibrated: the same share on calibration's samples; None if the range is not from calibration.
        level_db: its SQNR in dB if clipping were the only noise.
        promised_db: its SQNR in dB on calibration's samples, with rounding and clipping; None if not known.
    """

    tensor: str
    reach: float
    share: float
    calibrated: float | None
    level_db: float
    promised_db: float | None

    @property
    def excess_db(self) -> float:
        """By how many dB clipping alone is worse than the SQNR in calibration."""
        return (_UNKNOWN_DB if self.promised_db is None else self.promised_db) - self.level_db

    @property
    def remedy(self) -> Finding:
        """The finding with the remedy."""
        return (
            EvaluationCode.CALIBRATE_ALIKE() if self.calibrated is not None else EvaluationCode.CALIBRATE_THIS_RANGE()
        )

    @property
    def finding(self) -> Finding:
        """The finding with the tensor and its figures."""
        return EvaluationCode.LEAVES_RANGE(**asdict(self))


def clipped_tensor(tensor: str, seen: Clipping, known: Range | None) -> ClippedTensor | None:
    """A tensor's clipping, if it is far beyond that on calibration's samples; else None.

    Methods clip a little by design, and new samples a little more. Clipping counts only if it leaves less than 28 dB,
    and if its noise is four times that in calibration, with at least 0.5% of the values clipped and twice as many as in
    calibration; or a hundred times, however few values are clipped. The trained models of models/, calibrated by any
    method on 8 or more samples of their evaluation data, never met these conditions; random attention models had 30 dB
    with as few samples.
    """
    if known is None or seen.amax is None or not seen.clipped:
        return None
    if seen.amax < _SAME_RANGE * _kept(known):
        # the pair is not from calibration: it has a range of its own
        return None
    share, promised = known.diagnosis.get("clipped"), known.diagnosis.get("sqnr_db")
    found = ClippedTensor(tensor, seen.largest / seen.amax, seen.share, share, seen.level_db, promised)
    often = seen.share >= max(_LEAST_SHARE, _TIMES * (share or 0.0))
    if found.level_db >= _HARMLESS_DB:
        return None
    return found if found.excess_db >= (_WORSE_DB if often else _RUINED_DB) else None


def unlike_data(clipping: Mapping[str, Clipping], ranges: Ranges | None) -> list[ClippedTensor]:
    """The tensors whose values exceed their ranges on the evaluation's samples, the worst first."""
    known = ranges.tensors if ranges is not None else {}
    found = [one for name, seen in clipping.items() if (one := clipped_tensor(name, seen, known.get(name))) is not None]
    return sorted(found, key=lambda one: -one.excess_db)


def unlike_warnings(
    clipping: Mapping[str, Clipping],
    ranges: Ranges | None,
    inputs: Collection[str] = (),
    tallies: Sequence[AnswerTally] = (),
) -> list[Finding]:
    """Warnings that the evaluation's values differ from those in calibration.

    Args:
        clipping: the evaluation's statistics by tensor.
        inputs: the tensors that are inputs of the model.
        tallies: unchanged answers on these samples; the warnings quote the worst part.
    """
    told = []
    worst = min((one for one in tallies if one.share < 1), key=lambda one: one.share, default=None)
    changed = _changed(worst) if worst is not None else None
    far = unlike_data(clipping, ranges)
    if far:
        growth = {name: _growth(clipping.get(name), name, ranges) for name in inputs}
        grown = [name for name in inputs if growth[name] >= _GROWN]
        told.append(
            EvaluationCode.EVALUATION_LEAVES_RANGES(
                worst=far[0].finding, others=len(far) - 1, inputs=grown, growth=[growth[name] for name in grown],
                remedy=far[0].remedy, changed=changed,
            )
        )  # fmt: skip
    for name in inputs:
        seen, widest = clipping.get(name), _least_range(name, ranges)
        if seen is not None and seen.values and widest is not None and seen.largest < widest / _UNUSED:
            remedy = EvaluationCode.CALIBRATE_ALIKE()
            small = {"input": name, "largest": seen.largest, "range": widest}
            told.append(EvaluationCode.EVALUATION_INPUT_SMALL(**small, remedy=remedy, changed=changed))
    return told


def _changed(tally: AnswerTally) -> Finding:
    """The finding with the share of changed answers of a part."""
    part = tally.part
    return EvaluationCode.ANSWERS_CHANGED(
        task=part.task,
        outputs=part.outputs,
        channels=part.first_and_last,
        changed=1 - tally.share,
        answers=tally.answers,
    )


def _growth(seen: Clipping | None, tensor: str, ranges: Ranges | None) -> float:
    """The largest magnitude of an input divided by the largest in calibration; 0 if not known."""
    low, high = ranges.observed.get(tensor, (0.0, 0.0)) if ranges is not None else (0.0, 0.0)
    before = max(-low, high)
    return seen.largest / before if seen is not None and before else 0.0


def _least_range(tensor: str, ranges: Ranges | None) -> float | None:
    """The smallest range that any calibration method chooses for a tensor; without a range, its largest magnitude."""
    if ranges is None:
        return None
    known = ranges.tensors.get(tensor)
    if known is not None:
        return _kept(known)
    seen = ranges.observed.get(tensor)
    return max(-seen[0], seen[1]) if seen is not None else None


def _kept(known: Range) -> float:
    return min([known.amax, *known.diagnosis.get("amax", {}).values()])
