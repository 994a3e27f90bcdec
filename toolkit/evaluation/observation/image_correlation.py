"""Correlate an output with the input images: a denoiser's output shows the same picture, a mask does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.base.types import Array

_GRID, _COLOURS = 16, 4
"""Most cells per side of a brightness grid, and most channels of an image."""


def grids(inputs: Mapping[str, Array]) -> list[Array]:
    """The brightness of each input image, averaged over a coarse grid that suppresses noise and differences in size.

    Args:
        inputs: one sample of each input, without the batch axis: [C, H, W], [H, W, C] or [H, W], with at most 4
            channels; others are ignored.

    Returns:
        Float64 [cells, cells] for each image, at most 16 cells per side.
    """
    images = [_brightness(value) for value in inputs.values()]
    return [_averaged(one, min(_GRID, *one.shape)) for one in images if one is not None]


def image_correlation(images: Sequence[Array], output: Array) -> float:
    """The correlation of an output's brightness with that of the most similar input image, -1 to 1.

    Args:
        images: the result of ``grids`` for a sample's inputs.
        output: the same sample's output, without the batch axis.

    Returns:
        The Pearson correlation; 0 if the output or every input is no image, or constant.
    """
    made = _brightness(output)
    return max((_correlation(image, made) for image in images), default=0.0) if made is not None else 0.0


def _brightness(value: Array) -> Array | None:
    """The mean over the channels, float64 [H, W]; None if the value has no shape of an image or is not finite."""
    plain = np.asarray(value, np.float64) if value.dtype.kind in "iuf" and value.size else np.zeros(0)
    if plain.ndim == 3 and min(plain.shape[0], plain.shape[2]) <= _COLOURS:
        plain = plain.mean(axis=0 if plain.shape[0] <= _COLOURS else 2)
    return plain if plain.ndim == 2 and min(plain.shape) > 1 and np.isfinite(plain).all() else None


def _correlation(image: Array, made: Array) -> float:
    cells = min(*image.shape, *made.shape)
    a, b = (_averaged(one, cells).reshape(-1) for one in (image, made))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _averaged(image: Array, cells: int) -> Array:
    """Means over a grid, [cells, cells]; remaining rows and columns are cut off."""
    height, width = (extent // cells for extent in image.shape)
    cut = image[: height * cells, : width * cells]
    return np.asarray(cut.reshape(cells, height, cells, width).mean(axis=(1, 3)))
