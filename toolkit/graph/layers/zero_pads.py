"""Padding with zeros before a convolution, which onnxruntime computes within the convolution.

It does not if the padded tensor is an output: it then stores the tensor, and converts it from and to the layout that
its convolutions use. Padded values are therefore derived from the tensor before the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model

_IMAGE = 2
"""The first padded axis: batches and channels are not padded."""


@dataclass(frozen=True)
class ZeroPad:
    """A tensor as another one padded with zeros.

    Attributes:
        source: the tensor before the padding.
        pads: zeros before each axis, then zeros after each axis, as in the operator Pad.
    """

    source: str
    pads: tuple[int, ...]

    def zeros(self, shape: Sequence[int]) -> int:
        """How many zeros are added to a source of this shape."""
        padded = [sum(sizes) for sizes in zip(shape, self.pads, self.pads[len(shape) :])]
        return math.prod(padded) - math.prod(shape)

    @property
    def spatial(self) -> list[int]:
        """The padding as the attribute ``pads`` of a convolution."""
        rank = len(self.pads) // 2
        return [*self.pads[_IMAGE:rank], *self.pads[rank + _IMAGE :]]


def zero_pads(model: Model, tensors: Iterable[str]) -> dict[str, ZeroPad]:
    """Those of ``tensors`` that a Pad makes by adding zeros, as the input of a single convolution, by name."""
    wanted = set(tensors).difference(model.subgraph_tensors(), (tensor.name for tensor in model.graph.outputs))
    found = {}
    for node in model.graph.nodes:
        if node.op != "Pad" or node.outputs[0].name not in wanted:
            continue
        source, made = node.inputs[0], node.outputs[0]
        # the padding of a weight is no part of the convolution
        convolved = [one.op for one in made.outputs] == ["Conv"] and made.outputs[0].inputs[0] is made
        pads = _zeros_around(model, node) if convolved and model.constant(source) is None else None
        if pads is not None:
            found[made.name] = ZeroPad(source.name, pads)
    return found


def _zeros_around(model: Model, node: gs.Node) -> tuple[int, ...] | None:
    """The sizes of a Pad that only adds zeros, and none along the first two axes; else None."""
    sizes, value, axes = (node.inputs[at] if at < len(node.inputs) else gs.Variable.empty() for at in (1, 2, 3))
    # before opset 11 sizes and value are attributes
    given = node.attrs["pads"] if "pads" in node.attrs else model.constant(sizes)
    filled = node.attrs.get("value", 0.0) if value.is_empty() else model.constant(value)
    if given is None or filled is None or np.any(filled) or not axes.is_empty():
        return None
    pads = tuple(int(size) for size in given)
    rank = len(pads) // 2
    apart = node.attrs.get("mode", "constant") != "constant" or any((*pads[:_IMAGE], *pads[rank : rank + _IMAGE]))
    return None if apart or min(pads) < 0 else pads
