"""Results of functions of read-only arrays: computed once for the same values, and never taken for others."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from toolkit.base import kept_results
from toolkit.base.kept_results import fixed, kept_where_fixed


@pytest.fixture
def counted():
    calls = []

    @kept_where_fixed
    def largest(values, axis=-1):
        calls.append(values.shape)
        return values.max(axis=axis)

    return largest, calls


def test_only_what_nobody_writes_to_is_kept(counted):
    largest, calls = counted
    values = np.random.default_rng(0).random((4, 100), np.float32)
    view = fixed(values)
    assert values.flags.writeable and not view.flags.writeable
    first, second = largest(view), largest(view)
    assert first is second and not first.flags.writeable and len(calls) == 1
    assert np.array_equal(largest(values), first) and np.array_equal(largest(values), first) and len(calls) == 3


def test_parts_views_types_and_arguments_have_their_own_results(counted):
    largest, calls = counted
    values = fixed(np.random.default_rng(0).random((40, 40), np.float32))
    for _ in range(2):
        for part in (values, values[:20], values[20:], values.T, values[:, ::2], values.view(np.int32)):
            for axis in (0, 1):
                assert np.array_equal(largest(part, axis), part.max(axis=axis))
    assert len(calls) == 12


def test_an_array_in_the_place_of_one_that_is_gone_has_its_own_result(counted):
    largest, calls = counted
    for number in range(20):
        values = fixed(np.full((2, 1000), number, np.float32))
        assert largest(values).tolist() == [number, number]
        del values
        gc.collect(0)
    assert len(calls) == 20


def test_large_results_are_not_kept_and_the_longest_unused_ones_go(counted, monkeypatch):
    largest, calls = counted
    wide = fixed(np.ones((1000, 2), np.float32))
    largest(wide), largest(wide)
    assert len(calls) == 2
    monkeypatch.setattr(kept_results, "_BYTES", 3 * (4 * 4 + kept_results._ENTRY))
    arrays = [fixed(np.full((4, 100), n, np.float32)) for n in range(4)]
    calls.clear()
    for one in (*arrays[:3], arrays[0], arrays[3], arrays[0], arrays[2]):
        largest(one)
    assert len(calls) == 4
    largest(arrays[1])
    assert len(calls) == 5


def test_a_read_only_view_of_an_array_that_may_change_is_not_trusted():
    whole = np.zeros(1000)
    total = kept_where_fixed(lambda values: float(values.sum()))
    view = whole.view()
    view.flags.writeable = False
    assert total(view) == 0
    whole[:] = 1
    assert total(view) == 1000
    # who gives an array to fixed() promises not to write to it, through any view
    assert total(fixed(whole)) == total(view) == 1000
