"""Which values of an inner tensor belong to padding: those at the positions that hold no answers in the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.observation.position_mask import positions_on
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts

_LENGTH, _ROWS = 1, 2
"""The first axis of a mask that may be one of positions, and the rank of tensors whose rows are all positions."""


@dataclass(frozen=True)
class LayerPositions:
    """The mask that all outputs of a model share, for the tensors of its layers.

    Attributes:
        mask: the input that turns positions off, see ``positions_on``.
        off: its value where a position does not count, see ``PositionMask``.
        dynamic: whether the number of positions differs between samples.
        facts: the model's types and shapes, which tell dynamic dimensions from others of the same size.
    """

    mask: str
    off: float
    dynamic: bool
    facts: Facts

    @classmethod
    def of(cls, parts: Sequence[OutputPart], model: Model) -> LayerPositions | None:
        """The mask of these outputs; None where they have none, or not all the same: padding counts in one of them."""
        masks = {(part.settings.get("mask"), part.settings.get("mask_off")) for part in parts}
        mask, off = masks.pop() if len(masks) == 1 else (None, None)
        dims = model.input_shapes().get(mask or "")
        if mask is None or off is None or dims is None:
            return None
        # the axis of positions is the last, or the last but one beside an axis of length 1
        dynamic = any(not isinstance(one, int) for one in dims[_LENGTH:])
        return cls(mask, float(off), dynamic, model.facts())

    def on(self, tensor: str, value: Array, inputs: Mapping[str, Array]) -> Array | None:
        """Which entries of a tensor belong to positions that count; None where all do, or positions are not known.

        Positions lie along each axis that is as long as they are, as both of attention scores, and along the rows of
        a matrix that has one for each of all samples. A dimension that is fixed has none where their number
        differs; where it is fixed itself, one axis alone must be as long.

        Args:
            tensor: its name.
            value: what it is for one batch.
            inputs: the batch's inputs.

        Returns:
            Bool, broadcast to ``value``.
        """
        mask = inputs.get(self.mask)
        counts = positions_on(mask, self.off) if mask is not None else None
        if counts is None or value.ndim < 2 or counts.all():
            return None
        if value.ndim == _ROWS and value.shape[0] == counts.size and self._varies(tensor, 0):
            return counts.reshape(-1, 1)
        alike = [axis for axis in range(1, value.ndim) if value.shape[axis] == counts.shape[_LENGTH]]
        axes = [axis for axis in alike if self._varies(tensor, axis)]
        if value.shape[0] != len(counts) or not axes or (len(axes) > 1 and not self.dynamic):
            return None
        on = np.ones((), bool)
        for axis in axes:
            shape = [1] * value.ndim
            shape[0], shape[axis] = counts.shape
            on = on & counts.reshape(shape)
        return on

    def _varies(self, tensor: str, axis: int) -> bool:
        """Whether an axis may be one of positions: it is not fixed, or they are as well."""
        shapes = self.facts.shapes.get(tensor, [])
        return not self.dynamic or not shapes or shapes[0][axis] < 0
