"""Reasons not to call a result usable although it misses no limit: insufficient samples, and lost signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.base.given import shown
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.share_limits import UNREAD
from toolkit.evaluation.metrics.table import OF_VARIANCE, by_order
from toolkit.evaluation.numerics.intervals import LimitStanding
from toolkit.evaluation.tasks import ranked_outputs
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import LOST_DB, detections_lost

if TYPE_CHECKING:
    from toolkit.evaluation.comparison.outputs import EvaluationResult
    from toolkit.evaluation.tasks import AnswerTally
    from toolkit.run.task.task import TaskRecord

_HEARD = 10.0
"""An error shows the loss of channels if that exceeds the limit by this factor: then also noise 10 dB below them."""
_CLEARLY = 3.0
"""An output without a limit is doubtful if it loses this many times the answers that the metric's output loses."""


def doubts_of(
    found: EvaluationResult,
    few: Finding | None,
    task: TaskRecord | None,
    *,
    limited: bool = True,
    most: float | None = None,
) -> list[Finding]:
    """Reasons not to call the result usable although no limit is missed, the most important first.

    Args:
        few: the limit that there are too few samples to judge; None if there are enough, or if a limit is missed.
        task: the model's task; None if unknown.
        limited: whether the share of unchanged answers has a limit, rather than only the metric.
        most: the largest drop of the metric within the budget, in its unit; None without a limit.
    """
    samples = found.samples * (task.at_once if task is not None else 1)
    doubts = [task.suspicion] if task is not None and task.suspicion is not None else []
    doubts += _not_shown(found, few, samples)
    if task is not None and task.reads is not None and not limited:
        doubts += _beside_metric(found, task.reads, most)
    return [*doubts, *_lost_parts(found), *_lost_outputs(found), *_lost_channels(found)]


def _not_shown(found: EvaluationResult, few: Finding | None, samples: int) -> list[Finding]:
    """Shortcomings of the samples: no objects, identical outputs, a single answer, or too few samples for a limit."""
    empty, nothing = [tally for tally in found.tallies if tally.empty], samples_show_nothing(found)
    # if all outputs are identical, a single answer is only a consequence
    one_sided = [] if samples_identical(found) else [_shown(tally) for tally in one_answer(found)]
    doubts = [
        ReportCode.SAMPLES_HOLD_NOTHING(
            task=tally.part.task,
            outputs=tally.part.outputs,
            samples=samples,
            threshold=tally.part.settings.get("threshold"),
        )
        for tally in empty
    ]
    if not empty and not one_sided and nothing:
        doubts.append(ReportCode.SAMPLES_SHOW_NOTHING(samples=samples))
    scarce = [few] if few is not None else []
    # if the answers of another part vary, the samples do have some evidence
    return [*doubts, *one_sided, *scarce] if nothing else [*doubts, *scarce, *one_sided]


def _lost_parts(found: EvaluationResult) -> list[Finding]:
    """The parts of outputs in which too few of the float model's detections are found."""
    return [
        ReportCode.FOUND_LOST(
            outputs=tally.part.outputs, channels=tally.part.first_and_last, figure=tally.figure, level=tally.level
        )
        for tally in found.tallies
        if detections_lost(tally.figure, tally.level)
    ]


def _lost_outputs(found: EvaluationResult) -> list[Finding]:
    """The outputs whose signal is lost in quantization noise, except those judged only by their order."""
    lost, ranked = [], ranked_outputs(found.tallies)
    for name, output in found.outputs.items():
        if name in ranked:
            continue
        if output.masks_lost:
            lost.append(ReportCode.MASK_LOST(output=name, values=output.masks_lost))
        elif output.sqnr_db is not None and output.sqnr_db < LOST_DB and name not in found.discrete:
            lost.append(ReportCode.OUTPUT_SIGNAL_LOST(outputs=[name], channels=None, sqnr_db=output.sqnr_db))
        elif output.variation_db is not None and output.variation_db < 0:
            lost.append(ReportCode.NOISE_OVER_VARIATION(output=name))
    return lost


def _lost_channels(found: EvaluationResult) -> list[Finding]:
    """The parts that are channels of an output and whose signal is lost in quantization noise."""
    lost = []
    for tally in found.tallies:
        part, level = tally.part, tally.level or 0.0
        if part.channels is not None and tally.figure == "snr_db" and level < LOST_DB:
            lost.append(
                ReportCode.OUTPUT_SIGNAL_LOST(outputs=part.outputs, channels=part.first_and_last, sqnr_db=level)
            )
    return lost


def one_answer(found: EvaluationResult) -> list[AnswerTally]:
    """The parts of choices of classes for which the samples show only a single answer.

    Empty if a metric judges all scores: one that is not a share of correct answers, such as the area under the ROC
    curve. An output whose values are judged too, since its task is not sure, is proven by these if their limit is.
    """
    shown_by_metric = found.drop_error is not None or not found.metric_answers or by_order(found.metric)
    if found.metric is not None and shown_by_metric:
        return []
    values = [one for one in found.tallies if one.part.task == "regression" and not one.judges_values]
    unproven = {one.part.outputs for one in values if one.standing() is not LimitStanding.MET}
    proven = {one.part.outputs for one in values} - unproven
    return [tally for tally in found.tallies if tally.only is not None and tally.part.outputs not in proven]


def samples_show_nothing(found: EvaluationResult) -> bool:
    """Whether the samples prove nothing: there is only one, or all have the same values or answer, or no objects."""
    answers, alike = [tally for tally in found.tallies if not tally.judges_values], one_answer(found)
    if answers and all(tally.empty or tally in alike for tally in answers):
        return True
    return samples_identical(found)


def samples_identical(found: EvaluationResult) -> bool:
    """Whether there is only one sample, or all samples have the same outputs."""
    steady = {note.values["output"] for note in found.notes if note.code is EvaluationCode.OUTPUT_STEADY}
    floats = found.outputs.keys() - set(found.discrete)
    # outputs that do not depend on an input are the same in any case
    floats &= found.judged() or floats
    # one run of a model that computes several rows at once is judged row by row
    rows = [tally.answers for tally in found.tallies if tally.part.task != "generation"]
    return max([found.samples, *rows]) == 1 or (bool(floats) and floats <= steady)


def _beside_metric(found: EvaluationResult, reads: str, most: float | None) -> list[Finding]:
    """The outputs and channels that the metric does not show and that lose clearly more answers than what it shows.

    Outputs derived from the same scores, such as their best class, lose as many and are not included.
    """
    own = [tally for tally in found.tallies if reads in tally.part.outputs and not tally.empty]
    quiet = _unheard(own, found, most)
    own = [tally for tally in own if tally not in quiet]
    if not own or found.metric is None:
        return []
    least = max(UNREAD, _CLEARLY * max(1.0 - tally.share for tally in own))
    return [
        ReportCode.OUTPUT_WITHOUT_LIMIT(
            outputs=tally.part.outputs, channels=tally.part.first_and_last, changed=1.0 - tally.share,
            answers=tally.answers, metric=shown(found.metric), quiet=tally in quiet,
        )
        for tally in found.tallies
        if tally not in own and not tally.judges_values and tally.standing() is LimitStanding.MISSED
        and 1.0 - tally.share > least
    ]  # fmt: skip


def _unheard(own: Sequence[AnswerTally], found: EvaluationResult, most: float | None) -> list[AnswerTally]:
    """The channels of an output that could be ruined without a mean error showing it, since others are far larger.

    A constant in place of all channels has the error ``metric_spread``, to which each contributes by its variance. If
    the contribution of some is within ``_HEARD`` times the limit, the error does not judge them.
    """
    power = OF_VARIANCE.get(found.metric or "")
    slices = [tally for tally in own if tally.part.channels is not None and "variance" in tally.part.settings]
    if power is None or most is None or len(slices) != len(own) or len(own) < 2 or found.metric_spread <= 0:
        return []
    parts = [_extent(tally) * float(tally.part.settings["variance"]) ** power for tally in slices]
    return [
        tally
        for tally, part in zip(slices, parts)
        if part < max(parts) and part / sum(parts) * found.metric_spread < _HEARD * most
    ]


def _extent(tally: AnswerTally) -> int:
    """The number of channels of a slice."""
    first, last = tally.part.first_and_last or [0, 0]
    return last - first + 1


def _shown(tally: AnswerTally) -> Finding:
    """The finding that the samples show only a single answer."""
    return ReportCode.SAMPLES_SHOW_ONE_ANSWER(
        outputs=tally.part.outputs, samples=tally.answers,
        only=None if tally.part.task == "sequence" else tally.only,
        threshold=tally.part.settings.get("threshold"),
    )  # fmt: skip
