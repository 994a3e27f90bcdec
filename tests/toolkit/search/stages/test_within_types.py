"""From a plan that misses the budget in the types of the engine to one that meets it there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from tests.toolkit.search.planted import chain, feeds, simulation
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.report.findings import sentence
from toolkit.search.budget.spending import Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.stages.searches import Searches
from toolkit.search.stages.within_types import within_types

FLOAT = Outcome(0.0)
ANOTHER = (
    "In FP16 the chosen plan misses min_sqnr_db by 0.1 dB, unlike its simulation in float32. "
    "The best of the other plans is tried."
)
"""The journal's sentence where a runner-up is tried."""


def plan(quantized: float, **lacks: float) -> SearchedPlan:
    return SearchedPlan((f"all but {quantized}",), {}, Outcome(1e-4), lacks, 0.0, quantized)


class Planned(Searches):
    """Searches that find these shares of the work in INT8, each with the best of them as its plan."""

    @classmethod
    def of(cls, *found: list[float], prefer: str = "int8") -> Planned:
        sim = simulation(chain(), feeds())
        cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
        made = cls(sim, cost, prefer, Budget(min_sqnr_db=20, margin=0), None, None, Spending(100.0))
        made.planned, made.ran = [[plan(share) for share in shares] for shares in found], 0
        return made

    def run(self) -> SearchResult:
        plans = self.planned[min(self.ran, len(self.planned) - 1)]
        self.ran += 1
        return SearchResult(plans[0], plans, len(plans), None, FLOAT)

    def rest(self) -> None:
        pass


def decided(
    searches: Planned, holds: set[float], limits: Collection[float] = ()
) -> tuple[SearchResult, list[float], list]:
    """The result if only plans with these shares meet the budget in their types, the shares tried, and the notes.

    Those with a share in ``limits`` lack only some of their margin.
    """
    tried, notes = list[float](), []

    def check(found: SearchResult) -> None:
        tried.append(found.best.quantized)
        assert not found.lacks_in_types or found.best.quantized not in holds
        if found.best.quantized not in holds:
            found.lacks_in_types, found.limits_in_types = {"min_sqnr_db": 0.1}, found.best.quantized in limits

    def left_float(found: SearchResult) -> SearchResult:
        return replace(found, best=plan(0.0), lacks_in_types={})

    return within_types(searches, check, left_float, Precision.FP16, notes.append), tried, notes


@pytest.mark.parametrize(
    ("second", "ran", "tried"),
    [
        # a runner-up that quantizes nearly as much spares a search; one that does not is no result yet
        (0.58, 1, [0.6, 0.58]),
        (0.50, 2, [0.6, 0.55]),
    ],
)
def test_a_plan_that_quantizes_nearly_as_much_is_tried_in_its_types_before_another_search(second, ran, tried):
    searches = Planned.of([0.6, second], [0.55])
    found, shares, notes = decided(searches, {0.58, 0.55, 0.50})
    assert (searches.ran, shares) == (ran, tried)
    assert found.best.quantized == tried[-1] and found.best in found.plans and not found.lacks_in_types
    assert len(notes) == 1 and (sentence(notes[0]) == ANOTHER) is (ran == 1)
    assert not notes[0].values["last"]


def test_one_runner_up_is_tried_before_another_search_takes_its_noise_into_account():
    searches = Planned.of([0.6, 0.59, 0.58], [0.57])
    found, shares, _ = decided(searches, {0.57, 0.58})
    assert (searches.ran, shares) == (2, [0.6, 0.59, 0.57]) and found.best.quantized == 0.57


def test_before_nothing_is_quantized_the_other_plans_are_tried():
    """As of an RT-DETR: each search ended on a plan that one near tie cost its budget in float16."""
    searches = Planned.of([0.8, 0.3, 0.2], [0.7, 0.5], [0.6, 0.1])
    found, shares, notes = decided(searches, {0.3, 0.2, 0.1})
    assert (searches.ran, shares) == (3, [0.8, 0.7, 0.6, 0.5, 0.3])
    assert found.best.quantized == 0.3 and found.best in found.plans and len(notes) == 4
    assert not any(note.values["last"] or "left" in note.values for note in notes)


def test_where_no_other_plan_meets_the_budget_in_its_types_nothing_is_quantized():
    searches = Planned.of([0.8, 0.5, 0.4, 0.3, 0.2])
    found, shares, notes = decided(searches, {0.2})
    # three others are tried, as each costs inferences
    assert shares == [0.8, 0.8, 0.8, 0.5, 0.4, 0.3] and found.best.quantized == 0
    assert notes[-1].values["last"] and notes[-1].values["left"]
    assert [note.code for note in notes] == [Code.SEARCH_IN_TYPES] * 6


def test_a_plan_that_only_lacks_some_of_its_margin_is_better_than_what_quantizes_less():
    searches = Planned.of([0.8, 0.5])
    found, shares, notes = decided(searches, {0.5}, limits={0.8})
    assert found.best.quantized == 0.8 and found.lacks_in_types and shares == [0.8] * 3
    assert notes[-1].values["last"] and "left" not in notes[-1].values


@pytest.mark.parametrize("searched", [([0.8], [0.7], [0.6]), ([0.5], [0.8], [0.6]), ([0.8, 0.79], [0.7], [0.6])])
def test_a_plan_that_only_lacks_some_of_its_margin_is_used_if_later_ones_miss_the_limits_themselves(searched):
    found, shares, notes = decided(Planned.of(*searched), set(), limits={0.8, 0.5})
    assert found.best.quantized == 0.8 and found.lacks_in_types and shares[-1] == 0.6
    assert notes[-1].values["last"] and "left" not in notes[-1].values


def test_plans_that_are_compared_by_latency_are_tried_only_by_the_search_that_measures_them():
    searches = Planned.of([0.6, 0.59], [0.55], prefer="time")
    _, shares, _ = decided(searches, {0.59, 0.55})
    assert shares == [0.6, 0.55]
