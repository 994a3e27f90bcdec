"""Matches rows that a TopK selected in two models: those of the same object, by the index that was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.node_errors.row_order import Followed
from toolkit.graph.model import Model


@dataclass(frozen=True)
class TopKRows:
    """Where the indices of selected rows are.

    Attributes:
        indices: the name of the TopK's second output, in both models.
        axis: the axis along which it selects.
    """

    indices: str
    axis: int


def rows_of_top_k(reference: Model, subject: Model) -> dict[str, TopKRows]:
    """By tensor of ``reference``, the TopK that selects its rows, if that is the only node that does.

    The queries of a detector are such rows: all layers after the selection compute them alike, whatever their order.
    Empty for a TopK that ``subject`` does not have.
    """
    by_top_k = [node for node in reference.nodes if node.op == "TopK" and len(node.outputs) > 1]
    same = {node.outputs[1].name for node in subject.nodes if node.op == "TopK" and len(node.outputs) > 1}
    found = {
        node.name: TopKRows(node.outputs[1].name, int(node.attrs.get("axis", -1)))
        for node in by_top_k if node.outputs[1].name in same
    }  # fmt: skip
    if not found:
        return {}
    order = Followed.through(reference).order
    single = ((name, next(iter(by))) for name, by in order.items() if len(by) == 1)
    return {name: found[by] for name, by in single if by in found}


def matched(value: Array, other: Array, rows: TopKRows, mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> (
    tuple[Array, Array, Array] | None
):  # fmt: skip
    """A tensor of both models with the rows of the other in the order of the first, and which rows both have.

    Args:
        value: the float model's tensor: [batch, rows, ...], [rows, batch, ...] or [batch * rows, ...]; for heads that
            are computed as samples, [batch * heads, rows, ...], and of stacked layers, [layers, batch, rows, ...].
        other: the other model's, of the same shape.
        rows: where the indices are.
        mine: the float model's tensors by name, with the indices.
        theirs: the other model's.

    Returns:
        Both tensors, and bool of a shape that can be broadcast to theirs; None if no axis, or more than one, may be
        that of the rows.
    """
    first, second = (_by_sample(one[rows.indices], rows.axis) for one in (mine, theirs))
    if first is None or second is None or first.shape != second.shape or not first.size:
        return None
    batch, count = first.shape
    if count not in value.shape and value.ndim and value.shape[0] == batch * count:
        value, other = (one.reshape(batch, count, *one.shape[1:]) for one in (value, other))
    axes = [axis for axis, extent in enumerate(value.shape) if extent == count]
    if len(axes) != 1:
        return None
    axis = axes[0]
    samples = _axis_of_samples(value.shape, axis, batch)
    if batch > 1:
        held = value.shape[samples] if value.ndim > 1 else 0
        if not held or held % batch:
            return None
        first, second = (np.repeat(one, held // batch, axis=0) for one in (first, second))
    places, shared = _places(first, second)
    shape = [1] * value.ndim
    shape[axis] = count
    if batch > 1:
        shape[samples] = len(first)
        places, shared = (one.T if axis < samples else one for one in (places, shared))
    return value, np.take_along_axis(other, places.reshape(shape), axis=axis), shared.reshape(shape)


def _axis_of_samples(shape: Sequence[int], rows: int, batch: int) -> int:
    """The axis of samples: the first before that of ``rows`` with their number, else the first of others."""
    if rows == 0:
        return 1
    return next((axis for axis in range(rows) if shape[axis] == batch), 0)


def _by_sample(indices: Array, axis: int) -> Array | None:
    """Indices as [batch, rows]; None if they have further axes."""
    moved = np.moveaxis(indices, axis, -1)
    batch = [extent for extent in moved.shape[:-1] if extent != 1]
    return moved.reshape(batch[0] if batch else 1, moved.shape[-1]) if len(batch) < 2 else None


def _places(first: Array, second: Array) -> tuple[Array, Array]:
    """Where each index of the first is in the second, int64, and whether it is there, bool; each [batch, rows]."""
    order = np.argsort(second, axis=1, kind="stable")
    ranked = np.take_along_axis(second, order, axis=1)
    spot = np.stack([np.searchsorted(known, wanted) for known, wanted in zip(ranked, first)])
    spot = np.minimum(spot, second.shape[1] - 1)
    return np.take_along_axis(order, spot, axis=1), np.take_along_axis(ranked, spot, axis=1) == first
