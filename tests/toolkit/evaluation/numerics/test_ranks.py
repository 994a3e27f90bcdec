from __future__ import annotations

import numpy as np
import pytest

from toolkit.evaluation.numerics.ranks import two_largest


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("few", [True, False])
def test_the_two_largest_are_the_last_of_the_sorted(classes, few):
    random = np.random.default_rng(classes)
    scores = random.standard_normal((3, 5, classes)).astype(np.float32)
    if few:
        # ties, and classes that are masked
        scores = np.where(scores < 0, -np.inf, np.round(scores)).astype(np.float32)
    before = scores.copy()
    second, best = two_largest(scores)
    ordered = np.sort(scores, axis=-1)
    assert np.array_equal(best, ordered[..., -1]) and np.array_equal(second, ordered[..., -2])
    assert np.array_equal(scores, before) and best.dtype == second.dtype == np.float32


def test_what_is_no_number_is_the_largest():
    second, best = two_largest(np.array([[1.0, np.nan, 3.0]], np.float32))
    assert np.isnan(best[0]) and second[0] == 3
