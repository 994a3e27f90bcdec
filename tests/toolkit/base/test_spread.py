"""The first few of an order represent all."""

from __future__ import annotations

import math
from time import perf_counter

import pytest

from toolkit.base.spread import representative, spread_indices


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_every_number_comes_once_and_halves_are_halved(count):
    order = spread_indices(count)
    assert sorted(order) == list(range(count))
    part = 4 if count == 64 else 1
    assert sorted(order[: count // part]) == list(range(0, count, part))
    assert representative(order, [1.0] * count) == order


def test_an_order_whose_first_few_weigh_like_all_stays():
    order = spread_indices(8)
    assert representative(order, [1.0, 2.0, 0.5, 1.5, 1.0, 0.7, 1.1, 0.9]) == order


def test_what_hardly_weighs_anything_does_not_come_first():
    weights = [1e-9, 2.0, 1e-9, 1e-9, 3.0, 1e-9, 1e-9, 1e-9]
    order = representative(spread_indices(8), weights)
    assert sorted(order) == list(range(8)) and order[0] == 1
    mean = math.fsum(weights) / 8
    for count in range(1, 9):
        assert mean / 4 < math.fsum(weights[number] for number in order[:count]) / count < 4 * mean


@pytest.mark.parametrize("weights", [[0.0] * 4, [math.inf, 1.0, 1.0, 1.0], [math.nan] * 4])
def test_weights_that_say_nothing_change_nothing(weights):
    assert representative(spread_indices(4), weights) == spread_indices(4)


def test_an_order_by_one_heavy_number_of_many_takes_no_time_by_their_square():
    count = 20_000
    weights = [0.0] * count
    weights[5] = float(count)
    begun = perf_counter()
    assert representative(spread_indices(count), weights) == [5, *(one for one in spread_indices(count) if one != 5)]
    # a comparison of all that are left for each of the first quarter takes half a minute
    assert perf_counter() - begun < 3


def test_of_alike_weights_the_first_in_the_order_comes_first_and_the_one_that_brings_the_mean_nearest():
    weights = [100.0, 0.0, 1e-9, 7.0, 7.0, 0.5]
    mean = math.fsum(weights) / 6
    first, second, *_ = representative([5, 4, 3, 2, 1, 0], weights)
    assert first == 4 and abs(math.log((7 + 7) / 2 / mean)) < math.log(4) and second == 3
