"""Messages of `qtool migrate` on flags, calls, ranges and pairs."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.contract.roles import Role
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, pass_for, quoted
from toolkit.report.migrate_codes import MigrateCode


def _other_network(known: int, of: int, tensors: Sequence[str], near: str | None) -> str:
    hint = f" (the model's nearest is '{near}')" if near else ""
    return (
        f"Only {known} of {count(of, 'named range')} belong to the model's tensors; it has no {quoted(tensors)}{hint}. "
        "The ranges may come from another network, or from another export of this one."
    )


def _no_effect(without: str) -> str:
    if without == "constraints":
        return "TensorRT ignored it, as no precision constraints were set; the recipe requests it all the same"
    return f"without {without} it had no effect"


def _no_such_input(inputs: Sequence[str], near: Sequence[str]) -> str:
    hint = f"; the nearest is {quoted(near)}" if near else ""
    return f"the model has no input {quoted(inputs)}{hint}"


def _made_anew(scale: float, before: float | None, symmetric: bool, bits: int = 8) -> str:
    if before is None:
        return f"one scale for the whole tensor, {scale:.4g}; there was one per channel, or a computed one"
    why = "" if symmetric else ", since TensorRT supports no zero point"
    why = f", since TensorRT has no {bits}-bit integers" if bits > 8 else why
    return f"the scale {before:.4g} became {scale:.4g}{why}"


def _summary(paired: int, missing: int, of: int) -> str:
    need = "needs" if missing == 1 else "need"
    lacking = f"; {count(missing, 'tensor')} that {need} a pair had none" if missing else ""
    return f"{paired} of {count(of, 'range')} {'is a scale' if paired == 1 else 'are scales'} of Q/DQ pairs{lacking}."


def _forms(
    pairs: bool, before_db: float | str | None, after_db: float | str | None, before: float | None, after: float | None,
    float_value: float | None,
) -> str:  # fmt: skip
    was = "the model's own pairs" if pairs else "ranges (every tensor that has one rounded to INT8)"
    metric = "" if before is None or after is None or float_value is None else (
        f"; the metric is {before:.4g} and {after:.4g}, in float {float_value:.4g}"
    )  # fmt: skip
    before_kept, after_kept = ("no error" if level == "inf" else f"{db(level)} SQNR" for level in (before_db, after_db))
    return f"Compared with the float model, {was} have {before_kept} and the migrated pairs {after_kept}{metric}."


def _lost(lost: int, look: int) -> str:
    parts = [f"without an equivalent: {lost}"] if lost else []
    parts += [f"to be looked at in the script: {look}"] if look else []
    return f"Flags and calls {', '.join(parts)}."


MIGRATE: Table = {
    MigrateCode.ALWAYS_EXPLICIT_BATCH: "batches are always explicit",
    MigrateCode.ENGINE_IN_FOLDER: "a run writes model.engine into its folder",
    MigrateCode.TF32_IS_ON: "float32 layers may use TF32 anyway",
    MigrateCode.ATTENTION_DECOMPOSES: "attention without a fused kernel is always computed by several",
    MigrateCode.ABOUT_RUNNING: "it is about running or timing an engine, not about building it: see `qtool time`",
    MigrateCode.ABOUT_PRINTING: "it is about extra output, printed or written: see the run's report",
    MigrateCode.ABOUT_OTHER_FRAMEWORK: "it is not about TensorRT's engine",
    MigrateCode.ENGINE_CANNOT_MIGRATE: "an engine cannot be migrated: give the ONNX model that it was built from",
    MigrateCode.TF32_STAYS: "a recipe cannot switch off TF32 in float32 layers",
    MigrateCode.INT4_BY_PAIRS: lambda: (
        f"INT4 and FP4 are in the graph, as pairs around the weights: {pass_for(Role.QUANTIZE)} with dtype = "
        '"int4" or "nvfp4" writes them'
    ),
    MigrateCode.INT4_IN_GRAPH: "the model has its weights in four bits already",
    MigrateCode.NO_DLA: "qtool builds for GPUs, not for the DLA",
    MigrateCode.NO_PLUGIN_LIBRARIES: "a recipe loads no plugin libraries",
    MigrateCode.OUTPUTS_OF_MODEL: "the engine's outputs are the model's: mark others in the model",
    MigrateCode.REMOVED_IN_11: "TensorRT 11 removed it without a replacement",
    MigrateCode.NOT_ONNX_MODEL: "the model has to be ONNX",
    MigrateCode.NO_SETTING: "a recipe has no setting for it: TensorRT's default applies",
    MigrateCode.UNKNOWN_FLAG: "no flag '{flag}' is known",
    MigrateCode.STRAY_WORD: lambda word: (
        f"the value of '{word}' is not known: it has none in the script, or several"
        if word.startswith(("$", "%", "{"))
        else f"'{word}' belongs to no flag"
    ),
    MigrateCode.VALUE_UNREADABLE: lambda said: (
        "its value holds a variable whose value is not known"
        if "$" in said or "{" in said
        else "its value cannot be read, or TensorRT does not accept it"
    ),
    MigrateCode.NO_SUCH_LAYER: lambda layers: f"the model has no node {quoted(layers)}",
    MigrateCode.NO_SUCH_INPUT: _no_such_input,
    MigrateCode.SAID_AGAIN: lambda by, same: f"given again by {by}" + ("" if same else ", whose value counts"),
    MigrateCode.CONTRADICTS: "it contradicts {by}, which counts",
    MigrateCode.NO_EFFECT: _no_effect,
    MigrateCode.CONSTRAINTS_BY_TYPES: (
        "types in the graph hold without it; TensorRT 8.6 refuses some networks with pairs if it is set"
    ),
    MigrateCode.NO_QUANTIZED_FORM: lambda layers: (
        f"{quoted(layers)} have no quantized form by Q/DQ pairs, and run quantized only where TensorRT fuses them"
    ),
    MigrateCode.OUTPUT_TYPE_LOST: lambda layers: (
        f"the output of {quoted(layers)} has the type that the layer computes in: a strongly typed graph has no other"
    ),
    MigrateCode.FORMAT_LOST: lambda tensors: f"memory layouts and integer types have no setting: {quoted(tensors)}",
    MigrateCode.LIBRARY_TACTICS: lambda sources: (
        f"kernels of other libraries ({', '.join(sources)}) are left out: they are deprecated since TensorRT 10, and "
        "TensorRT-RTX has none"
    ),
    MigrateCode.POOL_LOST: "only the workspace can be limited",
    MigrateCode.SPARSITY_FORCED: "weights are not pruned: `polygraphy surgeon prune` does that to the model",
    MigrateCode.CACHE_NOT_THERE: "there is no such file: ranges are calibrated on the samples",
    MigrateCode.CACHE_DECIDES: "the calibration cache holds the ranges, so TensorRT reads no samples",
    MigrateCode.CACHE_OF_INT8: "a calibration cache holds INT8's ranges, not FP8's",
    MigrateCode.FP8_NEEDS_DATA: (
        "No model was made: FP8 has to be calibrated. Give samples with --data, or quantize the model to FP8 pairs."
    ),
    MigrateCode.CODE_TO_ALLOW: (
        "the samples come from code: name it in [calibration] data as module:function, and run with --allow-code"
    ),
    MigrateCode.SHAPES_OF_ONES: lambda inputs: (
        f"no shapes are given for {quoted(inputs)}: dynamic dimensions are 1, as in trtexec and Polygraphy. "
        "Check [[profile]]"
    ),
    MigrateCode.SHAPES_OF_SAMPLES: lambda inputs: (
        f"no shapes are given for {quoted(inputs)}: those of the samples are taken, with a batch of 1. "
        "Check [[profile]]"
    ),
    MigrateCode.NO_RANGES_AT_ALL: (
        "No model was made: INT8 is requested, and there are no ranges, pairs or samples. Give --cache or --data. "
        "(trtexec then makes up ranges, which are good for timing only.)"
    ),
    MigrateCode.LOOK_AT: "look at line {line}: only running it would show its value",
    MigrateCode.ONLY_WHERE: "look at line {line}: it applies only if `{test}`; assumed to be so",
    MigrateCode.NOT_TAKEN: "it is not reached, since `{test}` rules it out",
    MigrateCode.OTHER_COMMAND: "another command of the script; migrate it separately",
    MigrateCode.TENSOR_PAIRED: "scale {scale:.4g} of its Q/DQ pair",
    MigrateCode.TENSOR_DERIVED: "scale of its Q/DQ pair, from '{source}', whose values it holds",
    MigrateCode.TENSOR_SHARED: "its pair has the scale {scale:.4g}, not {own:.4g}: tensors that are joined share one",
    MigrateCode.TENSOR_INSIDE: "no pair: no quantized layer reads it, or it lies within a fused layer",
    MigrateCode.TENSOR_CONSTANT: "a constant: weights have a scale for each channel, from their values",
    MigrateCode.TENSOR_UNNAMED: "a tensor of TensorRT's own without an ONNX name; weights get scales from their values",
    MigrateCode.TENSOR_STRANGE: lambda tensors: f"the model has no tensor {quoted(tensors)}",
    MigrateCode.TENSOR_WITHOUT: "NaN in the cache: TensorRT had no range of it, so what reads it stays in float",
    MigrateCode.TENSOR_ZERO: "the range is zero: every value seen was 0, and the pair has the scale {scale:.4g}",
    MigrateCode.TENSOR_MISSING: lambda nodes: (
        f"no range was given: {quoted(nodes)} {'stays' if len(nodes) == 1 else 'stay'} in float"
    ),
    MigrateCode.PAIR_KEPT: lambda scale: (
        "kept; the scales of its blocks are computed at run time"
        if scale is None
        else f"kept, with the scale {scale:.4g}"
    ),
    MigrateCode.PAIR_MADE_ANEW: _made_anew,
    MigrateCode.PAIR_MOVED: lambda scale, before, to: (
        _made_anew(scale, before, True) + f", on '{to}', which holds its values"
    ),
    MigrateCode.PAIRS_MIXED: lambda layers: (
        f"{quoted(layers)} have operands of two quantized types, which TensorRT does not multiply: the model's pairs "
        "are removed and made again in INT8 with their ranges."
    ),
    MigrateCode.LAYERS_STAY_FLOAT: lambda layers: (
        f"{count(len(layers), 'layer')} without pairs on both operands {'stays' if len(layers) == 1 else 'stay'} "
        f"in float: {quoted(layers)}."
    ),
    MigrateCode.OTHER_NETWORK: _other_network,
    MigrateCode.PAIRS_OVERRULE: "the model has Q/DQ pairs, which decide; TensorRT ignores it too",
    MigrateCode.RANGES_SUMMARY: _summary,
    MigrateCode.FORMS_MEASURED: _forms,
    MigrateCode.SUMMARY: _lost,
    MigrateCode.RANGE_OF_PAIR: "its pair's scale {scale:.4g} is its scale in the cache",
    MigrateCode.RANGE_FOLLOWS: "the range of '{source}', which holds its values or runs in one kernel with it",
    MigrateCode.RANGE_UNKNOWN: "no pair gives the range of the output of '{layer}', and the cache has none",
    MigrateCode.PER_CHANNEL_ACTIVATION: "left out: a cache has one scale per tensor, and this pair has one per channel",
    MigrateCode.OFFSET_LOST: "a cache has no zero points: the range is symmetric, and reaches as far as the pair's",
    MigrateCode.NO_IMPLICIT_FORM: "left out: {kind} has no implicit form",
    MigrateCode.NOTHING_IMPLICIT: (
        "No pair gives an INT8 range of an activation, and implicit quantization has nothing else: what is written "
        "is the float model, for FP16. TensorRT 10 builds pairs of other types as they are."
    ),
    MigrateCode.FLOAT_LAYERS: lambda layers: (
        f"{count(len(layers), 'layer')} without pairs ({quoted(layers)}): the command and the recipe request a "
        "float type for them, since TensorRT would use INT8 wherever it finds ranges."
    ),
}
