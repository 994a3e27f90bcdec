"""The only batch size of a model whose graph has a number of samples other than 1 fixed, despite dynamic inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.interface.batch_probe import BatchFault, node_that_fails
from toolkit.graph.interface.batch_values import join
from toolkit.graph.interface.states import STATES
from toolkit.graph.model import Model
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.session import Session

_MOST, _TRIED, _FEW = 1024, 24, 16
_MOST_VALUES = 1 << 26
"""Largest number of values in a batch that is tried, since constants may be as large as the model's dimensions."""


def fixed_batch(
    model: Model, axes: Mapping[str, int], sample: Mapping[str, Array], loaded: Session
) -> tuple[int, BatchFault] | None:
    """The batch size of a model that cannot compute a single sample, and the node that cannot.

    Candidates are the model's constants: the shape of a Reshape, Expand or ConstantOfShape, the repeats of a Tile, the
    parts of a Split, the constant that a Concat joins to the samples, or a recurrent layer's initial state.

    Args:
        axes: the axis along which samples are joined, by input.
        sample: inputs with one row along the axes.
        loaded: the model's session.

    Returns:
        None if a single sample can be computed, or none of the candidates.

    Raises:
        EndlessLoopError: the model does not terminate.
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
    """The smallest numbers above 1 that may be a batch size.

    These are integer constants, the first dimensions of constants, the number and the sum of the parts of a Split, and
    the batch axis of a recurrent layer's initial state: [directions, batch, hidden], or first with ``layout`` 1.
    """
    found = set[int]()
    for node in model.nodes:
        if node.op == "Split":
            found.add(len(node.outputs))
        for index, tensor in enumerate(node.inputs):
            values = model.constant(tensor)
            if values is None:
                continue
            if values.dtype.kind in "iu" and math.prod(values.shape) <= _FEW:
                numbers = [int(one) for one in np.asarray(values).reshape(-1)]
                found.update(numbers)
                found.add(sum(numbers) if node.op == "Split" else 1)
            elif len(values.shape) > 1:
                state = index in STATES.get(node.op, ()) and not node.attrs.get("layout", 0)
                found.add(int(values.shape[1 if state else 0]))
    return sorted(one for one in found if 1 < one <= _MOST)[:_TRIED]
