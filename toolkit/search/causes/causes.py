"""Possible causes of a layer's quantization error, each with a number, from ranges and weights alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from toolkit.base.decibels import decibels
from toolkit.base.parts import along, parts_of
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration.diagnosis import ProfileRangeDifference
from toolkit.calibration.weights import weight_amax
from toolkit.contract.findings import Finding
from toolkit.contract.ranges import Range
from toolkit.evaluation.comparison.clipping import ClippedTensor
from toolkit.graph.layers.layer_weights import LayerWeights
from toolkit.placement.grid import on_grid, spread
from toolkit.placement.qdq import storable_scale
from toolkit.search.codes import CauseCode

OUTLIERS = 6.0
FEW_DB = 25.0
SHARED = 4.0
PROFILES = 2.0
UNEVEN = 8.0
_CHEAP = 0.03
_FEW_CHANNELS = 4
_GAIN = 1.12
_EVEN_DB = 1.0


class CauseKind(str, Enum):
    """The kind of a cause: a reason for a layer's quantization error, or a fact that decides what to do about it."""

    UNLIKE_DATA = "unlike-data"
    UNEVEN_CHANNELS = "uneven-channels"
    OUTLIERS = "outliers"
    FEW_LEVELS = "few-levels"
    SHARED_SCALE = "shared-scale"
    PROFILES = "profiles"
    UNEVEN_WEIGHTS = "uneven-weights"
    ROUNDING = "rounding"
    TOGETHER = "together"
    HIDDEN = "hidden"
    NEAR_TIES = "near-ties"
    CHEAP = "cheap"


@dataclass(frozen=True)
class Cause:
    """A reason why a layer loses accuracy, or a fact about it that decides what to do.

    Attributes:
        kind: the kind of cause.
        tensor: the tensor that is the cause; empty if it is the whole layer.
        value: the number that shows the cause: a ratio, a share, or dB.
        why: the finding with all its numbers.
        remedy: the pass or setting that would help.
    """

    kind: CauseKind
    tensor: str
    value: float
    why: Finding
    remedy: Finding

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; an infinite value is written as text."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {
            "kind": self.kind.value,
            "tensor": self.tensor,
            "value": value,
            "why": self.why.to_json(),
            "remedy": self.remedy.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cause:
        """Parse the result of ``to_json``.

        Raises:
            KeyError: it is not a cause.
            ValueError: its kind or a code is unknown.
        """
        why, remedy = (Finding.from_json(content[key]) for key in ("why", "remedy"))
        return cls(CauseKind(content["kind"]), content["tensor"], float(content["value"]), why, remedy)


@dataclass(frozen=True)
class Operand:
    """An operand that a layer quantizes: its weights, its activations, or one of two computed tensors by name."""

    kind: str
    tensor: str = ""


WEIGHTS, ACTIVATIONS = Operand("weights"), Operand("activations")


@dataclass(frozen=True)
class MethodSetting:
    """The setting of a calibration method: for one tensor, or for weights if ``tensor`` is empty."""

    method: str
    tensor: str = ""

    def remedy(self, better_db: float | None = None, own_db: float | None = None, operand: str = "") -> Finding:
        """The advice to use this setting; with both levels it names the gain at one of the layer's operands in dB."""
        return CauseCode.SET_METHOD(
            tensor=self.tensor, method=self.method, better_db=better_db, own_db=own_db, operand=operand
        )


def data_cause(beyond: ClippedTensor, measured: bool = False) -> Cause:
    """The cause that a tensor's values exceed its range, since they differ from the calibration data.

    Args:
        beyond: the values that exceed the range.
        measured: whether this was seen on the samples that the layer was measured on, not on the evaluation's.
    """
    why = CauseCode.CLIPPED_ON_UNLIKE_DATA(what=beyond.finding, measured=measured)
    return Cause(CauseKind.UNLIKE_DATA, beyond.tensor, beyond.share, why, beyond.remedy)


def range_causes(
    tensor: str,
    known: Range,
    *,
    uneven: float = 1.0,
    shared: float = 1.0,
    unlike: ProfileRangeDifference | None = None,
    passes: Collection[str] = (),
) -> list[Cause]:
    """The causes of one activation tensor.

    Args:
        tensor: its name.
        known: its range with the diagnosis of its values.
        uneven: its largest channel relative to the median channel; 1 if not measured.
        shared: the amax that a Concat requires for it, relative to its own.
        unlike: the profiles that disagree on its range.
        passes: the helper passes that can work on the layer that reads it.
    """
    found: list[Cause] = []
    setting = other_method(tensor, known)
    method = setting.remedy() if setting is not None else None
    helper = CauseCode.APPLY_PASS(passes=tuple(passes)) if passes else None
    keep = CauseCode.KEEP_FLOAT()
    if uneven >= UNEVEN:
        why = CauseCode.UNEVEN_CHANNELS(ratio=uneven)
        found.append(Cause(CauseKind.UNEVEN_CHANNELS, tensor, uneven, why, helper or method or keep))
    ratio, sqnr = known.diagnosis.get("outlier_ratio"), known.diagnosis.get("sqnr_db")
    if ratio is not None and ratio >= OUTLIERS:
        # outliers in one channel can be moved into the weights; scattered ones can be clipped by a method
        remedy = (helper if uneven >= UNEVEN else None) or method or keep
        found.append(Cause(CauseKind.OUTLIERS, tensor, ratio, CauseCode.OUTLIERS(ratio=ratio), remedy))
    if shared >= SHARED:
        why = CauseCode.SHARED_SCALE(ratio=shared)
        found.append(Cause(CauseKind.SHARED_SCALE, tensor, shared, why, CauseCode.EXCLUDE_CONCAT()))
    if unlike is not None:
        why = CauseCode.PROFILES_UNLIKE(high=unlike.high, low=unlike.low, ratio=unlike.ratio)
        found.append(Cause(CauseKind.PROFILES, tensor, unlike.ratio, why, CauseCode.WEIGH_PROFILES()))
    if sqnr is not None and sqnr < FEW_DB and not found:
        why = CauseCode.FEW_LEVELS(sqnr_db=sqnr)
        found.append(Cause(CauseKind.FEW_LEVELS, tensor, sqnr, why, method or helper or keep))
    return found


def other_method(tensor: str, known: Range) -> MethodSetting | None:
    """The setting that gives a tensor the range with the least squared error; None if its range is about the same.

    Rounding noise grows with the square of the range: a difference of less than 12% is worth less than 1 dB.
    """
    best = known.diagnosis.get("amax", {}).get("mse")
    if not best or not known.amax or max(best / known.amax, known.amax / best) < _GAIN:
        return None
    return MethodSetting("mse", tensor)


def weight_causes(layer: LayerWeights, tensor: str, precision: Precision, evening: Callable[[], str]) -> list[Cause]:
    """The cause that one input channel's weights are so large that all others have few levels; empty if not.

    ``evening`` returns a pass that evens them out, or an empty string. It is called only if needed, since it traverses
    the whole graph.
    """
    reach = layer.in_range()
    typical = float(np.median(reach[reach > 0])) if (reach > 0).any() else 0.0
    uneven = float(reach.max()) / typical if typical else 1.0
    if uneven < UNEVEN or precision is not Precision.INT8:
        return []
    helper = evening()
    remedy = CauseCode.APPLY_PASS(passes=(helper,)) if helper else CauseCode.KEEP_FLOAT()
    return [Cause(CauseKind.UNEVEN_WEIGHTS, tensor, uneven, CauseCode.UNEVEN_WEIGHTS(ratio=uneven), remedy)]


def cheap(share: float | None, layer: LayerWeights | None) -> Cause | None:
    """The fact that keeping a layer float costs next to nothing; None if it costs more."""
    if share is None or share >= _CHEAP:
        return None
    weights = math.prod(layer.shape) if layer is not None else None
    few = layer is not None and layer.shape[1] <= _FEW_CHANNELS
    channels = layer.shape[1] if layer is not None and few else None
    why = CauseCode.CHEAP_TO_KEEP(share=share, weights=weights, channels=channels)
    return Cause(CauseKind.CHEAP, "", share, why, CauseCode.KEEP_FLOAT_CHEAPLY())


def rounding(
    sides: Mapping[Operand, float],
    share: float | None,
    *,
    both: float | None = None,
    alone: float | None = None,
    remedy: Finding | None = None,
    one_sided: bool = False,
) -> Cause:
    """The rounding error of the layer itself, the operand that causes most of it, and its effect on the model's output.

    Args:
        sides: SQNR in dB with only this operand rounded.
        share: share of all multiply-accumulates, 0 to 1; None if unknown.
        both: SQNR in dB at the layer's output with all operands rounded, if measured; None to estimate it from
            ``sides``, which are then the SQNR of the operands themselves.
        alone: SQNR in dB at the model's output with only this layer quantized.
        remedy: what improves the worse operand; None if only keeping the layer float helps.
        one_sided: whether the activations are never negative.
    """
    noise = sum(10 ** (-value / 10) for value in sides.values())
    level = both if both is not None else decibels(1.0, noise)
    first, *others = sorted(sides, key=lambda side: sides[side])
    why = CauseCode.ROUNDING(
        sqnr_db=level,
        measured=both is not None,
        operands=[side.kind for side in sides],
        tensors=[side.tensor for side in sides],
        levels_db=list(sides.values()),
        even=bool(others) and sides[others[0]] - sides[first] < _EVEN_DB,
        one_sided=one_sided and first == ACTIVATIONS,
        alone_db=alone,
    )
    keep = CauseCode.KEEP_FLOAT_SHARE(share=share, tried=both is not None)
    return Cause(CauseKind.ROUNDING, "", level, why, remedy or keep)


def rounding_of_small(
    own_db: float, sides: Mapping[Operand, float], share: float | None, passes: Collection[str]
) -> Cause:
    """The cause that rounding costs a layer far more than its operands' SQNR: its output depends on small values.

    Args:
        own_db: measured SQNR in dB at the layer's output, without the noise of its inputs.
        sides: the SQNR in dB of the operands themselves.
        share: see ``rounding``.
        passes: the helper passes that can work on the layer.
    """
    why = CauseCode.ROUNDING_OF_SMALL(
        own_db=own_db, operands=[side.kind for side in sides], tensors=[side.tensor for side in sides],
        levels_db=list(sides.values()),
    )  # fmt: skip
    helper = CauseCode.APPLY_PASS(passes=tuple(passes)) if passes else None
    return Cause(CauseKind.ROUNDING, "", own_db, why, helper or CauseCode.KEEP_FLOAT_SHARE(share=share, tried=False))


def weight_sqnr_db(values: Array, axis: int | None, precision: Precision) -> float:
    """SQNR in dB of weights after fake quantization; infinite if nothing differs."""
    scale = storable_scale(weight_amax(values, axis, "minmax", precision), precision)
    steps, noise, signal = spread(scale, values, axis), 0.0, 0.0
    for part in parts_of(values):
        wide = values[part].astype(np.float32)
        own = along(part, steps, values)
        error = wide - on_grid(wide / own, precision) * own
        noise += float(np.sum(np.square(error, dtype=np.float64)))
        signal += float(np.sum(np.square(wide, dtype=np.float64)))
    return decibels(signal, noise)
