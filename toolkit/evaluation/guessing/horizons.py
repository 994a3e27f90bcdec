"""Clues to a time series forecast: outputs for several horizons, or the same channels as an input series."""

from __future__ import annotations

import numpy as np

from toolkit.evaluation.guessing.clue import SHARES, Clue, of_values
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_CHANCES = frozenset({"Sigmoid", "HardSigmoid"})
_TOGETHER = 0.9
"""Least correlation over samples between two horizons, as the median over their common values. Heads of class scores
correlate that much only by chance, with two or three classes."""
_SOME, _STEPS = 8, 4
"""Fewest samples for a correlation, and fewest common steps for which it is hardly a coincidence."""
_SERIES = 2
"""Number of axes of a multivariate series: steps and channels."""


def forecasts(output: SeenOutput, seen: SeenModel, classes: bool) -> list[Clue]:
    """Clues that an output forecasts a time series.

    Args:
        seen: the model that it belongs to.
        classes: whether the output's name says that it holds class scores or labels.
    """
    if output.discrete or seen.reads_tokens or seen.images or output.ops & (SHARES | _CHANCES):
        return []
    steps = max((_common_steps(output, one) for one in seen.outputs if one is not output), default=0)
    if steps >= _STEPS:
        return of_values("horizons", 2.5)
    # with few common steps it may as well hold class scores, so it is judged as both
    if steps:
        return of_values("horizons", 1.5)
    return of_values("series", 1.5) if not classes and _of_a_series(output, seen) else []


def _common_steps(output: SeenOutput, other: SeenOutput) -> int:
    """How many steps two outputs share if they are two horizons of one forecast, else 0.

    Their shapes differ only in the number of steps, and their values correlate (``_TOGETHER``) at the shared steps.
    """
    a, b = output.shape, other.shape
    differ = [axis for axis, pair in enumerate(zip(a, b)) if len(set(pair)) > 1]
    unlike = len(a) != len(b) or len(differ) != 1 or other.discrete or other.ops & (SHARES | _CHANCES)
    if unlike or other.name in output.feeds or output.name in other.feeds:
        return 0
    shapes = {one.shape for one in output.samples}, {one.shape for one in other.samples}
    if len(output.samples) != len(other.samples) or len(output.samples) < _SOME or max(map(len, shapes)) > 1:
        return 0
    steps = min(a[differ[0]], b[differ[0]])
    first, second = (
        np.stack([np.take(one, range(steps), axis=differ[0]).reshape(-1) for one in each.samples]).astype(np.float64)
        for each in (output, other)
    )
    if np.array_equal(first, second) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        # identical values: the outputs are slices of one tensor
        return 0
    # what moves all values of a sample alike moves the scores of classes too, and tells nothing of these
    first, second = (each - each.mean(axis=1, keepdims=True) for each in (first, second))
    first, second = (each - each.mean(axis=0) for each in (first, second))
    size = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    together = (first * second).sum(axis=0)[size > 0] / size[size > 0]
    return steps if len(together) and float(np.median(together)) >= _TOGETHER else 0


def _of_a_series(output: SeenOutput, seen: SeenModel) -> bool:
    """Whether an output has the channels of a float input series, but another number of steps.

    The axis of equal size holds channels only if the input has more steps than channels. Otherwise it may hold
    positions, such as frames with features, and the output classes of each position.
    """
    if len(output.shape) != _SERIES or output.ops & SHARES:
        return False
    series = [one.shape for one in seen.inputs.values() if one.ndim == _SERIES and one.dtype.kind == "f"]
    for axis in range(_SERIES):
        channels, steps = output.shape[axis], output.shape[1 - axis]
        if channels > 1 and any(one[axis] == channels < one[1 - axis] != steps for one in series):
            return True
    return False
