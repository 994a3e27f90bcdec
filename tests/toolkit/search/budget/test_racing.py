from __future__ import annotations

import math
from dataclasses import replace

import pytest

from toolkit.base.errors import DataError
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.racing import clear, rounds, significantly_less_noisy

FLOAT = Outcome(0.0, metric=1.0)


def noisy(*parts: float) -> Outcome:
    return Outcome(sum(parts) / len(parts), parts=parts)


@pytest.mark.parametrize(("batches", "found"), [(1, [1]), (3, [1, 3]), (8, [1, 2, 4, 8]), (96, [12, 24, 48, 96])])
def test_rounds_end_with_all_batches(batches, found):
    assert rounds(batches) == found


def test_noise_that_varies_little_from_batch_to_batch_tells_early():
    budget = Budget(min_sqnr_db=30)
    assert clear(budget, noisy(0.0005, 0.00051, 0.00049), FLOAT, 0.125) is True
    assert clear(budget, noisy(0.002, 0.0021, 0.0019), FLOAT, 0.125) is False
    assert clear(budget, noisy(0.0009, 0.00095), FLOAT, 0.125) is None
    # the same mean from batches that differ tells nothing
    assert clear(budget, noisy(0.0001, 0.0009), FLOAT, 0.125) is None


def test_a_share_of_answers_is_missed_early_and_never_met_early():
    budget = Budget(min_agreement=0.98)
    good = Outcome(1e-6, agreement=1.0, positions=4000, flips=0.0, agreement_error=0.0)
    bad = Outcome(0.5, agreement=0.5, positions=4000, flips=0.5, agreement_error=0.01)
    assert clear(budget, good, FLOAT, 0.5) is None and clear(budget, bad, FLOAT, 0.125) is False


def test_a_limit_on_the_metric_itself_is_left_to_all_samples():
    outcome = Outcome(1e-6, metric=0.5, agreement=1.0, positions=10)
    assert clear(Budget(min_value=0.9), outcome, FLOAT, 0.125) is None


@pytest.mark.parametrize("limit", [{"max_drop": 0.01}, {"max_relative_drop": 0.01}])
def test_samples_without_labels_leave_a_metrics_limit_open(limit):
    """0 of 0 answers is no value to hold another against: more samples are asked, and what noise tells counts."""
    nothing = Outcome(0.0, metric=math.nan)
    outcome = Outcome(0.002, metric=math.nan, parts=(0.002, 0.0021, 0.0019))
    assert clear(Budget(**limit), outcome, nothing, 0.125) is None
    both = Budget(**limit, min_sqnr_db=30)
    assert clear(both, outcome, nothing, 0.125) is False
    assert clear(both, noisy(0.0005, 0.00051, 0.00049), nothing, 0.125) is None
    # outputs that are no numbers are no plan to go on with
    broken = Outcome(math.inf, metric=math.nan)
    assert clear(Budget(**limit), broken, FLOAT, 0.125) is False
    with pytest.raises(DataError, match="no drop can be computed"):
        Budget(**limit).lacks(outcome, nothing)


def scored(value, left_out, **figures):
    """A metric that is no share of answers, as mean IoU, with its value without each group of the samples."""
    return Outcome(0.002, metric=value, metric_left_out=tuple(left_out), metric_samples=8 * len(left_out), **figures)


@pytest.mark.parametrize("limit", [{"max_drop": 0.01}, {"max_relative_drop": 0.0125}])
def test_a_miss_of_a_metric_that_is_no_share_counts_on_a_part_where_samples_do_not_make_it_alone(limit):
    """Of a drop of 3 points that one group of four makes nobody knows whether others make it."""
    reference, budget = scored(0.8, [0.8] * 4), Budget(**limit, margin=1.0)
    by_one = scored(0.77, [0.8, 0.76, 0.76, 0.76])
    by_all = scored(0.74, [0.741, 0.739, 0.74, 0.74])
    assert budget.lacks(by_one, reference) and budget.lacks(by_all, reference)
    assert budget.on_subset(by_one, reference) is None and budget.on_subset(by_all, reference) is budget
    assert clear(budget, by_one, reference, 0.125) is None and clear(budget, by_all, reference, 0.5) is False
    beside = Budget(**limit, min_sqnr_db=30, margin=1.0).on_subset(by_one, reference)
    assert beside is not None and beside.lacks(by_one, reference).keys() == {"min_sqnr_db"}
    # a drop within the limit stays what it is, and so does a share of answers, which has a rule of its own
    kept = scored(0.8, [0.8, 0.801, 0.799, 0.8])
    assert budget.on_subset(kept, reference) is budget
    share = replace(by_one, metric_answers=64)
    assert budget.on_subset(share, reference) is budget
    # one labelled sample says nothing, however far it drops
    alone = [replace(one, metric_left_out=(), metric_samples=1) for one in (by_all, reference)]
    assert budget.on_subset(*alone) is None and clear(budget, *alone, 0.125) is None


def test_a_limit_on_the_metric_itself_counts_on_a_part_that_the_float_model_meets_it_on():
    budget, outcome = Budget(min_value=0.9, min_sqnr_db=20), Outcome(1e-6, metric=0.85)
    assert budget.on_subset(outcome, Outcome(0.0, metric=0.95)) is budget
    told = budget.on_subset(outcome, Outcome(0.0, metric=0.88))
    assert told is not None and told.min_value is None and told.min_sqnr_db == 20
    falling = Budget(min_value=0.2, higher_is_better=False)
    assert falling.on_subset(outcome, Outcome(0.0, metric=0.3)) is None
    assert falling.on_subset(outcome, Outcome(0.0, metric=0.1)) is falling


def test_less_noise_on_the_same_batches_is_more_than_chance_where_most_of_them_say_so():
    loud_and_soft = (1.0, 9.0, 0.3, 4.0, 0.1, 2.0, 30.0, 0.6)
    a_fifth_less = tuple(
        noise * factor for noise, factor in zip(loud_and_soft, (0.8, 0.78, 0.83, 0.8, 0.7, 0.81, 0.8, 0.9))
    )
    assert significantly_less_noisy(a_fifth_less, loud_and_soft) and not significantly_less_noisy(
        loud_and_soft, a_fifth_less
    )
    # the mean is as much less, but one batch alone makes it so
    one_batch = (*loud_and_soft[:6], 21.0, loud_and_soft[7])
    assert sum(one_batch) < sum(a_fifth_less) * 1.02 and not significantly_less_noisy(one_batch, loud_and_soft)
    # two batches need to agree, and one tells no error at all: it takes 1 dB
    assert significantly_less_noisy((0.5, 5.2), (1.0, 10.0)) and not significantly_less_noisy((0.5, 9.0), (1.0, 10.0))
    assert significantly_less_noisy((0.79,), (1.0,)) and not significantly_less_noisy((0.81,), (1.0,))


def test_a_batch_that_is_infinite_in_one_state_alone_decides_and_one_in_both_does_not():
    some = (1.0, 2.0, 3.0, math.inf)
    less = tuple(noise / 2 for noise in some)
    assert (
        significantly_less_noisy(less, some)
        and not significantly_less_noisy(some, some)
        and not significantly_less_noisy((), ())
    )
    assert significantly_less_noisy(some, (1.0, 2.0, math.inf, math.inf))
    assert not significantly_less_noisy((*less[:2], math.inf, math.inf), some)
    # what is silent in both says nothing
    assert significantly_less_noisy((0.0, 0.7), (0.0, 1.0)) and not significantly_less_noisy((0.0, 0.9), (0.0, 1.0))
    assert not significantly_less_noisy((0.0, 0.0), (0.0, 0.0)) and not significantly_less_noisy(
        (math.inf,), (math.inf,)
    )
