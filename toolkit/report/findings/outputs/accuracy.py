"""Messages on accuracy: figures of outputs, changes of the metric, broken outputs, missed limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.findings.outputs.tasks import figure_words, kept_words, part_name, part_words
from toolkit.report.findings.table import Table, names
from toolkit.report.findings.words import joined, pass_for, percent, quoted
from toolkit.report.schema.accuracy import Accuracy, OutputError

SIMULATION = "onnxruntime"
"""What ``Accuracy.source`` calls the simulation of an engine."""
IDENTICAL, NOT_FINITE, ZERO_SIGNAL, RANKED = "identical", "NaN/inf", "zero signal", "by rank"
_MOST_OUTPUTS = 3
_DIGITS = 4
"""The most significant digits to show of values that differ."""


def number(value: float) -> str:
    """A metric's value: three decimal places; below 0.01 three significant digits, above 1 four."""
    if 0.01 <= abs(value) <= 1 or not value:
        return f"{value:.3f}"
    return f"{value:.4g}" if abs(value) > 1 else f"{value:.3g}"


def numbers(*values: float) -> tuple[str, ...]:
    """A metric's values with equally many decimal places, enough to tell them apart if four digits do."""
    shown = tuple(map(number, values))
    if any("e" in one for one in shown):
        return shown
    least = max(len(one.partition(".")[2]) for one in shown)
    smallest = min((abs(value) for value in values if value), default=1.0)
    most = max(least, _DIGITS - 1 - math.floor(math.log10(smallest)))
    forms = (tuple(f"{value:.{places}f}" for value in values) for places in range(least, most + 1))
    first = next(forms)
    return next((form for form in (first, *forms) if len(set(form)) == len(set(values))), first)


def level(error: OutputError) -> str:
    """An output's SQNR in dB without the unit, or why it has none."""
    if error.sqnr_db is not None:
        return f"{error.sqnr_db:.1f}"
    if isinstance(error, OutputError) and error.ranked:
        return RANKED
    return IDENTICAL if error.identical else NOT_FINITE if error.incomparable else ZERO_SIGNAL


def brief(accuracy: Accuracy) -> str:
    """The most telling figure: the metric, or the first output's figure."""
    if accuracy.quantized is not None:
        return number(accuracy.quantized)
    if accuracy.parts:
        return part_words(accuracy.parts[0], len(accuracy.parts) > 1)
    figures = (f"{name} {_output_figures(output)[0]}" for name, output in accuracy.outputs.items())
    return next(figures, "nothing measured")


def figures(accuracy: Accuracy, answers: bool = True) -> str:
    """The accuracy in one phrase: the metric before and after, or the outputs' own figures.

    Args:
        answers: whether to include unchanged answers; False if a missed limit states them already.
    """
    before, after = accuracy.before, accuracy.quantized
    if after is not None and before is not None:
        now, was = numbers(after, before)
        words = f"{accuracy.metric or 'metric'} {now} against {was} "
        words += "of the source, which is quantized itself" if accuracy.quantized_source else "float"
        notes = []
        if accuracy.drop is not None:
            points = accuracy.in_points
            notes.append(change(accuracy.drop, accuracy) + (" points" if points else ""))
            if accuracy.most_drop is not None:
                notes.append(f"budget {amount(accuracy.most_drop, points)}")
        return words + (f" ({', '.join(notes)})" if notes else "")
    shown = [(name, one) for name, one in accuracy.outputs.items() if not one.ranked][:_MOST_OUTPUTS]
    said = []
    if accuracy.parts and answers:
        said = [kept_words(accuracy.parts[0], len(accuracy.parts) > 1)]
        # next to the answers, the noisiest output represents all
        levels = [(one.sqnr_db, name) for name, one in accuracy.outputs.items() if one.sqnr_db is not None]
        shown = [(name, accuracy.outputs[name]) for _, name in sorted(levels)[:1]] or shown[:1]
    return "; ".join([*said, *(f"{name} " + ", ".join(_output_figures(output)) for name, output in shown)])


def source_words(accuracy: Accuracy) -> str:
    """What ran the quantized model: onnxruntime simulates it, an engine is measured; empty where that is not known."""
    if not accuracy.source:
        return ""
    return f"{'simulated in' if accuracy.source == SIMULATION else 'measured by'} {accuracy.source}"


def unrounded(accuracy: Accuracy) -> str:
    """The first line's figure as onnxruntime itself computes model.onnx; empty if it is displayed the same."""
    own = accuracy.quantized if accuracy.metric else accuracy.parts[0].unchanged if accuracy.parts else None
    figure = accuracy.unrounded
    if figure is None or (own is not None and not differ_as_shown(accuracy.metric, own, figure)):
        return ""
    said = f"{_headline_figure(accuracy.metric, figure)} in onnxruntime"
    some = accuracy.unrounded_samples
    return said if some is None else f"about {said} (estimated from {some} of {accuracy.samples} samples)"


def _headline_figure(metric: str | None, value: float) -> str:
    return f"{metric} {number(value)}" if metric else f"{percent(value)} unchanged"


def differ_as_shown(metric: str | None, one: float, other: float) -> bool:
    """Whether two figures of the first line differ as displayed."""
    return _headline_figure(metric, one) != _headline_figure(metric, other)


def _unrounded_differs(
    metric: str | None,
    value: float,
    unrounded: float,
    samples: int | None = None,
    of: int = 0,
    moved: float | None = None,
    estimate: float | None = None,
) -> str:
    some = f" on {samples} of the {of} samples" if samples is not None else ""
    if estimate is not None:
        some += f" (an estimated {_headline_figure(metric, estimate)} on all)"
    elif samples is not None:
        some += ", too few to tell by how much it moves on all"
    words = (
        f"onnxruntime omits float16 rounding between its kernels: computed this way, graph optimizations off, "
        f"model.onnx has {_headline_figure(metric, unrounded)} instead of {_headline_figure(metric, value)}{some}. "
        "The other figures include the rounding, as an engine does; the difference shows how far last bits move them."
    )
    if samples is not None and moved is not None:
        words += f" The rounding decides at most {percent(moved)} of the answers (95 % confidence)."
    return words


def change(drop: float, accuracy: Accuracy) -> str:
    """The change of the metric with its direction: drop or gain; if lower is better, worse or better."""
    worse, better = ("drop", "gain") if accuracy.rising else ("worse by", "better by")
    return f"{worse if drop >= 0 else better} {amount(abs(drop), accuracy.in_points)}"


def drop_interval(accuracy: Accuracy) -> str:
    """The interval of the metric's drop in brackets; empty if not known."""
    if accuracy.drop_low is None or accuracy.drop_high is None:
        return ""
    low, high = (amount(one, accuracy.in_points) for one in (accuracy.drop_low, accuracy.drop_high))
    return f" (95 % interval of the {'drop' if accuracy.rising else 'rise'} {low} to {high})"


def with_points(words: str, value: float, accuracy: Accuracy) -> str:
    """Words that end with a change of the metric, followed by "points" if these are its unit."""
    if not accuracy.in_points:
        return words
    return f"{words} point{'' if amount(abs(value), True) == '1' else 's'}"


def amount(value: float, in_points: bool) -> str:
    """A change of the metric, in percentage points or in its own units."""
    return f"{value * 100:.2f}".rstrip("0").rstrip(".") if in_points else f"{value:.4g}"


def agreement_name(discrete: bool) -> str:
    """The name of an output's agreement; for integers and the like, it is the share of equal elements."""
    return "agreement" if discrete else "top-1 agreement"


def _output_figures(output: OutputError) -> list[str]:
    if output.identical:
        return ["identical to float"]
    shown = [f"{output.sqnr_db:.1f} dB SQNR"] if output.sqnr_db is not None else []
    if output.agreement is not None:
        shown.append(f"{agreement_name(output.discrete)} {percent(output.agreement)}")
    return shown or ([f"cosine {output.cosine:.4f}"] if output.cosine is not None else ["not measured"])


def _agreement(output: str, agreement: float, discrete: bool) -> str:
    return f"{agreement_name(discrete)} of output '{output}' with the float model is only {percent(agreement)}"


def _collapsed(metric: str, before: float, after: float) -> str:
    was, now = numbers(before, after)
    return f"{metric or 'the metric'} fell from {was} to {now}"


def _answers(
    outputs: tuple[str, ...],
    channels: tuple[int, ...] | None,
    unchanged: float,
    least: float,
    answers: int,
    figure: str = "",
    level: float | None = None,
) -> str:
    return (
        f"only {percent(unchanged)} of {answers} answers of {part_name(outputs, channels)}"
        f"{figure_words(figure, level)} match the float model's, {percent(least)} must"
    )


def _signal_lost(outputs: tuple[str, ...], channels: tuple[int, ...] | None, sqnr_db: float) -> str:
    return f"the signal of {part_name(outputs, channels)} is lost: {sqnr_db:.1f} dB SQNR"


def _mask_lost(output: str, values: int) -> str:
    verb, word = ("is", "value") if values == 1 else ("are", "values")
    return f"{values:,} {word} of '{output}' that the float model masks, as padding is, {verb} no longer masked"


def _layers_lost(nodes: tuple[str, ...], sqnr_db: float) -> str:
    layers, level = ("layer", "") if len(nodes) == 1 else ("layers", " at worst")
    return f"the signal of {layers} {names(nodes)} is lost: {sqnr_db:.1f} dB SQNR{level}"


def _work_not_known(
    nodes: Sequence[str], layers: int, loops: bool = False, profiles: bool = True, behind: Sequence[str] = ()
) -> str:
    shapes = f"shapes behind {joined(behind)}" if behind else "shapes"
    why = f"the iterations of a Loop, or {shapes}, are" if loops else f"{shapes} are"
    return (
        f"The work of {quoted(nodes)} is not known, since {why} not. Shares count "
        f"each of the {layers} computing layers as one, though most of the work may be there."
        f"{'' if profiles else ' To have it counted, give the inputs shapes in a [[profile]].'}"
    )


def _without_limit(
    outputs: Sequence[str], channels: Sequence[int] | None, changed: float, answers: int, metric: str,
    quiet: bool = False,
) -> str:  # fmt: skip
    which = f"which hardly counts in {metric}" if quiet else f"which {metric} does not read"
    return (
        f"{part_name(outputs, channels)}, {which}, loses {percent(changed)} of {answers} answers: add min_unchanged to "
        "the budget to limit these too"
    )


ACCURACY: Table = {
    ReportCode.OUTPUT_NOT_FINITE: "output '{output}' holds NaN or infinity",
    ReportCode.METRIC_COLLAPSED: _collapsed,
    ReportCode.AGREEMENT_LOW: _agreement,
    ReportCode.COSINE_LOW: "cosine similarity of output '{output}' to the float model's is only {cosine:.2f}",
    ReportCode.SQNR_LOW: "SQNR of output '{output}' is only {sqnr_db:.1f} dB",
    ReportCode.NOISE_OVER_VARIATION: "quantization noise on '{output}' exceeds its variation between samples",
    ReportCode.ANSWERS_LOST: _answers,
    ReportCode.ANSWERS_BELOW_LIMIT: _answers,
    ReportCode.OUTPUT_WITHOUT_LIMIT: _without_limit,
    ReportCode.FOUND_LOST: lambda outputs, channels, figure, level: (
        f"most of what there is at {part_name(outputs, channels)} is lost{figure_words(figure, level)}: a sample that "
        "holds nothing counts as kept"
    ),
    ReportCode.OUTPUT_SIGNAL_LOST: _signal_lost,
    ReportCode.MASK_LOST: _mask_lost,
    ReportCode.LAYER_SIGNAL_LOST: _layers_lost,
    ReportCode.WORK_NOT_KNOWN: _work_not_known,
    ReportCode.WORK_OF_BRANCHES: lambda nodes: (
        f"Shares of the work count only the branch of {quoted(nodes)} with more multiply-accumulates, since an "
        f"inference runs one branch. If an input always decides for the same one, name it in fixed_inputs of "
        f"{pass_for(Role.FOLD)}."
    ),
    ReportCode.BUDGET_WITHOUT_DATA: (
        "no budget can be judged: the recipe has neither evaluation nor calibration data, so nothing was measured"
    ),
    ReportCode.LIMIT_WITHOUT_METRIC: "{limit} cannot be judged: the recipe has no metric",
    ReportCode.LIMIT_NOT_COMPUTED: "{limit} cannot be judged: onnxruntime cannot compute the outputs that it limits",
    ReportCode.LIMIT_NOT_FINITE: "{limit} cannot be judged: the metric is not a finite number",
    ReportCode.DROP_OVER_LIMIT: "the metric drops by {drop:.4g}, more than {limit:.4g}",
    ReportCode.UNROUNDED_DIFFERS: _unrounded_differs,
    ReportCode.UNROUNDED_MISSES: lambda miss, samples=None, of=0: (
        "as onnxruntime computes model.onnx, without float16 rounding between its kernels"
        f"{f', on {samples} of the {of} samples' if samples is not None else ''}, {miss}"
    ),
    ReportCode.METRIC_BELOW_LIMIT: "the metric is {value:.4g}, below {limit}",
    ReportCode.OUTPUT_SHAPE_NOT_JUDGED: lambda output, unlike, samples: (
        f"output '{output}' cannot be judged: on {unlike} of {samples} sample{'' if samples == 1 else 's'} its shape "
        "differs from the float model's"
    ),
    ReportCode.NO_FLOAT_OUTPUT: "min_sqnr_db cannot be judged: no output holds floats",
    ReportCode.SQNR_NOT_FINITE: "output '{output}' has no SQNR: it holds NaN or infinity",
    ReportCode.SQNR_WITHOUT_SIGNAL: "output '{output}' has no SQNR: the float model's is all zeros, this one is not",
    ReportCode.SQNR_BELOW_LIMIT: "SQNR of output '{output}' is {sqnr_db:.4g} dB, below {limit}",
    ReportCode.NO_OUTPUT_WITH_CLASSES: (
        "min_agreement cannot be judged: no output holds integers or scores of a fixed number of classes"
    ),
    ReportCode.AGREEMENT_BELOW_LIMIT: lambda output, agreement, limit, discrete: (
        f"{agreement_name(discrete)} of output '{output}' is {percent(agreement)}, below {limit}"
    ),
    ReportCode.PROFILE_MISSES: "Profile '{profile}' alone: {miss}.",
    ReportCode.MEASURED_ON_RANDOM_DATA: "Measured on random data.",
}
