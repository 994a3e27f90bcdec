"""Which profiles a sample counts for, and how it is padded or cropped to fit one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile, Shapes
from toolkit.base.types import Array
from toolkit.data.sample import EVERYTHING, Sample


class Fitter:
    """Finds the profiles that a sample counts for, and pads or crops it to fit one if the recipe allows that.

    Args:
        profiles: the recipe's profiles; without any, every sample counts for ``default``.
        batch_axes: per input, the axis along which samples are joined; empty if samples are not joined.
        outside: ``error``, ``skip``, ``pad`` or ``crop``.
    """

    def __init__(self, profiles: Profiles, batch_axes: Mapping[str, int], outside: str) -> None:
        self._profiles, self._axes, self._outside = profiles, batch_axes, outside
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]] = {}

    def assigned(self, shapes: Shapes) -> tuple[str, ...]:
        """Names of the profiles that a sample of these shapes counts for."""
        if not len(self._profiles):
            return (EVERYTHING,)
        key = tuple(sorted(shapes.items()))
        if key not in self._known:
            self._known[key] = tuple(p.name for p in self._profiles.assigned(shapes, self._axes))
        return self._known[key]

    def fit(self, sample: Sample) -> Sample | None:
        """The sample with its profiles, padded or cropped if necessary; None if it is to be skipped.

        Raises:
            DataError: it fits no profile and may not be changed; or there are no profiles, and all its inputs are
                empty.
        """
        assigned = self.assigned(sample.shapes)
        if not len(self._profiles) and not any(value.size for value in sample.inputs.values()):
            # one input may be empty, such as the past at a decoder's first step; a profile may allow all to be empty
            name, value = next(iter(sample.inputs.items()))
            raise DataError(
                f"input '{name}' {list(value.shape)} holds no values, nor does any other",
                where=sample.origin,
                remedy="remove the sample",
            )
        if assigned:
            return Sample(sample.inputs, sample.index, sample.origin, assigned, sample.labels)
        if self._outside == "skip":
            return None
        if self._outside in ("pad", "crop"):
            changed = self._changed(sample)
            if changed is not None:
                return changed
        shapes = ", ".join(f"'{name}' {list(shape)}" for name, shape in sample.shapes.items())
        extents = "; ".join(
            f"{profile.name}: " + ", ".join(f"'{n}' {list(e.min)} to {list(e.max)}" for n, e in profile.shapes.items())
            for profile in self._profiles
        )
        raise DataError(
            f"{shapes} fits no profile ({extents})",
            where=sample.origin,
            remedy="widen a profile, or set outside to skip, pad or crop"
            if self._outside == "error"
            else f"no profile can be reached by outside = '{self._outside}': widen a profile or set outside = 'skip'",
        )

    def _changed(self, sample: Sample) -> Sample | None:
        """The sample padded or cropped to the profile that changes the fewest values; None if no profile can be met."""
        best: tuple[float, Shapes] | None = None
        for profile in self._profiles:
            target = self._target(sample.shapes, profile)
            if target is None:
                continue
            cost = sum(abs(math.prod(target[n]) - math.prod(s)) for n, s in sample.shapes.items())
            if best is None or cost < best[0]:
                best = cost, target
        if best is None:
            return None
        inputs = {name: resize(value, best[1][name]) for name, value in sample.inputs.items()}
        change = "padded" if self._outside == "pad" else "cropped"
        return Sample(inputs, sample.index, sample.origin, self.assigned(best[1]), sample.labels, change)

    def _target(self, shapes: Shapes, profile: ShapeProfile) -> Shapes | None:
        target = dict(shapes)
        for name, extent in profile.shapes.items():
            if name not in shapes or len(shapes[name]) != len(extent.min):
                return None
            sizes = [
                size if axis == self._axes.get(name) else self._moved(size, extent, axis)
                for axis, size in enumerate(shapes[name])
            ]
            target[name] = tuple(sizes)
        return target if profile.fits(target, self._axes) else None

    def _moved(self, size: int, extent: Extent, axis: int) -> int:
        return max(size, extent.min[axis]) if self._outside == "pad" else min(size, extent.max[axis])


def resize(value: Array, shape: Sequence[int]) -> Array:
    """The array cropped, or padded with zeros, at the end of each dimension to have ``shape``."""
    if value.shape == tuple(shape):
        return value
    result = np.zeros(tuple(shape), value.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(value.shape, shape))
    result[common] = value[common]
    return result
