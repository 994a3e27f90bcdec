"""Matches rows ranked by score as a set, so that rows are compared with themselves even if their rank changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.numerics.boxes import OVERLAP, iou, row_boxes
from toolkit.evaluation.tasks import OutputPart, reader

_MOST = 1024
"""The most rows to match, since the time grows with their square."""


def side_by_side(
    part: OutputPart, wanted: Mapping[str, Array], found: Mapping[str, Array], matched: bool = False
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Both models' outputs of a detector with ranked rows, reordered so that corresponding rows are the same detection.

    A row corresponds to the other model's row of the same class with the largest IoU, at least 0.5; without one, to
    zeros.

    Args:
        part: a part with ranked rows in all of its outputs.
        wanted: the float model's outputs of one batch, by name.
        found: the other model's outputs, by name.
        matched: whether to leave out rows without a counterpart.

    Returns:
        The part's outputs only, [batch, rows, ...], with the same shape for both; empty with more than 1024 rows.
    """
    task = reader(part)
    both = [[np.asarray(rows) for rows in task.samples(one)] for one in (wanted, found)]
    listed = [_listed(values, part.settings) for values in both]
    first, second = (row_boxes(values, part.settings) for values in both)
    if max((len(boxes) for one in (first[0], second[0]) for boxes in one), default=0) > _MOST:
        return {}, {}
    samples = [
        [pair for pair in _pairs(a, b) if not matched or min(pair) >= 0] for a, b in zip(zip(*first), zip(*second))
    ]
    most = max((len(pairs) for pairs in samples), default=0)
    made: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    for side, (values, into) in enumerate(zip(listed, made)):
        for name, rows in zip(part.outputs, values):
            taken = np.zeros((len(rows), most, *rows.shape[2:]), rows.dtype)
            for place, pairs in enumerate(samples):
                for row, pair in enumerate(pairs):
                    if pair[side] >= 0:
                        taken[place, row] = rows[place, pair[side]]
            into[name] = taken
    return made


def _listed(values: Sequence[Array], settings: Mapping[str, object]) -> list[Array]:
    """Outputs with the rows along the second axis, [batch, rows, ...]."""
    found = []
    for place, one in enumerate(values):
        axis = settings.get("box_axis") if place == 0 else settings.get("axis") if place == 1 else None
        if isinstance(axis, int) and one.ndim >= 3:
            one = np.moveaxis(one, axis, -1)
        found.append(one.reshape(len(one), -1, one.shape[-1]) if one.ndim > 3 else one)
    return found


def _pairs(wanted: tuple[Array, Array], found: tuple[Array, Array]) -> list[tuple[int, int]]:
    """The corresponding rows of one sample as pairs of indices, -1 for none."""
    (first, classes), (second, others) = wanted, found
    fits = iou(first, second)
    fits[(first[:, None] == second[None]).all(axis=-1)] = 1.0
    fits[classes[:, None] != others[None]] = 0.0
    pairs, free = [], np.ones(len(second), bool)
    for row in range(len(first)):
        values = np.where(free, fits[row], 0.0) if len(second) else np.zeros(0)
        best = int(values.argmax()) if len(values) else -1
        if best >= 0 and values[best] >= OVERLAP:
            free[best] = False
            pairs.append((row, best))
        else:
            pairs.append((row, -1))
    return [*pairs, *((-1, int(row)) for row in np.flatnonzero(free))]
