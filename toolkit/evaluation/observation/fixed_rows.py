"""Models that always take the same number of samples at once, and do not name the axis on which they lie."""

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
    """How many samples a model whose batch has no name always takes at once; 1 where it takes one.

    It is the first dimension of all inputs if these are images or volumes; that of a matrix may be positions of one
    sample. Of inputs with three axes each output must have as many rows, and runs must show that each depends on the
    same row of the inputs alone: the moments of one recording seldom do.

    Args:
        model: the model.
        given: what was given to it once.
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
    """Whether other values in every second row change no output's rows between them, and some output's row itself.

    Of positions of one sample those before depend on those after, or the other way round.
    """
    try:
        loaded = own_session(model)
        before = loaded.run(given)
        return all(_alone(before, loaded.run(_changed(given, first)), first) for first in (0, 1))
    except QtoolError:
        return False


def _changed(given: Mapping[str, Array], first: int) -> dict[str, Array]:
    """The inputs with the values of the row before in every second row, beginning with ``first``."""
    changed = {name: value.copy() for name, value in given.items()}
    for name, value in given.items():
        changed[name][first::2] = np.roll(value, 1, axis=0)[first::2]
    return changed


def _alone(before: Mapping[str, Array], after: Mapping[str, Array], first: int) -> bool:
    """Whether outputs differ in some of every second row, beginning with ``first``, and nowhere else."""
    others = 1 - first
    same = all(np.array_equal(before[name][others::2], after[name][others::2], equal_nan=True) for name in before)
    return same and any(not np.array_equal(before[name], after[name], equal_nan=True) for name in before)
