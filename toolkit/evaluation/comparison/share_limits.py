"""A limit on a share of answers as it stands on the samples, and the one finding that these are too few."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.intervals import ONE_SIDED, LimitStanding, around, enough, standing, wilson
from toolkit.evaluation.tasks import AnswerTally

ROUNDING = 1e-12
"""By how much a drop may exceed its limit, as a share of the metric: the rounding of a difference of two values."""
UNREAD = 0.05
"""The share of its answers that an output may lose which the metric does not read, and no other limit covers."""


@dataclass(frozen=True)
class ShareLimit:
    """One limit on a share of answers.

    Attributes:
        name: the budget's name for it.
        lost: the share that is lost, 0 to 1; below 0 where more were won against labels.
        answers: out of how many answers.
        limit: the largest share that may be lost.
        independent: how many answers count as independent; all where None.
        samples: whether every sample has one answer.
        expected: the share expected to be lost on samples like these; None where only a count is known.
        error: standard error of ``lost``, from how samples differ, for a metric that is no share of right samples;
            None where that is not known.
        measured: how many samples it comes from, for a metric that can be computed on some of them.
        alone: whether one sample, or one group, has all labels: then how far others would differ is not known.
        rounding: by how much ``lost`` may exceed the limit, in its unit.
    """

    name: str
    lost: float
    answers: int
    limit: float
    independent: float | None = None
    samples: bool = True
    expected: float | None = None
    error: float | None = None
    measured: int = 0
    alone: bool = False
    rounding: float = ROUNDING

    @property
    def standing(self) -> LimitStanding:
        """Whether it is met; see ``intervals.standing``.

        A metric that is no share of answers is judged by its value, and not proven where samples differ so much that
        a loss of zero could not be told from one at the limit, or where there is a single sample.
        """
        found = LimitStanding.MET if self.lost <= self.limit + self.rounding else LimitStanding.MISSED
        if self.answers > 0:
            found = standing(self.lost * self.answers, self.answers, self.limit, self.independent)
        unsure = self.imprecise or (self.alone and self.limit > 0)
        return LimitStanding.UNPROVEN if found is LimitStanding.MET and unsure else found

    @property
    def imprecise(self) -> bool:
        """Whether samples differ too much for the limit: with 95 percent confidence no drop may be one beyond it."""
        return self.error is not None and 0 < self.limit < ONE_SIDED * self.error

    @property
    def by_chance(self) -> bool:
        """Whether a drop of a metric that is no share of answers may be within the limit on other samples.

        It is where its one-sided 95 % interval reaches the limit, or where there is a single sample.
        """
        if self.answers > 0:
            return False
        return self.alone or (self.error is not None and self.lost - ONE_SIDED * self.error <= self.limit)

    @property
    def likely(self) -> float:
        """The share expected to be lost elsewhere: what was lost here, or nearly was, whichever is larger."""
        return max(self.lost, self.expected or 0.0)

    @property
    def few(self) -> bool:
        """Whether there are fewer answers than it takes to judge the limit, by their count."""
        return 0 < self.answers < enough(self.limit)

    @property
    def lacking(self) -> float:
        """How many times as many answers, or samples, it takes to judge the limit."""
        by_count = enough(self.limit) / self.answers if self.answers > 0 else 0.0
        return max(by_count, self._lacking_by_error)

    @property
    def _lacking_by_error(self) -> float:
        # the standard error falls as the square root of the samples' number rises
        return (ONE_SIDED * (self.error or 0.0) / self.limit) ** 2 if self.limit > 0 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of what is lost: by its standard error where that is known, else Wilson's for a share."""
        if self.error is not None:
            return around(self.lost, self.error)
        count = min(self.independent if self.independent is not None else self.answers, self.answers)
        return wilson(max(self.lost, 0.0) * count, count)

    def finding(self) -> Finding:
        """The finding that it is within the limit on these answers, and how many it takes to say more."""
        if self.alone and not self.few:
            return EvaluationCode.WITHIN_ON_ONE(
                limit=self.name, answers=self.measured, samples=True, share=self.limit, enough=2 * self.measured,
                lost=self.lost,
            )  # fmt: skip
        low, high = self.interval
        if self.imprecise and not self.few:
            needed = math.ceil(self.measured * self._lacking_by_error)
            return EvaluationCode.WITHIN_ON_UNLIKE(
                limit=self.name, answers=self.measured, samples=True, share=self.limit, enough=needed, lost=self.lost,
                low=low, high=high,
            )  # fmt: skip
        return EvaluationCode.WITHIN_ON_FEW(
            limit=self.name, answers=self.answers, samples=self.samples, share=self.limit, enough=enough(self.limit),
            lost=self.lost, low=low, high=high,
        )  # fmt: skip


def of_tally(tally: AnswerTally, least: float | None = None, weighed: bool = False) -> ShareLimit:
    """The limit on the answers of a part that stay.

    Args:
        tally: the answers.
        least: the smallest share that must stay, in place of the task's default.
        weighed: whether a change counts as much as it is likely to cost, where that is known.
    """
    limit = 1.0 - (tally.least if least is None else least)
    single = tally.part.task != "generation"
    lost = tally.lost / tally.answers if weighed and tally.lost is not None and tally.answers else 1.0 - tally.share
    expected = tally.expected / tally.answers if tally.expected is not None and tally.answers and not weighed else None
    return ShareLimit("min_unchanged", lost, tally.answers, limit, tally.independent, single, expected)


def of_drop(
    limits: Mapping[str, float | None],
    drop: float,
    before: float,
    *,
    answers: int,
    single: bool,
    error: float | None,
    samples: int,
    alone: bool,
) -> list[ShareLimit]:
    """The limits on the drop of a metric, each in the metric's own unit.

    Args:
        limits: the budget's; ``max_drop`` and ``max_relative_drop`` are looked at.
        drop: how much worse the metric became.
        before: the float model's metric, of which ``max_relative_drop`` is a share.
        answers: how many answers the metric is a share of; 0 where it is none.
        single: whether every sample has one of them.
        error: the standard error of the drop, see ``resampling.drop_error``.
        samples: how many samples the drop comes from.
        alone: whether one sample, or one group, has all labels.
    """  # fmt: skip
    units = {"max_drop": 1.0, "max_relative_drop": abs(before)}
    return [
        ShareLimit(
            name, drop, answers, limit * unit, samples=single, error=error, measured=samples,
            alone=alone and answers <= 0, rounding=ROUNDING * abs(before),
        )
        for name, unit in units.items()
        if (limit := limits.get(name)) is not None
    ]  # fmt: skip


def too_few(limits: Iterable[ShareLimit]) -> Finding | None:
    """The finding of a limit that is not proven; None where all are met or missed.

    Among several, one whose limit is exceeded comes before one that needs more answers.
    """
    found = [one for one in limits if one.standing is LimitStanding.UNPROVEN]
    worst = max(found, key=lambda one: (one.lost > one.limit, one.lacking, one.lost), default=None)
    return worst.finding() if worst is not None else None
