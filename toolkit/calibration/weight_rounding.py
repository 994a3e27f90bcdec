"""Rounding the weights of a layer for the least error of its output rather than of each weight."""

from __future__ import annotations

import numpy as np

from toolkit.base.types import Array

_BLOCK = 128
_DAMPING = 0.01


def round_for_output(weights: Array, scales: Array, moments: Array, lowest: int, highest: int) -> Array:
    """The integers at which a layer's output is near the float one: every weight is rounded in turn, and those that are
    not rounded yet make up for its error.

    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
    algorithm 1, with the columns in the order of their inputs' mean squares (its «act-order»).

    Args:
        weights: float64 [groups, out, in]: each row is multiplied with the input.
        scales: float64 [groups, out].
        moments: float64 [groups, in, in]: mean of the products of two inputs.
        lowest: the smallest integer.
        highest: the largest one.

    Returns:
        float64 [groups, out, in], whole numbers.
    """
    power = np.einsum("gkk->gk", moments)
    order = np.argsort(-power, axis=1, kind="stable")
    rows = np.arange(len(weights))[:, None]
    left = weights[rows[:, :, None], np.arange(weights.shape[1])[None, :, None], order[:, None, :]]
    found = np.empty_like(left)
    factors = _factors(moments[rows[:, :, None], order[:, :, None], order[:, None, :]])
    width = left.shape[2]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        errors = np.empty((*left.shape[:2], end - begin))
        for column in range(begin, end):
            whole = np.clip(np.rint(left[:, :, column] / scales), lowest, highest)
            found[:, :, column] = whole
            error = (left[:, :, column] - whole * scales) / factors[:, column, column][:, None]
            left[:, :, column + 1 : end] -= error[:, :, None] * factors[:, None, column, column + 1 : end]
            errors[:, :, column - begin] = error
        left[:, :, end:] -= errors @ factors[:, begin:end, end:]
    placed = np.empty_like(found)
    placed[rows[:, :, None], np.arange(weights.shape[1])[None, :, None], order[:, None, :]] = found
    return placed


def _factors(moments: Array) -> Array:
    """The upper Cholesky factor of the inverse moments, an input that is always zero apart from the others."""
    damped = moments.copy()
    size = moments.shape[1]
    mean = np.maximum(np.einsum("gkk->g", moments) / size, 1e-12)
    damped[:, np.arange(size), np.arange(size)] += _DAMPING * mean[:, None]
    return np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped)), 1, 2)


def scales_for_output(weights: Array, amax: Array, power: Array, highest: int, steps: int = 20) -> Array:
    """The factor on each row's amax at which rounding it costs the output least, inputs taken as unrelated.

    Args:
        weights: float64 [groups, out, in].
        amax: largest magnitude of each row, float64 [groups, out].
        power: mean square of each input, float64 [groups, in].
        highest: the largest integer.
        steps: how many factors are tried, from 1 to a half.

    Returns:
        float64 [groups, out], above 0 and at most 1.
    """
    best, least = np.ones(amax.shape), np.full(amax.shape, np.inf)
    for factor in np.linspace(1, 0.5, steps):
        scale = np.where(amax > 0, amax * factor / highest, 1.0)[:, :, None]
        error = np.clip(np.rint(weights / scale), -highest - 1, highest) * scale - weights
        cost = np.einsum("gok,gk->go", error**2, power)
        better = cost < least
        best[better], least[better] = factor, cost[better]
    return best
