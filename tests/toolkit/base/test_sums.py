"""Sums of products: exact in blocks of any number, and never shared among the threads of the linear algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toolkit.base import sums
from toolkit.base.sums import sum_of_products


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 8191, 8192, 8193, 65536, 65537, 200_000])
def test_the_sum_is_that_of_exact_products(count, kind):
    a, b = (np.random.default_rng(seed).standard_normal(count).astype(kind) for seed in (0, 1))
    exact = math.fsum(float(x) * float(y) for x, y in zip(a, b))
    size = float(np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64)))
    assert abs(sum_of_products(a, b) - exact) <= size * (1e-6 if kind == np.float32 else 1e-14)


@pytest.mark.parametrize("value", [1e-25, 1e25])
def test_squares_beyond_float32_are_summed_in_float64(value):
    values = np.full(100_000, value, np.float32)
    assert sum_of_products(values, values) == pytest.approx(1e5 * value**2, rel=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("count", [9_000, 50_000, 300_000])
def test_no_product_is_large_enough_for_the_threads_of_openblas(monkeypatch, count, kind):
    taken, real = [], np.dot

    def watched(a, b):
        taken.append((a.dtype, a.size))
        return real(a, b)

    monkeypatch.setattr(sums.np, "dot", watched)
    values = np.ones(count, kind)
    assert sum_of_products(values, values) == count
    assert all(size <= (100_000 if of == np.float32 else 10_000) for of, size in taken)
