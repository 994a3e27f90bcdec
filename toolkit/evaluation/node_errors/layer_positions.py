"""Finds the values of an inner tensor that belong to padding: those at positions without answers in the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.observation.one_each import weight_shape
from toolkit.evaluation.observation.position_mask import positions_on
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts

_LAYERS = {
    "MatMul": (1,), "Gemm": (1,), "Conv": (1,), "ConvTranspose": (1,), "LayerNormalization": (1,),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""By operator, the indices of the weight inputs, whose extents are numbers of channels or features."""
_LENGTH, _ROWS = 1, 2
"""The first axis of a mask that may be that of positions, and the rank of tensors with one row per position."""


@dataclass(frozen=True)
class LayerPositions:
    """The mask shared by all outputs of a model, applied to the tensors of its layers.

    Attributes:
        mask: the input that masks positions, see ``positions_on``.
        off: the input's value for a masked position, see ``PositionMask``.
        dynamic: whether the number of positions differs between samples.
        facts: the model's types and shapes, to distinguish dynamic dimensions from others of the same size.
        channels: the extents of the layers' weights. If a fixed or unknown axis has the same extent as one of them and
            as the positions, it is not known whether it holds channels or positions.
    """

    mask: str
    off: float
    dynamic: bool
    facts: Facts
    channels: frozenset[int] = frozenset()

    @classmethod
    def of(cls, parts: Sequence[OutputPart], model: Model) -> LayerPositions | None:
        """The mask of these outputs; None without one, or if they differ, since padding counts in one of them then."""
        masks = {(part.settings.get("mask"), part.settings.get("mask_off")) for part in parts}
        mask, off = masks.pop() if len(masks) == 1 else (None, None)
        dims = model.input_shapes().get(mask or "")
        if mask is None or off is None or dims is None:
            return None
        # the axis of positions is the last one, or the last but one before an axis of length 1
        dynamic = any(not isinstance(one, int) for one in dims[_LENGTH:])
        return cls(mask, float(off), dynamic, model.facts(), _channels(model))

    @classmethod
    def untold(cls, parts: Sequence[OutputPart], model: Model) -> Finding | None:
        """A finding that layers' errors include padding; None if padding is left out.

        They do if layers have as many channels as there are positions and both numbers are fixed.
        """
        found = cls.of(parts, model)
        if found is None or found.dynamic:
            return None
        length = max((dim for dim in model.input_shapes()[found.mask][_LENGTH:] if isinstance(dim, int)), default=0)
        if length not in found.channels:
            return None
        return EvaluationCode.LAYER_POSITIONS_UNTOLD(input=found.mask, positions=length)

    def on(self, tensor: str, value: Array, inputs: Mapping[str, Array]) -> Array | None:
        """Which entries of a tensor belong to positions that count; None if all do, or positions are not known.

        Axes of positions are those with as many entries as there are positions, such as both axes of attention scores,
        and the rows of a matrix with one row per position of all samples. If the number of positions is dynamic, fixed
        dimensions are excluded; if it is fixed, exactly one axis must have this length, and no layer as many channels.

        Args:
            tensor: the tensor's name.
            value: the tensor's value for one batch.
            inputs: the batch's inputs.

        Returns:
            Bool, broadcastable to ``value``.
        """
        mask = inputs.get(self.mask)
        counts = positions_on(mask, self.off) if mask is not None else None
        if counts is None or value.ndim < 2 or counts.all():
            return None
        if value.ndim == _ROWS and value.shape[0] == counts.size and self._varies(tensor, 0, counts.size):
            return counts.reshape(-1, 1)
        alike = [axis for axis in range(1, value.ndim) if value.shape[axis] == counts.shape[_LENGTH]]
        axes = [axis for axis in alike if self._varies(tensor, axis, counts.shape[_LENGTH])]
        if value.shape[0] != len(counts) or not axes or (len(axes) > 1 and not self.dynamic):
            return None
        on = np.ones((), bool)
        for axis in axes:
            shape = [1] * value.ndim
            shape[0], shape[axis] = counts.shape
            on = on & counts.reshape(shape)
        return on

    def _varies(self, tensor: str, axis: int, extent: int) -> bool:
        """Whether an axis of this extent may be that of positions.

        If the number of positions is dynamic, the axis must be too; else no layer may have that many channels.
        """
        shapes = self.facts.shapes.get(tensor, [])
        return shapes[0][axis] < 0 if self.dynamic and shapes else extent not in self.channels


def _channels(model: Model) -> frozenset[int]:
    """The extents of the weights of a model's layers."""
    found: set[int] = set()
    for node in model.nodes:
        for place in _LAYERS.get(node.op, ()):
            if place < len(node.inputs):
                found.update(weight_shape(node.inputs[place]))
    return frozenset(found)
