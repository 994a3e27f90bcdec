"""Ranks of values, as rank correlation and the area under the ROC curve count them."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array


def ranks(values: Array) -> Array:
    """Ranks from 1, ties at their mean, float64 [values]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((2 * ends - counts + 1) / 2)[inverse], np.float64)
