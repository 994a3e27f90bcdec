"""Detect boxes that a model has selected itself and returns without scores, with classes or indices next to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.chosen_columns import PLACE
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

SUPPRESSING = frozenset({"NonMaxSuppression"})
_ROW = 3
"""Numbers per row of NonMaxSuppression: sample, class and box."""
_ORDERED = 0.95
"""Least share of the boxes whose corners must be in order; padding and rounding may break a few."""
_FEWEST = 2
"""Fewest boxes that show an order, and fewest samples with several boxes that show that indices never repeat."""


def chosen_boxes(
    outputs: Sequence[SeenOutput], seen: SeenModel
) -> tuple[tuple[SeenOutput, ...], dict[str, Any]] | None:
    """The outputs with selected boxes and their classes or indices, and the settings to read them; None if none do.

    Boxes without scores are recognized by a second output: NonMaxSuppression's rows that index them, or as many
    integers as there are boxes, if the count varies between samples or the model has a NonMaxSuppression.

    Args:
        outputs: the model's outputs that have samples.
    """
    rows = [one for one in outputs if _numbers(one, 2) and one.shape[-1] == _ROW and one.ops & SUPPRESSING]
    for boxes in outputs:
        axis = _box_axis(boxes)
        if axis is None:
            continue
        for one in rows:
            if (how := _by_rows(boxes, axis, one)) is not None:
                return (boxes, one), {**_settings(boxes, axis), **how}
        if boxes.empty:
            continue
        counted = [one for one in outputs if _numbers(one, 1) and _as_many(one, boxes, axis)]
        varied = len({one.shape[0] for one in boxes.samples}) > 1 and axis == -1
        shown = _ordered(boxes, axis) if not seen.ops & SUPPRESSING else bool(boxes.stacked(axis)[:, 2:].min() >= 0)
        if counted and shown and (varied or seen.ops & SUPPRESSING):
            named = [one for one in counted if not _places(one)]
            return (boxes, *named[:1]) if named else (boxes, counted[0]), {
                **_settings(boxes, axis), "chosen": "classes" if named else "places",
            }  # fmt: skip
    return None


def chosen_indices(outputs: Sequence[SeenOutput], seen: SeenModel) -> tuple[SeenOutput, dict[str, Any]] | None:
    """The output with indices of the boxes that NonMaxSuppression selected, if the boxes are no output; else None.

    It holds NonMaxSuppression's rows (sample, class, box) or box indices alone.

    Args:
        outputs: the model's outputs that have samples.

    Returns:
        The output and the settings to read it.
    """
    if not seen.ops & SUPPRESSING:
        return None
    for one in outputs:
        if _numbers(one, 2) and one.shape[-1] == _ROW and one.ops & SUPPRESSING:
            return one, {"layout": "indices", "columns": [1, 2]}
        varied = len({each.shape for each in one.samples}) > 1
        if _numbers(one, 1) and _places(one) and (one.ops & SUPPRESSING or varied):
            return one, {"layout": "indices", "columns": [0]}
    return None


def _settings(boxes: SeenOutput, axis: int) -> dict[str, Any]:
    return {"layout": "chosen", "box_axis": axis, "format": "xyxy" if _ordered(boxes, axis) else "cxcywh"}


def _numbers(output: SeenOutput, rank: int) -> bool:
    """Whether an output holds integers of at least -1 (-1 may stand for "none"), and a sample has ``rank`` axes."""
    return bool(output.discrete and len(output.shape) == rank and output.bounds[0] >= -1)


def _box_axis(output: SeenOutput) -> int | None:
    """The axis of a box's four numbers, -1 or -2; None if there is none, or it holds probabilities of four classes."""
    if output.discrete or len(output.shape) != 2 or 4 not in output.shape:
        return None
    axis = -1 if output.shape[-1] == 4 else -2
    return None if output.sums_to_one(axis) or any(one.shape[axis] != 4 for one in output.samples) else axis


def _by_rows(boxes: SeenOutput, axis: int, rows: SeenOutput) -> dict[str, Any] | None:
    """The setting of NonMaxSuppression's rows: one row per box, or rows that index boxes; None if neither fits."""
    whole = np.concatenate([one.reshape(-1, _ROW) for one in rows.samples])
    counts = [one.shape[-3 - axis] for one in boxes.samples]
    if all(len(one) == count for one, count in zip(rows.samples, counts)):
        return {"chosen": "rows beside"}
    least = min(counts)
    return {"chosen": "rows"} if not len(whole) or (whole.min() >= 0 and whole[:, 2].max() < least) else None


def _as_many(numbers: SeenOutput, boxes: SeenOutput, axis: int) -> bool:
    return all(len(a) == b.shape[-3 - axis] for a, b in zip(numbers.samples, boxes.samples))


def _places(output: SeenOutput) -> bool:
    """Whether integers are indices of boxes, by the graph if it shows that, else by their values.

    Indices never repeat within a sample and exceed the number of selected boxes. Values alone cannot rule out classes.
    """
    if output.column:
        return output.column == PLACE
    alike = any(len(np.unique(one)) < len(one) for one in output.samples)
    several = sum(len(one) >= _FEWEST for one in output.samples) >= _FEWEST
    return not alike and several and output.bounds[1] >= max(len(one) for one in output.samples)


def _ordered(boxes: SeenOutput, axis: int) -> bool:
    """Whether boxes are given as two corners: the last two numbers are not below the first two."""
    found: Array = boxes.stacked(axis)
    found = found[np.abs(found).max(axis=1) > 0] if len(found) else found
    return bool(len(found) >= _FEWEST and (found[:, 2:] >= found[:, :2]).all(axis=1).mean() >= _ORDERED)
