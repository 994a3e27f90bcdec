"""The one batch that a model computes whose graph has another number than 1 fixed, though its inputs declare any."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.interface.batch_probe import BatchFault, node_that_fails
from toolkit.graph.interface.batch_values import join
from toolkit.graph.model import Model
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.session import Session

_MOST, _TRIED, _FEW = 1024, 24, 16
_MOST_VALUES = 1 << 26
"""Values of a batch that is tried: a constant may be any size of the model's."""


def fixed_batch(
    model: Model, axes: Mapping[str, int], sample: Mapping[str, Array], loaded: Session
) -> tuple[int, BatchFault] | None:
    """How many samples a model computes at once that cannot compute a single one, and the node that cannot.

    What a graph has fixed is among its constants: the shape of a Reshape, Expand or ConstantOfShape, the repeats of a
    Tile, the parts of a Split, or what a Concat puts beside each sample.

    Args:
        model: the model.
        axes: by input, the axis along which samples are joined.
        sample: inputs with one row along the axes.
        loaded: the model's session.

    Returns:
        None where a single sample is computed, or no number of samples that was tried.

    Raises:
        EndlessLoopError: the model does not end.
    """
    if not axes or _runs(loaded, sample):
        return None
    values = sum(value.size for value in sample.values())
    for size in _constants(model):
        if size * values <= _MOST_VALUES and _runs(loaded, join([sample] * size, axes)):
            return size, node_that_fails(model, sample)
    return None


def _runs(loaded: Session, inputs: Mapping[str, Array]) -> bool:
    try:
        loaded.run(inputs)
    except EndlessLoopError:
        raise
    except ModelError:
        return False
    return True


def _constants(model: Model) -> list[int]:
    """The smallest numbers above 1 that constants hold, or that are the first extent of one, or a sum of parts."""
    found = set[int]()
    for node in model.nodes:
        for tensor in node.inputs:
            values = model.constant(tensor)
            if values is None:
                continue
            if values.dtype.kind in "iu" and math.prod(values.shape) <= _FEW:
                numbers = [int(one) for one in np.asarray(values).reshape(-1)]
                found.update(numbers)
                found.add(sum(numbers) if node.op == "Split" else 1)
            elif len(values.shape) > 1:
                found.add(int(values.shape[0]))
    return sorted(one for one in found if 1 < one <= _MOST)[:_TRIED]
