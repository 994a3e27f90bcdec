"""Tensors that must share one scale: what belongs together, and in time by how many there are."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import build, node
from toolkit import Model, Precision
from toolkit.placement.pairs import Placement, joined
from toolkit.placement.scales import share_amax

MANY, MOST_SECONDS = 30_000, 5.0
"""Looking at all of so many for each of them takes minutes; one walk over them a tenth of a second."""

names = st.sampled_from([f"t{i}" for i in range(12)])


@given(st.lists(st.sets(names, min_size=1, max_size=4), max_size=12))
def test_sets_with_a_member_in_common_are_one(sets):
    expected: list[set[str]] = []
    for new in sets:
        met = [one for one in expected if one & new]
        expected = [*(one for one in expected if not one & new), new.union(*met)]
    given_ones = [set(one) for one in sets]
    assert joined(sets) == expected
    assert sets == given_ones


def seconds(done):
    start = time.thread_time()
    result = done()
    return result, time.thread_time() - start


def test_many_sets_are_joined_in_one_walk():
    apart, took = seconds(lambda: joined({f"a{i}", f"b{i}"} for i in range(MANY)))
    assert len(apart) == MANY and took < MOST_SECONDS
    (chain,), took = seconds(lambda: joined({f"a{i}", f"a{i + 1}"} for i in range(MANY)))
    assert len(chain) == MANY + 1 and took < MOST_SECONDS


def test_many_shared_scales_take_one_walk():
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": [4]}, {"y": [4]}, {}))
    placement = Placement(same_scale=[{f"a{i}", f"b{i}"} for i in range(MANY)])
    amax = {f"{word}{i}": float(1 + (word == "b")) for i in range(MANY) for word in "ab"}
    notes, took = seconds(lambda: share_amax(model, placement, amax, Precision.INT8))
    assert notes == [] and took < MOST_SECONDS
    assert len(set(amax.values())) == 1
