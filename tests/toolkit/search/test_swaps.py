from __future__ import annotations

from toolkit.search.swaps import Swaps


def test_the_plan_that_gains_most_and_may_meet_the_budget_comes_first():
    swaps = Swaps({"a": 1.0, "b": 0.01, "c": 0.02}, {"a": 1.0, "b": 5.0, "c": 1.0})
    swaps.saw(0.5, meets=True)
    swaps.saw(1.5, meets=False)
    assert swaps.best(["a", "b", "c"], 0.1, lambda plan: False) == ["a"]


def test_one_dear_layer_goes_back_for_two_cheap_ones():
    swaps = Swaps({"dear": 0.5, "x": 0.3, "y": 0.3}, {"dear": 10.0, "x": 1.0, "y": 1.0})
    swaps.saw(0.6, meets=True)
    swaps.saw(0.9, meets=False)
    assert swaps.best(["dear"], 0.6, lambda plan: False) == ["x", "y"]


def test_a_layer_that_harmed_more_than_its_own_noise_is_not_proposed_again():
    swaps = Swaps({"a": 0.01, "b": 0.01}, {"a": 2.0, "b": 1.0})
    swaps.saw(0.1, meets=True)
    known = {frozenset({"a", "b"})}
    first = swaps.best(["a", "b"], 0.1, known.__contains__)
    assert first == []
    known.add(frozenset())
    assert swaps.best(["a", "b"], 0.1, known.__contains__) == ["b"]
    # together with b alone it was ten times as loud: a is to blame, and so it stays
    swaps.saw(1.0, meets=False)
    swaps.learn(["a", "b"], 0.1, ["b"], 1.0)
    known.add(frozenset({"b"}))
    assert swaps.best(["a", "b"], 0.1, known.__contains__) == ["a"]
