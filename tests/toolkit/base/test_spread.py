"""The first few of an order represent all."""

from __future__ import annotations

import math

import pytest

from toolkit.base.spread import representative, spread_indices


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_every_number_comes_once_and_halves_are_halved(count):
    order = spread_indices(count)
    assert sorted(order) == list(range(count))
    assert sorted(order[: count // 4]) == sorted(order[: count // 4], key=lambda number: number)
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
