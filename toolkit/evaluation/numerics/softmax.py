"""Softmax over classes."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array


def softmax(scores: Array) -> Array:
    """The softmax of scores [..., classes], in the scores' type; the largest score is subtracted before exp."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers)
