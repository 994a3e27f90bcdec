"""The Kullback-Leibler divergence of two sets of class scores."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.numerics.softmax import softmax

_MOST_EXPONENT = 60.0
"""The largest exponent x for which sums of exp(x) fit into float32."""
_LEAST_SHARE = 1e-12
"""Smaller probabilities count as this one, as a float32 softmax does not resolve them."""


def divergence(wanted: Array, found: Array, shares: bool = False) -> float:
    """The Kullback-Leibler divergence KL(wanted || found) over classes in nats, summed over positions.

    With w the softmax of the float model's scores, d the differences of scores and m their mean weighted by w, it is
    log(sum of w exp(m - d)). Computed as log(1 + sum of w (exp(m - d) - 1 + d - m)), whose terms are never negative,
    it is accurate in float32.

    Args:
        wanted: the float model's scores (logits), float32 [positions, classes].
        found: the quantized model's scores, of the same shape.
        shares: whether both are probabilities rather than logits.
    """
    if shares:
        wanted, found = _logs(wanted), _logs(found)
    # overflows of float32 are left to the float64 version
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
    """``divergence`` in float64, for scores with any differences."""
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
    """Scores with these probabilities as softmax."""
    return np.asarray(np.log(np.maximum(shares, _LEAST_SHARE)))
