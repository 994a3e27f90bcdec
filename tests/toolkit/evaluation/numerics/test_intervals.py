"""The one rule for limits on shares of answers."""

from __future__ import annotations

import pytest

from toolkit.evaluation.comparison.share_limits import ShareLimit, too_few
from toolkit.evaluation.numerics.intervals import LimitStanding, enough, standing, variance_bound, wilson

MET, UNPROVEN, MISSED = LimitStanding


@pytest.mark.parametrize(
    ("count", "of", "low", "high"), [(95, 96, 0.9434, 0.9982), (0, 20, 0.0, 0.1611), (10, 10, 0.7225, 1.0)]
)
def test_wilsons_interval_has_the_published_bounds(count, of, low, high):
    assert wilson(count, of) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize(
    ("lost", "answers", "limit", "expected"),
    [
        (1, 96, 0.01, UNPROVEN),  # a limit finer than one answer refuses nothing
        (0, 96, 0.01, UNPROVEN),  # nor do few answers prove it
        (2, 96, 0.01, MISSED),
        (0, 20, 0.01, UNPROVEN),
        (2, 20, 0.01, MISSED),
        (1, 13, 0.01, UNPROVEN),
        (1, 2, 0.01, MISSED),  # one of two is hardly one in a hundred
        (20, 2000, 0.01, MET),
        (21, 2000, 0.01, MISSED),
        (0, 300, 0.01, MET),
        (4, 300, 0.01, MISSED),
        (-3, 300, 0.01, MET),
        (2, 12, 0.1, MISSED),
        (1, 12, 0.1, UNPROVEN),
        (0, 5, 0.0, MET),
        (1, 5000, 0.0, MISSED),
        (0, 0, 0.01, MISSED),
    ],
)
def test_a_limit_on_a_share(lost, answers, limit, expected):
    assert standing(lost, answers, limit) is expected


def test_how_many_answers_it_takes():
    assert standing(0, 10, 1e-320) is LimitStanding.MET and standing(1, 10, 1e-320) is LimitStanding.MISSED
    assert [enough(limit) for limit in (0.01, 0.05, 0.1, 0.0, 1e-320)] == [300, 60, 30, 0, 0]


def test_answers_that_go_wrong_together_prove_less():
    # 40 of 1,000 tokens, all of one text in 25: as few as 25 independent ones could have lost that by chance
    assert standing(40, 280, 0.05) is MISSED
    assert ShareLimit("min_unchanged", 0.0036, 280, 0.01, independent=25).interval[1] > 0.1


def test_the_limit_that_needs_most_is_named():
    found = too_few([ShareLimit("max_drop", 0.0, 96, 0.01), ShareLimit("min_agreement", 0.0, 20, 0.05),
                     ShareLimit("min_unchanged", 0.0, 9000, 0.01)])  # fmt: skip
    assert (found.values["limit"], found.values["answers"], found.values["enough"]) == ("max_drop", 96, 300)
    # one that is not decided is worse than one that is only unproven
    found = too_few([ShareLimit("min_unchanged", 0.0, 8, 0.01), ShareLimit("min_unchanged", 0.125, 8, 0.01)])
    assert found.values["lost"] == 0.125
    assert too_few([ShareLimit("max_drop", 0.0, 9000, 0.01)]) is None
    assert too_few([ShareLimit("max_drop", 0.5, 96, 0.01)]) is None


def test_a_metric_that_is_no_share_is_held_by_its_value():
    assert ShareLimit("max_drop", 0.4, 0, 0.5).standing is MET
    assert ShareLimit("max_drop", 0.6, 0, 0.5).standing is MISSED


@pytest.mark.parametrize(
    ("count", "quantile"),
    [(2, 0.00393214), (3, 0.1025866), (8, 2.167350), (16, 7.260944), (100, 77.04633), (1001, 927.5944)],
)
def test_a_variance_is_known_up_to_its_chi_squared_limit(count, quantile):
    """5 % quantiles of chi-squared, from tables."""
    assert variance_bound(count) == pytest.approx(count / quantile, rel=1e-5)
    assert variance_bound(count) > variance_bound(count + 1) > 1


def test_one_value_says_nothing_of_a_variance():
    assert variance_bound(1) == float("inf")
