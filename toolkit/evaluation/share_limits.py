"""A limit on a share of answers as it stands on the samples, and the one finding that says that they are too few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.intervals import LimitStanding, enough, standing, wilson
from toolkit.evaluation.tasks import AnswerTally


@dataclass(frozen=True)
class ShareLimit:
    """One limit on a share of answers.

    Attributes:
        name: the budget's name for it.
        lost: the share that is lost, 0 to 1; below 0 where more were won against labels.
        answers: of how many answers.
        limit: the largest share that may be lost.
        independent: how many answers count as independent; all where None.
        samples: whether every sample has one answer.
        expected: the share to expect to be lost on samples like these; None where only a count tells.
    """

    name: str
    lost: float
    answers: int
    limit: float
    independent: float | None = None
    samples: bool = True
    expected: float | None = None

    @property
    def standing(self) -> LimitStanding:
        """Whether it is met; see ``intervals.standing``. A metric that is no share of answers is held by its value."""
        if self.answers <= 0:
            return LimitStanding.MET if self.lost <= self.limit + 1e-12 else LimitStanding.MISSED
        return standing(self.lost * self.answers, self.answers, self.limit, self.independent)

    @property
    def likely(self) -> float:
        """The share to expect to be lost elsewhere: what was lost here, or what nearly was, the larger."""
        return max(self.lost, self.expected or 0.0)

    @property
    def few(self) -> bool:
        """Whether there are fewer answers than it takes to judge the limit."""
        return 0 < self.answers < enough(self.limit)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share that is lost."""
        count = min(self.independent if self.independent is not None else self.answers, self.answers)
        return wilson(max(self.lost, 0.0) * count, count)

    def finding(self) -> Finding:
        """That it is within the limit on these answers, and how many it takes to say more."""
        low, high = self.interval
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


def too_few(limits: Iterable[ShareLimit]) -> Finding | None:
    """The finding of a limit that is not proven; None where all are met or missed.

    Of several it is one beyond which more are lost than may be, before one that needs more answers.
    """
    found = [one for one in limits if one.standing is LimitStanding.UNPROVEN]
    worst = max(found, key=lambda one: (one.lost > one.limit, enough(one.limit) / one.answers, one.lost), default=None)
    return worst.finding() if worst is not None else None
