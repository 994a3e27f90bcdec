"""Other ranges than those in use are taken where they are better by more than chance."""

from __future__ import annotations

from dataclasses import replace
from threading import Barrier
from time import sleep

import pytest

from tests.conftest import HANG
from tests.toolkit.search.planted import racing_search
from toolkit.evaluation.budget import Budget
from toolkit.search.budget.spending import Spending

LOUD_AND_SOFT = (1.0, 9.0, 0.3, 4.0, 0.1, 2.0, 30.0, 0.6)
BY_CHANCE = {True: (1.0, 9.0, 0.3, 4.0, 0.1, 2.0, 21.0, 0.6), False: tuple(0.8 * one for one in LOUD_AND_SOFT)}
"""The noise of batches with other ranges: about a fifth less in all, by chance (in one batch alone) or not."""


def racing_with(noises, monkeypatch):
    """A search in which plans with other ranges than calibration's have these noises on its batches."""
    racing, seen = racing_search(Budget(min_sqnr_db=60), narrower=1.05)
    order = racing.simulation.runner.order

    def on(key, kept, config, count):
        parts = [1e-3 * (noises if racing.amax else LOUD_AND_SOFT)[at] for at in sorted(order[:count])]
        outcome = replace(seen.outcome, noise=sum(parts) / count, parts=tuple(parts))
        ranges, lacks = dict(racing.amax), {"min_sqnr_db": 0.1}
        return replace(seen, kept=tuple(kept), amax=ranges, outcome=outcome, lacks=lacks, batches=count, clear=None)

    monkeypatch.setattr(racing, "_on", on)
    return racing


@pytest.mark.parametrize("by_chance", [True, False])
def test_ranges_that_win_a_race_by_chance_are_not_taken(by_chance, monkeypatch):
    racing = racing_with(BY_CHANCE[by_chance], monkeypatch)
    taken = racing._best_method()
    assert taken.amax == racing.amax and (racing.amax == {}) is by_chance


@pytest.mark.parametrize("by_chance", [True, False])
def test_ranges_that_suit_a_layer_alone_are_taken_where_all_layers_are_surely_quieter_with_them(by_chance, monkeypatch):
    """Not where one batch makes it so: with these ranges, every later plan would be worse."""
    racing = racing_with(BY_CHANCE[by_chance], monkeypatch)
    plan = racing._evaluate((), sure=True)
    sensitivity = racing._sense()
    harm = {group.name: group.alone.noise for group in sensitivity.groups}
    halved = [replace(group.alone, noise=group.alone.noise / 2, parts=tuple(one / 2 for one in group.alone.parts))
              for group in sensitivity.groups]  # fmt: skip
    by_name = {group.name: alone for group, alone in zip(sensitivity.groups, halved)}
    monkeypatch.setattr(racing, "_tried", lambda asked: [by_name[name] for name, _ in asked])
    found = racing._better_ranges(plan, sensitivity, harm, racing._measure(sensitivity.full))
    assert (found is plan) is (racing.amax == {}) is by_chance


def test_the_plans_of_a_round_run_side_by_side_and_pay_as_one_after_the_other(monkeypatch):
    found = []
    for threads in (1, 2):
        racing, _ = racing_search(Budget(min_sqnr_db=60), narrower=1.05)
        runner, met = racing.simulation.runner, Barrier(2, timeout=HANG)
        for known in racing.simulation.ranges.tensors.values():
            known.diagnosis["amax"]["mse"] = known.amax / 1.1
        racing.log.found.clear()
        del runner.base
        runner.threads, compute = threads, runner.compute

        def first(state, indices, keep, runner=runner, compute=compute, met=met, threads=threads):
            if state.keeps:
                # time enough for others to begin
                sleep(0.05)
            if threads > 1 and 0 < len(indices) < 8 and not state._parts and not state.keeps:
                # where it starts would depend on time while the base state keeps its cuts
                assert runner.base.keeps and len(runner.base._parts) >= len(indices)
                met.wait()
            return compute(state, indices, keep)

        monkeypatch.setattr(runner, "compute", first)
        racing._best_method()
        found.append((racing.plans, racing.spending.priced))
    assert found[0] == found[1] and len(found[0][0]) == 3


def test_plans_that_might_not_be_paid_for_are_not_run_side_by_side(monkeypatch):
    racing, _ = racing_search(Budget(min_sqnr_db=60), narrower=1.05)
    racing.log.found.clear()
    ran = []
    monkeypatch.setattr("toolkit.search.plans.evaluations.run_side_by_side", lambda *given: ran.append(given))
    ranges = [{}, dict.fromkeys(racing.simulation.ranges.tensors, 1.0)]
    racing._request((), ranges, until=1)
    assert len(ran) == 1
    racing.spending = Spending(1.0)
    racing._request((), ranges, until=1)
    assert len(ran) == 1
