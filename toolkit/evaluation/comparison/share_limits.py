"""Judges limits on shares of answers on the samples, and finds the limit that needs more samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.intervals import ONE_SIDED, LimitStanding, around, enough, standing, wilson
from toolkit.evaluation.tasks import AnswerTally

ROUNDING = 1e-12
"""The most by which a drop may exceed its limit, as a share of the metric: rounding of the difference of two values."""
_ALIKE, _DOUBLE, _MOST_SAMPLES = 1e-3, 2, 1_000_000
"""How much more than the limit must be lost for a number of samples to be told that decides it, the factor for that
number otherwise, and the largest number that is told."""
UNREAD = 0.05
"""The share of changed answers allowed for an output that neither the metric nor another limit covers."""


@dataclass(frozen=True)
class ShareLimit:
    """One limit on a share of answers, or on the drop of a metric.

    Attributes:
        name: the budget's name for it.
        lost: the lost share, 0 to 1, or drop; negative if by the labels more answers were gained than lost.
        answers: number of answers; 0 if the metric is not a share of answers.
        limit: the largest share or drop allowed.
        independent: number of independent answers; None for all.
        samples: whether every sample has one answer.
        expected: the expected lost share on samples like these; None if only a count is known.
        error: standard error of ``lost`` over samples, for a metric that is not a share of right samples; None if not
            known.
        measured: number of samples behind the metric.
        alone: whether a single sample, or group, has all labels, so that the variation between samples is not known.
        counted: whether ``lost`` is a share of ``answers``; if not, their number only bounds what they can show.
        rounding: the most by which ``lost`` may exceed the limit, in the same unit.
        largest: the largest value that the limit may have, if it is computed from labels that show it only roughly;
            None if it is known.
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
    counted: bool = True
    rounding: float = ROUNDING
    largest: float | None = None

    @property
    def standing(self) -> LimitStanding:
        """Whether the limit is met, missed or unproven; see ``intervals.standing``.

        A metric that is not a share of answers is judged by its value; it is unproven if samples differ so much that a
        loss of zero cannot be distinguished from one at the limit, if there is only one sample, or if the loss exceeds
        the limit, but not the largest one that the labels allow.
        """
        found = LimitStanding.MET if self.lost <= self.limit + self.rounding else LimitStanding.MISSED
        if found is LimitStanding.MISSED and self.rough:
            return LimitStanding.UNPROVEN
        if self.answers > 0:
            found = standing(self.lost * self.answers, self.answers, self.limit, self.independent)
        unsure = self.imprecise or (self.alone and self.limit > 0)
        return LimitStanding.UNPROVEN if found is LimitStanding.MET and unsure else found

    @property
    def rough(self) -> bool:
        """Whether the loss exceeds the limit, but not the largest value that the limit may have."""
        return self.largest is not None and self.limit + self.rounding < self.lost <= self.largest + self.rounding

    @property
    def imprecise(self) -> bool:
        """Whether samples differ too much: a drop beyond the limit could be measured as none (95% confidence)."""
        return self.error is not None and 0 < self.limit < ONE_SIDED * self.error

    @property
    def by_chance(self) -> bool:
        """Whether a metric that is not a share of answers may be within the limit on other samples.

        It may if the one-sided 95 % interval of the drop includes the limit, if there is only one sample, or if the
        limit may be as large as the drop.
        """
        if self.answers > 0:
            return False
        return self.alone or self.rough or (self.error is not None and self.lost - ONE_SIDED * self.error <= self.limit)

    @property
    def likely(self) -> float:
        """The lost share to expect on other samples: the larger of the measured and the expected one."""
        return max(self.lost, self.expected or 0.0)

    @property
    def few(self) -> bool:
        """Whether there are fewer answers than needed to judge the limit, by their number."""
        return 0 < self.answers < enough(self.limit)

    @property
    def lacking(self) -> float:
        """The factor by which the number of answers or samples must grow to judge the limit."""
        by_count = enough(self.limit) / self.answers if self.answers > 0 else 0.0
        return max(by_count, self._lacking_by_error)

    @property
    def _lacking_by_error(self) -> float:
        # the standard error falls with the square root of the number of samples
        return (ONE_SIDED * (self.error or 0.0) / self.limit) ** 2 if self.limit > 0 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``lost``: by its standard error if known, else Wilson's interval of a share."""
        if self.error is not None:
            return around(self.lost, self.error)
        count = min(self.independent if self.independent is not None else self.answers, self.answers)
        return wilson(max(self.lost, 0.0) * count, count)

    def finding(self) -> Finding:
        """The finding that the limit is not proven on these answers, and how many are needed."""
        by_count, unknown = self.few and self.counted, self.largest is not None and math.isinf(self.largest)
        if self.rough and not unknown:
            return self._rough_finding()
        if (self.alone or unknown) and not by_count:
            return EvaluationCode.WITHIN_ON_ONE(
                limit=self.name, answers=self.measured, samples=True, share=self.limit, enough=2 * self.measured,
                lost=self.lost, by="one",
            )  # fmt: skip
        low, high = self.interval
        if not by_count:
            # without variation between samples, no interval is known: Wilson's is one of shares
            ends = {} if self.error is None else {"low": low, "high": high}
            return EvaluationCode.WITHIN_ON_UNLIKE(
                limit=self.name, answers=self.measured, samples=True, share=self.limit,
                enough=math.ceil(self.measured * self.lacking), lost=self.lost, by="variation", **ends,
            )  # fmt: skip
        return EvaluationCode.WITHIN_ON_FEW(
            limit=self.name, answers=self.answers, samples=self.samples, share=self.limit, enough=enough(self.limit),
            lost=self.lost, low=low, high=high, by="count",
        )  # fmt: skip

    def _rough_finding(self) -> Finding:
        """See ``finding``, for a limit that the labels show only roughly.

        The logarithm of a confidence limit of the variance falls about with the square root of the number of samples.
        """
        largest = self.largest or self.limit
        known = self.limit > 0 and self.lost > self.limit * (1 + _ALIKE)
        more = (math.log(largest / self.limit) / math.log(self.lost / self.limit)) ** 2 if known else _DOUBLE
        return EvaluationCode.LIMIT_ROUGH(
            limit=self.name, answers=self.measured, samples=True, share=self.limit, lost=self.lost, by="spread",
            enough=math.ceil(min(self.measured * more, _MOST_SAMPLES)), largest=largest,
        )  # fmt: skip


def of_tally(tally: AnswerTally, least: float | None = None, weighed: bool = False) -> ShareLimit:
    """The limit on the changed answers of a part.

    Args:
        least: the least share of unchanged answers, in place of the task's default.
        weighed: whether to weigh changes by their likely cost, if known.
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
    counted: bool = True,
    largest: float | None = None,
) -> list[ShareLimit]:
    """The limits on the drop of a metric, each in the metric's own unit.

    Args:
        limits: the budget, of which ``max_drop`` and ``max_relative_drop`` are used.
        drop: how much worse the metric became.
        before: the float model's metric, which ``max_relative_drop`` is relative to.
        answers: number of answers that the metric is a share of; 0 if it is not a share.
        single: whether every sample has one answer.
        error: the standard error of the drop, see ``resampling.drop_error``.
        samples: number of samples behind the drop.
        alone: whether a single sample, or group, has all labels.
        counted: whether the metric is a share of these answers, see ``table.is_counted``.
        largest: see ``ShareLimit.largest``, in the metric's unit.
    """  # fmt: skip
    units = {"max_drop": 1.0, "max_relative_drop": abs(before)}
    return [
        ShareLimit(
            name, drop, answers, limit * unit, samples=single, error=error, measured=samples,
            alone=alone and not (counted and answers > 0), counted=counted, rounding=ROUNDING * abs(before),
            largest=largest,
        )
        for name, unit in units.items()
        if (limit := limits.get(name)) is not None
    ]  # fmt: skip


def too_few(limits: Iterable[ShareLimit]) -> Finding | None:
    """The finding of a limit that is not proven; None if all are met or missed.

    Of several, a limit that is exceeded comes first, then the one that needs most answers.
    """
    found = [one for one in limits if one.standing is LimitStanding.UNPROVEN]
    worst = max(found, key=lambda one: (one.lost > one.limit, one.lacking, one.lost), default=None)
    return worst.finding() if worst is not None else None
