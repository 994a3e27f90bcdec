"""Messages of the evaluation: outputs not compared or computed exactly, data unlike calibration's."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.findings.outputs.tasks import answers_changed
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import db, joined, quoted, share_percent, times


def _shape(output: str, unlike: int, samples: int, float_shape: tuple[int, ...], shape: tuple[int, ...]) -> str:
    return (
        f"Output '{output}' has a different shape than the float model's on {unlike} of {count(samples, 'sample')} "
        f"(for example {list(shape)} instead of {list(float_shape)}): those were not compared."
    )


_AS_WRITTEN = (
    "To run it as it is written, use result.session(), or session_options.add_session_config_entry"
    "('session.disable_quant_qdq', '1'); TensorRT is not affected"
)
_WITHOUT_FUSION = "Use result.session(), or pass InferenceSession disabled_optimizers=['MatmulTransposeFusion']"


def _leaves_range(
    tensor: str,
    reach: float,
    share: float,
    calibrated: float | None,
    level_db: float | str,
    promised_db: float | str | None,
) -> str:
    before = f" ({share_percent(calibrated)} in calibration)" if calibrated is not None else ""
    promised = f", against {db(promised_db)} on the calibration samples" if promised_db is not None else ""
    return (
        f"'{tensor}' reaches {times(reach, 2)} times its range, and {share_percent(share)} of its values are "
        f"clipped{before}, which leaves {db(level_db)} SQNR{promised}"
    )


def _leaves_ranges(
    worst: str, others: int, inputs: tuple[str, ...], growth: tuple[float, ...], remedy: str, changed: str | None
) -> str:
    more = f", and {count(others, 'more tensor')} likewise" if others else ""
    hurts = f"; {changed}" if changed else ""
    grown = "".join(
        f"; the input '{name}' itself reaches {times(ratio, 2)} times what calibration saw"
        for name, ratio in zip(inputs, growth)
    )
    return f"Evaluation data leaves the calibrated ranges: {worst}{more}{grown}{hurts}. To fix it, {remedy}."


def _defaults_untold(nodes: tuple[str, ...], release: str, seconds: int | None = None, ended_by: str = "") -> str:
    what = f"did not end within {seconds} s" if seconds is not None else f"was ended from outside ({ended_by})"
    return (
        f"It is not known whether onnxruntime {release} can load model.onnx with its default optimizations: a process "
        f"that tried {what}. Release 1.32 crashes on some float16 products after a Transpose of the batch, such as "
        f"{quoted(nodes)}. {_WITHOUT_FUSION}; TensorRT is not affected."
    )


EVALUATION: Table = {
    EvaluationCode.OUTPUT_STEADY: (
        "Output '{output}' is identical for every sample, so its figures say little: check the samples."
    ),
    EvaluationCode.OUTPUT_SHAPE_DIFFERS: _shape,
    EvaluationCode.OUTPUT_SHAPE_UNLIKE_DECLARED: lambda output, declared, observed: (
        f"Output '{output}' is [{', '.join(observed)}] on the samples, and the model declares "
        f"[{', '.join(declared)}]: the observed shape is used. To fix the declaration, export the model again or "
        "correct its shape."
    ),
    EvaluationCode.METRIC_NOT_FINITE: (
        "The metric is {before} for the float model and {after} for this one, so no drop is known."
    ),
    EvaluationCode.SPREAD_NOT_TOLD: (
        "The drop of {metric} has no interval, so a limit on it is judged by these samples alone. Give the metric "
        "units() and value_among(kept), or answers where it is a share of so many."
    ),
    EvaluationCode.SPREAD_OF_ANOTHER: (
        "The drop of {metric} has no interval: its value is {value:.4g}, and its value_among of all samples "
        "{among:.4g}. Let value_among(kept) return what value() does, for the samples that are kept."
    ),
    EvaluationCode.PROFILE_NOT_EVALUATED: lambda profile, samples: (
        f"Profile '{profile}' was not evaluated: none of the {count(samples, 'evaluation sample')} fits it."
    ),
    EvaluationCode.ROUNDING_PARTLY_MEASURED: lambda types, nodes: (
        f"The accuracy figures include {joined(types)} rounding only in part: what {quoted(nodes)} return inside an "
        "If, Loop or Scan is not rounded, since its type is not known."
    ),
    EvaluationCode.UNROUNDED_NOT_RUN: (
        "onnxruntime cannot run model.onnx as it is ({why}): what was measured is model.onnx in float32, with the "
        "rounding of its 16-bit floats made explicit."
    ),
    EvaluationCode.UNROUNDED_LEFT_OUT: (
        "model.onnx has {nodes:,} nodes, more than {most:,}: what onnxruntime itself computes, without the rounding of "
        "16-bit floats between its kernels, was not measured. The figures include the rounding."
    ),
    EvaluationCode.NOTHING_TO_GO_ON_WITH: (
        "Intermediate results of the evaluation could not be kept ({why}): if stopped, it would have started over. "
        "The result is complete."
    ),
    EvaluationCode.MEASURED_IN_FLOAT32: lambda types, why: (
        "onnxruntime cannot run the lowered model accurately, so the float32 model with the same Q/DQ pairs was "
        f"measured: the accuracy figures do not include {joined(types) or 'float16'} rounding ({why})."
    ),
    EvaluationCode.DEFAULTS_REFUSE: lambda nodes, why: (
        "onnxruntime refuses model.onnx with its default optimizations, which rewrite "
        f"{quoted(nodes)}: {why.rstrip('. ')}. "
        f"{_AS_WRITTEN}."
    ),
    EvaluationCode.DEFAULTS_CHANGE: lambda nodes, sqnr_db, written_db: (
        f"onnxruntime computes other outputs from model.onnx with its default optimizations, which rewrite "
        f"{quoted(nodes)}: {db(sqnr_db)} SQNR instead of {db(written_db)}. {_AS_WRITTEN}."
    ),
    EvaluationCode.DEFAULTS_END: lambda nodes, release, ended_by: (
        f"A process that loads model.onnx in onnxruntime {release} with its default optimizations ends ({ended_by}) at "
        f"{quoted(nodes)}: float16, after a Transpose of the batch. {_WITHOUT_FUSION}; TensorRT is not affected."
    ),
    EvaluationCode.DEFAULTS_UNTOLD: _defaults_untold,
    EvaluationCode.FLOAT_FORM_NOT_RUN: (
        "Layer errors are against the source model, since the float form of the prepared model cannot be run: {why}."
    ),
    EvaluationCode.RESCALED_TENSORS_LEFT_OUT: lambda sqnr_db, tensors: (
        "Layer errors are against the source model, since the passes changed what it computes "
        f"({db(sqnr_db)} SQNR without any Q/DQ pair); {count(len(tensors), 'tensor')} that they rescaled or shifted "
        f"{'is' if len(tensors) == 1 else 'are'} left out: {quoted(tensors)}."
    ),
    EvaluationCode.LEAVES_RANGE: _leaves_range,
    EvaluationCode.EVALUATION_LEAVES_RANGES: _leaves_ranges,
    EvaluationCode.EVALUATION_INPUT_SMALL: lambda input, largest, range, remedy, changed: (
        f"Evaluation input '{input}' uses a small part of its calibrated range: it reaches {largest:.3g}, the range is "
        f"{range:.3g}{f'; {changed}' if changed else ''}. To fix it, {remedy}."
    ),
    EvaluationCode.ANSWERS_CHANGED: answers_changed,
    EvaluationCode.CALIBRATE_ALIKE: (
        "calibrate with data like the evaluation's, or check that both are preprocessed alike (scale, mean, layout)"
    ),
    EvaluationCode.CALIBRATE_THIS_RANGE: "let calibration find the range, which was given by hand or by a file",
}
