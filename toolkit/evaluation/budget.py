"""The accuracy and latency that a plan must keep, and how far an outcome misses it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolkit.base.errors import DataError, RecipeError
from toolkit.contract.findings import Finding
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.share_limits import UNREAD, ShareLimit, of_drop, of_tally, too_few
from toolkit.evaluation.comparison.type_noise import TypeNoise
from toolkit.evaluation.metrics.table import METRICS, usual_drop
from toolkit.evaluation.numerics.intervals import ONE_SIDED, LimitStanding, enough, wilson
from toolkit.evaluation.numerics.resampling import drop_error, is_alone
from toolkit.evaluation.tasks import AnswerTally

ON_NOISE = ("min_sqnr_db", "sqnr_db", "variation_db")
"""The limits on noise, as ``Budget.lacks`` names them."""
_DROPS = ("max_drop", "max_relative_drop")
_PRIOR = 500
_LEAST_LACK, _SLACK, _SLACK_OF_ANSWERS = 1e-6, 1e-9, 1e-7
"""By how much more than 0 a miss counts: any, of a limit in units of its own, and of a share of answers that is only
expected to be lost."""
_BROKEN_SQNR_DB = 3.0
"""Below this, or with more noise than variation between samples, an output is useless whatever its top-1 agreement."""


@dataclass(frozen=True)
class Budget:
    """The limits that must hold; None means no limit.

    The search, bisection and the run judge a limit on a share of answers in the same way, by ``intervals.standing``.
    Where the answers are too few for that, they are counted without a margin: a plan is refused only for what is in the
    samples. With a margin, and where more is known than a count (see ``AnswerTally``), the answers expected to change
    must be within the limit too, by enough that as many other answers are likely to be within it (see ``allowed``).

    Attributes:
        max_drop: largest drop of the metric, in its units.
        max_relative_drop: largest drop as a share of the float model's value.
        min_value: smallest value of the metric.
        min_sqnr_db: smallest SQNR of the worst output.
        min_agreement: smallest top-1 agreement with the float model, 0 to 1.
        min_unchanged: smallest share of answers that stay the float model's, 0 to 1, of every part of the outputs.
        max_ms: largest predicted latency in milliseconds.
        margin: how much better than the limits a plan must be, since other samples will differ: in dB for the SQNR (see
            ``spare_db``), in standard errors for shares of enough answers and for the drop of a metric that is no
            share. The standard error of a share is that of the samples' own shares, and at least sqrt(p (1 - p) / n)
            for a share p of n positions; for other metrics see ``resampling``. With a margin, the argmax changes to
            expect count like five hundred further positions, since a hundred positions without a change prove little.
        higher_is_better: whether a larger value of the metric is better.
        by_task: whether the answers are compared with the task's own limit where ``min_unchanged`` is None.
        replaces_drop: whether ``min_unchanged`` replaces a limit on the metric's drop, for lack of labels. A changed
            answer then counts as much as it is likely to cost, and with a margin the loss must not exceed the limit,
            however few the answers are.
        reads: the output that the metric reads, where ``replaces_drop``: others may lose ``UNREAD`` of their answers,
            as much as the verdict on a model with labels lets pass; None where the limit holds for all alike.
        types: the noise that a plan's types add to its simulation, for which every plan must leave room.
        usual: the metric whose drop is limited by default as the float model's own value says, see ``usual_drop``; a
            given limit counts as a share of the metric's.
    """

    max_drop: float | None = None
    min_value: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_ms: float | None = None
    margin: float = 0.0
    higher_is_better: bool = True
    max_relative_drop: float | None = None
    min_unchanged: float | None = None
    by_task: bool = False
    replaces_drop: bool = False
    reads: str | None = None
    types: TypeNoise | None = None
    usual: str | None = None

    def __post_init__(self) -> None:
        if all(limit is None for limit in (self.min_sqnr_db, *self.on_answers)) and not self.by_task:
            raise RecipeError("the search has no accuracy budget", remedy="give max_drop, min_sqnr_db or min_agreement")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise RecipeError(
                f"min_agreement is {self.min_agreement:g}, which is not a share",
                remedy="min_agreement and max_drop are shares: 0.98 is 98%, 0.02 is 2 points",
            )

    @property
    def on_answers(self) -> tuple[float | None, ...]:
        """The limits on answers or on a metric of them."""
        return self.max_drop, self.max_relative_drop, self.min_value, self.min_agreement, self.min_unchanged

    def lacks(self, outcome: Outcome, reference: Outcome, seconds: float | None = None) -> dict[str, float]:
        """How far each limit is missed, in the limit's own units; empty where all hold.

        Raises:
            RecipeError: the budget limits a metric, and none was measured; or agreement, and no output has classes.
            DataError: a drop is limited, and the float model's own metric is no finite number.
        """
        outcome = outcome if self.types is None else self.types.added_to(outcome)
        limits = self._by_name(outcome, reference)
        found = {name: self._share_lack(one, outcome) for name, one in limits.items()}
        slack = {name: _slack(one) for name, one in limits.items()}
        if self.min_value is not None:
            found["min_value"], slack["min_value"] = self._value_lack(outcome), _SLACK * abs(self.min_value)
        if self.min_sqnr_db is not None:
            found["min_sqnr_db"] = self.min_sqnr_db + self.spare_db(outcome) - outcome.sqnr_db
        if outcome.metric is None:
            if outcome.by_entry:
                found["sqnr_db"] = _BROKEN_SQNR_DB + self.margin - outcome.sqnr_db
            if outcome.variation_db is not None:
                found["variation_db"] = self.margin - outcome.variation_db
        if self.max_ms is not None and seconds is not None:
            found["max_ms"] = seconds * 1e3 - self.max_ms
        # a limit on what is no number does not hold
        return {name: lack for name, lack in found.items() if not lack <= slack.get(name, _SLACK)}

    def on_subset(self, outcome: Outcome, reference: Outcome) -> Budget | None:
        """The budget as far as a part of the samples can judge it; None where they can judge none of its limits.

        A metric that is no number on them, as where none of them has a label, tells nothing of its limits yet. For one
        that is no share of answers a miss which may be chance tells nothing of a drop, and samples on which the float
        model itself misses ``min_value`` nothing of that. Outputs that are no numbers tell enough.
        """
        known = [one.metric for one in (outcome, reference) if one.metric is not None]
        if not math.isfinite(outcome.noise):
            return self
        untold: dict[str, Any] = {}
        if not all(map(math.isfinite, known)):
            untold = dict.fromkeys((*_DROPS, "min_value"))
        elif outcome.metric is not None:
            limits = self._share_limits(outcome, reference)
            if any(one.by_chance and self._share_lack(one, outcome) > 0 for one in limits):
                untold = dict.fromkeys(_DROPS)
            if self.min_value is not None and self._value_lack(reference) > 0:
                untold["min_value"] = None
        try:
            return replace(self, **untold) if untold else self
        except RecipeError:
            return None

    def spare_db(self, outcome: Outcome) -> float:
        """By how many dB an outcome must be better than a limit on the SQNR, since other samples will differ.

        The margin, and with one what lies between the noise of these samples and its upper bound: the mean of so many
        batches, by how far they differ, is known to a standard error, and 1.645 of these exclude all but 5 percent.
        """
        parts = [part for part in outcome.parts if math.isfinite(part)]
        mean = statistics.fmean(parts) if len(parts) > 1 else 0.0
        if self.margin <= 0 or mean <= 0:
            return self.margin
        error = statistics.stdev(parts) / math.sqrt(len(parts)) / mean
        return self.margin + 10 * math.log10(1 + ONE_SIDED * self.margin * error)

    def unproven(self, outcome: Outcome, reference: Outcome) -> Finding | None:
        """A finding that samples are too few for a limit that they do not miss; None if enough, or if one is missed."""
        few = too_few(self._share_limits(outcome, reference))
        missed = few is not None and replace(self, margin=0.0, max_ms=None).lacks(outcome, reference)
        return None if missed else few

    def allowed(self, one: ShareLimit) -> float:
        """The largest share p that may be expected to be lost, so that of n others no more are lost than the limit L.

        Of n answers p n are lost, give or take sqrt(n p (1 - p)). With a margin of 1, all but 5 percent of such draws
        must be within L: p + 1.645 margin sqrt(p (1 - p) / n) = L, so that p is the lower end of Wilson's interval of
        L. n is the number of answers that decide the limit, or of those here. No draw loses more than all.
        """
        if one.limit >= 1:
            return one.limit
        count = max(enough(one.limit), one.answers, 1)
        return wilson(one.limit * count, count, ONE_SIDED * max(self.margin, 0.0))[0]

    def untold_drop(self, outcome: Outcome, reference: Outcome) -> ShareLimit | None:
        """The limit on the drop of a metric that too few answers decide, a sample each; None where there is none."""
        limits = self._share_limits(outcome, reference)
        return next((one for one in limits if one.name in _DROPS and one.few and one.samples), None)

    def may_change(self, one: ShareLimit) -> float:
        """The largest share c of answers that may change, so that the drop on n others is within its limit L.

        Each changed answer is lost, won or neither. If as many are won as lost on average, the drop is 0, give or take
        sqrt(c / n). With a margin of 1, all but 5 percent of such draws must be within L: 1.645 margin sqrt(c / n) = L.
        n is the number of answers that decide the limit, or of those here.
        """
        count = max(enough(one.limit), one.answers)
        spread = ONE_SIDED * self.margin
        return min(count * (one.limit / spread) ** 2, 1.0) if spread > 0 else 1.0

    def left_of(self, one: ShareLimit) -> float:
        """``allowed`` for what a plan may be expected to lose by its simulation alone: ``types`` add to it."""
        allowed = self.allowed(one)
        return allowed if self.types is None else self.types.left(allowed)

    def most_noise(self, outcome: Outcome) -> float | None:
        """The noise over signal that the limit on the SQNR leaves a plan by its simulation alone; None without a limit.

        Args:
            outcome: a similar outcome: what must be spared depends on how far batches differ.
        """
        if self.min_sqnr_db is None:
            return None
        noise = 10 ** (-(self.min_sqnr_db + self.spare_db(outcome)) / 10)
        return noise if self.types is None else max(noise - self.types.noise, 0.0)

    def worst_share(self, outcome: Outcome, reference: Outcome) -> ShareLimit | None:
        """Of the limits that allow a share of counted answers to be lost, the one missed by most."""
        counted = self._of_answers(outcome, reference)
        return max(counted, key=lambda one: one.likely / one.limit, default=None)

    def one_answer(self, outcome: Outcome, reference: Outcome) -> float:
        """How far one answer more or less moves ``distance``, by ``worst_share``; 0 where no share is limited."""
        worst = self.worst_share(outcome, reference)
        return self.distance({worst.name: 1 / worst.answers}) if worst is not None else 0.0

    def distance_by_answers(self, outcome: Outcome, reference: Outcome, lacks: Mapping[str, float]) -> float:
        """What the limits on shares of counted answers have in the ``distance`` of ``lacks``."""
        names = {one.name for one in self._of_answers(outcome, reference)}
        return self.distance({name: lack for name, lack in lacks.items() if name in names})

    def _of_answers(self, outcome: Outcome, reference: Outcome) -> list[ShareLimit]:
        told = self.on_subset(outcome, reference)
        limits = told._share_limits(outcome, reference) if told is not None else []
        return [one for one in limits if one.answers > 0 and one.limit > 0]

    def _share_limits(self, outcome: Outcome, reference: Outcome) -> list[ShareLimit]:
        """Every limit on a share of answers, a limit on the metric's drop among them."""
        found: list[ShareLimit] = []
        if self.max_drop is not None or self.max_relative_drop is not None:
            before = self._quality(reference)
            if not math.isfinite(before):
                raise DataError(
                    f"the float model's metric is {reference.metric:g} on these samples, so no drop can be computed",
                    remedy="give samples for which it is a number, or limit something else",
                )
            found += of_drop(
                self.drops(outcome, abs(before)),
                before - self._quality(outcome),
                before,
                answers=outcome.metric_answers,
                single=changed_answers(outcome) is not None,
                error=drop_error(reference.metric_left_out, outcome.metric_left_out),
                samples=outcome.metric_samples,
                alone=is_alone(outcome.metric_samples, reference.metric_left_out, outcome.metric_left_out),
            )
        if self.min_agreement is not None:
            if outcome.agreement is None:
                raise RecipeError("min_agreement cannot be judged: no output holds integers or scores of a fixed "
                                  "number of classes, or they are empty on these samples",
                                  remedy="give min_sqnr_db")  # fmt: skip
            lost, limit = 1.0 - outcome.agreement, 1.0 - self.min_agreement
            found.append(ShareLimit("min_agreement", lost, outcome.positions, limit, samples=False))
        if self.by_task or self.min_unchanged is not None:
            found += [of_tally(tally, self._least_of(tally), self.replaces_drop) for tally in outcome.tallies]
        return found

    def drops(self, outcome: Outcome, own: float) -> dict[str, float]:
        """The limits on the metric's drop by name.

        Args:
            outcome: says how many labels the metric comes from, and how far these differ.
            own: the float model's value.
        """
        given = self.max_drop if self.max_drop is not None else self.max_relative_drop
        if self.usual is None or given is None:
            limits = {"max_drop": self.max_drop, "max_relative_drop": self.max_relative_drop}
            return {name: limit for name, limit in limits.items() if limit is not None}
        samples, answers = outcome.metric_samples, outcome.metric_answers
        most = usual_drop(self.usual, own, samples=samples, answers=answers, spread=outcome.metric_spread)
        return {"max_drop": most * given / METRICS[self.usual].drop}

    def _least_of(self, tally: AnswerTally) -> float | None:
        least = self.min_unchanged
        if least is None or self.reads is None or self.reads in tally.part.outputs:
            return least
        return min(least, 1.0 - UNREAD)

    def _by_name(self, outcome: Outcome, reference: Outcome) -> dict[str, ShareLimit]:
        """For each name the limit that is missed by most."""
        found: dict[str, ShareLimit] = {}
        for one in sorted(self._share_limits(outcome, reference), key=lambda one: self._share_lack(one, outcome)):
            found[one.name] = one
        return found

    def _share_lack(self, one: ShareLimit, outcome: Outcome) -> float:
        """By how much a share that is lost exceeds its limit; 0 or less where it does not."""
        # what was nearly lost here may be lost elsewhere
        likely = (one.expected or 0.0) - self.allowed(one) if self.margin > 0 else 0.0
        if one.few:
            # a change decided by chance alone is already weighted
            strict = self.replaces_drop and self.margin > 0 and one.lost > one.limit
            missed = strict or one.standing is LimitStanding.MISSED
            return max(one.lost - one.limit if missed else 0.0, likely, _LEAST_LACK if missed else 0.0)
        if one.name == "min_unchanged":
            spread = math.sqrt(max(one.lost * (1 - one.lost), 0.0) / max(one.independent or 0.0, 1.0))
            return max(one.lost + self.margin * spread - one.limit, likely)
        changed = changed_answers(outcome) if one.name in _DROPS else None
        error = one.error
        if error is None:
            error = _standard_error(outcome) if changed is None else math.sqrt(changed / one.answers)
        return max(one.lost + self.margin * error, self._flips(outcome)) - one.limit

    def _value_lack(self, outcome: Outcome) -> float:
        """By how much the metric is worse than ``min_value``; 0 or less where it is not."""
        least = self.min_value or 0.0
        return (least if self.higher_is_better else -least) - self._quality(outcome)

    def _quality(self, outcome: Outcome) -> float:
        """The metric with the sign at which more is better; -inf where it is no number.

        Raises:
            RecipeError: none was measured.
        """
        if outcome.metric is None:
            raise RecipeError("the budget limits a metric, and none was measured", remedy="set [evaluation] metric")
        value = outcome.metric if self.higher_is_better else -outcome.metric
        return -math.inf if math.isnan(value) else value

    def safely(self, outcome: Outcome, reference: Outcome) -> bool:
        """Whether the accuracy limits hold with twice the margin, so that nothing is gained by looking further."""
        return not replace(self, margin=2 * self.margin, max_ms=None).lacks(outcome, reference)

    def enough(self) -> int:
        """How many answers it takes to judge the shares that may change; 0 where the budget has no share."""
        shares = [self.max_drop if self.higher_is_better else None,
                  None if self.min_agreement is None else 1.0 - self.min_agreement,
                  None if self.min_unchanged is None else 1.0 - self.min_unchanged]  # fmt: skip
        asked = [share for share in shares if share]
        return enough(min(asked)) if asked else 0

    def _flips(self, outcome: Outcome) -> float:
        """The share of argmax changes to expect on other samples, from those seen and those that nearly happened."""
        if not self.margin or outcome.flips is None or outcome.agreement is None or not self.higher_is_better:
            return 0.0
        # errors have heavier tails than the normal ones that the estimate takes for granted: on classifiers with
        # outlier channels up to twice as many changed on unseen samples
        expected = outcome.flips * (1 + self.margin)
        seen = outcome.positions * (1 - outcome.agreement)
        return (seen + _PRIOR * expected) / (outcome.positions + _PRIOR)

    def distance(self, lacks: dict[str, float]) -> float:
        """One number for how far a plan is from the budget: each miss over its usual size, added."""
        drop = 0.01 if self.higher_is_better or not self.max_drop else self.max_drop
        usual = {"max_drop": drop, "min_value": 0.01, "min_sqnr_db": 3.0, "min_agreement": 0.01, "min_unchanged": 0.01,
                 "max_relative_drop": 0.01, "sqnr_db": 3.0, "variation_db": 3.0,
                 "max_ms": max(self.max_ms or 0.0, 1e-9) / 10}  # fmt: skip
        total = sum(lack / usual[name] for name, lack in lacks.items())
        return total if math.isfinite(total) else math.inf


def judged_by_task(limits: Mapping[str, float | None], answers: Answers | None, measured: bool) -> bool:
    """Whether the task's own limit counts besides the given ones, where none of those covers the same.

    Args:
        limits: by the budget's names; None where not given.
        answers: reads outputs as the task says; None without a task.
        measured: whether a metric is measured with labels.
    """
    if answers is None or limits.get("min_unchanged") is not None:
        return False
    if measured and any(limits.get(name) is not None for name in ("max_drop", "max_relative_drop", "min_value")):
        return False
    # one argmax per sample is its answer; argmaxes of positions, boxes and vectors are not
    single = all(part.task == "classification" for part in answers.parts)
    return not (single and limits.get("min_agreement") is not None)


def changed_answers(outcome: Outcome) -> float | None:
    """The share of a metric's answers that change; None where the task reads other answers."""
    of_metric = [one for one in outcome.tallies if outcome.metric_answers and one.answers == outcome.metric_answers]
    return max((1 - one.share for one in of_metric), default=None)


def _slack(one: ShareLimit) -> float:
    """By how much a limit may be missed: an error's unit may be as small as any, and an answer that was lost is one of
    however many.
    """
    if one.answers <= 0:
        return max(_SLACK * one.limit, one.rounding)
    return _SLACK if one.lost > one.limit + _SLACK else _SLACK_OF_ANSWERS


def _standard_error(outcome: Outcome) -> float:
    if outcome.agreement is None or not outcome.positions or not outcome.of_classes:
        return 0.0
    binomial = math.sqrt(outcome.agreement * (1 - outcome.agreement) / outcome.positions)
    # positions of one sample go wrong together: then the spread between samples is the larger
    return max(binomial, outcome.agreement_error or 0.0)
