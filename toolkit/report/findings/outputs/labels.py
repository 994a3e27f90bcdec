"""Messages on labels: those that fit no output, and the float model's own metric against them."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.metrics.table import METRICS
from toolkit.report.findings.outputs.tasks import counted_points
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import float_metric, percent


def _no_better(metric: str, value: float, samples: int, useless: float) -> str:
    info = METRICS.get(metric)
    ahead = info is not None and (value > useless if info.higher_is_better else value < useless)
    # better, but possibly by chance
    told = f"not measurably better than {useless:.4g}" if ahead else f"no better than {useless:.4g}"
    return f"{float_metric(metric, value, samples)}, {told}, which needs no model"


def _useless(metric: str, value: float, samples: int, useless: float) -> str:
    told = _no_better(metric, value, samples, useless)
    return f"{told}: check the labels and the preprocessing before anything is quantized."


def _says_little(metric: str, value: float, samples: int, useless: float, better: str, area: float) -> str:
    return (
        f"{_no_better(metric, value, samples, useless)}, although its scores tell the classes apart "
        f'({better} {area:.4g}): metric = "{better}" judges them, {metric} says little here.'
    )


def _shifted(metric: str, value: float, samples: int, offset: int, share: float, modulo: int) -> str:
    if modulo == 2:
        told = f"{float_metric(metric, value, samples)}, and {percent(share)} with the labels 0 and 1 swapped"
        return f"{told}: the labels call the other class 1."
    counted = f" (counted modulo {modulo})" if modulo else ""
    return (
        f"{float_metric(metric, value, samples)}, but {percent(share)} of the labels are its answer "
        f"{'+' if offset > 0 else '-'} {abs(offset)}{counted}: the labels start at another number."
    )


def _unfit(
    shape: Sequence[int], dtype: str, low: float | None, high: float | None, outputs: Sequence[str],
    shapes: Sequence[Sequence[int]], broken: int = 0, whole: bool = False, short: bool = False, metric: str = "",
) -> str:  # fmt: skip
    alike = low is not None and low == high
    reach = "" if low is None else f", {low:.4g} in every sample" if alike else f", from {low:.4g} to {high:.4g}"
    reach += f", NaN or infinite in {count(broken, 'sample')}" if broken else ""
    known = ", ".join(f"'{name}' {list(own)}" for name, own in zip(outputs, shapes)) or "none that onnxruntime computes"
    forms = ["as integers"] * whole + ["without their last axis, of length 1"] * short
    return (
        f"The labels fit no built-in metric, so they are not used: a sample's label is {dtype} {list(shape)}{reach}, "
        f"its outputs are {known}. "
        + (
            "All labels are the same, which shows nothing: add samples with other labels."
            if alike
            else f"Store them {' and '.join(forms)}: then {metric} fits them."
            if forms
            else "Store labels as `qtool metrics` lists them, or name a metric that reads them."
        )
    )


def _never_missed(limit: str, value: float, by: str, metric: str, float_value: float | None) -> str:
    whose = f"{limit} = {value:g}" + (f" of {by}" if by else "")
    if not metric or not limit.startswith("max"):
        return f"Nothing can miss {whose}: set a limit that says what may be lost."
    own = f" (the float model's own is {float_value:.4g})" if float_value is not None else ""
    unit = "as a share of the float model's value" if limit == "max_relative_drop" else f"in {metric}'s own unit"
    return f"Nothing can miss {whose}: it is {unit}, so {counted_points(value)} may be lost{own}; 0.01 is 1 point."


def _out_of_range(origin: str, value: int, output: str, classes: int, low: int, high: int, shifted: bool) -> str:
    cure = f"subtract {low} from every label" if shifted else "number the classes from 0"
    return (
        f"The label {value} of {origin} is not a class of output '{output}', whose {classes} classes are 0 to "
        f"{classes - 1}; labels reach from {low} to {high}, and nothing uses them: {cure}."
    )


def _not_finite(
    origin: str, at: Sequence[int], value: float, values: int, samples: int, metric: str, output: str
) -> str:
    where = f" at {list(at)}" if at else ""
    others = f"; {metric} of output '{output}' fits the others" if metric else ""
    return (
        f"The label of {origin} is {value}{where} ({count(values, 'value')} in {count(samples, 'sample')} "
        f"{'is' if values == 1 else 'are'} not finite), so no built-in metric can read the labels and nothing uses "
        f"them: repair or remove such samples{others}."
    )


def _renamed(metric: str, value: float, samples: int, share: float, joined: bool = False) -> str:
    how = (
        "each label stands for several of the model's classes"
        if joined
        else "the labels are in another order than the model's classes"
    )
    told = f"its answers predict {percent(share)} of the labels under another numbering"
    return f"{float_metric(metric, value, samples)}, but {told}: {how}."


LABELS: Table = {
    EvaluationCode.LABELS_FIT_NOTHING: _unfit,
    EvaluationCode.LABELS_UNUSED: lambda metric, output: (
        f"The samples have labels that nothing uses, since the recipe names no metric: {metric} of output '{output}' "
        "fits them."
    ),
    EvaluationCode.LABEL_OUT_OF_RANGE: _out_of_range,
    EvaluationCode.LABEL_NOT_FINITE: _not_finite,
    EvaluationCode.LIMIT_NEVER_MISSED: _never_missed,
    EvaluationCode.LABELS_SHIFTED: _shifted,
    EvaluationCode.LABELS_RENAMED: _renamed,
    EvaluationCode.OTHER_THRESHOLD: lambda metric, value, samples, threshold, better, share: (
        f"{float_metric(metric, value, samples)} with scores above {threshold:.3g} as class 1, but {percent(share)} of "
        f"the labels fit scores above {better:.3g}: set [evaluation] threshold to the one that the application uses."
    ),
    EvaluationCode.FLOAT_MODEL_USELESS: _useless,
    EvaluationCode.SAYS_LITTLE: _says_little,
    EvaluationCode.LABELS_IN_OTHER_UNIT: lambda metric, value, samples, boxes, labels: (
        f"{float_metric(metric, value, samples)}: its boxes reach to {boxes:.3g} (median of the larger of right and "
        f"bottom), the labels' to {labels:.3g}. Give the labels in the unit of the model's boxes."
    ),
}
