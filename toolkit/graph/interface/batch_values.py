"""Comparison of a batch's tensors with those of its samples, also of the float tensors behind integer outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from toolkit.base.types import Array
from toolkit.graph.proto.nodes import reads_of

_NEAR = 1e-3


def join(samples: Sequence[Mapping[str, Array]], axes: Mapping[str, int]) -> dict[str, Array]:
    """Concatenate the inputs of several samples to one batch."""
    return {
        name: np.concatenate([sample[name] for sample in samples], axes[name]) if name in axes else value
        for name, value in samples[0].items()
    }


def side_by_side(apart: Sequence[Array], together: Array) -> bool:
    """Whether a batch's tensor consists of the samples' values, in any order, or equals the value that all share."""
    if together.size == sum(value.size for value in apart):
        if together.dtype.kind in "fV":
            one_by_one = np.concatenate([_flat(value) for value in apart])
            return _near(np.sort(one_by_one), np.sort(_flat(together)))
        return True
    equal = all(value.shape == apart[0].shape and _near(_flat(value), _flat(apart[0])) for value in apart)
    if together.dtype.kind in "fV":
        return equal and together.size == apart[0].size and _near(_flat(apart[0]), _flat(together))
    # sizes in shape arithmetic are the same for all samples, but different for the batch
    return equal


def one_row_each(apart: Sequence[Array], together: Array) -> bool:
    """Whether a tensor of a batch has the shape of one sample's, with an axis of 1 grown to the batch size."""
    single = apart[0].shape
    grown = [axis for axis, (one, all_) in enumerate(zip(single, together.shape)) if one != all_]
    if len(single) != together.ndim or len(grown) != 1 or any(value.shape != single for value in apart):
        return False
    return (single[grown[0]], together.shape[grown[0]]) == (1, len(apart))


def _flat(value: Array) -> Array:
    if value.dtype.kind not in "fViub":
        return np.zeros(0)
    return np.nan_to_num(np.asarray(value, np.float64).reshape(-1), posinf=1e30, neginf=-1e30)


def _near(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    largest = float(np.abs(a).max(initial=0.0))
    return bool(np.abs(a - b).max(initial=0.0) <= _NEAR * max(largest, 1e-6))


def same_integers(apart: Sequence[Array], together: Array) -> bool:
    """Whether a tensor of a batch has the same integers as those of its samples, in any order."""
    one_by_one = np.concatenate([value.reshape(-1) for value in apart])
    return one_by_one.size == together.size and np.array_equal(np.sort(one_by_one), np.sort(together.reshape(-1)))


def float_sources(
    nodes: Sequence[onnx.NodeProto], outputs: Collection[str], types: Mapping[str, int], floats: Collection[int]
) -> dict[str, list[str]]:
    """For each integer output, the float tensors that determine it: the nearest computed ones upstream.

    Args:
        nodes: the graph's nodes.
        outputs: names of the outputs.
        types: element types by tensor.
        floats: the element types that count as float.
    """
    makers = {name: node for node in nodes for name in node.output if name}
    found: dict[str, list[str]] = {}
    for output in outputs:
        near, seen, pending = list[str](), {output}, [output]
        while pending:
            node = makers.get(pending.pop())
            for name in reads_of(node) if node is not None else ():
                if name not in makers or name in seen:
                    continue
                seen.add(name)
                (near if types.get(name) in floats else pending).append(name)
        found[output] = near
    return found
