"""What shape inference knows of a model's tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.graph.surgery.tensors import FLOAT_TYPES


@dataclass
class Facts:
    """What shape inference found: element types, and every tensor's shape at every corner of every profile.

    ``shapes[tensor]`` lists one shape per corner (a single one without profiles); an unknown dimension is -1.
    A tensor whose rank is unknown at any corner is missing. Tensors of the same shapes share a list: put another in its
    place to change one. ``trips[tensor]`` is a Loop's number of trips at the last corner, where shapes tell it.
    """

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    trips: dict[str, int] = field(default_factory=dict)

    def rank(self, tensor: str) -> int | None:
        """The rank of a tensor where it is known and the same at every corner."""
        ranks = {len(shape) for shape in self.shapes.get(tensor, [])}
        return ranks.pop() if len(ranks) == 1 else None

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor holds float32, float16 or bfloat16."""
        return self.types.get(tensor) in FLOAT_TYPES
