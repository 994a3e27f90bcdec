"""Warnings about the figures, and why layers were left in float."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.report.codes import ReportCode
from toolkit.report.findings.outputs.accuracy import agreement_name
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import capital, every, joined, percent, quoted


def _layers(number: int) -> str:
    return count(number, "layer")


def _overridden(count: int, node: str, why: str, remedy: str) -> str:
    layers = "1 layer runs" if count == 1 else f"{count} layers run"
    said = f"{layers} in another precision than requested: '{node}'{' among them' if count > 1 else ''}"
    said += f", {why}." if why else "."
    return f"{said} To fix it, {remedy}." if remedy else said


def _few(samples: int) -> str:
    return f"Accuracy was measured on only {count(samples, 'sample')}: give [evaluation] data with more."


def _agreement(output: str, agreement: float, discrete: bool) -> str:
    name = agreement_name(discrete)
    return f"{capital(name)} of output '{output}' with the float model is only {percent(agreement)}."


def _clip(count: int, limit: float, tensor: str, clipped: float) -> str:
    ranges = "1 range clips" if count == 1 else f"{count} ranges clip"
    worst = "" if count == 1 else "the worst is "
    return f"{ranges} more than {percent(limit, 0)} of the values: {worst}'{tensor}' with {percent(clipped)}."


def _failed(gpu: str, why: str) -> str:
    return f"the engine failed on its own GPU{f' ({gpu})' if gpu else ''}: {why.rstrip('.')}"


_WEIGHTED = ("layer with weights", "layers with weights")
_KINDS = {"linear": "linear layers", "convolution": "convolutions"}


def _nothing(count: int, of: int, rule: str, node: str, reason: str) -> str:
    some = f"{count} of {of}" if count < of else every(of)
    kind = ("product", "products of two activations") if rule == Code.ACTIVATION_MATMUL.value else _WEIGHTED
    layers = f"the only {kind[0]} is" if of == 1 else f"{some} {kind[1]} are"
    return f"{layers} left in float by rule '{rule}' ({_example(node, reason)})"


def _example(node: str, reason: str) -> str:
    return f"'{node}': {reason.rstrip('.')}" if reason else f"such as '{node}'"


def _kind(kind: str, count: int, rule: str, node: str, reason: str) -> str:
    return f"{every(count)} {_KINDS[kind]} are left in float by rule '{rule}' ({_example(node, reason)})"


def _float(count: int, of: int, node: str, by: str = "", reason: str = "") -> str:
    some = f"{count} of {of}" if count < of else every(of)
    layers = f"{some} {_WEIGHTED[1]}" if of > 1 else f"the only {_WEIGHTED[0]}"
    why = _example(node, reason)
    return f"{layers} {'are' if count > 1 else 'is'} left in float by {by or 'later passes'} ({why})"


def _converted(precision: str, count: int, of: int, islands: Sequence[str], reason: str) -> str:
    words = f"{count} of {of} layers in {precision.upper()}, none quantized"
    if not islands:
        return words
    verb = "stays" if len(islands) == 1 else "stay"
    return f"{words}; {quoted(islands)} {verb} in FP32" + (f" ({_example(islands[0], reason)})" if reason else "")


WARNINGS: Table = {
    ReportCode.NOTHING_QUANTIZED: _nothing,
    ReportCode.NO_LAYER_TO_QUANTIZE: "the model has no Conv, ConvTranspose, Gemm or MatMul to quantize",
    ReportCode.NO_PASS_QUANTIZES: "no pass of the recipe quantizes",
    ReportCode.FLOAT_CONVERTED: _converted,
    ReportCode.FLOAT_REQUESTED: _float,
    ReportCode.NONE_RUNS_AS_REQUESTED: lambda count, node: (
        f"{count} {'layer was' if count == 1 else 'layers were'} requested quantized, and the engine runs "
        f"{'it' if count == 1 else 'all of them'} in float ('{node}'{' among them' if count > 1 else ''})"
    ),
    ReportCode.KIND_LEFT_OUT: _kind,
    ReportCode.LAYERS_OVERRIDDEN: _overridden,
    ReportCode.PROFILE_WITHOUT_SAMPLES: (
        "Profile '{profile}' got no calibration samples: its ranges are those of the other profiles."
    ),
    ReportCode.ACCURACY_ON_SEEN_SAMPLES: (
        "Accuracy was measured on samples that calibration saw, which makes it look better than it is."
    ),
    ReportCode.ACCURACY_ON_FEW_SAMPLES: _few,
    ReportCode.AGREEMENT_DOUBTFUL: _agreement,
    ReportCode.OTHER_FLOAT: lambda count, precision, rest, by, node, reason: (
        f"{_layers(count)} in {precision.upper()} and not in {rest.upper()}"
        + (f" (by {by})" if by else "")
        + f"{', such as' if count > 1 else ':'} '{node}'"
        + (f" ({reason})." if reason else ".")
    ),
    ReportCode.SQNR_DOUBTFUL: "SQNR of output '{output}' is only {sqnr_db:.1f} dB.",
    ReportCode.RANGES_CLIP: _clip,
    ReportCode.RANGES_DIFFER_BY_PROFILE: lambda count: (
        f"The ranges of {count} tensor{'' if count == 1 else 's'} differ twofold or more between profiles."
    ),
    ReportCode.ONLY_REQUESTS_KNOWN: "No engine was built: only requested precisions are known.",
    ReportCode.RECORD_OF_LOST_NODES: lambda count, node: (
        f"The engine's record names {count} node{'' if count == 1 else 's'} that the graph does not have: '{node}'"
        f"{' among them' if count > 1 else ''}."
    ),
    ReportCode.ZERO_RANGES: lambda tensors: (
        f"{quoted(tensors)} {'has' if len(tensors) == 1 else 'have'} the range 0, so nothing shows how large values "
        "get: pairs keep values between -1 and 1, and clip all others. Calibrate with samples in which other values "
        "occur, or keep their readers in float."
    ),
    ReportCode.RANDOM_CALIBRATION: (
        "RANDOM DATA: the ranges come from random values and are meaningless for real inputs."
    ),
    ReportCode.NOTHING_MEASURED: (
        "Accuracy was not measured: the recipe has neither evaluation data nor calibration data."
    ),
    ReportCode.TIMING_CACHE_REFUSED: (
        "TensorRT could not read the timing cache and timed every kernel again ('{said}'): delete the file; if that "
        "does not help, each engine takes as long to build as this one."
    ),
    ReportCode.LATENCY_NOT_MEASURED: lambda profile, why, engine="": (
        f"Latency of the {f'{engine.upper()} ' if engine else ''}engine in profile '{profile}' was not measured: {why}."
    ),
    ReportCode.NOT_MEASURED_IN_TURN: (
        "In profile '{profile}' the engines were measured one after the other, not in turn, so differences of a few "
        "percent may be noise: {why}."
    ),
    ReportCode.KEEPS_STATED_TYPE: (
        "no pass requested a precision, and the model states {precision} for it, which [engine] rest does not change: "
        "{why}"
    ),
    ReportCode.NOT_REQUESTED: "no pass requested a precision, and [engine] rest is {rest}: {why}",
    ReportCode.CONVERTS_TYPES: "converts between types",
    ReportCode.NO_FLOAT_COMPUTATION: "computes no floats",
    ReportCode.COMPUTES_IN_FLOAT64: (
        "computes in float64, which is never quantized and which TensorRT narrows to float32: export the model in "
        "float32"
    ),
    ReportCode.HELPERS_IDLE: lambda passes: (
        f"{joined(passes)} changed the model for quantization, but nothing is quantized, so that gains nothing. "
        f"Quantize afterwards, or remove {'it' if len(passes) == 1 else 'them'} from the recipe."
    ),
    ReportCode.EFFECT_NOT_MEASURED: lambda by, count: (
        f"{by} changed {count} layer{'' if count == 1 else 's'}; the gain was not measured."
    ),
    ReportCode.ENGINE_FAILED: _failed,
    ReportCode.ENGINE_NOT_RUN: "The engine was not run on {gpu}: {why}.",
}
