"""Find the fixed number of samples that a model takes at once if its batch axis has no name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import QtoolError
from toolkit.base.types import Array
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import own_session
from toolkit.graph.shape_inference.dimensions import batch_axes

_IMAGE_RANK = 4


def rows_at_once(model: Model, given: Mapping[str, Array]) -> int:
    """The fixed number of samples that a model without a named batch axis takes at once; 1 if it takes one.

    It is the common first dimension of all inputs if they are images or volumes (four or more axes). With two axes the
    first may be that of positions in one sample, so the result is 1. With three axes, every output must have as many
    rows, and runs must show that each row depends on the same row of the inputs alone, which frames of a recording
    seldom do.

    Args:
        given: inputs that the model accepts.
    """
    shapes = shapes_to_join(model)
    if batch_axes(shapes):
        return 1
    firsts = {dims[0] if len(dims) else None for dims in shapes.values()}
    first = firsts.pop() if len(firsts) == 1 else None
    if not isinstance(first, int) or first < 2:
        return 1
    if all(len(dims) >= _IMAGE_RANK for dims in shapes.values()):
        return first
    if any(len(dims) < _IMAGE_RANK - 1 for dims in shapes.values()):
        return 1
    outputs = [tensor.shape for tensor in model.graph.outputs]
    alike = all(dims is not None and len(dims) and dims[0] == first for dims in outputs)
    return first if alike and _rows_apart(model, given) else 1


def _rows_apart(model: Model, given: Mapping[str, Array]) -> bool:
    """Whether changing every second row of the inputs changes those rows of some output, and no other rows.

    Positions of one sample usually depend on those before or after them. False if the model cannot be run.
    """
    try:
        loaded = own_session(model)
        before = loaded.run(given)
        return all(_alone(before, loaded.run(_changed(given, first)), first) for first in (0, 1))
    except QtoolError:
        return False


def _changed(given: Mapping[str, Array], first: int) -> dict[str, Array]:
    """The inputs with every second row, starting at ``first``, replaced by the previous row."""
    changed = {name: value.copy() for name, value in given.items()}
    for name, value in given.items():
        changed[name][first::2] = np.roll(value, 1, axis=0)[first::2]
    return changed


def _alone(before: Mapping[str, Array], after: Mapping[str, Array], first: int) -> bool:
    """Whether outputs differ, and only in every second row, starting at ``first``."""
    others = 1 - first
    same = all(np.array_equal(before[name][others::2], after[name][others::2], equal_nan=True) for name in before)
    return same and any(not np.array_equal(before[name], after[name], equal_nan=True) for name in before)
