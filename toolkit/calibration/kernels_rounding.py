"""Compiled inner loops of rounding, which run without the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.calibration.kernels import compiled


@compiled
def round_in_turn(
    whole: Any, steps: Any, upper: Any, carried: Any, found: Any, errors: Any, low: Any, high: Any
) -> None:
    """Round the weights of each input in turn to integers, and carry its errors to the inputs that follow it.

    In numpy this takes some ten calls per input, whose overhead exceeds the computation and holds the GIL.

    Args:
        whole: the weights, float32 [groups, inputs, out].
        steps: their scales, likewise.
        upper: the factor of the inputs' moments, float32 [groups, inputs, inputs].
        carried: the corrections that earlier errors require, float32 [groups, inputs, out]; added to.
        found: receives the integers, as float32 [groups, inputs, out].
        errors: receives the errors of the weights, likewise.
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


@compiled
def rounding_errors(values: Any, scale: Any, low: Any, high: Any, errors: Any) -> None:
    """The errors of values that are rounded to integers by one scale and back.

    In numpy this would take five passes over the values.

    Args:
        values: float32 [values].
        scale: float32.
        low: the smallest integer, float32.
        high: the largest.
        errors: receives the rounded values minus the values, float32 [values].
    """
    for at in range(len(values)):
        value = values[at]
        errors[at] = min(max(np.rint(value / scale), low), high) * scale - value


@compiled
def squared_rounding_errors(values: Any, inverse: Any, low: Any, high: Any, errors: Any) -> None:
    """The squared errors, in steps, of rows of values that are rounded to integers.

    Args:
        values: float32 [rows, values].
        inverse: one over the step of each row, float32 [rows].
        low: the smallest integer, float32.
        high: the largest.
        errors: receives the squares, float32 [rows, values].
    """
    for row in range(len(values)):
        for at in range(values.shape[1]):
            step = values[row, at] * inverse[row]
            error = min(max(np.rint(step), low), high) - step
            errors[row, at] = error * error
