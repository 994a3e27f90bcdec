"""Messages on changes made when loading the model, and on samples and ranges."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.calibration.codes import RangeCode
from toolkit.contract.findings import Code
from toolkit.data.codes import DataCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import capital, joined, quoted

_MOST = 8
"""The most inputs to name."""
_CHANGED = {
    "functions": ("model-local function", "inlined"),
    "sparse": ("sparse initializer", "made dense"),
    "constants": ("Constant node", "made part of the weights"),
    "inputs": ("weight", "listed among the graph's inputs and taken as constants"),
    "stored": ("weight", "that is an output put behind an Identity node"),
    "pairs": ("quantizing node", "in a non-ONNX form read as QuantizeLinear and DequantizeLinear"),
    "unnamed": ("unnamed node", "named after operator and first output"),
    "doubled": ("node", "renamed since another has the same name"),
    "unused": ("node", "that no output needs left out"),
    "shadowing": ("tensor", "of If, Loop and Scan bodies renamed since one outside has the same name"),
}


def _loaded(what: str, number: int) -> str:
    if what == "opset":
        return "The model names no ONNX opset and has no operator of ONNX's own domain; the newest that fits was added."
    noun, done = _CHANGED[what]
    return f"{count(number, noun)} {done}."


def _unvaried(inputs: Sequence[str], samples: int, values: Sequence[float | None], of: str = "calibration") -> str:
    if len(inputs) == 1 and values[0] is not None:
        shows = "its range says nothing about" if of == "calibration" else "they say nothing about"
        return (
            f"Input '{inputs[0]}' is {values[0]:g} throughout {count(samples, f'{of} sample')}, so {shows} real "
            "inputs; check how the data was made."
        )
    throughout = (f" ({value:g} throughout)" if value is not None else "" for value in values)
    told = [f"'{name}'{more}" for name, more in zip(inputs, throughout)]
    made = " and check how the data was made" if any(value is not None for value in values) else ""
    return f"{_inputs(told)} identical in all {samples} {of} samples; provide varied samples{made}."


def _fixed(inputs: Sequence[str], samples: int, values: Sequence[float], of: str = "calibration") -> str:
    if len(inputs) == 1:
        said = f"Input '{inputs[0]}' is {values[0]:g} in all {samples} {of} samples, as a setting is; if it takes"
    else:
        told = [f"'{name}' ({value:g})" for name, value in zip(inputs, values)]
        said = f"{_inputs(told)} the same in all {samples} {of} samples, as settings are; if they take"
    return f"{said} other values in use, give samples with these too."


def _inputs(told: Sequence[str]) -> str:
    more = [f"{len(told) - _MOST} more"] if len(told) > _MOST else []
    return f"Input{'s' if len(told) > 1 else ''} {joined([*told[:_MOST], *more])} {'are' if len(told) > 1 else 'is'}"


def _not_run(
    plugins: tuple[str, ...], ops: tuple[str, ...], behind: int, feeds: tuple[str, ...], outputs: tuple[str, ...]
) -> str:
    reach = f"The model is calibrated and measured up to {quoted(feeds)}" if feeds else "Nothing before it computes"
    depends = f"{'depends' if behind == 1 else 'depend'} on {'it' if len(plugins) == 1 else 'them'}"
    more = f" and at {count(behind, 'node')} that {depends}" if behind else ""
    lost = f"; nothing is measured at {'output' if len(outputs) == 1 else 'outputs'} {quoted(outputs)}{more}"
    return f"onnxruntime cannot run {quoted(plugins)} ({joined(ops)}). {reach}{lost if outputs else ''}."


DATA: Table = {
    Code.NOT_RUN: _not_run,
    Code.NOT_CALIBRATED: "calibration gave none",
    Code.BEHIND_PLUGIN: "onnxruntime cannot run node '{plugin}' ({op}), on which it depends",
    Code.NO_VALUES: "it was empty in every sample",
    Code.LOADED: _loaded,
    Code.IN_STRETCHES: lambda stretches, weights, memory: (
        f"onnxruntime runs the model in {stretches} partitions (last bits may differ where it would fuse across cuts): "
        f"its weights take {weights / 1e9:.3g} GB, and [run] memory is {memory / 1e9:.3g} GB."
    ),
    Code.RANDOM_DATA: "Calibration data is random (seed {seed}), so the ranges say nothing about real inputs.",
    Code.SKIPPED: lambda samples, data: f"{count(samples, 'sample')} skipped: no profile fits ({data}).",
    Code.PADDED: lambda samples, data: f"{count(samples, 'sample')} padded with zeros to fit a profile ({data}).",
    Code.CROPPED: lambda samples, data: f"{count(samples, 'sample')} cropped to fit a profile ({data}).",
    Code.CUT: lambda rows, data: f"{count(rows, 'row')} left out: too few to fill a batch ({data}).",
    DataCode.OTHER_SAMPLES: (
        "For {use}, {data} returned other samples than in the last run, so nothing that depends on them was reused. "
        "Unless that is intended, seed random augmentation at the start of each pass and do not shuffle, or store the "
        "samples once with numpy.savez."
    ),
    DataCode.UNSTEADY: (
        "{data} returns other samples each time it is read. This run kept those of the first reading, so it cannot be "
        "reproduced, and the next run will not reuse its results. Seed random augmentation at the start of each pass "
        "and do not shuffle, or store the samples once with numpy.savez."
    ),
    DataCode.LOADER_CUT: (
        "{data} does not say how many samples it has and had not ended after {read:,}: its first {used:,} are used. "
        "If it does end, give it a length (__len__) to have samples spread over all of it."
    ),
    DataCode.ROWS_APART: lambda items, rows, data: (
        f"{data} returns {count(rows, 'row')} in {items} batch{'es' if items > 1 else ''}: each row counts as a sample."
    ),
    DataCode.LABELS_OF_SOME: (
        "Only {labelled} of {samples} samples have labels, as {labelled_at}, and others none, as {without_at}: the "
        "answers are compared with the float model's. To measure a metric, keep the labelled samples by themselves, "
        "and name them as [evaluation] data (`qtool new --test`)."
    ),
    DataCode.ROWS_UNDECIDED: lambda items, data: (
        f"Samples of {data} have several rows, all with the same values, which does not show whether each row is a "
        f"sample: each of its {count(items, 'item')} counts as one. Give samples with 1 row, or rows that differ."
    ),
    Code.LIMITED: "{left_out} of {total} calibration samples left out because of samples = {limit}.",
    DataCode.OPT_UNLIKE_NAME: lambda profile, tensor, axis, dim, opt, made: (
        f"Profile '{profile}' has opt {opt} in dimension {axis} of '{tensor}', whose name '{dim}' gives {made} from "
        f"the others' opt. If the model depends on what the name says, no engine can be built: then write {made}."
    ),
    Code.EMPTY_PROFILE: "No sample of {data} fits profile '{profile}'.",
    Code.FEW_SAMPLES: lambda profile, samples: (
        f"Profile '{profile}' has only {count(samples, 'calibration sample')}; provide more."
    ),
    Code.UNVARIED_SAMPLES: _unvaried,
    DataCode.FIXED_INPUT: _fixed,
    DataCode.PREPARED_UNLIKE: (
        "Calibration and evaluation samples are not prepared alike: a typical sample of input '{input}' has a root "
        "mean square of {calibration:.3g} for calibration and {evaluation:.3g} for evaluation, so the ranges will not "
        "fit. Scale and normalize both as in training."
    ),
    DataCode.NORMALIZED_UNLIKE: lambda input, signed: (
        f"Calibration and evaluation samples are not prepared alike: input '{input}' is negative in part of each "
        f"{signed} sample and never in the others, so the ranges will not fit. Normalize both as in training."
    ),
    DataCode.CALIBRATOR_LEFT_OUT: lambda calibrator, left_out, samples, batch: (
        f"TensorRT's {calibrator} calibrator takes whole batches of {batch}, the opt batch of the calibration profile: "
        f"{left_out} of {count(samples, 'calibration sample')} {'does' if left_out == 1 else 'do'} not fill one and "
        f"{'is' if left_out == 1 else 'are'} left out. Give a multiple of {batch} samples of the same shape."
    ),
    DataCode.NOT_AS_LOCKED: lambda files: (
        f"{capital(joined(files))} {'differs' if len(files) == 1 else 'differ'} from the run whose lock file this is, "
        "so the result may differ too. To repeat the run, give it the files that it read."
    ),
    Code.UNLIKE_PROFILES: "The range of '{tensor}' in profile '{high}' is {ratio:.1f} times that in '{low}'.",
    Code.RANGES_OF_NO_TENSOR: lambda tensors, of: (
        f"{len(tensors)} of the {count(of, 'range')} given belong to no tensor of the model: {quoted(tensors)}."
    ),
    RangeCode.BY_HAND_UNUSED: lambda tensors: (
        f"The {'range' if len(tensors) == 1 else 'ranges'} that [calibration] manual sets for {quoted(tensors)} "
        f"{'has' if len(tensors) == 1 else 'have'} no effect: no layer that can be quantized reads "
        f"{'that tensor' if len(tensors) == 1 else 'these tensors'}. Set those of the tensors that such layers read: "
        "report.json lists each layer's inputs."
    ),
    RangeCode.BY_HAND_UNLIKE: lambda tensors, amax: (
        f"[calibration] manual sets {joined([f'{number:g}' for number in amax])} for {quoted(tensors)}, which have the "
        "same values in another shape or type. Each keeps its own, and other forms of these values get that of the "
        "last in the graph: set one of them."
    ),
    RangeCode.OF_THE_WHOLE: lambda tensors, wholes: (
        f"No range is given for {quoted(tensors)}: the range of {quoted(tuple(dict.fromkeys(wholes)))} is used, of "
        f"which {'it is a part' if len(tensors) == 1 else 'they are parts'}. It is too wide for values of another "
        "unit, such as scores beside boxes in pixels, which are then rounded to 0: give a range for each part."
    ),
    Code.CACHE_WITHOUT_RANGE: lambda tensors: (
        f"The calibration cache has NaN instead of a range for {quoted(tensors)}: TensorRT found none."
    ),
    Code.RANGES_OF_OTHER_TYPE: lambda tensors, has, wanted: (
        f"{count(len(tensors), 'range')} given for {has} not used for {wanted}, whose grid differs: calibrated "
        f"instead ({quoted(tensors)})."
    ),
    Code.RANGES_MISSING: lambda tensors, nodes: (
        f"{count(len(tensors), 'tensor')} without a range: {quoted(tensors)}. Without calibration data "
        f"{quoted(nodes)} stay{'s' if len(nodes) == 1 else ''} in float."
    ),
    Code.VALUES_NOT_OBSERVED: (
        "No calibration data shows which values occur, so only weights and given ranges were checked against the "
        "limits of float16."
    ),
    Code.OTHER_CPUS: (
        "Workers with other CPUs ({kinds}) than this machine's ({here}) took part, whose kernels round differently: "
        "the last digits can differ from those of a run here. Use machines of one kind where that matters."
    ),
    Code.OTHER_COLLECTION: (
        "The collection was made before a pass changed the model, so the changed model is calibrated on the data."
    ),
}
