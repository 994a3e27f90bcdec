"""How much more a model believes in its own choice than in another one, by its own scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array
from toolkit.evaluation.numerics.ranks import largest, two_largest

_SUM = 1e-2
_LEAST = 1e-30


def preference(scores: Array, chosen: Array) -> Array:
    """The log-odds of a model's own choice against another, summed over the positions; float64 [batch], 0 or more.

    Args:
        scores: logits, logarithms of probabilities, or probabilities, [batch, positions, classes].
        chosen: the other choice, integers [batch, positions].
    """
    wide, logits = np.asarray(scores, np.float32), _logits_of(scores)
    other = logits(np.take_along_axis(wide, chosen[..., None], axis=-1)[..., 0]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = logits(largest(wide)).astype(np.float64) - other
    # what is no number was preferred by no margin that one could trust
    return np.asarray(np.where(np.isnan(found), np.inf, found).sum(axis=1))


@kept_where_fixed
def closest(scores: Array) -> Array:
    """By how much the best class leads the second at the position where it leads least; float64 [batch].

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
    """By answer, how much of the metric a change is likely to cost, float64 [answers]: 0 to 1.

    A model that gives its own answer the probability p and another one q is right with its own more often than with the
    other by (p - q) / (p + q), the hyperbolic tangent of half the log-odds: an answer that it cannot decide is won as
    often as lost. Scores on another scale than logits would make all answers undecided; a lead therefore counts at
    least as its share of the usual lead.

    Args:
        kept: whether an answer stays, [answers].
        preferred: what ``preference`` gives for each.
        usual: the median of ``closest`` over the samples.
    """
    share = preferred / usual if usual > 0 else np.ones(len(preferred))
    return np.where(kept > 0, 0.0, np.maximum(np.tanh(preferred / 2), np.minimum(share, 1.0)))


def _logits_of(scores: Array) -> Callable[[Array], Array]:
    """Makes logits of some of the scores: of probabilities their logarithms, which are in the same order."""
    if _are_probabilities(np.asarray(scores, np.float32)):
        return lambda some: np.asarray(np.log(np.maximum(some, _LEAST)))
    return lambda some: some


@kept_where_fixed
def _are_probabilities(scores: Array) -> bool:
    return bool(scores.size) and float(scores.min()) >= 0 and np.allclose(scores.sum(axis=-1), 1.0, atol=_SUM)
