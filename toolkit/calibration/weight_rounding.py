"""Rounding the weights of a layer for the least error of its output rather than of each weight."""

from __future__ import annotations

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.placement.grid import on_grid

_BLOCK = 128
_FACTORS = 20
"""How many factors are tried, from 1 to a half."""


def round_for_output(
    weights: Array, scales: Array, moments: Array, precision: Precision, damping: float = 0.01
) -> Array:
    """The values of a type at which a layer's output is near the float one: every weight is rounded in turn, and those
    that are not rounded yet make up for its error.

    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
    algorithm 1, with the columns in the order of their inputs' mean squares (its «act-order»).

    Args:
        weights: float64 [groups, out, in]: each row is multiplied with the input.
        scales: float64 [groups, out, in], or [groups, out, 1].
        moments: floats [groups, in, in]: mean of the products of two inputs.
        precision: the quantized type.
        damping: how much of the inputs' mean power is added to that of each: the more, the less is made of how the
            inputs go together, which few samples tell wrongly, and the nearer every weight stays to its nearest level.

    Returns:
        float64 [groups, out, in], values of the type, by which the scales are to be multiplied.
    """
    power = np.einsum("gkk->gk", moments)
    order = np.argsort(-power, axis=1, kind="stable")
    rows = np.arange(len(weights))[:, None]
    factors = _factors(moments, order, damping)
    # [groups, in, out]: what is done with one input lies together
    left = np.swapaxes(weights, 1, 2).astype(np.float32)[rows, order]
    found = np.empty_like(left)
    steps = np.swapaxes(np.broadcast_to(scales, weights.shape), 1, 2).astype(np.float32)[rows, order]
    width = left.shape[1]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        errors = np.empty((len(left), end - begin, left.shape[2]), np.float32)
        for column in range(begin, end):
            stored = on_grid(left[:, column] / steps[:, column], precision)
            found[:, column] = stored
            error = (left[:, column] - stored * steps[:, column]) / factors[:, column, column][:, None]
            left[:, column + 1 : end] -= factors[:, column, column + 1 : end, None] * error[:, None]
            errors[:, column - begin] = error
        left[:, end:] -= np.swapaxes(factors[:, begin:end, end:], 1, 2) @ errors
    placed = np.empty_like(found)
    placed[rows, order] = found
    return np.swapaxes(placed, 1, 2).astype(np.float64)


def _factors(moments: Array, order: Array, damping: float) -> Array:
    """The upper triangular R of inverse(moments) = R^T R in this order of the inputs, float32; an input that is always
    zero apart from the others.

    A layer that sums thousands of inputs has hundreds of megabytes of these products: no more copies than it takes.
    """
    size = moments.shape[1]
    mean = np.maximum(np.einsum("gkk->g", moments, dtype=np.float64) / size, 1e-12)
    # moments = U U^T with U upper triangular, whose inverse is R: a Cholesky factor from behind
    behind, rows = order[:, ::-1], np.arange(len(moments))[:, None, None]
    damped = moments[rows, behind[:, :, None], behind[:, None, :]].astype(np.float64, copy=False)
    damped[:, np.arange(size), np.arange(size)] += damping * mean[:, None]
    # turned as a copy: numpy before 2.3 multiplies what steps backwards without BLAS, tens of times slower
    factors = np.ascontiguousarray(np.linalg.cholesky(damped)[:, ::-1, ::-1])
    del damped
    _invert(factors)
    return factors.astype(np.float32)


def _invert(upper: Array) -> None:
    """Invert upper triangular matrices in place, by halves: a sixth of what the inverse of any matrix costs."""
    size = upper.shape[1]
    if size <= _BLOCK:
        upper[:] = np.linalg.inv(upper)
        return
    half = size // 2
    first, last, both = upper[:, :half, :half], upper[:, half:, half:], upper[:, :half, half:]
    _invert(first)
    _invert(last)
    both[:] = -first @ both @ last


def scales_for_output(weights: Array, amax: Array, power: Array, precision: Precision) -> Array:
    """The factor on each row's amax at which rounding it costs the output least, inputs taken as unrelated.

    Args:
        weights: float64 [groups, out, in].
        amax: of each row that at which nothing is clipped, float64 [groups, out].
        power: mean square of each input, float64 [groups, in].
        precision: the quantized type.

    Returns:
        float64 [groups, out], above 0 and at most 1.
    """
    best, least = np.ones(amax.shape), np.full(amax.shape, np.inf)
    for factor in np.linspace(1, 0.5, _FACTORS):
        scale = np.where(amax > 0, amax * factor / precision.max, 1.0)[:, :, None]
        error = on_grid(weights / scale, precision) * scale - weights
        cost = np.einsum("gok,gk->go", error**2, power)
        better = cost < least
        best[better], least[better] = factor, cost[better]
    return best
