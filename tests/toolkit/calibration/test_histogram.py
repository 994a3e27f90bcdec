"""Histograms: exact bins, lossless widening, and no dependence on order or grouping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.base.errors import RangesError
from toolkit.base.types import Array
from toolkit.calibration.histogram import Histogram

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
VALUES = hnp.arrays(np.float32, st.integers(0, 60), elements=FLOATS)


def obvious(values: Array, bins: int) -> Histogram:
    """One value at a time, in exact arithmetic."""
    result = Histogram(bins)
    finite = [float(v) for v in values.reshape(-1) if math.isfinite(v)]
    result.nonfinite = values.size - len(finite)
    result.zeros = sum(v == 0 for v in finite)
    if finite:
        result.low, result.high = min(finite) + 0.0, max(finite) + 0.0
    while result.absmax >= 2.0**result.exponent:
        result.exponent += 1
    for value in finite:
        if value:
            result.counts[math.floor(abs(value) * bins / 2.0**result.exponent)] += 1
    return result


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_equals_the_obvious_one(values: Array) -> None:
    histogram = Histogram(256)
    histogram.add(values)
    assert histogram == obvious(values, 256)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 3e7])
def test_the_fast_way_for_long_arrays_is_the_same(scale: float) -> None:
    values = (np.random.default_rng(0).standard_normal((3, 40_003)) * scale).astype(np.float32)
    values[0, ::3] = 0
    histogram = Histogram()
    histogram.add(values)
    expected = np.bincount(
        np.floor(np.abs(values[values != 0].astype(np.float64)) * 4096 / 2.0**histogram.exponent).astype(int),
        minlength=4096,
    )
    assert np.array_equal(histogram.counts, expected)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert 2048 < histogram.used <= 4096


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 599_999), FLOATS), max_size=6), st.integers(300_000, 600_000), st.integers(1, 3)
)
def test_many_values_of_which_some_are_beyond_the_bins(odd: list[tuple[int, float]], count: int, weight: int) -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal(600_000, np.float32), -0.5)
    values[::3] = 0
    for place, value in odd:
        values[place] = value
    values = values[:count]
    whole, parts = Histogram(), Histogram()
    whole.add(values, weight)
    for part in np.array_split(values[::-1], 200):
        parts.add(part, weight)
    assert whole == parts
    finite = values[np.isfinite(values)].astype(np.float64)
    assert whole.nonfinite == (len(values) - len(finite)) * weight
    assert (whole.low, whole.high) == (finite.min(), finite.max())
    slots = np.floor(np.abs(finite[finite != 0]) * 4096 / 2.0**whole.exponent).astype(int)
    assert np.array_equal(whole.counts, weight * np.bincount(slots, minlength=4096))


def test_few_values_take_a_quarter_of_the_memory() -> None:
    histogram, other = Histogram(), Histogram()
    few = np.full(8_000, 0.75, np.float32)
    histogram.add(few)
    assert histogram.counts.dtype == np.int16
    other.merge(histogram)
    for _ in range(5):
        histogram.add(few)
    assert histogram.counts.dtype == np.int64 and histogram.counts.max() == 48_000
    other.merge(histogram)
    assert other.counts.max() == 56_000 and other.scaled(9).counts.max() == 504_000


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, max_size=6), st.randoms())
def test_order_and_grouping_change_nothing(parts: list[Array], random: Any) -> None:
    whole = Histogram(256)
    whole.add(np.concatenate([np.zeros(0, np.float32), *parts]))
    random.shuffle(parts)
    one_by_one, merged = Histogram(256), Histogram(256)
    for part in parts:
        one_by_one.add(part)
        own = Histogram(256)
        own.add(part)
        merged.merge(own)
    assert one_by_one == whole
    assert merged == whole


@settings(max_examples=50, deadline=None)
@given(VALUES, st.integers(1, 5))
def test_weight_is_repetition(values: Array, weight: int) -> None:
    weighted, repeated, once = Histogram(256), Histogram(256), Histogram(256)
    weighted.add(values, weight)
    once.add(values)
    for _ in range(weight):
        repeated.add(values)
    assert weighted == repeated
    assert once.scaled(weight) == repeated


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal(500).astype(dtype)
    narrow, wide = Histogram(), Histogram()
    narrow.add(values)
    wide.add(values.astype(np.float32))
    assert narrow == wide


def test_bins_must_be_a_power_of_two() -> None:
    with pytest.raises(RangesError, match=r"3000 bins"):
        Histogram(3000)
    with pytest.raises(RangesError, match=r"512 and 256 bins cannot be merged"):
        Histogram(512).merge(Histogram(256))
