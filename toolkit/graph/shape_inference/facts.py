"""The result of shape inference for a model's tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.graph.surgery.tensors import FLOAT_TYPES


@dataclass
class Facts:
    """Results of shape inference: element types, and the shape of every tensor at every corner of every profile.

    ``shapes[tensor]`` lists one shape per corner (a single one without profiles); an unknown dimension is -1. A tensor
    whose rank is unknown at any corner is missing. Tensors of equal shapes share a list, so replace the list to change
    one. ``trips[tensor]`` is a Loop's number of trips at the last corner, if it follows from shapes.
    """

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    trips: dict[str, int] = field(default_factory=dict)

    def rank(self, tensor: str) -> int | None:
        """The rank of a tensor if it is known and the same at every corner; else None."""
        ranks = {len(shape) for shape in self.shapes.get(tensor, [])}
        return ranks.pop() if len(ranks) == 1 else None

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor is float32, float16 or bfloat16."""
        return self.types.get(tensor) in FLOAT_TYPES
