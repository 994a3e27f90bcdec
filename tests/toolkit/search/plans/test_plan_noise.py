from __future__ import annotations

import math

import numpy as np
import pytest

from toolkit.search.plans.demands import Demand, Demands
from toolkit.search.plans.plan_noise import NoiseLimit, PlanNoise
from toolkit.search.plans.proposals import Proposals


def level(noise: PlanNoise, *kept: str) -> tuple[float, float]:
    """The noise that is expected of a plan, and its standard deviation in nepers."""
    middle, spread = noise.of(noise.quantized(kept)[None])
    return math.exp(middle[0]), float(spread[0])


def proposals_of(noise: PlanNoise, limit: NoiseLimit, price: dict[str, float], caution: float = 1.0) -> Proposals:
    """Proposals where one limit is on the noise of the whole model."""
    return Proposals(Demands(noise.names, [Demand(noise, limit)]), price, caution)


def test_before_anything_ran_noise_is_the_sum_of_harms():
    noise = PlanNoise({"a": 1.0, "b": 0.1, "c": math.inf})
    assert level(noise, "c")[0] == pytest.approx(1.1) and level(noise, "a", "c")[0] == pytest.approx(0.1)
    assert level(noise)[0] > 100


def test_a_plan_that_ran_tells_of_plans_like_it():
    noise = PlanNoise({"a": 1.0, "b": 1.0, "c": 1e-3})
    before = level(noise, "a")[1]
    noise.observe([], 4.0)
    assert level(noise)[0] == pytest.approx(4.0, rel=0.05) and level(noise)[1] < 0.1
    assert level(noise, "c")[0] == pytest.approx(4.0, rel=0.05)
    assert 1.2 < level(noise, "a")[0] < 2 and level(noise, "a")[1] < before
    # what ran on few samples is believed less
    rough = PlanNoise({"a": 1.0, "b": 1.0, "c": 1e-3})
    rough.observe([], 4.0, 0.5)
    assert 2.0 < level(rough)[0] < 3.6


def test_plans_give_harms_that_were_measured_on_samples_showing_nothing_their_unit():
    # a class has all of the probability in the sample that layers were measured on, and not in all others
    noise = PlanNoise({"a": 4e-12, "b": 2e-12, "c": 1e-12, "d": 1e-12})
    noise.observe(["d"], 5e-12, 0.3, as_harm=True)
    assert 5e-12 < level(noise)[0] < 9e-12
    noise.observe([], 8e-3)
    assert level(noise)[0] == pytest.approx(8e-3, rel=0.2) and level(noise)[1] < 0.1
    assert 2e-3 < level(noise, "a")[0] < 6e-3
    # what ran where the layers did tells how they add up, and not of the unit
    assert level(noise, "d")[0] < level(noise, "c")[0] < level(noise)[0]
    limit = NoiseLimit(8e-3, 3e-3, False)
    assert proposals_of(noise, limit, dict.fromkeys("abcd", 1.0)).best("abcd", 4.0, [frozenset()])[0] == ["a", "b"]


def test_a_harm_up_to_four_times_off_keeps_its_unit():
    noise = PlanNoise({"a": 1.0, "b": 1.0})
    noise.observe([], 7.9)
    assert noise.harm.tolist() == [1.0, 1.0]
    noise.observe([], 0.1)
    assert noise.harm.tolist() == pytest.approx([0.2, 0.2])


def test_two_layers_that_are_only_good_together_stay_together():
    noise = PlanNoise({"a": 1.0, "b": 1.0, "c": 0.1})
    noise.observe([], 0.15)
    noise.observe(["a"], 1.1)
    noise.observe(["b"], 1.1)
    proposals = proposals_of(noise, NoiseLimit(1.0, 0.12, False), {"a": 1.0, "b": 1.0, "c": 1.0})
    assert proposals.best("abc", 3.0, [frozenset()])[0] == ["c"]


def test_who_wants_a_plan_soon_is_offered_one_that_is_likely_to_do():
    harm = {f"layer{n}": 1.0 for n in range(12)}
    noise, limit, price = PlanNoise(harm), NoiseLimit(12.0, 5.0, False), dict.fromkeys(harm, 1.0)
    bold, careful = (proposals_of(noise, limit, price, caution) for caution in (1.0, 3.0))
    first, sure = (one.best(list(harm), 12.0, [])[0] for one in (bold, careful))
    assert len(sure) > len(first) and bold.chance(sure) > max(bold.chance(first), 0.8)


def test_the_limit_lies_between_what_met_the_budget_and_what_did_not():
    limit = NoiseLimit(1.0, None, True)
    at = np.log([0.5, 0.05, 0.0005])
    before = limit.chance(at, np.zeros(3))
    assert (np.diff(before) > 0).all()
    for _ in range(3):
        limit.observe(0.1, meets=False)
    limit.observe(0.01, meets=True)
    found = limit.chance(at, np.zeros(3))
    assert found[0] < 0.05 and found[0] < found[1] < found[2] and found[2] > 0.95
    exact = NoiseLimit(1.0, 0.01, False).chance(np.log([0.011, 0.009]), np.full(2, 0.01))
    assert exact[0] < 1e-3 and exact[1] > 0.999


def test_the_plan_that_gains_most_and_may_meet_the_budget_comes_first():
    proposals = proposals_of(
        PlanNoise({"a": 1.0, "b": 0.01, "c": 0.02}), NoiseLimit(1.0, 0.5, False), {"a": 1.0, "b": 5.0, "c": 1.0}
    )
    assert proposals.best(["a", "b", "c"], 7.0, [])[0] == ["a"]
    assert ["a"] not in proposals.best(["a", "b", "c"], 7.0, [frozenset("a")])
    assert not proposals.best(["a"], 1.0, [frozenset(), frozenset("a")])


def test_what_is_promised_is_the_gain_of_the_best_plan_times_its_chance_as_a_share_of_the_work():
    noise, price = PlanNoise({"a": 1.0, "b": 0.01, "c": 0.02}), {"a": 1.0, "b": 5.0, "c": 4.0}
    proposals = proposals_of(noise, NoiseLimit(1.0, 0.5, False), price)
    assert proposals.promise(["a", "b", "c"], 10.0, []) == pytest.approx(0.9, abs=0.03)
    # what is left is one layer that costs too much
    assert proposals.promise(["a"], 1.0, [frozenset("a")]) < 0.02
    assert proposals.promise(["a"], 1.0, [frozenset(), frozenset("a")]) == 0


def test_one_dear_layer_goes_back_for_two_cheap_ones():
    noise = PlanNoise({"dear": 0.5, "x": 0.3, "y": 0.3})
    noise.observe(["dear"], 0.6)
    proposals = proposals_of(noise, NoiseLimit(1.1, 0.7, False), {"dear": 10.0, "x": 1.0, "y": 1.0})
    assert set(proposals.best(["dear"], 10.0, [frozenset(["dear"])])[0]) <= {"x", "y"}


def test_a_thousand_layers_take_no_table_of_their_cubes():
    random = np.random.default_rng(0)
    harm = dict(zip(map(str, range(1000)), random.lognormal(0, 2, 1000)))
    noise = PlanNoise(harm)
    noise.observe([], sum(harm.values()))
    proposals = proposals_of(noise, NoiseLimit(1.0, sum(harm.values()) / 10, False), dict.fromkeys(harm, 1.0))
    best = proposals.best(list(harm), 1000.0, [])[0]
    assert 0 < len(best) < 500 and sum(harm[name] for name in best) > 0.5 * sum(harm.values())


def test_how_many_answers_one_plan_loses_says_at_which_noise_few_enough_are_lost():
    limit = NoiseLimit(1.0, None, True)
    limit.observe_lost(1.0, lost=0.1, answers=64, most=0.01)
    near, between, far = limit.chance(np.log([0.7, 0.1, 0.001]), np.zeros(3))
    assert near < 0.2 < between < 0.8 < far
    limit.observe_lost(0.01, lost=0.0, answers=64, most=0.01)
    assert limit.chance(np.log([0.01]), np.zeros(1))[0] > 0.4
    before = limit.chance(np.log([0.1]), np.zeros(1))[0]
    limit.observe_lost(0.5, lost=0.0, answers=0, most=0.01)
    assert limit.chance(np.log([0.1]), np.zeros(1))[0] == before


def test_shares_that_are_expected_say_more_than_counts():
    """Twice the share that is allowed is a quarter of the noise too much, if shares grow with its root."""
    counted, expected = NoiseLimit(1.0, None, True), NoiseLimit(1.0, None, True)
    for noise, share in ((1.0, 0.02), (0.5, 0.014), (0.125, 0.007)):
        counted.observe_lost(noise, share, 64, 0.005)
        expected.observe_expected(noise, share, 0.005)
    at = np.log([0.16, 0.0625, 0.02])
    near, between, far = expected.chance(at, np.zeros(3))
    assert near < 0.1 < between < 0.8 < far
    assert far - near > np.ptp(counted.chance(at, np.zeros(3))) + 0.1
    # far from the limit a share says that it is far
    least = NoiseLimit(1.0, None, True)
    least.observe_expected(0.01, 0.0, 0.005)
    assert least.chance(np.log([0.01]), np.zeros(1))[0] > 0.9 and least.chance(np.log([3.0]), np.zeros(1))[0] < 0.5
