"""A compiled inner loop: weights of a few inputs rounded one after the other. It runs without the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.calibration.kernels import compiled


@compiled
def round_in_turn(
    whole: Any, steps: Any, upper: Any, carried: Any, found: Any, errors: Any, low: Any, high: Any
) -> None:
    """Round the weights of each input in turn to integers, and carry its errors to the inputs behind it.

    Numpy is called some ten times for each input, which takes longer than what there is to compute, and holds the lock.

    Args:
        whole: the weights, float32 [groups, inputs, out].
        steps: their scales, likewise.
        upper: the factor of the inputs' moments, float32 [groups, inputs, inputs].
        carried: what the errors so far ask of each input, float32 [groups, inputs, out]; added to.
        found: takes the integers, as float32 [groups, inputs, out].
        errors: takes the errors of the weights, likewise.
        low: the smallest integer, float32.
        high: the largest.
    """
    groups, inputs, outs = whole.shape
    for group in range(groups):
        for at in range(inputs):
            own = upper[group, at, at]
            for out in range(outs):
                value, step = whole[group, at, out], steps[group, at, out]
                level = min(max(np.rint((value + carried[group, at, out] / own) / step), low), high)
                found[group, at, out] = level
                errors[group, at, out] = value - level * step
            for later in range(at + 1, inputs):
                share = upper[group, at, later]
                for out in range(outs):
                    carried[group, later, out] += share * errors[group, at, out]
