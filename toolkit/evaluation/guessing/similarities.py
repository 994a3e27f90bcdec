"""Outputs that hold similarities of two others, as of images and texts: between samples they vary, within them not."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_LEAST, _APART, _ROUNDING = 3, 1e-2, 1e-5
"""Fewer samples show no factor. How far values may be from what the products tell, as a share of how they vary, and of
their size beside it, for float32's rounding of long sums."""


def between_samples(output: SeenOutput, seen: SeenModel) -> Array | None:
    """The similarities of every sample's one half with every other's, float64 [samples, samples]; None for no such.

    A model of two towers, as CLIP, returns a row for each image and a column for each text. Run on one sample at a time
    it shows only what belongs together, which may hardly vary.

    Args:
        output: a value a sample, a factor times the product of two other outputs' vectors plus a number.
        seen: the model.
    """
    if len(output.samples) < _LEAST or any(one.size != 1 for one in output.samples):
        return None
    towers = [one for one in seen.outputs if output.name in one.feeds and _vectors(one, output) is not None]
    values = np.array([float(one.reshape(())) for one in output.samples])
    for one, other in combinations(towers, 2):
        rows, columns = _vectors(one, output), _vectors(other, output)
        if rows is None or columns is None or rows.shape != columns.shape:
            continue
        products = rows @ columns.T
        for terms in (np.stack([products]), np.stack([products, np.ones_like(products)])):
            own = terms[:, range(len(values)), range(len(values))].T
            weights = np.linalg.lstsq(own, values, rcond=None)[0]
            left = np.abs(own @ weights - values).max()
            if left <= _APART * values.std() + _ROUNDING * np.abs(values).max():
                return np.asarray(np.tensordot(weights, terms, 1))
    return None


def _vectors(output: SeenOutput, of: SeenOutput) -> Array | None:
    """An output's samples as rows, float64 [samples, width]; None where it holds no vector for each, or no floats."""
    sizes = {one.size for one in output.samples}
    if output.discrete or len(output.samples) != len(of.samples) or len(sizes) != 1 or sizes <= {0, 1}:
        return None
    rows = np.array([one.reshape(-1) for one in output.samples], np.float64)
    return rows if np.isfinite(rows).all() else None
