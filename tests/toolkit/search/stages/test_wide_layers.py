"""The fewest neighbouring layers that must stay wide."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from toolkit.search.stages.wide_layers import shortest_wide_run


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_the_run_from_the_first_to_the_last_culprit_is_found_in_few_trials(case):
    count, culprits = case
    order, tried = [str(n) for n in range(count)], []

    def meets(names):
        tried.append(names)
        return {str(n) for n in culprits} <= set(names)

    assert shortest_wide_run(order, meets) == order[min(culprits) : max(culprits) + 1]
    assert len(tried) <= 2 * math.ceil(math.log2(count + 1)) + 2


def test_none_stay_wide_where_the_budget_holds_without_them():
    assert shortest_wide_run(["a", "b"], lambda names: True) == []


@given(st.integers(1, 60), st.integers(0, 12), st.data())
def test_a_run_that_meets_the_budget_is_returned_once_the_time_is_over(count, trials, data):
    culprits = {str(n) for n in data.draw(st.sets(st.integers(0, count - 1), min_size=1))}
    tried = []

    def meets(names):
        tried.append(names)
        return culprits <= set(names)

    found = shortest_wide_run([str(n) for n in range(count)], meets, lambda: len(tried) >= trials)
    assert culprits <= set(found) and len(tried) <= trials
