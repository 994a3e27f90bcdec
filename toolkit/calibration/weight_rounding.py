"""Rounding a layer's weights to minimize the error of its output rather than of each weight."""

from __future__ import annotations

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration.related_inputs import BLOCK, RelatedInputs
from toolkit.placement.grid import limits_of, on_grid

_TURN = 16
"""Inputs per block: within a block, errors are carried one input at a time; to later blocks, by one matrix product."""
_LEAST_SCALE = 1e-38
"""The smallest scale whose inverse float32 can represent."""
_FACTORS = 20
"""The number of factors tried, from 1 to a half."""


def round_for_output(
    weights: Array, scales: Array, inputs: RelatedInputs, precision: Precision, damping: float = 0.01
) -> Array:
    """Round weights to minimize the error of a layer's output: one by one, with the rest compensating for each error.

    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
    algorithm 1, with the columns ordered by the mean squares of their inputs («act-order»). The moments of the inputs
    are not inverted: with moments = U U^T, an input's error is least where (U^T errors) is 0 for it (Babai's nearest
    plane; Chen et al., "The geometry of LLM quantization: GPTQ as Babai's nearest plane algorithm", 2025).

    Args:
        weights: float64 [groups, out, in]: each row is multiplied with the input.
        scales: float64 [groups, out, in], or [groups, out, 1].
        inputs: samples of the input, [groups, rows, in].
        damping: the fraction of the inputs' mean power that is added to the power of each. With few samples, some
            correlations between inputs are spurious: more damping reduces their effect, and weights stay closer to
            their nearest level.

    Returns:
        float64 [groups, out, in]: values of the type, to be multiplied by the scales.
    """
    from toolkit.calibration.kernels_rounding import round_in_turn

    rows, factor = np.arange(len(weights))[:, None], inputs.factor(damping, weights.shape[1])
    # [groups, in, out]: the weights of one input are contiguous
    whole = np.swapaxes(weights, 1, 2).astype(np.float32)[rows, inputs.order]
    found = np.empty_like(whole)
    steps = np.swapaxes(np.broadcast_to(scales, weights.shape), 1, 2).astype(np.float32)[rows, inputs.order]
    width = whole.shape[1]
    for begin in range(0, width, BLOCK):
        end = min(begin + BLOCK, width)
        upper, carried = factor.diagonal(begin, end), factor.carried(begin, end).copy()
        errors = np.empty_like(carried)
        for first in range(0, end - begin, _TURN):
            last = min(first + _TURN, end - begin)
            own, turn = slice(begin + first, begin + last), slice(first, last)
            among = whole[:, own], steps[:, own], upper[:, turn, turn], carried[:, turn], found[:, own], errors[:, turn]
            if precision.integer:
                round_in_turn(*among, *map(np.float32, limits_of(precision)))
            else:
                _round_in_turn(*among, precision)
            if begin + last < end:
                carried[:, last:] += np.swapaxes(upper[:, first:last, last:], 1, 2) @ errors[:, first:last]
        factor.take(begin, end, errors)
    placed = np.empty_like(found)
    placed[rows, inputs.order] = found
    return np.swapaxes(placed, 1, 2).astype(np.float64)


def _round_in_turn(
    whole: Array, steps: Array, upper: Array, carried: Array, found: Array, errors: Array, precision: Precision
) -> None:
    """``round_in_turn`` for types whose values are not evenly spaced."""
    for at in range(whole.shape[1]):
        wanted = (whole[:, at] + carried[:, at] / upper[:, at, at, None]) / steps[:, at]
        found[:, at] = on_grid(wanted, precision)
        errors[:, at] = whole[:, at] - found[:, at] * steps[:, at]
        carried[:, at + 1 :] += upper[:, at, at + 1 :, None] * errors[:, None, at]


def scales_for_output(weights: Array, amax: Array, power: Array, precision: Precision) -> Array:
    """The factor on each row's amax that minimizes the output error of rounding it, if inputs are uncorrelated.

    Args:
        weights: float64 [groups, out, in].
        amax: for each row the amax at which nothing is clipped, float64 [groups, out].
        power: mean square of each input, float64 [groups, in].

    Returns:
        float64 [groups, out], above 0 and at most 1.
    """
    best, least = np.ones(amax.shape), np.full(amax.shape, np.inf)
    narrow = np.ascontiguousarray(weights, np.float32)
    heard = power.astype(np.float32)[:, :, None]
    squares = np.empty_like(narrow)
    for factor in np.linspace(1, 0.5, _FACTORS):
        scale = np.where(amax > 0, np.maximum(amax * factor / precision.max, _LEAST_SCALE), 1.0)
        _squared_errors(narrow, (1 / scale).astype(np.float32), precision, squares)
        cost = (squares @ heard)[:, :, 0] * scale**2
        better = cost < least
        best[better], least[better] = factor, cost[better]
    return best


def _squared_errors(weights: Array, inverse: Array, precision: Precision, squares: Array) -> None:
    """Store the squared rounding errors of weights, in steps, in ``squares``.

    Args:
        weights: float32 [groups, out, in], contiguous.
        inverse: one over the step of each row, float32 [groups, out].
        squares: float32 [groups, out, in], contiguous.
    """
    if precision.integer:
        from toolkit.calibration.kernels_rounding import squared_rounding_errors

        rows = weights.shape[0] * weights.shape[1], weights.shape[2]
        low, high = map(np.float32, limits_of(precision))
        squared_rounding_errors(weights.reshape(rows), inverse.reshape(-1), low, high, squares.reshape(rows))
        return
    np.multiply(weights, inverse[:, :, None], out=squares)
    np.square(on_grid(squares, precision) - squares, out=squares)
