"""Sequence labels: each position has a label, and the answer is the whole sequence."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.tasks.base import SIDE, Rows, Task, chosen_each, flat, one_each, same_choice, scores


class SequenceLabels(Task):
    """One answer per sample: the argmax of every position. It is unchanged if all of them are.

    Outputs are scores [batch, positions, classes], the classes along ``axis``, or integers [batch, positions].
    """

    name: ClassVar[str] = "sequence"
    nothing: ClassVar[float] = -math.inf
    figure: ClassVar[str] = "positions"

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``; the level is the share of a sample's positions whose label is unchanged."""
        (a,), (b,) = wanted, found
        if a.dtype.kind in "iub":
            same = same_choice(a, b)
            rows = one_each(same.all(axis=1), same.mean(axis=1) if same.shape[1] else None)
            return {**rows, SIDE: _answers(flat(a))}
        axis = int(self.settings.get("axis", -1))
        a, b = scores(a, axis), scores(b, axis)
        same = same_choice(a, b)
        rows = chosen_each(same.all(axis=1), a, b, same.mean(axis=1) if same.shape[1] else None)
        return {**rows, SIDE: _answers(a.argmax(axis=-1))}


def _answers(choices: Array) -> Array:
    """A number for each sample's choices, int64 [batch]: equal numbers for equal choices.

    Samples of one class at all positions have its number, however many positions they have.

    Args:
        choices: the class of each position, [batch, positions].
    """
    rows = np.ascontiguousarray(choices, np.int64)
    alike = (rows == rows[:, :1]).all(axis=1) & (rows.shape[1] > 0)
    return np.array([row[0] if one else zlib.crc32(row.tobytes()) for row, one in zip(rows, alike)], np.int64)
