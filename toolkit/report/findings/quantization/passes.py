"""Messages on changes by passes, their reasons, and refusals."""

from __future__ import annotations

import math
from typing import Any

from toolkit.base.text import count
from toolkit.calibration.codes import PhaseCode
from toolkit.contract.findings import Code
from toolkit.contract.helper import HelperCode
from toolkit.contract.order import OrderCode
from toolkit.contract.roles import Role
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, output_words, pass_for, percent, quoted, times

_STEPS = {
    "values": "A run would check the observed values of every tensor.",
    "biases": "A run would correct the biases of the quantized layers.",
    "channels": "A run would look for outlier channels.",
    "shifts": "A run would look for one-sided activations.",
    "engines": "A run would time engines and remove the pairs that do not pay off.",
    "helpers": "A run would keep this helper pass only if it raises the SQNR of the quantized model.",
    "search": "A run would search which layers stay in float; here all are quantized.",
}


def _gain(
    before_db: float | str, after_db: float | str, quantized: str, samples: int, output: str, squashed_by: str = "",
    before_share: float | None = None, after_share: float | None = None,
) -> str:  # fmt: skip
    subject = f"SQNR of {output_words(output, squashed_by)}"
    subject += f" with all layers in {quantized.upper()}" if quantized else ""
    level = f"{subject} on {count(samples, 'sample')} is {db(after_db)} with it and {db(before_db)} without"
    if before_share is None or after_share is None:
        return level
    return f"{level} ({percent(after_share)} and {percent(before_share)} of the answers unchanged)"


def _effect(by: str, applied: bool, helps: bool, **figures: Any) -> str:
    gain = _gain(**figures)
    if helps:
        return f"{by} is applied: {gain}."
    if applied:
        return f"{by} is applied because only_if_better is false, although it does not help: {gain}."
    return f"{by} is NOT applied, since it does not help: {gain}. only_if_better = false applies it all the same."


def _no_gain(by: str, **figures: Any) -> str:
    return f"{by} would not help: {_gain(**figures)}"


def _risk(words: str, by: str, requested: str) -> str:
    return f"{by} requests {requested}, but its float side is at risk: {words}" if by else words


def _reach(value: float | str, limit: float, precision: str) -> str:
    """A value with its ratio to the type's largest number; ``value`` is a string if not finite."""
    reached = float(value)
    ratio = reached / limit
    beyond = f" ({times(ratio)} times {precision}'s largest number, {limit:.5g})" if math.isfinite(ratio) else ""
    return f"{reached:.4g}{beyond}"


def _overflow(
    tensor: str, value: float | str, limit: float, precision: str, constant: bool, by: str = "", requested: str = ""
) -> str:
    verb = "is a constant that reaches" if constant else "reached"
    return _risk(f"'{tensor}' {verb} {_reach(value, limit, precision)}", by, requested)


def _inner_overflow(
    tensor: str, value: float | str, limit: float, precision: str, op: str, summed: int = 0, by: str = "",
    requested: str = "",
) -> str:  # fmt: skip
    what = f"sum of {summed} values" if summed else "square"
    return _risk(f"inside {op} the {what} of '{tensor}' reaches {_reach(value, limit, precision)}", by, requested)


def _subnormal(tensor: str, value: float, limit: float, precision: str, by: str = "", requested: str = "") -> str:
    words = f"'{tensor}' never exceeded {value:.3g}, so all its values are subnormal"
    return _risk(f"{words}: {precision} has full precision from {limit:.3g} on", by, requested)


def _vanishing(tensor: str, value: float, limit: float, precision: str, by: str = "", requested: str = "") -> str:
    words = f"the constant '{tensor}' is at most {value:.3g}, which becomes subnormal or zero"
    return _risk(f"{words}: {precision} has full precision from {limit:.3g} on", by, requested)


def _resolution(
    tensor: str, value: float, limit: float, precision: str, step: float, by: str = "", requested: str = ""
) -> str:
    words = f"the scores '{tensor}' reach {value:.4g}, where {precision} has steps of {step:.3g}"
    return _risk(f"{words}; steps above {limit:g} make the probabilities wrong", by, requested)


def _phase(
    op: str, tensor: str, value: float, step: float, period: float, precision: str, reader: str = "", by: str = "",
    requested: str = "",
) -> str:  # fmt: skip
    makes = f"it computes the argument of '{reader}': " if reader else ""
    words = f"{makes}'{tensor}' reaches {value:.4g}, near which {precision} has steps of {step:.3g}"
    return _risk(f"{words}, and {op} has a period of {period:.3g}", by, requested)


def _not_homogeneous(op: str) -> str:
    hint = f"; run {pass_for(Role.FOLD_NORMALIZATION)} before" if op == "BatchNormalization" else ""
    return f"the {op} after it does not commute with positive factors{hint}"


def _after_pairs(by: str, layers: int, node: str) -> str:
    which = f"{count(layers, 'layer')}, such as '{node}', have" if layers > 1 else f"'{node}' has"
    return (
        f"{by} changed nothing. It works on layers without Q/DQ pairs, and {which} theirs already: put {by} before "
        "the pass that inserts them."
    )


def _all_paired(by: str, layers: int, node: str) -> str:
    which = f"{count(layers, 'layer')}, such as '{node}', have" if layers > 1 else f"'{node}' has"
    return (
        f"{by} inserted nothing: {which} Q/DQ pairs from a pass before it. Remove one of the two, or limit each to its "
        "own layers by include or exclude."
    )


def _requests_lost(by: str, node: str, asked_by: str, precision: str, nodes: int) -> str:
    others = f"this request and {nodes - 1} like it have" if nodes > 1 else "the request has"
    return (
        f"Pass '{by}' renamed or replaced '{node}', for which '{asked_by}' had requested {precision}: {others} no "
        f"effect. Put '{by}' before '{asked_by}', or let it call context.plan.rename(old, new)."
    )


PASSES: Table = {
    Code.DRY_RUN: lambda step: _STEPS[step],
    Code.DRY_RUN_ENDED: (
        "The passes could not be tried to their end, since a run may insert nodes that are not known here: {error}"
    ),
    Code.REQUESTED: lambda precision, unquantized: (
        f"{precision} requested" + (f"; reads {quoted(unquantized)} unquantized" if unquantized else "")
    ),
    Code.CHOSEN: "chosen by '{pattern}'",
    Code.NO_FLOATS: lambda nodes: (
        f"{count(len(nodes), 'chosen node')} {'computes' if len(nodes) == 1 else 'compute'} no floats, so nothing is "
        f"requested: {quoted(nodes)}."
    ),
    Code.EFFECT: _effect,
    Code.NO_GAIN: _no_gain,
    Code.GAIN_UNKNOWN: "{by} is not applied: without calibration samples nothing shows that it helps",
    Code.HELPER_UNMEASURED: (
        "{by} is NOT applied, since without calibration samples nothing shows that it helps. only_if_better = false "
        "applies it all the same."
    ),
    OrderCode.AFTER_PAIRS: _after_pairs,
    OrderCode.ALL_PAIRED: _all_paired,
    OrderCode.REQUESTS_LOST: _requests_lost,
    Code.NO_QUANTIZED_WEIGHTS: lambda: (
        f"No layer has quantized weights: put {pass_for(Role.QUANTIZE)} before, or see in the journal why it declined "
        "the layers."
    ),
    Code.NOT_SUPPORTED: "biases of {op} are not corrected",
    Code.BIAS_SETTLED: "its bias already makes up for the rounding of its weights",
    Code.NO_BIAS: "it has no constant bias per output channel, and no Add of a constant vector follows it",
    Code.BIAS_CORRECTED: "bias of '{holder}' corrected",
    Code.MEAN_SHIFT: "rounding its weights shifts the mean of an output channel by up to {shift:.3g}",
    Code.ROUNDED_WITHOUT_SAMPLES: (
        'weights = "output" needs calibration samples; without them each weight is rounded to the nearest level.'
    ),
    Code.ROUNDED_TO_NEAREST: lambda nodes: (
        f"The weights of {quoted(nodes)} are rounded to the nearest level: on held-out samples (three or more "
        "are needed) no rounding for the output was better, or the layer is transposed, reads too few values, or "
        "sums more inputs than can be solved for."
    ),
    Code.ROUNDED_FOR_OUTPUT: "its weights rounded for the least output error",
    Code.ROUNDING_NOISE: lambda before_db, after_db: (
        f"rounding them leaves the output {db(after_db)}, and rounding each to the nearest level {db(before_db)}"
    ),
    Code.COMPENSATED: "scales of its weights and bias of '{holder}' compensated",
    Code.OUTPUT_ERROR: lambda factor, number: (
        f"its output channels are nearest to the float ones when scaled by up to {percent(factor, 2)} and shifted by "
        f"up to {number:.3g}"
    ),
    Code.NOTHING_TO_EQUALIZE: "No pair of layers can be equalized.",
    Code.EQUALIZED: "output channels equalized with '{other}'",
    Code.CHANNEL_SPREAD: lambda before, after: (
        f"the largest channel was {times(before)} times the median and is now {times(after)} times"
    ),
    Code.SHARED: "'{tensor}' is read by {readers} nodes",
    Code.NOT_HOMOGENEOUS: _not_homogeneous,
    Code.WEIGHTS: lambda part: (
        "its bias is computed, or has one value per row"
        if part == "bias"
        else "a weight of the pair is computed, quantized or shared"
    ),
    Code.CHANNELS: "the channels of '{other}' are laid out differently",
    Code.NO_LAYER: "no Conv, ConvTranspose or Gemm directly precedes it",
    Code.SHARED_OUTPUT: "the output of '{layer}' has other readers",
    Code.OUTPUT: "the output of '{layer}' is an output of the model or read by a subgraph",
    Code.COMPUTED_BIAS: "the bias of '{layer}' is computed",
    Code.BIAS_SHAPE: lambda layer, shape: (
        f"the bias of '{layer}' has shape {list(shape)} instead of one value per channel"
    ),
    Code.BETA: "'{layer}' ignores its bias (beta is 0)",
    Code.FOLDED_IN: "{op} '{node}' folded in",
    Code.SCALES_CHANNELS: "it scales and shifts each output channel",
    Code.FOLDED: "{op} replaced by its value",
    Code.CONSTANT_INPUTS: "all its inputs are constants",
    Code.INLINED: "If replaced by the nodes of its {branch} branch",
    Code.CONSTANT_CONDITION: "its condition is a constant",
    Code.FIXED_BY_PROFILES: lambda inputs, nodes: (
        f"The sizes that all profiles give {quoted(inputs)} decide {count(len(nodes), 'If')} ({quoted(nodes)}): the "
        "model accepts no other sizes there any more."
    ),
    Code.INPUT_FIXED: lambda input, value, readers: (
        f"Input '{input}' is taken for {value} by {count(readers, 'node')} that {'reads' if readers == 1 else 'read'} "
        "it, whatever value it is given."
    ),
    Code.NOT_FIXED_BY_PROFILES: lambda nodes, error: (
        f"The sizes that all profiles give the inputs would decide {count(len(nodes), 'If')} ({quoted(nodes)}), and "
        f"the model could not be computed then, so these stay: {error}"
    ),
    Code.REMOVED: "{op} removed",
    Code.UNUSED: lambda branch: (
        "no output needs it, or it is in a branch that no input takes" if branch else "no output needs it"
    ),
    Code.NOT_COMPUTED: "its inputs are constants, and it could not be computed: {error}",
    Code.MADE_BY_FOLDING: "created by folding",
    Code.LARGE: "its result would take {megabytes:.0f} MB",
    Code.GUARDED: lambda nodes: f"{count(nodes, 'node')} at risk in float16.",
    Code.OVERFLOW: _overflow,
    Code.INNER_OVERFLOW: _inner_overflow,
    Code.SUBNORMAL: _subnormal,
    Code.VANISHING_CONSTANT: _vanishing,
    Code.RESOLUTION: _resolution,
    PhaseCode.COARSE: _phase,
    PhaseCode.MAKES_IT: _phase,
    HelperCode.READS_TRANSPOSED: "it reads its input transposed (transA), so its channels lie along the first axis",
    Code.NOTHING_TO_SMOOTH: "No layer with constant weights reads an activation.",
    Code.EVEN: "the largest channel of '{tensor}' is only {medians:.2g} times the median",
    Code.NO_NORM: "'{tensor}' has other readers, and insert = false",
    Code.NO_STRENGTH: lambda tensor, medians: (
        f"the largest channel of '{tensor}' is {times(medians)} times the median, and its output is closest as it is"
    ),
    Code.SMOOTHED: "its weights multiplied by the channel factors that '{divider}' divides by",
    Code.NOTHING_TO_SHIFT: "No layer with constant weights reads an activation that could be shifted.",
    Code.PADS_INPUT: "it pads its input with zeros, which a shifted input would not have",
    Code.OTHER_READER: lambda tensor, reader: (
        f"'{tensor}' is also read by '{reader}', which needs it as it is"
        if reader
        else f"'{tensor}' is an output of the model or read by a subgraph"
    ),
    Code.NO_FREE_SHIFT: lambda tensor, op: (
        f"{op or 'the model itself'} produces '{tensor}': no constant and no pointwise kernel there can absorb a shift"
    ),
    Code.CENTRED: "a shift of '{tensor}' would gain only {gain_db:.2g} dB",
    Code.SHIFTED: lambda holder, channels: (
        f"'{holder}' shifts its input {'per channel' if channels else 'by one value'}, and its bias makes up for that"
    ),
    Code.LIMITS_SHIFTED: "its limits moved by {shift:.3g}, with its input",
    Code.SKEWED: "'{tensor}' lies between {low:.3g} and {high:.3g}: its steps become {gain_db:.2g} dB finer",
    Code.OUTLIER_CHANNEL: lambda tensor, before, after: (
        f"the largest channel of '{tensor}' was {times(before)} times the median and is now {times(after)} times"
    ),
}
