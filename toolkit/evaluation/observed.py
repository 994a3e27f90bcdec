"""What is seen of a model's outputs on a few samples, and of the graph behind them: what its task is guessed from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.graph.model import Model

_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_CLOSE = 1e-3
_SPLIT = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass
class SeenOutput:
    """One output.

    Attributes:
        name: its name.
        declared: its shape as the model declares it; None where it does not.
        samples: what each sample gave, without the batch axis, floats in float32.
        batch_axis: where samples lie; None where no axis is theirs.
        ops: the operators that made it, behind those that only move or reshape; of a Concat those of its inputs.
    """

    name: str
    declared: tuple[Any, ...] | None
    samples: list[Array] = field(default_factory=list)
    batch_axis: int | None = 0
    ops: frozenset[str] = frozenset()

    @property
    def discrete(self) -> bool:
        """Whether it holds integers or the like."""
        return bool(self.samples) and self.samples[0].dtype.kind in "iub"

    @property
    def shape(self) -> tuple[int, ...]:
        """The first sample's shape, without the batch axis."""
        return self.samples[0].shape if self.samples else ()

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of its name, in lower case."""
        return frozenset(word.lower() for word in _SPLIT.findall(self.name))

    @cached_property
    def flat(self) -> Array:
        """All values seen that are finite, float64 [values]."""
        values = np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in self.samples] or [np.zeros(0)])
        return np.asarray(values[np.isfinite(values)])

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return (float(self.flat.min()), float(self.flat.max())) if self.flat.size else (0.0, 0.0)

    @property
    def in_unit(self) -> bool:
        """Whether all values are between 0 and 1, as a sigmoid's and a softmax's are, and not all the same."""
        low, high = self.bounds
        return low >= -1e-6 and high <= 1 + 1e-6 and high > low

    def sums_to_one(self, axis: int) -> bool:
        """Whether values along an axis of a sample are shares, or the logarithms of shares."""
        if self.discrete or not self.samples or self.shape[axis] < 2:
            return False
        return all(_shares(np.asarray(one, np.float64), axis) for one in self.samples)

    def stacked(self, axis: int) -> Array:
        """All samples with one axis last, float64 [positions, extent]; samples of other extents are left out."""
        rows = [np.moveaxis(np.asarray(one, np.float64), axis, -1) for one in self.samples]
        return np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows if row.shape[-1] == rows[0].shape[-1]])

    def fixed(self, axis: int) -> bool:
        """Whether the model declares the extent of a sample's axis as a number; axes count from the end."""
        return self.declared is not None and len(self.declared) >= -axis and isinstance(self.declared[axis], int)


@dataclass
class SeenModel:
    """A model with what it gave on a few samples.

    Attributes:
        outputs: each output, in the model's order.
        inputs: one sample of each input, without the batch axis.
        ops: all operators of the graph, those of subgraphs included.
    """

    outputs: list[SeenOutput]
    inputs: dict[str, Array]
    ops: frozenset[str]

    @property
    def reads_tokens(self) -> bool:
        """Whether an input holds numbers of tokens: integers along an axis."""
        return any(one.dtype.kind in "iu" and one.ndim >= 1 for one in self.inputs.values())

    @property
    def images(self) -> list[tuple[int, int]]:
        """Height and width of each input that is an image."""
        found = []
        for one in self.inputs.values():
            if one.ndim == 3 and one.dtype.kind not in "b":
                if one.shape[0] <= 4:
                    found.append((one.shape[1], one.shape[2]))
                elif one.shape[2] <= 4:
                    found.append((one.shape[0], one.shape[1]))
        return found


def observe(model: Model, batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array], int]]) -> SeenModel:
    """Gather what is needed.

    Args:
        model: the float model.
        batches: inputs, the model's outputs for them, and how many samples they join.
    """
    outputs = [
        SeenOutput(t.name, tuple(t.shape) if t.shape is not None else None, ops=_makers(model, t.name))
        for t in model.graph.outputs
    ]
    inputs: dict[str, Array] = {}
    for given, made, count in batches:
        if not inputs:
            inputs = {name: value[0] if value.ndim else value for name, value in given.items()}
        for one in outputs:
            value = made.get(one.name)
            if value is None:
                # it comes from a node that onnxruntime cannot run
                continue
            if not one.samples:
                one.batch_axis = _batch_axis(value.shape, count)
            _take(one, value)
    ops = frozenset(node.op for node, _ in model.walk())
    return SeenModel(outputs, inputs, ops)


def _take(output: SeenOutput, value: Array) -> None:
    plain = value if value.dtype.kind in "iub" else np.asarray(value, np.float32)
    if output.batch_axis is None:
        output.samples.append(plain)
    else:
        output.samples.extend(np.moveaxis(plain, output.batch_axis, 0))


def _batch_axis(shape: tuple[int, ...], count: int) -> int | None:
    """The axis of samples: the first that is as long as the batch, of the first two."""
    return next((axis for axis in range(min(2, len(shape))) if shape[axis] == count), None)


def _makers(model: Model, output: str) -> frozenset[str]:
    by_output = {tensor.name: node for node in model.nodes for tensor in node.outputs}
    found, waiting, steps = set(), [output], 0
    while waiting and steps < 100:
        steps += 1
        node = by_output.get(waiting.pop())
        if node is None:
            continue
        if node.op in _PASSING and node.inputs:
            waiting.append(node.inputs[0].name)
        elif node.op == "Concat":
            waiting += [tensor.name for tensor in node.inputs]
        else:
            found.add(node.op)
    return frozenset(found)


def _shares(value: Array, axis: int) -> bool:
    if not np.isfinite(value).all():
        return False
    if value.min() >= -_CLOSE and value.max() <= 1 + _CLOSE:
        return bool(np.allclose(value.sum(axis=axis), 1.0, atol=1e-2))
    return bool(value.max() <= _CLOSE and np.allclose(np.exp(value).sum(axis=axis), 1.0, atol=1e-2))
