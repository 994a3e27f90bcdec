"""Seeded random samples, for trial runs without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.profiles import Profiles, Shape
from toolkit.base.types import Array
from toolkit.data.sample import InputsAndLabels, InputSpec, Keep, Specs, axes_of


class RandomFeeds:
    """Seeded random samples that cycle through the opt, min and max shapes of all profiles, with a batch of 1.

    Floats follow the standard normal distribution; integers are 0 or 1, so that they are valid indices of any table.
    """

    def __init__(self, specs: Specs, profiles: Profiles, seed: int, samples: int) -> None:
        self._specs, self._seed, self._samples = specs, seed, samples
        self.cut = 0
        corners = [profile.corners()[which] for which in ("opt", "min", "max") for profile in profiles] or [{}]
        axes = axes_of(specs)
        self._shapes = [
            {name: self._shape(spec, corner, axes.get(name)) for name, spec in specs.items()} for corner in corners
        ]

    @staticmethod
    def _shape(spec: InputSpec, corner: Mapping[str, tuple[int, ...]], batch_axis: int | None) -> tuple[int, ...]:
        shape: list[Any] = list(corner.get(spec.name, spec.dims or ()))
        if batch_axis is not None:
            shape[batch_axis] = 1
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                raise DataError(
                    f"dimension {axis} of input '{spec.name}' is dynamic and no profile gives its size",
                    where="random data",
                    remedy="add a [[profile]] with shapes for this input",
                )
        return tuple(max(1, size) for size in shape)

    def __len__(self) -> int:
        """Number of samples requested."""
        return self._samples

    def shapes(self) -> Sequence[Mapping[str, Shape]]:
        """See ``Source``: every sample has one row, so none are listed."""
        return ()

    def read(self, keep: Keep) -> Iterator[tuple[int, str, InputsAndLabels]]:
        """See ``Source``."""
        for index in filter(keep, range(self._samples)):
            rng = np.random.default_rng([self._seed, index])
            shapes = self._shapes[index % len(self._shapes)]
            inputs = {name: _random(rng, self._specs[name].dtype, shape) for name, shape in shapes.items()}
            yield index, f"random data, sample {index}", (inputs, {})


def _random(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


def random_feeds(settings: Mapping[str, Any], specs: Specs, profiles: Profiles) -> RandomFeeds:
    """The samples requested by a recipe's ``random = { seed, samples }``.

    Raises:
        DataError: there are other settings, or a value is not a whole number in range.
    """
    seed, samples = settings.get("seed"), settings.get("samples", 32)
    unknown = sorted(set(settings) - {"seed", "samples"})
    if unknown or not isinstance(seed, int) or seed < 0 or not isinstance(samples, int) or samples < 1:
        raise DataError(
            f"random is {dict(settings)!r}", remedy="write random = { seed = 0, samples = 32 }, both whole numbers"
        )
    return RandomFeeds(specs, profiles, seed, samples)
