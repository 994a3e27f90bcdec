"""The reasons for kept layers fit the numbers that the search measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.toolkit.search.planted import chain
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.contract.findings import Code, Finding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.graph.layers.work import facts_at_opt, work_of
from toolkit.report.findings import sentence
from toolkit.search.codes import KeptCode
from toolkit.search.plans.float_reason import float_reason
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.sensitivity.measure import GroupResult, Sensitivity


def level(db: float, **more: float) -> Outcome:
    noise = 0.0 if math.isinf(db) else 10 ** (-db / 10)
    rest = {"agreement": 1.0, **more}
    return Outcome(noise=noise, cosine=1.0, kl=0.0, flips=0.0, positions=100, **rest)


def found(
    sensitivity: Sensitivity | None,
    idle: tuple[str, ...] = (),
    share: float = 0.5,
    others: tuple[SearchedPlan, ...] = (),
    **more: float,
) -> SearchResult:
    exact = level(math.inf, **more)
    best = SearchedPlan(("a",), {}, exact, {}, 1.0, share)
    return SearchResult(best, [*others, best], 1 + len(others), sensitivity, exact, idle=idle)


def all_quantized(**more: Any) -> SearchedPlan:
    return SearchedPlan((), {}, level(40), **{"lacks": {}, "seconds": 2.0, "quantized": 1.0, **more})


def reason(alone: float, without: float, full: float, budget: Budget, **more: float) -> Finding:
    group = GroupResult("a", "Conv", level(alone, **more), level(without, **more))
    return float_reason("a", "int8", found(Sensitivity("exact", [group], level(full)), **more), budget, 0.003)


def test_a_layer_that_misses_the_budget_by_itself():
    why = reason(24.0, 38.0, 23.0, Budget(min_sqnr_db=30, margin=1))
    assert why.code is Code.KEPT_ALONE_MISSES
    levels = [why.values[name] for name in ("alone_db", "without_db", "all_db", "min_sqnr_db", "margin_db")]
    assert levels == pytest.approx([24.0, 38.0, 23.0, 30.0, 1.0])
    assert why.values["agreement"] is None


def test_winners_lost_are_named_where_they_are_what_is_missed():
    why = reason(45.1, 40.1, 38.9, Budget(min_agreement=0.99), agreement=0.984)
    assert (why.values["agreement"], why.values["min_agreement"]) == (0.984, 0.99)
    assert why.values["alone_db"] == pytest.approx(45.1) and why.values["min_sqnr_db"] is None


def test_a_layer_that_meets_the_budget_by_itself_is_kept_for_what_all_do_together():
    why = reason(77.4, 29.7, 29.5, Budget(min_sqnr_db=35))
    assert why.code is Code.KEPT_TOGETHER_MISSES and why.values["share"] == 0.003
    assert [why.values["all_db"], why.values["alone_db"]] == pytest.approx([29.5, 77.4])


def test_on_how_many_samples_a_layer_keeps_the_budget_by_itself_is_said():
    # fewer than those that the plan is decided on, where it may be lost
    group = GroupResult("a", "Conv", level(77.4), level(29.7))
    measured = Sensitivity("fast", [group], level(29.5), samples=4)
    why = float_reason("a", "int8", found(measured), Budget(min_sqnr_db=35), 0.003)
    assert why.values["samples"] == 4
    assert "77.4 dB, within the budget on the 4 samples that single layers were measured on, and" in sentence(why)


def test_a_layer_without_which_the_rest_is_worse_is_hidden_by_others():
    hidden, plain = reason(77.4, 29.5, 29.7, Budget(min_sqnr_db=35)), reason(77.4, 29.7, 29.5, Budget(min_sqnr_db=35))
    assert "hide" in sentence(hidden) and "instead of" not in sentence(hidden)
    assert "hide" not in sentence(plain) and "29.7 dB instead of 29.5 dB" in sentence(plain)


def test_a_metric_that_was_not_measured_is_not_claimed_to_be_kept():
    assert reason(77.4, 29.7, 29.5, Budget(max_drop=0.01)).code is Code.KEPT_ALONE_MISSES
    assert reason(77.4, 29.7, 29.5, Budget(max_drop=0.01), metric=0.9).code is Code.KEPT_TOGETHER_MISSES
    exact = reason(math.inf, 29.7, 29.5, Budget(min_sqnr_db=35))
    assert exact.code is Code.KEPT_TOGETHER_MISSES and exact.values["alone_db"] == "inf"


def test_without_measurements_only_what_is_known_is_said():
    budget = Budget(min_sqnr_db=30)
    slower = found(None, others=(all_quantized(),))
    assert float_reason("a", "int8", slower, budget, None) == Code.KEPT_FOR_TIME(precision="int8", met=True)
    empty = Sensitivity("fast", [GroupResult("a", "Conv")], level(20))
    assert float_reason("a", "int8", found(empty), budget, None) == Code.KEPT_MISSES(precision="int8")


def test_where_every_layer_stays_float_for_time_no_plan_with_this_one_alone_float_is_claimed_to_be_faster():
    slower = found(None, share=0.0, others=(all_quantized(),))
    why = float_reason("a", "int8", slower, Budget(min_sqnr_db=30), None)
    assert why == KeptCode.NONE_FASTER(precision="int8", met=True) and "no plan" in sentence(why)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    "others", [(), (all_quantized(lacks={"min_sqnr_db": 2.0}),), (all_quantized(batches=1, of=2),)],
    ids=["not run", "misses it", "run on some of the samples"],
)  # fmt: skip
def test_that_all_layers_meet_the_budget_is_said_only_where_that_was_measured(share, others):
    why = float_reason("a", "int8", found(None, share=share, others=others), Budget(min_sqnr_db=30), None)
    assert why.values["met"] is False
    assert "faster" in sentence(why) and "meet the accuracy budget" not in sentence(why)


def test_a_layer_that_would_gain_no_time_is_not_kept_for_the_budget():
    group = GroupResult("a", "Conv", level(24.0), level(38.0))
    idle = found(Sensitivity("exact", [group], level(23.0)), idle=("a",))
    assert float_reason("a", "int8", idle, Budget(min_sqnr_db=30), 0.1) == KeptCode.NO_FASTER(precision="int8")


def test_shares_of_the_arithmetic_add_up():
    model = chain(4)
    shape = ShapeProfile("one", {"x": Extent((1, 16), (2, 16), (4, 16))})
    work = work_of(model, facts_at_opt(model, Profiles((shape,))))
    assert work.of == "macs" and work.share(model.node_names()) == pytest.approx(1.0)
    assert all(work.share([f"layer{i}"]) == work.macs_share(f"layer{i}") == pytest.approx(0.25) for i in range(4))
    unknown = work_of(model, facts_at_opt(model, Profiles()))
    assert unknown.of == "nodes" and unknown.macs_share("layer0") is None and unknown.share(model.node_names()) == 1.0


def test_a_layer_without_which_nothing_is_lost_is_said_to_be_that():
    """The only layer that could be quantized: the plan without it is the float model."""
    why = Code.KEPT_TOGETHER_MISSES(precision="int8", alone_db=45.3, all_db=45.3, without_db="inf", share=None)
    assert sentence(why).endswith("is among the cheapest ways to meet it; with it in float nothing is lost")
