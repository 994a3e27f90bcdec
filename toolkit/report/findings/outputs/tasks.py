"""Messages on tasks: the assumed task and why, figures of answers, too few samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table, names
from toolkit.report.findings.words import capital, joined, percent, quoted
from toolkit.report.schema.task import FewAnswers, PartFigures

_WHAT = {
    "softmax": "its values add up to 1",
    "sigmoid": "its values are those of a sigmoid",
    "integers": "it holds integers",
    "normalized": "its vectors have length 1",
    "blank": "most positions are the first or the last class, as CTC's blank is",
    "two-sided": "its values are close to 0 or 1",
    "pixels": "its values are those of pixels",
    "tokens": "the model reads tokens",
    "codes": "its integers are codebook indices, each an answer of its own",
    "past": "the model passes keys and values on",
    "joint": "boxes and scores lie along one axis",
    "apart": "boxes and scores are outputs of their own",
    "rows": "its rows are a box, a score and a class",
    "chosen": "its boxes are chosen already, and another output numbers them",
    "indices": "it holds the places of boxes that NonMaxSuppression chose",
    "anchors": "its shape is that of boxes and scores of anchors",
    "single": "it has one value per sample",
    "each": "it has one value per position",
    "horizons": "it is a longer or a shorter horizon of what another output forecasts",
    "series": "it has the channels of an input's series, and other steps",
    "length": "it is as long as a signal",
    "dynamic": "it has as many values as the input asks for",
    "squashed": "a Tanh or Clip bounds its values on both sides of zero, as those of actions",
    "span": "it and another output score where a span starts and where it ends",
    "code": "nearly every vector has its largest value in several places, as a code of few levels",
    "one largest": "the same position holds the largest value in every sample",
    "computed with": "the model computes other outputs from it, and none of them chooses among its values",
    "direction": "every vector has length 1, as directions and rotations do",
    "own levels": "each value stays near a level of its own, as landmarks do and class scores do not",
    "one order": "at each position the same value is the largest in all samples",
    "points": "where one of its values rises, the others do not fall as the scores of other classes do",
    "above zero": "all its values are above 0, and no operator makes them so",
    "winners": "nearly wherever it is above 0, one channel is most of the sum, as of classes after a Relu",
    "together": "its values mostly rise and fall together, unlike those of rival classes",
    "never sure": "no value is near 0 or 1, unlike a classifier's probabilities",
    "colours": "the name is that of a colour",
    "beside boxes": "it has values for each of the detector's boxes",
    "beside shares": "another output's classes are made shares, its values are not",
    "spectrum": "the name is that of a spectrogram",
    "like input": "the shape is that of an input of signals",
    "given back": "its values follow those of an input of its shape",
    "bands": "neighbouring values vary together, as in a signal or a spectrum and unlike classes and features",
    "unlike scales": "its channels differ in scale, unlike class scores",
    "ordered": "its values never fall along an axis, as those of quantiles",
    "boxes": "it has four values at a time, as boxes do",
    "levels": "it holds whole numbers of many levels, as colours are and classes are not",
    "peaks": "its maps have narrow peaks, as those of key points",
    "noise": "it is as large as an input that goes with a single number, as the noise that a diffusion model predicts",
    "transducer": "its shape is that of every frame of one input after every token of another",
    "map": "its shape is that of a map",
    "picture": "its height and width are those of the input image",
    "fits": "its shape fits",
    "any": "its values fit",
}
_KEPT = {
    "classification": "keep their class",
    "sequence": "keep every label",
    "ctc": "keep their reading",
    "detection": "keep their detections",
    "segmentation": "keep their mask",
    "embedding": "keep their embedding",
    "regression": "keep their values",
    "generation": "keep their token",
}
_FIGURES = {
    "positions": "{} of the positions",
    "cosine_p5": "cosine {:.4f} at the 5th percentile",
    "iou": "mean IoU {:.3f}",
    "psnr_db": "mean PSNR {:.1f} dB",
    "snr_db": "mean SNR {:.1f} dB",
    "detections": "{} of the detections",
    "points": "{} of the key points",
    "labels": "{} of the labels",
}


def part_name(outputs: Sequence[str], channels: Sequence[int] | None) -> str:
    """A part of the outputs in words."""
    name = names(tuple(outputs))
    if channels is None:
        return name
    first, last = channels
    return f"{name}, channel {first}" if first == last else f"{name}, channels {first} to {last}"


def part_words(part: PartFigures, named: bool = False) -> str:
    """The share of unchanged answers of a part in words, with the part's figure."""
    return kept_words(part, named) + figure_words(part.figure, part.level)


def kept_words(part: PartFigures, named: bool = False) -> str:
    """The share of unchanged answers of a part in words."""
    unit = "position" if part.task == "generation" else "sample"
    what = "keep their key points" if part.figure == "points" else _KEPT[part.task]
    kept = f"{percent(part.unchanged)} of {count(part.answers, unit)} {what}"
    return f"{part_name(part.outputs, part.channels)}: {kept}" if named else kept


def limit_words(part: PartFigures) -> str:
    """The least share of unchanged answers in words, or that it is not a limit."""
    return f"{percent(part.least)} must" if part.counts else "not a limit here: the recipe's budget has others"


_LACKING = {
    "answers": "not proven: too few {unit}s",
    "objects": "not proven: the samples hold nothing that is found",
    "other answer": "not proven: the samples show only one answer",
    "varied samples": "not proven: the samples do not differ",
}


def standing_words(part: PartFigures) -> str:
    """Whether the limit on unchanged answers is met, and what the samples lack if it is not proven."""
    if not part.lacks:
        return part.standing
    return _LACKING[part.lacks].format(unit="position" if part.task == "generation" else "sample")


def figure_words(figure: str, level: float | None) -> str:
    """A part's figure in brackets after a space; empty without one."""
    if level is None or figure not in _FIGURES:
        return ""
    shown = percent(level) if figure in ("positions", "detections", "points", "labels") else level
    return f" ({_FIGURES[figure].format(shown)})"


def answers_changed(
    task: str, outputs: Sequence[str], channels: Sequence[int] | None, changed: float, answers: int
) -> str:
    """The share of changed answers of a part in words."""
    unit = "position" if task == "generation" else "sample"
    which = part_name(outputs, channels)
    return f"{percent(changed)} of these {count(answers, unit)} do not {_KEPT[task]} at {which}"


def points(share: float) -> str:
    """A share in percentage points, without its unit."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".")


def counted_points(share: float) -> str:
    """A share in percentage points with its unit."""
    shown = points(share)
    return f"{shown} point{'' if shown == '1' else 's'}"


def _unit(samples: bool) -> str:
    return "sample" if samples else "answer"


def few_details(few: FewAnswers) -> str:
    """What can be concluded from so few answers, in detail."""
    unit = _unit(few.samples)
    if few.by == "one":
        return "One labelled sample says nothing about how much others differ from it: give more."
    if few.by == "spread":
        return (
            f"{capital(_drop_of_rough_limit(few.lost, few.share, few.largest, few.answers))}: give about {few.enough} "
            "samples to judge that, or set [evaluation] budget."
        )
    if few.by == "variation" or few.low is None or few.high is None:
        return (
            f"{capital(_drop_of(few.low, few.high))}, and {few.share:.3g} is allowed: give about {few.enough} "
            "samples to judge that."
        )
    return (
        f"1 {unit} more or less of {few.answers} is {counted_points(1 / few.answers)}, and {counted_points(few.share)} "
        f"may be lost: give {few.enough} {unit}s to judge that. By these, {points(max(few.low, 0.0))} to "
        f"{counted_points(few.high)} are lost (95 % interval)."
    )


def _few(
    limit: str, answers: int, samples: bool, share: float, enough: int, lost: float, low: float, high: float,
    by: str = "count",
) -> str:  # fmt: skip
    on = f"on {count(answers, _unit(samples))}"
    stands = f"within the budget {on}" if lost <= share else f"not decided {on}, of which {percent(lost)} were lost"
    return f"{stands}; {enough} needed to judge {counted_points(share)}"


def _unlike(
    limit: str, answers: int, samples: bool, share: float, enough: int, lost: float, by: str = "variation",
    low: float | None = None, high: float | None = None,
) -> str:  # fmt: skip
    differ = ", which differ" if low is not None else ""
    return (
        f"{_stands(lost, share)} on {count(answers, 'sample')}{differ}: {_drop_of(low, high)}; about {enough} needed "
        f"to judge a limit of {share:.3g}"
    )


def _drop_of(low: float | None, high: float | None) -> str:
    """The interval of a metric's drop in words; None if no two samples differ in it."""
    if low is None or high is None:
        return "the drop does not vary between these samples"
    return f"the drop is {low:.3g} to {high:.3g} (95 %)"


def _drop_of_rough_limit(lost: float, share: float, largest: float | None, samples: int) -> str:
    """A drop beside a limit that few labels show only roughly."""
    ends = f"{share:.3g} to {largest:.3g}" if largest is not None and math.isfinite(largest) else f"{share:.3g} or more"
    return (
        f"the drop is {lost:.3g}, and {ends} is allowed, by how the labels vary as far as {count(samples, 'sample')} "
        "can tell (95 %)"
    )


def _rough(
    limit: str, answers: int, samples: bool, share: float, enough: int, lost: float, largest: float,
    by: str = "spread",
) -> str:  # fmt: skip
    return (
        f"not decided on {count(answers, 'sample')}: {_drop_of_rough_limit(lost, share, largest, answers)}; about "
        f"{enough} needed to judge it"
    )


def _stands(lost: float, share: float) -> str:
    return "within the budget" if lost <= share or math.isclose(lost, share) else "not decided"


def _alone(limit: str, answers: int, samples: bool, share: float, enough: int, lost: float, by: str = "one") -> str:
    on = "one labelled sample" if answers == 1 else f"one group of {count(answers, 'sample')} that has all labels"
    return (
        f"{_stands(lost, share)} on {on}, which says nothing about how much others differ; give more to judge {limit}"
    )


def _clue(kind: str, what: str, output: str, value: object) -> str:
    if kind == "metric":
        return "the recipe's metric is one for it"
    if kind == "name":
        return f"'{what}' in the name of an output"
    if kind == "operator":
        return f"operator {what}"
    if what == "classes":
        return f"{value} classes fit"
    if what == "vocabulary":
        return f"{value} classes are a vocabulary"
    if what == "features":
        return f"{value} features fit"
    return _WHAT.get(what, what)


def _once(outputs: tuple[str, ...]) -> str:
    """The outputs' names, without duplicates for outputs judged in slices."""
    return names(tuple(dict.fromkeys(outputs)))


def _guessed(task: str, sure: bool, clues: tuple[str, ...], others: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    why = joined(dict.fromkeys(clue for clue in clues if clue)) if any(clues) else "nothing suggests another"
    text = f"Judged as {task} by {_once(outputs)}: {why}." if outputs else f"Judged as {task}: {why}."
    if sure:
        return text
    also = (
        f"it is judged as {joined(others)} too, and the worst counts" if others else "this is the strictest that fits"
    )
    choice = " or ".join(f'"{one}"' for one in (task, *others)) if others else '"..."'
    return f"{text} The guess is unsure, so {also}; set [evaluation] task = {choice} to be judged by that alone."


def _empty(task: str, outputs: tuple[str, ...], samples: int, threshold: float | None = None) -> str:
    found = {"detection": "object", "segmentation": "mask", "regression": "key point", "classification": "label"}
    what = found.get(task, "row")
    where = "the only sample" if samples == 1 else f"any of {samples} samples"
    limit = f" with the threshold {threshold:.3g}" if threshold is not None else ""
    lower = ", or set [evaluation] threshold if lower scores count" if threshold is not None else ""
    return (
        f"the float model finds no {what} at {names(tuple(outputs))} in {where}{limit}, which shows nothing about "
        f"accuracy: give samples that contain what it should find{lower}"
    )


def _one_answer(outputs: tuple[str, ...], samples: int, only: int | None, threshold: float | None) -> str:
    if only is None:
        what, other = f"get the same classes at all positions of {names(outputs)}", "with other classes"
    elif threshold is None:
        what, other = f"get class {only} by {names(outputs)}", "of other classes"
    else:
        sides = ("below", "above") if only == 0 else ("above", "below")
        what, other = f"score {sides[0]} {threshold:.3g} at {names(outputs)}", f"that score {sides[1]} it"
    return (
        f"all {samples} samples {what}, which shows nothing of any other answer: give samples {other}, for "
        "calibration too"
    )


def _off(value: float) -> str:
    return f"{value:g}" if value >= 0 else f"{value:g} or less"


TASKS: Table = {
    EvaluationCode.TASK_GUESSED: _guessed,
    EvaluationCode.TASK_NAMED: lambda task, outputs: f"Judged as {task} by {_once(outputs)}, as the recipe says.",
    EvaluationCode.OUTPUTS_UNSEEN: lambda task="": (
        f"No output is judged{f' as {task}' if task else ''}: onnxruntime computes none of the model's outputs."
    ),
    EvaluationCode.TASK_CLUE: _clue,
    EvaluationCode.WITHIN_ON_FEW: _few,
    EvaluationCode.WITHIN_ON_UNLIKE: _unlike,
    EvaluationCode.WITHIN_ON_ONE: _alone,
    EvaluationCode.LIMIT_ROUGH: _rough,
    EvaluationCode.ONE_SIDED: lambda output, threshold, above, scores=None: (
        f"{f'All of the first {scores}' if scores else 'All'} scores of output '{output}' lie "
        f"{'above' if above else 'below'} {threshold:.3g}: which side they are on says nothing about them, so their "
        "values are judged too."
    ),
    EvaluationCode.CLASSES_ARE_BINS: lambda outputs: (
        f"Neighbouring classes of {quoted(outputs)} vary together, as bins of a quantity do, such as an angle or an "
        "age. A class that becomes its neighbour counts as changed; if the quantity is what counts, set [evaluation] "
        'task = "regression".'
    ),
    ReportCode.SAMPLES_SHOW_NOTHING: lambda samples: (
        (
            "1 sample shows nothing about accuracy"
            if samples == 1
            else f"all {samples} samples give the same outputs, so they show nothing about accuracy"
        )
        + ": provide varied samples"
    ),
    ReportCode.SAMPLES_HOLD_NOTHING: _empty,
    ReportCode.SAMPLES_SHOW_ONE_ANSWER: _one_answer,
    EvaluationCode.FLOAT_OUTPUT_NAN: lambda output, count, samples: (
        f"The float model returns NaN at output '{output}' for {count} of {samples} samples: nothing is judged there."
    ),
    EvaluationCode.USUAL_RATE_LIMIT: (
        "The recipe has no budget, so {metric} may grow by 5 % of the float model's own, or an edit in every hundredth "
        "reading (two edits on fewer than 200 readings) if that is more, but by no more than {value}."
    ),
    EvaluationCode.USUAL_ERROR_LIMIT: lambda metric, value: (
        f"The recipe has no budget, so {metric} may grow by {percent(value)} of the float model's own, or, where that "
        "has none, by noise 30 dB below what varies in the labels. If its own error exceeds that variation, the share "
        "is one of the variation."
    ),
    EvaluationCode.POSITIONS_OFF: lambda input, off, outputs, share: (
        f"Positions of {_once(outputs)} where input '{input}' is {_off(off)} hold no answers and do not count"
        f"{f' ({percent(share)} of those in the first samples)' if share else ''}."
    ),
    EvaluationCode.ROWS_BY_VALUE: lambda by, layers: (
        f"{count(layers, 'layer')} after {quoted(by)} {'has' if layers == 1 else 'have'} no error figure: the rows "
        "there are selected by value, so that row by row the two models may hold different objects."
    ),
    EvaluationCode.LAYER_POSITIONS_UNTOLD: lambda input, positions: (
        f"Errors of layers include the positions that input '{input}' turns off: layers have as many channels as it "
        f"has positions, {positions}, and where both are fixed nothing tells which axis is which. Export the model "
        "with a dynamic length to have padding left out."
    ),
    EvaluationCode.POSITIONS_BEYOND: lambda lengths, output: (
        f"Positions of '{output}' beyond a sample's length in output '{lengths}' hold no answers and do not count."
    ),
    EvaluationCode.SAMPLES_OF_ROWS: lambda input, rows, dimension: (
        f"A sample has {rows} rows along dimension '{dimension}' of input '{input}', and is judged as one answer: if "
        "these are samples, give each separately, with 1 there."
    ),
    EvaluationCode.LIMIT_WITHOUT_METRIC: lambda limit, value, by: (
        f"{limit} = {value:g}{f' of {by}' if by else ''} cannot be judged: it limits a metric, and [evaluation] names "
        "none; set metric, or leave it out."
    ),
}
