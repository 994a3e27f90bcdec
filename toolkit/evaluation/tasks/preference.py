"""How strongly a model prefers its own choice to another one, by its own scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array
from toolkit.evaluation.numerics.ranks import largest, two_largest

_SUM = 1e-2
"""Tolerance for the sum of probabilities, which covers 16-bit floats."""
_LEAST = 1e-30
"""Smaller probabilities count as this one, so that their logarithm is finite."""


def preference(scores: Array, chosen: Array) -> Array:
    """The log-odds of a model's argmax against another choice, summed over the positions; float64 [batch], 0 or more.

    Args:
        scores: logits, logarithms of probabilities, or probabilities, [batch, positions, classes].
        chosen: the other choice, integers [batch, positions].
    """
    wide, logits = np.asarray(scores, np.float32), _logits_of(scores)
    other = logits(np.take_along_axis(wide, chosen[..., None], axis=-1)[..., 0]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = logits(largest(wide)).astype(np.float64) - other
    # the margin of NaN is unknown, so the change counts in full
    return np.asarray(np.where(np.isnan(found), np.inf, found).sum(axis=1))


@kept_where_fixed
def closest(scores: Array) -> Array:
    """The smallest lead, over the positions, of the best class over the second, as log-odds; float64 [batch].

    Args:
        scores: as in ``preference``.
    """
    wide = np.asarray(scores, np.float32)
    if wide.shape[-1] < 2 or not wide.shape[1]:
        return np.full(len(wide), np.inf)
    logits = _logits_of(scores)
    second, best = (logits(one).astype(np.float64) for one in two_largest(wide))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(best - second, nan=0.0).min(axis=1))


def likely_lost(kept: Array, preferred: Array, usual: float) -> Array:
    """The expected loss of accuracy for each answer, float64 [answers]: 0 if unchanged, up to 1 if changed.

    If a model assigns probability p to its own answer and q to another one, its own is right more often than the other
    by (p - q) / (p + q), which is tanh(log-odds / 2): a change between equally likely answers is a gain as often as a
    loss. On a scale smaller than that of logits, all answers would seem equally likely; the loss is therefore at least
    the log-odds as a share of the usual lead.

    Args:
        kept: whether each answer is unchanged, [answers].
        preferred: the result of ``preference`` for each answer.
        usual: the median of ``closest`` over the samples.
    """
    share = preferred / usual if usual > 0 else np.ones(len(preferred))
    return np.where(kept > 0, 0.0, np.maximum(np.tanh(preferred / 2), np.minimum(share, 1.0)))


def _logits_of(scores: Array) -> Callable[[Array], Array]:
    """A function that turns parts of the scores into logits: the logarithm if ``scores`` are probabilities."""
    if _are_probabilities(np.asarray(scores, np.float32)):
        return lambda some: np.asarray(np.log(np.maximum(some, _LEAST)))
    return lambda some: some


@kept_where_fixed
def _are_probabilities(scores: Array) -> bool:
    return bool(scores.size) and float(scores.min()) >= 0 and np.allclose(scores.sum(axis=-1), 1.0, atol=_SUM)
