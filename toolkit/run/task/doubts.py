"""Why a result is not called usable although it misses no limit: what the samples do not show, and lost signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.given import shown
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.share_limits import UNREAD
from toolkit.evaluation.metrics.table import by_order
from toolkit.evaluation.numerics.intervals import LimitStanding
from toolkit.evaluation.tasks import ranked_outputs
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import LOST_DB, detections_lost

if TYPE_CHECKING:
    from toolkit.evaluation.comparison.outputs import EvaluationResult
    from toolkit.evaluation.tasks import AnswerTally
    from toolkit.run.task.task import TaskRecord

_CLEARLY = 3.0
"""How many times what the metric's own output loses an output without a limit may lose before that is a doubt."""


def doubts_of(
    found: EvaluationResult, few: Finding | None, task: TaskRecord | None, *, limited: bool = True
) -> list[Finding]:
    """Why the result is not called usable although no limit is missed, what counts most first.

    Args:
        found: what was measured.
        few: the limit that the samples are too few for; None where they are enough, or a limit is missed.
        task: what the model is for; None where that is not known.
        limited: whether the share of answers that stay has a limit, or only the metric has one.
    """
    samples = found.samples * (task.at_once if task is not None else 1)
    doubts = [task.suspicion] if task is not None and task.suspicion is not None else []
    doubts += _not_shown(found, few, samples)
    doubts += _beside_metric(found, task.reads) if task is not None and task.reads is not None and not limited else []
    return [*doubts, *_lost_parts(found), *_lost_outputs(found), *_lost_channels(found)]


def _not_shown(found: EvaluationResult, few: Finding | None, samples: int) -> list[Finding]:
    """What the samples do not show: they hold nothing, are alike, show one answer alone, or are too few for a limit."""
    empty, nothing = [tally for tally in found.tallies if tally.empty], samples_show_nothing(found)
    # where all outputs are the same, the same answer is the least of it
    one_sided = [] if samples_identical(found) else [_shown(tally, found) for tally in one_answer(found)]
    doubts = [
        ReportCode.SAMPLES_HOLD_NOTHING(task=tally.part.task, outputs=tally.part.outputs, samples=samples)
        for tally in empty
    ]
    if not empty and not one_sided and nothing:
        doubts.append(ReportCode.SAMPLES_SHOW_NOTHING(samples=samples))
    scarce = [few] if few is not None else []
    # where another part's answers differ, the samples do show something
    return [*doubts, *one_sided, *scarce] if nothing else [*doubts, *scarce, *one_sided]


def _lost_parts(found: EvaluationResult) -> list[Finding]:
    """The parts of outputs of which too little of what the float model finds is found."""
    return [
        ReportCode.FOUND_LOST(
            outputs=tally.part.outputs, channels=tally.part.first_and_last, figure=tally.figure, level=tally.level
        )
        for tally in found.tallies
        if detections_lost(tally.figure, tally.level)
    ]


def _lost_outputs(found: EvaluationResult) -> list[Finding]:
    """The outputs whose signal is lost in quantization noise, but those of which only the order counts."""
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
    """The parts that are some channels of an output and whose signal is lost in quantization noise."""
    lost = []
    for tally in found.tallies:
        part, level = tally.part, tally.level or 0.0
        if part.channels is not None and tally.figure == "snr_db" and level < LOST_DB:
            lost.append(
                ReportCode.OUTPUT_SIGNAL_LOST(outputs=part.outputs, channels=part.first_and_last, sqnr_db=level)
            )
    return lost


def one_answer(found: EvaluationResult) -> list[AnswerTally]:
    """The parts with one choice a sample of which the samples show one answer alone.

    None where a metric of all scores tells more: one that is no share of right answers, such as the area under the ROC
    curve.
    """
    shown_by_metric = found.drop_error is not None or not found.metric_answers or by_order(found.metric)
    if found.metric is not None and shown_by_metric:
        return []
    return [tally for tally in found.tallies if tally.only is not None]


def samples_show_nothing(found: EvaluationResult) -> bool:
    """Whether the samples can show nothing: there is one, or all give the same values or answer, or hold nothing."""
    answers, alike = [tally for tally in found.tallies if not tally.judges_values], one_answer(found)
    if answers and all(tally.empty or tally in alike for tally in answers):
        return True
    return samples_identical(found)


def samples_identical(found: EvaluationResult) -> bool:
    """Whether there is one sample, or all give the same values."""
    steady = {note.values["output"] for note in found.notes if note.code is EvaluationCode.OUTPUT_STEADY}
    floats = found.outputs.keys() - set(found.discrete)
    # what no input reaches is the same in any case
    floats &= found.judged() or floats
    # one run of a model that takes many at once is judged row by row
    rows = [tally.answers for tally in found.tallies if tally.part.task != "generation"]
    return max([found.samples, *rows]) == 1 or (bool(floats) and floats <= steady)


def _beside_metric(found: EvaluationResult, reads: str) -> list[Finding]:
    """The outputs that a metric does not read and that lose clearly more answers than the one that it reads.

    Those that are made of the same scores, such as their best class, lose as many.
    """
    own = [tally for tally in found.tallies if reads in tally.part.outputs and not tally.empty]
    if not own or found.metric is None:
        return []
    least = max(UNREAD, _CLEARLY * max(1.0 - tally.share for tally in own))
    return [
        ReportCode.OUTPUT_WITHOUT_LIMIT(
            outputs=tally.part.outputs, channels=tally.part.first_and_last, changed=1.0 - tally.share,
            answers=tally.answers, metric=shown(found.metric),
        )
        for tally in found.tallies
        if tally not in own and not tally.judges_values and tally.standing() is LimitStanding.MISSED
        and 1.0 - tally.share > least
    ]  # fmt: skip


def _shown(tally: AnswerTally, found: EvaluationResult) -> Finding:
    """That the samples show one answer alone."""
    return ReportCode.SAMPLES_SHOW_ONE_ANSWER(
        outputs=tally.part.outputs, samples=tally.answers, only=tally.only,
        threshold=tally.part.settings.get("threshold"),
    )  # fmt: skip
