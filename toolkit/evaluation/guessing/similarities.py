"""Outputs with the similarity of two vectors, as of an image and a text in CLIP, and how they vary between samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart

_TOWERS = 2

_LEAST, _APART, _ROUNDING = 3, 1e-2, 1e-5
"""``_LEAST``: fewest samples to which a factor and an offset can be fitted with one left to check them. ``_APART``,
``_ROUNDING``: largest deviation from the fit, as a share of the values' standard deviation plus a share of their
largest magnitude, which covers float32's rounding of long sums."""


def with_other_towers(parts: Sequence[OutputPart], seen: SeenModel) -> list[OutputPart]:
    """The parts, with those of the vectors of two towers extended by the other tower's output.

    Towers compute vectors of equal width from different inputs, such as users and items, or images and texts, and each
    sample looks for its neighbours in the other tower's vectors.
    """
    vectors = [part for part in parts if part.task == "embedding" and _is_vector(part, seen)]
    if len(vectors) != _TOWERS:
        return list(parts)
    first, second = ({one.name: one for one in seen.outputs}[part.outputs[0]] for part in vectors)
    apart = first.inputs and second.inputs and first.inputs.isdisjoint(second.inputs)
    if not apart or first.shape != second.shape or len(first.samples) != len(second.samples):
        return list(parts)
    other = {first.name: second.name, second.name: first.name}
    return [
        replace(part, outputs=(part.outputs[0], other[part.outputs[0]])) if part in vectors else part for part in parts
    ]


def _is_vector(part: OutputPart, seen: SeenModel) -> bool:
    output = next(one for one in seen.outputs if one.name == part.outputs[0])
    return len(output.shape) == 1 and output.batch_axis == 0 and part.channels is None and len(part.outputs) == 1


def between_samples(output: SeenOutput, seen: SeenModel) -> Array | None:
    """The similarities between all pairs of samples if an output holds the similarity of two other outputs.

    A two-tower model such as CLIP returns a row per image and a column per text. Run on one sample at a time, it only
    returns the similarity of matching pairs, which may hardly vary.

    Args:
        output: the output, one value per sample: a factor times the dot product of two other outputs, plus an offset.
        seen: the model that it belongs to.

    Returns:
        Float64 [samples, samples], computed from the two outputs; None if the output is not such a similarity.
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
            left, rounding = np.abs(own @ weights - values).max(), _ROUNDING * np.abs(values).max()
            every = np.asarray(np.tensordot(weights, terms, 1))
            # a constant is explained by the number alone, whatever the products are
            if left <= _APART * values.std() + rounding and every.std() > rounding:
                return every
    return None


def _vectors(output: SeenOutput, of: SeenOutput) -> Array | None:
    """An output's samples as rows, float64 [samples, width].

    None if it holds no finite floats, fewer than two per sample, or not as many samples as ``of``.
    """
    sizes = {one.size for one in output.samples}
    if output.discrete or len(output.samples) != len(of.samples) or len(sizes) != 1 or sizes <= {0, 1}:
        return None
    rows = np.array([one.reshape(-1) for one in output.samples], np.float64)
    return rows if np.isfinite(rows).all() else None
