"""Which plan a search runs next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.spending import Spending
from toolkit.search.plans.proposing import Proposing, _OutputGroup
from toolkit.search.plans.searched_plan import SearchedPlan

NAMES = [f"layer{number}" for number in range(100)]


class OfEqualLayers(Proposing):
    """A search whose layers all cost the same."""

    def __init__(self) -> None:
        self.simulation = SimpleNamespace(names=NAMES)

    def _given_up(self, kept):
        return float(len(kept))


def begun(kept: int, batches: int, clear: bool | None = None, **lacks: float) -> SearchedPlan:
    return SearchedPlan(tuple(NAMES[:kept]), {}, Outcome(1e-4), lacks, 0.0, 1 - kept / 100, batches, 8, clear)


@pytest.mark.parametrize(
    ("own", "proposed", "spare", "ended"),
    [
        # one layer more or less of 80 is hardly another plan
        ([begun(20, 2), begun(22, 1)], 19, 100.0, 20),
        ([begun(20, 2)], 22, 100.0, 20),
        ([begun(20, 2)], 10, 100.0, 0),
        # what quantizes far less is proposed where this one is not likely to meet the budget
        ([begun(20, 2)], 40, 100.0, 0),
        # no plan that is ended, misses something, or is no better than the best
        ([begun(20, 8)], 19, 100.0, 0),
        ([begun(20, 4, clear=False)], 19, 100.0, 0),
        ([begun(20, 4, min_sqnr_db=0.1)], 19, 100.0, 0),
        ([begun(20, 4)], 19, 20.0, 0),
    ],
)
def test_a_plan_that_is_begun_is_ended_before_one_that_hardly_differs(own, proposed, spare, ended):
    chosen = OfEqualLayers()._under_way(own, NAMES[:proposed], spare, set())
    assert len(chosen) == ended
    assert not OfEqualLayers()._under_way(own, NAMES[:proposed], spare, {frozenset(plan.kept) for plan in own})


class OfMisses(Proposing):
    """A search whose first plan meets the budget, and every plan that is proposed after it misses it on all samples."""

    def __init__(self, inferences: float | None) -> None:
        self.simulation, self.spending, self.prefer = SimpleNamespace(names=NAMES), Spending(inferences), "int8"
        self.best = begun(50, 8)
        self.plans, self.amax = [self.best], {}

    def _price(self, group):
        return 1.0

    def _propose_apart(self, *given):
        return False

    def _learnt(self, *given):
        return None

    def _left(self):
        return 6 - len(self.plans)

    def _given_up(self, kept):
        return float(len(kept))

    def _until(self, before):
        return None

    def _evaluate(self, kept, until=None, sure=False, race=False):
        self.plans.append(begun(len(kept), 8, min_sqnr_db=0.1))
        return self.plans[-1]


@pytest.mark.parametrize(("inferences", "plans"), [(20.0, 2), (None, 5)])
def test_plans_that_miss_the_budget_in_a_row_end_a_search_whose_inferences_are_limited(inferences, plans, monkeypatch):
    class Better:
        def __init__(self, *given):
            pass

        def best(self, kept, spare, done):
            return [NAMES[: 49 - len(done)]]

        def promise(self, kept, spare, done):
            return 0.01

    monkeypatch.setattr("toolkit.search.plans.proposing.Proposals", Better)
    search = OfMisses(inferences)
    search._propose(dict.fromkeys(NAMES, 1.0), lambda outcome: outcome.noise)
    assert len(search.plans) - 1 == plans and search.best.passes and search.promise == 0.01


@pytest.mark.parametrize(("proposed", "tried"), [(None, ["a", "b"]), (["a"], ["a"]), ([], [])])
def test_a_group_of_outputs_is_tried_without_float_layers_if_that_is_proposed(proposed, tried):
    assert list(_OutputGroup(["a", "b"], proposed, float).next) == tried
