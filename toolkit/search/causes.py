"""What can be wrong with a layer's tensors in eight bits, each with a number: from ranges and weights alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.text import toml_string
from toolkit.base.types import Array
from toolkit.calibration.diagnosis import Unlike
from toolkit.calibration.weights import weight_amax
from toolkit.contract.ranges import Range
from toolkit.evaluation.clipping import Beyond
from toolkit.graph.layer_weights import LayerWeights
from toolkit.placement.qdq import storable_scale

OUTLIERS = 6.0
FEW_DB = 25.0
SHARED = 4.0
PROFILES = 2.0
UNEVEN = 8.0
_CHEAP = 0.03
_FEW_CHANNELS = 4
_GAIN = 1.12
KEEP = "keep it in float (keep_precision)"


@dataclass(frozen=True)
class Cause:
    """One reason why a layer loses accuracy, or one fact about it that decides what to do.

    Attributes:
        kind: unlike-data, uneven-channels, outliers, few-levels, shared-scale, profiles, uneven-weights, rounding,
            together, hidden, near-ties or cheap.
        tensor: the tensor that shows it; empty where it is the layer as a whole.
        value: the number that shows it: a ratio, a share, or dB.
        text: it in words.
        remedy: the pass or setting that would help.
    """

    kind: str
    tensor: str
    value: float
    text: str
    remedy: str


def data_cause(beyond: Beyond, samples: str = "the evaluation's samples") -> Cause:
    """That a tensor's values leave its range, since they are unlike those that calibration saw.

    Args:
        beyond: what leaves the range.
        samples: on which samples, in words.
    """
    text = f"clipping, not rounding: on {samples} it {beyond.words}"
    return Cause("unlike-data", beyond.tensor, beyond.share, text, beyond.remedy)


def range_causes(
    tensor: str,
    known: Range,
    *,
    uneven: float = 1.0,
    shared: float = 1.0,
    unlike: Unlike | None = None,
    passes: Collection[str] = (),
) -> list[Cause]:
    """What is wrong with one activation tensor.

    Args:
        tensor: its name.
        known: its range with the diagnosis of its values.
        uneven: its largest channel over the median one, where that was measured.
        shared: the amax that a Concat forces on it over its own.
        unlike: the profiles that disagree on it.
        passes: the helper passes that can work on the layer that reads it.
    """
    found: list[Cause] = []
    method = other_method(tensor, known)
    helper = " or ".join(f"the pass {name}" for name in passes)
    if uneven >= UNEVEN:
        text = f"its largest channel reaches {uneven:.3g} times the median one"
        found.append(Cause("uneven-channels", tensor, uneven, text, helper or method or KEEP))
    ratio, sqnr = known.diagnosis.get("outlier_ratio"), known.diagnosis.get("sqnr_db")
    if ratio is not None and ratio >= OUTLIERS:
        text = f"its largest value is {ratio:.3g} times the 99.9th percentile"
        # one channel's outliers can be moved into the weights; single values anywhere are what a method cuts off
        remedy = (helper if uneven >= UNEVEN else "") or method or KEEP
        found.append(Cause("outliers", tensor, ratio, text, remedy))
    if shared >= SHARED:
        text = f"a Concat forces a scale on it that is {shared:.3g} times its own"
        found.append(Cause("shared-scale", tensor, shared, text, "exclude the Concat, or even out its branches"))
    if unlike is not None:
        text = f"in profile '{unlike.high}' it reaches {unlike.ratio:.3g} times what it does in '{unlike.low}'"
        remedy = "[calibration] weights, or an engine for each profile"
        found.append(Cause("profiles", tensor, unlike.ratio, text, remedy))
    if sqnr is not None and sqnr < FEW_DB and not found:
        text = f"its values use few of the 256 levels: {sqnr:.1f} dB after rounding"
        found.append(Cause("few-levels", tensor, sqnr, text, method or helper or KEEP))
    return found


def other_method(tensor: str, known: Range) -> str:
    """The setting that gives a tensor the range with the least squared error, where it has another; else empty.

    Rounding noise goes with the square of the range: ranges less than 12% apart are worth less than 1 dB.
    """
    best = known.diagnosis.get("amax", {}).get("mse")
    if not best or not known.amax or max(best / known.amax, known.amax / best) < _GAIN:
        return ""
    return method_setting(tensor, "mse")


def method_setting(tensor: str, method: str) -> str:
    """The setting that gives a tensor the range of another calibration method, as TOML."""
    return f'[calibration] methods = {{ {toml_string(tensor)} = "{method}" }}'


def weight_causes(layer: LayerWeights, tensor: str, precision: Precision, helper: str) -> list[Cause]:
    """Whether one input channel's weights take the levels from all others; ``helper`` is a pass that evens them out."""
    reach = layer.in_range()
    typical = float(np.median(reach[reach > 0])) if (reach > 0).any() else 0.0
    uneven = float(reach.max()) / typical if typical else 1.0
    if uneven < UNEVEN or precision is not Precision.INT8:
        return []
    text = f"one input channel's weights are {uneven:.3g} times the median's: the others get few levels"
    return [Cause("uneven-weights", tensor, uneven, text, f"the pass {helper}" if helper else KEEP)]


def cheap(share: float, layer: LayerWeights | None) -> Cause | None:
    """That keeping a layer float costs next to nothing, or None where it does not."""
    if share >= _CHEAP:
        return None
    text = f"it holds {share:.1%} of the multiply-accumulates"
    if layer is not None:
        text += f" and {layer.weight.size:,} weights"
        if layer.weight.shape[1] <= _FEW_CHANNELS:
            channels = int(layer.weight.shape[1])
            text += f", and works on {channels} input channel{'' if channels == 1 else 's'} at a time, which fills no "
            text += "vector of an INT8 kernel"
    return Cause("cheap", "", share, text, f"{KEEP}: that costs next to no arithmetic")


def rounding(
    sides: Mapping[str, float],
    share: float,
    *,
    both: float | None = None,
    alone: float | None = None,
    better: tuple[str, float | None] | None = None,
    one_sided: bool = False,
) -> Cause:
    """How much rounding costs at the layer itself, which operand carries it, and what becomes of it on the way.

    Args:
        sides: dB with only that operand rounded, by what it is called: weights, activations, or a tensor.
        share: of the multiply-accumulates, 0 to 1.
        both: dB at the layer's output with all operands rounded, where it was measured; else it is estimated from the
            sides, which are then the operands' own SQNR.
        alone: dB at the model's output with this layer alone quantized.
        better: a setting that makes the worse side better, and the dB it gives, where that was measured.
        one_sided: the activations are never negative.
    """
    listed = ", ".join(f"{side} {_db(level)}" for side, level in sides.items())
    first, *others = sorted(sides, key=lambda side: sides[side])
    even = others and sides[others[0]] - sides[first] < 1.0
    carrier = "they share the noise" if even else f"the {first} carry most of the noise"
    noise = sum(10 ** (-value / 10) for value in sides.values())
    level = both if both is not None else -10 * math.log10(noise) if noise else math.inf
    about = "" if both is not None else "about "
    text = f"rounding leaves {about}{_db(level)} at the layer itself ({listed}): {carrier}"
    if one_sided and first == "activations":
        text += ", never negative, so that half of the levels stay unused"
    if alone is not None and math.isfinite(alone) and math.isfinite(level):
        gain = level - alone
        said = f"makes it {gain:.1f} dB worse" if gain > 1 else "keeps it"
        said = f"hides {-gain:.1f} dB of it" if gain < -1 else said
        text += f"; what follows {said}: {_db(alone)} at the output"
    remedy = f"{KEEP}: {share:.1%} of the multiply-accumulates"
    if better is None and both is not None:
        remedy += "; no calibration method or weight setting gains 1 dB"
    elif better is not None:
        gives = f" ({_db(better[1])} instead of {_db(sides[first])} from the {first})" if better[1] is not None else ""
        remedy = f"{better[0]}{gives}"
    return Cause("rounding", "", level, text, remedy)


def weight_sqnr_db(values: Array, axis: int | None, precision: Precision, method: str = "minmax") -> float:
    """SQNR in dB of weights after quantization and back; infinite where nothing differs."""
    from toolkit.simulation.switches import fake_quantized

    wide = np.asarray(values, np.float32)
    scale = storable_scale(weight_amax(wide, axis, method, precision), precision)
    noise = float(((wide - fake_quantized(wide, scale, axis, precision)).astype(np.float64) ** 2).sum())
    signal = float((wide.astype(np.float64) ** 2).sum())
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def _db(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"
