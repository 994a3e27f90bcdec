"""How far two sets of scores of classes are apart, as distributions."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.numerics.softmax import softmax

_MOST_EXPONENT = 60.0
"""The largest exponent whose power of e, and sums of such, fit into float32."""
_LEAST_SHARE = 1e-12
"""Smaller probabilities count as this one: the divergence is of what a float32 softmax tells apart."""


def divergence(wanted: Array, found: Array, shares: bool = False) -> float:
    """Kullback and Leibler's KL(wanted || found) over the classes, in nats; summed over the positions.

    With weights w, the softmax of the float model's scores, d their differences and m the mean of these by w, it is
    log(sum of w exp(m - d)): as log(1 + sum of w (exp(m - d) - 1 + d - m)), whose terms are all 0 or more, float32 has
    digits enough.

    Args:
        wanted: the float model's scores, whose softmax counts, float32 [positions, classes].
        found: the quantized model's.
        shares: whether both are probabilities already.
    """
    if shares:
        wanted, found = _logs(wanted), _logs(found)
    # what leaves float32's range here is left to the float64 version
    with np.errstate(over="ignore", invalid="ignore"):
        weights = softmax(wanted)
        apart = wanted - found
        apart -= np.einsum("rc,rc->r", weights, apart)[:, None]
    if not apart.min(initial=0.0) > -_MOST_EXPONENT:
        return _wide_divergence(wanted, found)
    grown = np.expm1(-apart)
    grown += apart
    return float(np.log1p(np.maximum(np.einsum("rc,rc->r", weights, grown), 0), dtype=np.float64).sum())


def _wide_divergence(wanted: Array, found: Array) -> float:
    """``divergence`` in float64, for scores however far apart."""
    a, b = _below_most(wanted), _below_most(found)
    apart = a - b
    weights, others = np.exp(a, out=a), np.exp(b, out=b)
    sums = weights.sum(axis=1)
    return float((np.einsum("rc,rc->r", weights, apart) / sums + np.log(others.sum(axis=1) / sums)).sum())


def _below_most(scores: Array) -> Array:
    wide = scores.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide)


def _logs(shares: Array) -> Array:
    """The scores of which these are the softmax."""
    return np.asarray(np.log(np.maximum(shares, _LEAST_SHARE)))
