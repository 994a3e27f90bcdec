"""Compare an output's values with those of an input of its shape: an autoencoder gives back what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.base.types import Array

_SAMPLES, _VALUES = 8, 4
"""Fewest samples for a correlation, and fewest values of a sample for which their median is hardly a coincidence."""
_MOST = 4096
"""Most values of a sample that are compared."""


def repeated_input(given: Sequence[Mapping[str, Array]], made: Sequence[Array]) -> float:
    """How closely an output follows the float input of its shape that it follows best.

    Args:
        given: the inputs of each batch, with the samples along the first axis.
        made: the output's values on each batch, likewise.

    Returns:
        The Pearson correlation over all samples of each value with the one at its place in the input, as the median
        over the values that vary, -1 to 1; 0 if no input has the shape, or with too few samples or values.
    """
    shapes = {one.shape[1:] for one in made}
    if len(shapes) != 1 or any(one.dtype.kind != "f" or one.ndim < 2 for one in made):
        return 0.0
    alike = (
        name for name in given[0]
        if all(name in batch and batch[name].dtype.kind == "f" and batch[name].shape == one.shape
               for batch, one in zip(given, made))
    )  # fmt: skip
    output = _table(made)
    return max((_median_correlation(_table([batch[name] for batch in given]), output) for name in alike), default=0.0)


def _table(batches: Sequence[Array]) -> Array:
    """All samples of the batches, float64 [samples, values]."""
    rows = (one.reshape(len(one), -1)[:, :_MOST] for one in batches if one.size)
    return np.concatenate([np.asarray(one, np.float64) for one in rows] or [np.zeros((0, 0))])


def _median_correlation(given: Array, made: Array) -> float:
    if len(made) < _SAMPLES or not (np.isfinite(given).all() and np.isfinite(made).all()):
        return 0.0
    given, made = given - given.mean(axis=0), made - made.mean(axis=0)
    size = np.linalg.norm(given, axis=0) * np.linalg.norm(made, axis=0)
    alive = size > 0
    if alive.sum() < _VALUES:
        return 0.0
    return float(np.median((given * made).sum(axis=0)[alive] / size[alive]))
