"""Shape profiles: the shapes that each dynamic input may have, and the profiles that a sample belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from toolkit.base.errors import RecipeError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""A shape per input."""


@dataclass(frozen=True)
class Extent:
    """The min, opt and max shape of one input in one profile."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise RecipeError(
                f"min {list(self.min)}, opt {list(self.opt)} and max {list(self.max)} differ in rank",
                remedy="give the three shapes the same number of dimensions",
            )
        for axis, (low, mid, high) in enumerate(zip(self.min, self.opt, self.max)):
            if not 0 <= low <= mid <= high:
                raise RecipeError(
                    f"dimension {axis} has min {low}, opt {mid}, max {high}",
                    remedy="order them so that 0 <= min <= opt <= max",
                )

    def holds(self, shape: Sequence[int], skip_axis: int | None = None) -> bool:
        """Whether ``shape`` is between min and max in every dimension except ``skip_axis``, where any size is accepted.

        Size 0 is accepted in ``skip_axis`` only if min allows it: joining samples into batches cannot create values.
        """
        return len(shape) == len(self.min) and all(
            low <= size <= high or (axis == skip_axis and size > 0)
            for axis, (low, size, high) in enumerate(zip(self.min, shape, self.max))
        )


@dataclass(frozen=True)
class ShapeProfile:
    """A TensorRT optimization profile: one Extent per input with a dynamic dimension.

    Inputs without an Extent have the shape that the model declares.
    """

    name: str
    shapes: Mapping[str, Extent] = field(default_factory=dict)

    def fits(self, shapes: Mapping[str, Sequence[int]], batch_axes: Mapping[str, int] | None = None) -> bool:
        """Whether every listed input's shape fits this profile; sizes along ``batch_axes`` are ignored."""
        axes = batch_axes or {}
        return all(
            name in shapes and extent.holds(shapes[name], axes.get(name)) for name, extent in self.shapes.items()
        )

    def volume(self, batch_axes: Mapping[str, int] | None = None) -> float:
        """Number of shapes that the profile covers, as a natural logarithm, ignoring ``batch_axes``."""
        axes = batch_axes or {}
        return sum(
            math.log1p(high - low)
            for name, extent in self.shapes.items()
            for axis, (low, high) in enumerate(zip(extent.min, extent.max))
            if axis != axes.get(name)
        )

    def corners(self) -> dict[str, dict[str, Shape]]:
        """Input shapes at min, opt and max: ``{"min": {input: shape}, ...}``."""
        return {which: {name: getattr(e, which) for name, e in self.shapes.items()} for which in ("min", "opt", "max")}


@dataclass(frozen=True)
class Profiles:
    """The profiles of one recipe, in order."""

    profiles: tuple[ShapeProfile, ...] = ()

    def __iter__(self) -> Iterator[ShapeProfile]:
        return iter(self.profiles)

    def __len__(self) -> int:
        return len(self.profiles)

    def __getitem__(self, name: str) -> ShapeProfile:
        for profile in self.profiles:
            if profile.name == name:
                return profile
        raise KeyError(name)

    @property
    def names(self) -> list[str]:
        """The profiles' names, in order."""
        return [profile.name for profile in self.profiles]

    def fits(
        self, shapes: Mapping[str, Sequence[int]], batch_axes: Mapping[str, int] | None = None
    ) -> list[ShapeProfile]:
        """The profiles that fit ``shapes``, those covering the fewest shapes first.

        The axes in ``batch_axes`` are ignored: qtool chooses how many samples make a batch.
        """
        found = [profile for profile in self.profiles if profile.fits(shapes, batch_axes)]
        return sorted(found, key=lambda profile: profile.volume(batch_axes))

    def assigned(
        self, shapes: Mapping[str, Sequence[int]], batch_axes: Mapping[str, int] | None = None
    ) -> list[ShapeProfile]:
        """The profiles that a sample counts for: the tightest that fits, and those equal to it but for batch axes."""
        found = self.fits(shapes, batch_axes)
        axes = batch_axes or {}
        return [p for p in found if _without(p, axes) == _without(found[0], axes)]

    def corners(self) -> list[dict[str, Shape]]:
        """The min, opt and max input shapes of every profile."""
        return [shapes for profile in self.profiles for shapes in profile.corners().values()]


def fixed_profile(shapes: Shapes) -> Profiles:
    """A single profile whose min, opt and max shapes are the given ones."""
    return Profiles((ShapeProfile("fixed", {name: Extent(shape, shape, shape) for name, shape in shapes.items()}),))


def _without(profile: ShapeProfile, axes: Mapping[str, int]) -> dict[str, list[tuple[int, int]]]:
    return {
        name: [(low, high) for i, (low, high) in enumerate(zip(e.min, e.max)) if i != axes.get(name)]
        for name, e in profile.shapes.items()
    }
