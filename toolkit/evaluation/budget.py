"""Limits on accuracy and latency for a plan, and how far an outcome misses them."""

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
from toolkit.evaluation.metrics.table import METRICS, UsualDrop, usual_drop_by
from toolkit.evaluation.numerics.intervals import ONE_SIDED, LimitStanding, enough, wilson
from toolkit.evaluation.numerics.resampling import drop_error, is_alone
from toolkit.evaluation.tasks import AnswerTally

ON_NOISE = ("min_sqnr_db", "sqnr_db", "variation_db")
"""Names of the limits on noise in the result of ``Budget.lacks``."""
_DROPS = ("max_drop", "max_relative_drop")
_PRIOR = 500
"""Weight of the expected argmax changes, in positions, next to those observed."""
_LEAST_LACK, _SLACK, _SLACK_OF_ANSWERS = 1e-6, 1e-9, 1e-7
"""The smallest miss that is reported, the tolerance of a limit in its own unit, and the tolerance of a share of answers
if only the expected loss exceeds the limit."""
_BROKEN_SQNR_DB = 3.0
"""An output with a lower SQNR, or with more noise than variation between samples, is useless whatever its agreement."""


@dataclass(frozen=True)
class Budget:
    """Limits on the accuracy and latency of a plan; None means no limit.

    The search, bisection and the run judge a limit on a share of answers in the same way, by ``intervals.standing``. If
    there are too few answers for that, they are counted without a margin, so a plan is only rejected for changes in the
    samples. With a margin, and if more is known than a count (see ``AnswerTally``), the answers expected to change must
    also be within the limit, by enough that as many other answers are likely to be within it (see ``allowed``).

    Attributes:
        max_drop: largest drop of the metric, in its unit.
        max_relative_drop: largest drop as a share of the float model's value.
        min_value: smallest value of the metric.
        min_sqnr_db: smallest SQNR of the worst output, dB.
        min_agreement: smallest top-1 agreement with the float model, 0 to 1.
        min_unchanged: smallest share of unchanged answers, 0 to 1, for every part of the outputs.
        max_ms: largest predicted latency in milliseconds.
        margin: by how much a plan must be better than the limits because other samples will differ: in dB for the SQNR
            (see ``spare_db``), in standard errors for shares of enough answers and for the drop of a metric that is not
            a share. The standard error of a share is that between samples, at least sqrt(p (1 - p) / n) for a share p
            of n positions; for other metrics see ``resampling``. With a margin, the expected argmax changes count like
            500 further positions, since a hundred positions without a change prove little.
        higher_is_better: whether a larger value of the metric is better.
        by_task: whether the task's own limit on answers applies if ``min_unchanged`` is None.
        replaces_drop: whether ``min_unchanged`` replaces a limit on the metric's drop because there are no labels. A
            changed answer then counts by its expected loss of accuracy, and with a margin the loss must not exceed the
            limit, however few answers there are.
        reads: with ``replaces_drop``, the output that the metric reads; others may lose ``UNREAD`` of their answers, as
            much as is allowed for a model with labels. None if the limit applies to all outputs.
        types: the noise that a plan's types add to its simulation, for which every plan must leave room.
        counted: whether the metric is a share of its answers, see ``table.is_counted``.
        usual: the metric whose drop has a default limit that depends on the float model's value, see ``usual_drop``; a
            given limit scales that default.
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
    counted: bool = True
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
        """The limits on answers, or on a metric computed from them."""
        return self.max_drop, self.max_relative_drop, self.min_value, self.min_agreement, self.min_unchanged

    def lacks(self, outcome: Outcome, reference: Outcome, seconds: float | None = None) -> dict[str, float]:
        """By limit, how far it is missed, in its own unit; empty if all hold.

        Args:
            seconds: the predicted latency; None if not known.

        Raises:
            RecipeError: the budget limits a metric but none was measured, or agreement but no output has classes.
            DataError: a drop is limited but the float model's own metric is not finite.
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
        # a limit on NaN does not hold
        return {name: lack for name, lack in found.items() if not lack <= slack.get(name, _SLACK)}

    def on_subset(self, outcome: Outcome, reference: Outcome) -> Budget | None:
        """The limits of the budget that a subset of the samples can judge; None if it can judge none.

        If the metric is not finite on the subset, for example because it has no labels, its limits cannot be judged. If
        the metric is not a share of answers, a missed drop that may be due to chance is left out, and so is
        ``min_value`` if the float model itself misses it. If the outputs have NaN, all limits remain.
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
        """By how many dB an outcome must exceed a limit on the SQNR, since other samples will differ.

        It is the margin plus, if there is one, the distance from the mean noise of the batches to its upper confidence
        limit (95 percent, one-sided): 1.645 standard errors times the margin.
        """
        parts = [part for part in outcome.parts if math.isfinite(part)]
        mean = statistics.fmean(parts) if len(parts) > 1 else 0.0
        if self.margin <= 0 or mean <= 0:
            return self.margin
        error = statistics.stdev(parts) / math.sqrt(len(parts)) / mean
        return self.margin + 10 * math.log10(1 + ONE_SIDED * self.margin * error)

    def unproven(self, outcome: Outcome, reference: Outcome) -> Finding | None:
        """A finding that there are too few samples for a limit that is not missed; None if enough or one is missed."""
        few = too_few(self._share_limits(outcome, reference))
        missed = few is not None and replace(self, margin=0.0, max_ms=None).lacks(outcome, reference)
        return None if missed else few

    def allowed(self, one: ShareLimit) -> float:
        """The largest expected share p of lost answers for which the loss among n other answers is within the limit L.

        The number of lost answers has mean p n and standard deviation sqrt(n p (1 - p)). With a margin of 1, 95 percent
        of such draws must be within L: p + 1.645 margin sqrt(p (1 - p) / n) = L, so p is the lower end of Wilson's
        interval of L. n is the number of answers that decide the limit, or of those here if larger. If L is 1 or more,
        the result is L.
        """
        if one.limit >= 1:
            return one.limit
        count = max(enough(one.limit), one.answers, 1)
        return wilson(one.limit * count, count, ONE_SIDED * max(self.margin, 0.0))[0]

    def untold_drop(self, outcome: Outcome, reference: Outcome) -> ShareLimit | None:
        """The limit on a metric's drop if there are too few answers, one per sample, to judge it; else None."""
        limits = self._share_limits(outcome, reference)
        return next((one for one in limits if one.name in _DROPS and one.few and one.samples), None)

    def may_change(self, one: ShareLimit) -> float:
        """The largest share c of answers that may change for the drop on n other answers to be within its limit L.

        Each changed answer becomes wrong, right or neither. If as many become right as wrong on average, the drop has
        mean 0 and standard deviation sqrt(c / n). With a margin of 1, 95 percent of such draws must be within L: 1.645
        margin sqrt(c / n) = L. n is the number of answers that decide the limit, or of those here if larger.
        """
        count = max(enough(one.limit), one.answers)
        spread = ONE_SIDED * self.margin
        return min(count * (one.limit / spread) ** 2, 1.0) if spread > 0 else 1.0

    def left_of(self, one: ShareLimit) -> float:
        """``allowed`` for a plan's loss in simulation, less the share that ``types`` add."""
        allowed = self.allowed(one)
        return allowed if self.types is None else self.types.left(allowed)

    def most_noise(self, outcome: Outcome) -> float | None:
        """The largest noise-to-signal ratio of a plan's simulation by the SQNR limit; None without such a limit.

        Args:
            outcome: a similar outcome, whose variation between batches determines ``spare_db``.
        """
        if self.min_sqnr_db is None:
            return None
        noise = 10 ** (-(self.min_sqnr_db + self.spare_db(outcome)) / 10)
        return noise if self.types is None else max(noise - self.types.noise, 0.0)

    def worst_share(self, outcome: Outcome, reference: Outcome) -> ShareLimit | None:
        """The limit on a share of counted answers whose likely loss is largest relative to the limit; None if none."""
        counted = self._of_answers(outcome, reference)
        return max(counted, key=lambda one: one.likely / one.limit, default=None)

    def one_answer(self, outcome: Outcome, reference: Outcome) -> float:
        """By how much one answer changes ``distance`` through ``worst_share``; 0 if no share is limited."""
        worst = self.worst_share(outcome, reference)
        return self.distance({worst.name: 1 / worst.answers}) if worst is not None else 0.0

    def distance_by_answers(self, outcome: Outcome, reference: Outcome, lacks: Mapping[str, float]) -> float:
        """The part of the ``distance`` of ``lacks`` that is due to limits on shares of counted answers."""
        names = {one.name for one in self._of_answers(outcome, reference)}
        return self.distance({name: lack for name, lack in lacks.items() if name in names})

    def _of_answers(self, outcome: Outcome, reference: Outcome) -> list[ShareLimit]:
        told = self.on_subset(outcome, reference)
        limits = told._share_limits(outcome, reference) if told is not None else []
        return [one for one in limits if one.answers > 0 and one.limit > 0]

    def _share_limits(self, outcome: Outcome, reference: Outcome) -> list[ShareLimit]:
        """All limits on shares of answers, including those on the metric's drop."""
        found: list[ShareLimit] = []
        if self.max_drop is not None or self.max_relative_drop is not None:
            before = self._quality(reference)
            if not math.isfinite(before):
                raise DataError(
                    f"the float model's metric is {reference.metric:g} on these samples, so no drop can be computed",
                    remedy="give samples for which it is a number, or limit something else",
                )
            usual = self._usual_drop(outcome, abs(before))
            found += of_drop(
                self.drops(outcome, abs(before)),
                before - self._quality(outcome),
                before,
                answers=outcome.metric_answers,
                single=changed_answers(outcome) is not None,
                error=drop_error(reference.metric_left_out, outcome.metric_left_out),
                samples=outcome.metric_samples,
                alone=is_alone(outcome.metric_samples, reference.metric_left_out, outcome.metric_left_out),
                counted=self.counted,
                largest=usual.largest if usual is not None else None,
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
        """The limits on the metric's drop by name, in the metric's unit or relative.

        Args:
            outcome: an outcome with the number of labels behind the metric and their spread.
            own: the magnitude of the float model's value.
        """
        usual = self._usual_drop(outcome, own)
        limits = {"max_drop": self.max_drop, "max_relative_drop": self.max_relative_drop}
        known = {name: limit for name, limit in limits.items() if limit is not None}
        return known if usual is None else {"max_drop": usual.limit}

    def _usual_drop(self, outcome: Outcome, own: float) -> UsualDrop | None:
        """The default limit on the metric's drop; None if the recipe has a limit. Arguments as for ``drops``."""
        given = self.max_drop if self.max_drop is not None else self.max_relative_drop
        if self.usual is None or given is None:
            return None
        found, slack = usual_drop_by(self.usual, own, **outcome.behind_metric), given / METRICS[self.usual].drop
        return UsualDrop(found.limit * slack, found.largest * slack)

    def _least_of(self, tally: AnswerTally) -> float | None:
        least = self.min_unchanged
        if least is None or self.reads is None or self.reads in tally.part.outputs:
            return least
        return min(least, 1.0 - UNREAD)

    def _by_name(self, outcome: Outcome, reference: Outcome) -> dict[str, ShareLimit]:
        """By name, the limit that is missed by most."""
        found: dict[str, ShareLimit] = {}
        for one in sorted(self._share_limits(outcome, reference), key=lambda one: self._share_lack(one, outcome)):
            found[one.name] = one
        return found

    def _share_lack(self, one: ShareLimit, outcome: Outcome) -> float:
        """By how much a lost share, with the margin, exceeds its limit; 0 or less if it does not."""
        # answers that were nearly lost here may be lost on other samples
        likely = (one.expected or 0.0) - self.allowed(one) if self.margin > 0 else 0.0
        if one.few:
            # changes between equally likely answers are weighted already
            strict = self.replaces_drop and self.margin > 0 and one.lost > one.limit
            missed = strict or one.standing is LimitStanding.MISSED
            return max(one.lost - one.limit if missed else 0.0, likely, _LEAST_LACK if missed else 0.0)
        if one.name == "min_unchanged":
            spread = math.sqrt(max(one.lost * (1 - one.lost), 0.0) / max(one.independent or 0.0, 1.0))
            return max(one.lost + self.margin * spread - one.limit, likely)
        changed = changed_answers(outcome) if one.name in _DROPS else None
        error = one.error
        if error is None:
            error = outcome.standard_error if changed is None else math.sqrt(changed / one.answers)
        # a plan is not rejected for a limit that may be larger; with a margin, one within the limit is preferred
        limit = one.largest if one.rough and self.margin <= 0 and one.largest is not None else one.limit
        return max(one.lost + self.margin * error, self._flips(outcome)) - limit

    def _value_lack(self, outcome: Outcome) -> float:
        """By how much the metric is worse than ``min_value``; 0 or less if it is not."""
        least = self.min_value or 0.0
        return (least if self.higher_is_better else -least) - self._quality(outcome)

    def _quality(self, outcome: Outcome) -> float:
        """The metric with the sign for which larger is better; -inf if it is NaN.

        Raises:
            RecipeError: no metric was measured.
        """
        if outcome.metric is None:
            raise RecipeError("the budget limits a metric, and none was measured", remedy="set [evaluation] metric")
        value = outcome.metric if self.higher_is_better else -outcome.metric
        return -math.inf if math.isnan(value) else value

    def safely(self, outcome: Outcome, reference: Outcome) -> bool:
        """Whether the accuracy limits hold with twice the margin, so that a more accurate plan need not be searched."""
        return not replace(self, margin=2 * self.margin, max_ms=None).lacks(outcome, reference)

    def enough(self) -> int:
        """How many answers are needed to judge the limits on shares; 0 if the budget has none."""
        shares = [self.max_drop if self.higher_is_better else None,
                  None if self.min_agreement is None else 1.0 - self.min_agreement,
                  None if self.min_unchanged is None else 1.0 - self.min_unchanged]  # fmt: skip
        asked = [share for share in shares if share]
        return enough(min(asked)) if asked else 0

    def _flips(self, outcome: Outcome) -> float:
        """The expected share of argmax changes on other samples, from those observed and those that nearly happened."""
        if not self.margin or outcome.flips is None or outcome.agreement is None or not self.higher_is_better:
            return 0.0
        # errors have heavier tails than the normal distribution that the estimate assumes: on classifiers with outlier
        # channels, up to twice as many argmaxes changed on unseen samples
        expected = outcome.flips * (1 + self.margin)
        seen = outcome.positions * (1 - outcome.agreement)
        return (seen + _PRIOR * expected) / (outcome.positions + _PRIOR)

    def distance(self, lacks: dict[str, float]) -> float:
        """How far a plan is from the budget, as one number: the sum of all misses, each divided by its usual size."""
        drop = 0.01 if self.higher_is_better or not self.max_drop else self.max_drop
        usual = {"max_drop": drop, "min_value": 0.01, "min_sqnr_db": 3.0, "min_agreement": 0.01, "min_unchanged": 0.01,
                 "max_relative_drop": 0.01, "sqnr_db": 3.0, "variation_db": 3.0,
                 "max_ms": max(self.max_ms or 0.0, 1e-9) / 10}  # fmt: skip
        total = sum(lack / usual[name] for name, lack in lacks.items())
        return total if math.isfinite(total) else math.inf


def judged_by_task(limits: Mapping[str, float | None], answers: Answers | None, measured: bool) -> bool:
    """Whether the task's own limit on answers applies because no given limit covers the same.

    Args:
        limits: the limits by their names in the budget; None if not given.
        answers: reads the outputs by their tasks; None if there is no task.
        measured: whether a metric is measured with labels.
    """
    if answers is None or limits.get("min_unchanged") is not None:
        return False
    if measured and any(limits.get(name) is not None for name in ("max_drop", "max_relative_drop", "min_value")):
        return False
    # with one argmax per sample, agreement is the share of unchanged answers; for other tasks it is not
    single = all(part.task == "classification" for part in answers.parts)
    return not (single and limits.get("min_agreement") is not None)


def changed_answers(outcome: Outcome) -> float | None:
    """The share of a metric's answers that change; None if the task reads other answers."""
    of_metric = [one for one in outcome.tallies if outcome.metric_answers and one.answers == outcome.metric_answers]
    return max((1 - one.share for one in of_metric), default=None)


def _slack(one: ShareLimit) -> float:
    """The tolerance of a limit.

    For errors it is relative, because their unit may be of any size; for lost answers it is below one answer.
    """
    if one.answers <= 0:
        return max(_SLACK * one.limit, one.rounding)
    return _SLACK if one.lost > one.limit + _SLACK else _SLACK_OF_ANSWERS
