"""The verdict on an evaluation by the recipe's limits and the task: missed limits, and limits left unproven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from toolkit.contract.findings import Finding
from toolkit.evaluation.budget import judged_by_task
from toolkit.evaluation.comparison.share_limits import ShareLimit, of_drop, of_tally, too_few
from toolkit.evaluation.metrics.table import (
    UsualDrop,
    follows_float,
    is_counted,
    usual_drop_by,
    usual_limits,
)
from toolkit.evaluation.numerics.difference import OutputFigures
from toolkit.evaluation.numerics.intervals import LimitStanding
from toolkit.report.codes import ReportCode
from toolkit.run.task.doubts import one_answer

if TYPE_CHECKING:
    from toolkit.evaluation.comparison.outputs import EvaluationResult
    from toolkit.evaluation.tasks import AnswerTally
    from toolkit.run.recipe.sections import BudgetSection
    from toolkit.run.task.task import TaskRecord


@dataclass(frozen=True)
class Judgement:
    """The verdict on an evaluation.

    Attributes:
        limits: the limits that apply, by name.
        counts: whether the share of unchanged answers is limited.
        misses: the missed limits.
        few: the limit that there are too few samples to judge; None if there are enough.
        standing: the verdict; None if nothing is judged.
    """

    limits: Mapping[str, float | None]
    counts: bool
    misses: Sequence[Finding]
    few: Finding | None
    standing: Literal["missed", "unproven", "met"] | None

    def most_drop(self, own: float | None) -> float | None:
        """The largest drop of the metric within the limits, in its unit; None if it has no limit.

        Args:
            own: the float model's value.
        """
        relative = self.limits["max_relative_drop"]
        found = [self.limits["max_drop"], None if relative is None or own is None else relative * abs(own)]
        return min((one for one in found if one is not None), default=None)


def judge(found: EvaluationResult, budget: BudgetSection, task: TaskRecord | None, drawing: bool) -> Judgement:
    """Judge an evaluation by budget and task; values of a model with random nodes (``drawing``) are not judged."""
    usual = _usual_drop(budget, found)
    limits = _limits(budget, found, usual)
    by_task = judged_by_task(limits, task.answers if task is not None else None, found.metric is not None)
    counts = by_task or limits["min_unchanged"] is not None
    of_metric = _metric_shares(limits, found, usual.largest if usual is not None else None)
    shares = [*of_metric, *_agreements(limits, found)]
    if counts:
        # values compared in place of answers prove no loss; findings about the samples report that
        shares += [of_tally(one, limits["min_unchanged"]) for one in found.tallies if not one.judges_values]
    few = too_few(shares)
    if drawing or not (by_task or any(limit is not None for limit in limits.values())):
        return Judgement(limits, counts, [], few, None)
    misses = [*_metric_misses(limits, found, of_metric), *_output_misses(budget, found)]
    misses += _answer_misses(found.tallies, limits["min_unchanged"]) if counts else []
    unproven = few is not None or bool(one_answer(found))
    return Judgement(limits, counts, misses, few, "missed" if misses else "unproven" if unproven else "met")


_NAMES = ("max_drop", "max_relative_drop", "min_value", "min_sqnr_db", "min_agreement", "min_unchanged")


def _limits(budget: BudgetSection, found: EvaluationResult, usual: UsualDrop | None) -> dict[str, float | None]:
    """The recipe's limits; for a built-in metric without any limit, the metric's default limit (``usual``)."""
    limits: dict[str, float | None] = {name: getattr(budget, name) for name in _NAMES}
    if found.value is not None and all(limit is None for limit in limits.values()):
        limits |= usual_limits(found.metric)
        relative = (limits["max_relative_drop"] or 0.0) * (found.float_value or 0.0)
        if usual is not None and usual.limit != relative:
            limits |= {"max_drop": usual.limit, "max_relative_drop": None}
    return limits


def _usual_drop(budget: BudgetSection, found: EvaluationResult) -> UsualDrop | None:
    """The default limit on the metric's drop if that follows from the labels; None if the recipe has a limit."""
    if found.metric is None or found.float_value is None or not follows_float(found.metric):
        return None
    if any(getattr(budget, name) is not None for name in _NAMES):
        return None
    return usual_drop_by(
        found.metric, found.float_value, samples=found.metric_samples or found.samples, answers=found.metric_answers,
        spread=found.metric_spread,
    )  # fmt: skip


def _metric_shares(
    limits: Mapping[str, float | None], found: EvaluationResult, largest: float | None
) -> list[ShareLimit]:
    """The limits on the metric's drop, if the drop is known; for ``largest`` see ``ShareLimit``."""
    if found.drop is None or found.float_value is None:
        return []
    single = found.metric_answers == found.samples
    return of_drop(
        limits, found.drop, found.float_value, answers=found.metric_answers, single=single, error=found.drop_error,
        samples=found.metric_samples or found.samples, alone=found.alone, counted=is_counted(found.metric),
        largest=largest,
    )  # fmt: skip


def _agreements(limits: Mapping[str, float | None], found: EvaluationResult) -> list[ShareLimit]:
    """The limits on the outputs' argmax agreement, if it is known."""
    least = limits["min_agreement"]
    if least is None:
        return []
    known = [output for output in found.outputs.values() if output.agreement is not None]
    return [
        ShareLimit("min_agreement", 1.0 - (output.agreement or 0.0), output.positions, 1.0 - least, samples=False)
        for output in known
    ]


def _metric_misses(
    limits: Mapping[str, float | None], found: EvaluationResult, shares: Sequence[ShareLimit]
) -> list[Finding]:
    """The limits on the metric that are missed, or that cannot be judged for lack of a value."""
    misses = []
    drop, value = found.drop, found.value
    unknown = ReportCode.LIMIT_NOT_FINITE if found.metric else ReportCode.LIMIT_WITHOUT_METRIC
    if found.metric is None and found.not_compared:
        unknown = ReportCode.LIMIT_NOT_COMPUTED
    for share in shares:
        if share.standing is LimitStanding.MISSED:
            misses.append(ReportCode.DROP_OVER_LIMIT(drop=drop, limit=share.limit))
    for name in ("max_drop", "max_relative_drop"):
        if limits[name] is not None and drop is None:
            misses.append(unknown(limit=name))
    least = limits["min_value"]
    if least is not None:
        if value is None:
            misses.append(unknown(limit="min_value"))
        elif not (value >= least if found.rising else value <= least):
            misses.append(ReportCode.METRIC_BELOW_LIMIT(value=value, limit=least))
    return misses


def _output_misses(budget: BudgetSection, found: EvaluationResult) -> list[Finding]:
    """The limits on the outputs' SQNR and agreement that are missed, or that cannot be judged."""
    if budget.min_sqnr_db is None and budget.min_agreement is None:
        return []
    limit = "min_sqnr_db" if budget.min_sqnr_db is not None else "min_agreement"
    lacking = ReportCode.LIMIT_NOT_COMPUTED(limit=limit) if found.not_compared else None
    misses = [
        ReportCode.OUTPUT_SHAPE_NOT_JUDGED(output=name, unlike=unlike, samples=found.samples)
        for name, unlike in found.unlike.items()
    ]
    if budget.min_sqnr_db is not None:
        floats = {name: output for name, output in found.outputs.items() if name not in found.discrete}
        if not floats and not misses:
            misses.append(lacking or ReportCode.NO_FLOAT_OUTPUT())
        each = [_sqnr_miss(name, output, budget.min_sqnr_db) for name, output in floats.items()]
        misses += [miss for miss in each if miss is not None]
    if budget.min_agreement is not None:
        shares = {name: o.agreement for name, o in found.outputs.items() if o.agreement is not None}
        if not shares and not misses:
            misses.append(lacking or ReportCode.NO_OUTPUT_WITH_CLASSES())
        for name, share in shares.items():
            judged = ShareLimit("min_agreement", 1.0 - share, found.outputs[name].positions, 1.0 - budget.min_agreement)
            if judged.standing is LimitStanding.MISSED:
                misses.append(
                    ReportCode.AGREEMENT_BELOW_LIMIT(
                        output=name, agreement=share, limit=budget.min_agreement, discrete=name in found.discrete
                    )
                )
    return misses


def _sqnr_miss(name: str, output: OutputFigures, least: float) -> Finding | None:
    """Why an output's SQNR (dB) misses its limit; None if it is kept, or if the output equals the float model's."""
    if output.sqnr_db is not None:
        miss = ReportCode.SQNR_BELOW_LIMIT(output=name, sqnr_db=output.sqnr_db, limit=least)
        return None if output.sqnr_db >= least else miss
    if output.max_abs is None:
        return ReportCode.SQNR_NOT_FINITE(output=name)
    return ReportCode.SQNR_WITHOUT_SIGNAL(output=name) if output.max_abs else None


def _answer_misses(tallies: Sequence[AnswerTally], least: float | None) -> list[Finding]:
    """Findings about parts of the outputs with too few unchanged answers, the worst first."""
    missed = [tally for tally in tallies if tally.standing(least) is LimitStanding.MISSED]
    return [
        ReportCode.ANSWERS_BELOW_LIMIT(
            outputs=tally.part.outputs, channels=tally.part.first_and_last, unchanged=tally.share,
            answers=tally.answers,
            least=tally.least if least is None else least, figure=tally.figure, level=tally.level,
        )
        for tally in sorted(missed, key=lambda one: one.share)
    ]  # fmt: skip
