"""The reasons for kept layers fit the numbers that the search measured."""

from __future__ import annotations

import math

import pytest

from tests.toolkit.search.planted import chain
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.outcome import Outcome
from toolkit.search.search_words import kept_reason, work_shares
from toolkit.search.sensitivity import GroupResult, Sensitivity


def level(db: float, **more: float) -> Outcome:
    noise = 0.0 if math.isinf(db) else 10 ** (-db / 10)
    rest = {"agreement": 1.0, **more}
    return Outcome(noise=noise, cosine=1.0, kl=0.0, flips=0.0, positions=100, **rest)


def reason(alone: float, without: float, full: float, budget: Budget, **more: float) -> str:
    group = GroupResult("a", "Conv", level(alone, **more), level(without, **more))
    return kept_reason("a", "int8", Sensitivity("exact", [group], level(full)), budget, level(math.inf, **more), 0.003)


def test_a_layer_that_misses_the_budget_by_itself():
    text = reason(24.0, 38.0, 23.0, Budget(min_sqnr_db=30, margin=1))
    assert text.startswith("int8 misses the accuracy budget with it: alone it leaves 24.0 dB at the output")
    assert "below the 30 dB asked for and their margin of 1 dB" in text
    assert text.endswith("without it the others leave 38.0 dB instead of 23.0 dB")


def test_winners_lost_are_named_where_they_are_what_is_missed():
    text = reason(45.1, 40.1, 38.9, Budget(min_agreement=0.99), agreement=0.984)
    assert "45.1 dB at the output, with 98.4% of the winners where 99.0% are asked for; without it" in text


def test_a_layer_that_meets_the_budget_by_itself_is_kept_for_what_all_do_together():
    text = reason(77.4, 29.7, 29.5, Budget(min_sqnr_db=35))
    assert "all layers in int8 together miss the accuracy budget (29.5 dB at the output)" in text
    assert "alone this one leaves 77.4 dB, within the budget" in text and "0.3% of the multiply-accumulates" in text
    assert "misses the accuracy budget with it" not in text


def test_a_layer_without_which_the_rest_is_worse_is_hidden_by_others():
    text = reason(77.4, 29.5, 29.7, Budget(min_sqnr_db=35))
    assert text.endswith("others hide its harm: keeping it alone takes the whole from 29.7 dB to 29.5 dB")
    assert "instead of" not in text


def test_a_metric_that_was_not_measured_is_not_claimed_to_be_kept():
    assert "within the budget" not in reason(77.4, 29.7, 29.5, Budget(max_drop=0.01))
    assert "within the budget" in reason(77.4, 29.7, 29.5, Budget(max_drop=0.01), metric=0.9)
    assert "leaves no error, within" in reason(math.inf, 29.7, 29.5, Budget(min_sqnr_db=35))


def test_without_measurements_only_what_is_known_is_said():
    budget, exact = Budget(min_sqnr_db=30), level(math.inf)
    assert "is faster" in kept_reason("a", "int8", None, budget, exact, None)
    empty = Sensitivity("fast", [GroupResult("a", "Conv")], level(20))
    assert kept_reason("a", "int8", empty, budget, exact, None) == "int8 misses the accuracy budget with it"


def test_shares_of_the_arithmetic_add_up():
    model = chain(4)
    shape = ShapeProfile("one", {"x": Extent((1, 16), (2, 16), (4, 16))})
    shares = work_shares(model, Profiles((shape,)))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(shares[f"layer{i}"] == pytest.approx(0.25) for i in range(4))
    assert work_shares(model, Profiles()) == {}
