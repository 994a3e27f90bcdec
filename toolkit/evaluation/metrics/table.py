"""The built-in metrics by name: what each measures, its label layout, and its default budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from toolkit.evaluation.numerics.intervals import variance_bound

_OF_ERRORS, _EDITS_BY_CHANCE = 0.05, 2
"""The default limit on the growth of an error rate, as a share of the float model's, and the edits due to chance."""
_SPREAD = {"mse": 0.001, "mae": math.sqrt(0.001)}
"""The default limit on an error if the float model has none, as a share of a constant's error: noise 30 dB below the
variation of labels.
"""
OF_VARIANCE = {"mse": 1.0, "mae": 0.5}
"""The power of the labels' variance with which a constant's error grows."""
_FEWEST_LABELS = 2
_NO_ERROR = {"mse": 1e-7, "mae": math.sqrt(1e-7)}
"""An error below this share of a constant's counts as none: it remains if labels are the float model's own answers,
computed elsewhere or stored in float16. Above, that limit falls with the square of the float model's error, until the
limit relative to this error is larger.
"""


@dataclass(frozen=True)
class MetricInfo:
    """The properties of a metric.

    Attributes:
        task: the task that it belongs to.
        measures: what it measures, with the unit.
        labels: the array required under ``label``, per sample.
        drop: the default limit on its drop, in the metric's unit.
        relative: whether ``drop`` is a share of the float model's value.
        share: whether the value is a share, 0 to 1.
        higher_is_better: whether a higher value is better.
        extra: the optional dependency that it needs; empty if none.
        together: number of consecutive samples that share an answer.
        counted: whether it changes in steps of one answer, so that a finer limit allows none to be lost.
        by_position: whether it is a share of right positions, if an output has several per sample.
        right: whether it is the share of its answers that are right.
    """

    task: str
    measures: str
    labels: str
    drop: float = 0.01
    relative: bool = False
    share: bool = True
    higher_is_better: bool = True
    extra: str = ""
    together: int = 1
    counted: bool = False
    by_position: bool = False
    right: bool = False


class LabelFigures(TypedDict):
    """The figures of the labels behind a metric on which its default limit depends, see ``usual_drop``."""

    samples: int
    answers: int
    spread: float


_CLASS, _SET = "the class's number: integer, [] or [1]", "0 or 1 for each class: [classes]"
_ONE_HOT = "0, and 1 for its class: [classes]"
_ONE = "0 or 1 for an output of one score: [] or [1]"
_POSITIONS = "a class's number per position: integer, [positions]; -100 is left out"
_READING = "the reading's classes, no blanks: integer, [length], padded with -1"
_ALIKE, _MASK = (
    "the target, of the output's shape",
    "the class of every pixel: integer, [height, width]; of masks that overlap 0 or 1 for each: [masks, height, "
    "width]; 255 is left out",
)
_BOXES = (
    "x1, y1, x2, y2, class per object: float, [objects, 5], in the unit of the model's boxes; padded with rows of -1"
)
_TOKENS = "the next token of every position: integer, [positions]; negative ones are left out"

METRICS: dict[str, MetricInfo] = {
    "top1": MetricInfo("classification", "share of labels that are the top class; of one score per sample, accuracy",
                       f"{_CLASS}; or {_ONE_HOT}; or {_POSITIONS}; or {_ONE}", counted=True, by_position=True,
                       right=True),
    "top5": MetricInfo("classification", "share of labels among the five best classes",
                       f"{_CLASS}; or {_ONE_HOT}; or {_POSITIONS}", counted=True, by_position=True, right=True),
    "balanced_accuracy": MetricInfo("classification", "mean of the classes' recalls; of sets of classes, with those of "
                                    "the samples without each", f"{_CLASS}; or {_SET}; or {_ONE}", counted=True),
    "f1": MetricInfo("classification", "mean of the classes' F1; of one score per sample, that of label 1",
                     f"{_CLASS}; or {_SET}; or {_ONE}", counted=True),
    "average_precision": MetricInfo("classification", "mean of the classes' average precision",
                                    f"{_CLASS}; or {_SET}; or {_ONE}"),
    "auc": MetricInfo("classification", "mean of the classes' areas under the ROC curve",
                      f"{_CLASS}; or {_SET}; or {_ONE}"),
    "exact": MetricInfo("sequence", "share of samples all of whose positions are right", _POSITIONS, counted=True,
                         right=True),
    "ctc_exact": MetricInfo("ctc", "share of samples whose reading is right", _READING, counted=True, right=True),
    "cer": MetricInfo("ctc", "edits per label character of the readings", _READING, higher_is_better=False),
    "wer": MetricInfo("ctc", "edits per label word of the readings; [evaluation] space separates words", _READING,
                      higher_is_better=False),
    "map": MetricInfo("detection", "mean average precision at IoU 0.50 to 0.95, as COCO counts it", _BOXES,
                      extra="detection"),
    "map50": MetricInfo("detection", "mean average precision at IoU 0.5", _BOXES, extra="detection"),
    "miou": MetricInfo("segmentation", "mean of the classes' intersection over union", _MASK),
    "recall_at_1": MetricInfo("embedding", "share of samples whose nearest other sample, or vector of the other tower, "
                               "has their label", _CLASS, counted=True, right=True),
    "recall_at_5": MetricInfo("embedding", "share of samples with their label among the five nearest", _CLASS,
                              counted=True, right=True),
    "spearman": MetricInfo("embedding", "rank correlation with the labels: of the cosine of samples 0 and 1, 2 and 3, "
                           "...; of two towers, of the cosine of a sample's two vectors; of outputs with one value per "
                           "sample, of these", "the pair's score: float, []",
                           share=False, together=2),
    "psnr": MetricInfo("regression", "peak signal-to-noise ratio, dB", _ALIKE, 0.1, share=False),
    "ssim": MetricInfo("regression", "structural similarity", f"{_ALIKE}, an image", share=False),
    "mse": MetricInfo("regression", "mean squared error, the output's unit squared", _ALIKE, 0.05, True, False, False),
    "mae": MetricInfo("regression", "mean absolute error, the output's unit", _ALIKE, 0.05, True, False, False),
    "perplexity": MetricInfo("generation", "exp of the mean negative log-likelihood of the labels", _TOKENS, 0.01, True,
                             False, False),
}  # fmt: skip


def usual_limits(metric: str | None) -> dict[str, float]:
    """The default limit on a metric's drop; empty for a metric that is not built in."""
    info = METRICS.get(metric or "")
    if info is None:
        return {}
    return {"max_relative_drop" if info.relative else "max_drop": info.drop}


def is_rate_of_errors(metric: str | None) -> bool:
    """Whether a metric is a built-in error rate, such as edits per character of the labels."""
    info = METRICS.get(metric or "")
    return info is not None and info.share and not info.higher_is_better


def follows_float(metric: str | None) -> bool:
    """Whether the default limit on a metric's drop depends on more than the float model's value."""
    return is_rate_of_errors(metric) or metric in _SPREAD


def usual_drop(
    metric: str, own: float, *, samples: int = 0, answers: int = 0, judged: int | None = None, spread: float = 0.0
) -> float:
    """The default limit on a built-in metric's drop, in its unit: ``drop``, but for error rates and errors.

    Args:
        metric: the metric's name.
        own: the float model's value.
        samples: for an error rate, the number of samples behind it.
        answers: for an error rate, the number of characters or words in their labels; 0 if not known.
        judged: number of samples that the limit is for; None for ``samples``.
        spread: for an error, its value for the best constant; 0 if not known.
    """
    if is_rate_of_errors(metric):
        return _rate_drop(metric, own, samples, answers, samples if judged is None else judged)
    return _error_drop(metric, own, spread) if METRICS[metric].relative else METRICS[metric].drop


class UsualDrop(NamedTuple):
    """The default limit on a metric's drop, in its unit, as far as labels tell it.

    Attributes:
        limit: see ``usual_drop``.
        largest: the limit for the largest spread that labels may have of which these are a sample (95 %, one-sided):
            infinite for one sample, which shows no spread. It is ``limit`` if that does not depend on the spread.
    """

    limit: float
    largest: float


def usual_drop_by(metric: str, own: float, *, samples: int, answers: int = 0, spread: float = 0.0) -> UsualDrop:
    """The default limit on a built-in metric's drop, and the largest value that it may have.

    Args:
        metric: the metric's name.
        own: the float model's value.
        samples: the number of samples with a label; 0 if not known.
        answers: see ``usual_drop``.
        spread: see ``usual_drop``.
    """
    limit = usual_drop(metric, own, samples=samples, answers=answers, spread=spread)
    if metric not in _SPREAD or samples < 1 or (samples >= _FEWEST_LABELS and spread <= 0):
        return UsualDrop(limit, limit)
    if samples < _FEWEST_LABELS:
        return UsualDrop(limit, math.inf)
    # elements of one label may vary together, so each sample counts once
    most = spread * variance_bound(samples) ** OF_VARIANCE[metric]
    return UsualDrop(limit, usual_drop(metric, own, spread=most))


def _rate_drop(metric: str, own: float, samples: int, answers: int, judged: int) -> float:
    """The limit on an error rate: a share of the float model's own, or the edits that are chance, at most ``drop``.

    These are one edit in each of the readings that may change by ``drop``, and two in all for few readings.
    """
    drop = METRICS[metric].drop
    least = max(drop, _EDITS_BY_CHANCE / max(judged, 1))
    return min(max(_OF_ERRORS * own, least * samples / answers), drop) if answers > 0 else drop


def _error_drop(metric: str, own: float, spread: float) -> float:
    """The limit on an error: a share of the float model's own; if that is none, far below the labels' variation.

    An own error beyond that variation, as of energies without their common offset, counts as the variation.
    """
    none = _NO_ERROR.get(metric, 0.0) * spread
    beside = _SPREAD.get(metric, 0.0) * spread * (min((none / own) ** 2, 1.0) if own else 1.0)
    return max(METRICS[metric].drop * (min(abs(own), spread) if spread > 0 else abs(own)), beside)


def has_error(metric: str, own: float, spread: float) -> bool:
    """Whether the default limit on a built-in error is a share of the float model's own; else that is next to none.

    Args:
        metric: ``mse`` or ``mae``.
        own: the float model's value.
        spread: what it would be for the best constant.
    """
    return usual_drop(metric, own, spread=spread) <= METRICS[metric].drop * abs(own)


def is_share(metric: str | None) -> bool:
    """Whether a metric is a built-in share of which higher values are better."""
    info = METRICS.get(metric or "")
    return info is not None and info.share and info.higher_is_better


def by_position(metric: str | None) -> bool:
    """Whether a metric counts every position of a sequence rather than whole sequences."""
    info = METRICS.get(metric or "")
    return info is not None and info.by_position


def is_counted(metric: str | None) -> bool:
    """Whether a metric is the share of its answers that are right; assumed of one that is not built in."""
    info = METRICS.get(metric or "")
    return info is None or info.right


def by_order(metric: str | None) -> bool:
    """Whether a metric of classes depends on the order of all scores, not on those above a threshold."""
    info = METRICS.get(metric or "")
    return info is not None and info.task == "classification" and not info.counted


def task_of(metric: str | None) -> str:
    """The task that a built-in metric belongs to; empty for any other metric."""
    info = METRICS.get(metric or "")
    return info.task if info is not None else ""


def tasks_judged(metric_task: str) -> frozenset[str]:
    """The tasks that metrics of a task apply to: those of classification also apply to sequences."""
    return frozenset({"classification", "sequence"} if metric_task == "classification" else {metric_task})


def together(metric: str | None) -> int:
    """Number of consecutive samples that share an answer, which splits of the samples must not separate."""
    info = METRICS.get(metric or "")
    return info.together if info is not None else 1
