"""Which plan a search runs next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.plans.proposing import Proposing
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
