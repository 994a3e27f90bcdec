"""Messages on causes of accuracy loss in quantized layers, and remedies."""

from __future__ import annotations

import math

from toolkit.base.text import count, toml_string
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, percent, quoted, times, work_share
from toolkit.search.codes import CauseCode


def _keep() -> str:
    return f"keep it in float ({pass_name(Role.KEEP)})"


def _clipped(what: str, measured: bool) -> str:
    samples = "the samples measured" if measured else "the evaluation's samples"
    return f"clipping, not rounding: on {samples} {what}"


def _cheap(share: float, weights: int | None, channels: int | None) -> str:
    text = f"it holds {work_share(share)}"
    text += f" and {weights:,} weights" if weights is not None else ""
    if channels is not None:
        text += f", and its {count(channels, 'input channel')} cannot fill a vector of an INT8 kernel"
    return text


def _rounding(
    sqnr_db: float | str,
    measured: bool,
    operands: tuple[str, ...],
    tensors: tuple[str, ...],
    levels_db: tuple[float | str, ...],
    even: bool,
    one_sided: bool,
    alone_db: float | str | None,
) -> str:
    levels = [float(level) for level in levels_db]
    names, listed = _operands(operands, tensors, levels)
    worst = names[levels.index(min(levels))]
    carrier = "all operands share the noise" if even else f"the {worst} carry most of the noise"
    about = "" if measured else "an estimated "
    text = f"rounding leaves {about}{db(sqnr_db)} at the layer itself ({listed}): {carrier}"
    text += "; they are never negative, so half of the levels are unused" if one_sided else ""
    if alone_db is not None and math.isfinite(float(alone_db)) and math.isfinite(float(sqnr_db)):
        gain = float(sqnr_db) - float(alone_db)
        effect = f"add {gain:.1f} dB of loss" if gain > 1 else "keep that level"
        effect = f"mask {-gain:.1f} dB of it" if gain < -1 else effect
        text += f"; the layers after it {effect}: {db(alone_db)} at the output"
    return text


def _operands(operands: tuple[str, ...], tensors: tuple[str, ...], levels: list[float]) -> tuple[list[str], str]:
    names = [f"values of '{tensor}'" if tensor else operand for operand, tensor in zip(operands, tensors)]
    return names, ", ".join(f"{name} {db(level)}" for name, level in zip(names, levels))


def _rounding_of_small(
    own_db: float, operands: tuple[str, ...], tensors: tuple[str, ...], levels_db: tuple[float | str, ...]
) -> str:
    _, listed = _operands(operands, tensors, [float(level) for level in levels_db])
    return (
        f"rounding leaves {db(own_db)} at the layer itself, far less than its operands have as a whole ({listed}): its "
        "result depends on values that are small compared with the largest, as when one channel is far larger than the "
        "others"
    )


def _set_method(tensor: str, method: str, better_db: float | None, own_db: float | None, operand: str) -> str:
    setting = (
        f"set [calibration] methods = {{ {toml_string(tensor)} = {toml_string(method)} }}"
        if tensor
        else f'set weights = "{method}" in the pass that quantizes'
    )
    gain = f" ({db(better_db)} instead of {db(own_db)} from the {operand})" if better_db is not None else ""
    return setting + gain


def _keep_share(share: float | None, tried: bool) -> str:
    nothing = "; no calibration method or weight setting gains 1 dB" if tried else ""
    return f"{_keep()}{f', {work_share(share)}' if share is not None else ''}{nothing}"


def _apply(passes: tuple[str, ...]) -> str:
    return f"apply the pass {' or '.join(passes)}"


CAUSES: Table = {
    CauseCode.CLIPPED_ON_UNLIKE_DATA: _clipped,
    CauseCode.UNEVEN_CHANNELS: lambda ratio: f"its largest channel reaches {times(ratio)} times the median channel",
    CauseCode.OUTLIERS: lambda ratio: f"its largest value is {times(ratio)} times its 99.9th percentile",
    CauseCode.SHARED_SCALE: lambda ratio: f"through a Concat it shares a scale that is {times(ratio)} times its own",
    CauseCode.PROFILES_UNLIKE: lambda high, low, ratio: (
        f"its values in profile '{high}' reach {times(ratio)} times those in '{low}'"
    ),
    CauseCode.FEW_LEVELS: "its values use few of the 256 levels: {sqnr_db:.1f} dB SQNR after rounding",
    CauseCode.UNEVEN_WEIGHTS: lambda ratio: (
        f"one input channel's weights are {times(ratio)} times the median channel's, which leaves few levels for the "
        "others"
    ),
    CauseCode.CHEAP_TO_KEEP: _cheap,
    CauseCode.ROUNDING: _rounding,
    CauseCode.ROUNDING_OF_SMALL: _rounding_of_small,
    CauseCode.HARM_TOGETHER: lambda alone_db, full_db, without_db: (
        f"it costs accuracy only together with other layers: quantized alone it leaves {db(alone_db)}, but keeping it "
        f"alone in float raises the SQNR of the whole from {db(full_db)} to {db(without_db)}"
    ),
    CauseCode.HARM_HIDDEN: lambda alone_db, full_db, without_db: (
        f"other layers' noise masks its own: quantized alone it leaves {db(alone_db)}, but keeping it alone in float "
        f"raises the SQNR of the whole only from {db(full_db)} to {db(without_db)}"
    ),
    CauseCode.TIES_AT_OUTPUT: lambda sqnr_db, flips, changed=None: (
        f"{db(sqnr_db)} at the output are expected to change the argmax of {percent(flips)} of positions like these"
        + (f" ({percent(changed)} of these changed)" if changed is not None else "")
        + ": their scores are near ties"
    ),
    CauseCode.TIES_AT_DECISION: lambda share, op, node: (
        f"{percent(share, 0)} of the decisions of the {op} '{node}' after it have a margin under 1 % of their values' "
        "standard deviation, so little noise changes them"
    ),
}

REMEDIES: Table = {
    CauseCode.KEEP_FLOAT: _keep,
    CauseCode.KEEP_FLOAT_CHEAPLY: lambda: f"{_keep()}: that costs next to no arithmetic",
    CauseCode.KEEP_FLOAT_SHARE: _keep_share,
    CauseCode.KEEP_OR_USE_METRIC: lambda: f"{_keep()}, or judge by a metric rather than by agreement",
    CauseCode.KEEP_IT_OR_OTHERS: lambda others: (
        f"keep it in float, or the layers it costs accuracy with ({quoted(others)})"
    ),
    CauseCode.KEEP_WITH_OTHERS: lambda others: f"keep it in float together with {quoted(others)}, not alone",
    CauseCode.APPLY_PASS: _apply,
    CauseCode.APPLY_PASS_OR_KEEP: lambda name, ratio: (
        f"apply the pass {name}, since the largest channel of its input is {times(ratio, 2)} times the median; "
        f"otherwise {_keep()}"
    ),
    CauseCode.SET_METHOD: _set_method,
    CauseCode.EXCLUDE_CONCAT: "exclude the Concat, or equalize the ranges of its branches",
    CauseCode.WEIGH_PROFILES: "set [calibration] weights, or build one engine per profile",
    CauseCode.EXCLUDE_UP_TO: "exclude_between from this layer's output to the input of '{node}'",
}
