"""Samples of similar length padded to one shape, so that they can share a batch if the model has a mask."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.base.errors import DataError, did_you_mean
from toolkit.base.profiles import Profiles
from toolkit.data.fitter import resize
from toolkit.data.sample import InputSpec, Sample


class MaskPadder:
    """Pads samples of similar length to one shape, and their mask with zeros, so that they can share a batch.

    A sample's padded shape depends only on the sample and its profile, so ranges do not depend on the order of samples.
    Lengths are rounded up to one of four steps per octave: padding adds less than a quarter.

    Args:
        mask: name of the mask input. Its dynamic dimensions, except the batch dimension, are padded in every input that
            has them.
        profiles: the shape profiles; samples are not padded beyond them.

    Raises:
        DataError: the model has no such input, or it has no dynamic dimension.
    """

    def __init__(self, mask: str, specs: Mapping[str, InputSpec], profiles: Profiles) -> None:
        if mask not in specs:
            raise DataError(
                f"the mask '{mask}' is not an input of the model", remedy=did_you_mean(mask, specs), value=mask
            )
        self._mask, self._specs, self._profiles = mask, specs, profiles
        dims, batch = specs[mask].dims or (), specs[mask].batch_axis or 0
        self._axes = [i for i, d in enumerate(dims) if i != batch and not isinstance(d, int)]
        if not self._axes:
            raise DataError(f"the mask '{mask}' has no dynamic dimension to pad", remedy="leave out mask", value=mask)

    def pad(self, sample: Sample) -> Sample:
        """The sample, padded."""
        mask_shape = sample.inputs[self._mask].shape
        sizes: dict[str | int, int] = {}
        for axis in self._axes:
            dim = (self._specs[self._mask].dims or ())[axis]
            limit = self._limit(sample.profiles, axis)
            padded = max(mask_shape[axis], min(round_up(mask_shape[axis]), limit))
            sizes[dim if isinstance(dim, str) else mask_shape[axis]] = padded
        inputs = {}
        for name, value in sample.inputs.items():
            dims, batch = self._specs[name].dims or (), self._specs[name].batch_axis or 0
            shape = [
                size
                if axis == batch or isinstance(dim, int)
                else sizes.get(dim if isinstance(dim, str) else size, size)
                for axis, (size, dim) in enumerate(zip(value.shape, dims))
            ]
            inputs[name] = resize(value, shape or value.shape)
        return Sample(inputs, sample.index, sample.origin, sample.profiles, sample.labels, sample.change)

    def _limit(self, profiles: tuple[str, ...], axis: int) -> int:
        limits = [
            self._profiles[name].shapes[self._mask].max[axis]
            for name in profiles
            if name in self._profiles.names and self._mask in self._profiles[name].shapes
        ]
        return min(limits) if limits else 1 << 40


def round_up(size: int) -> int:
    """The smallest size of at least ``size`` in a ladder of four steps per octave (..., 7, 8, 10, 12, 14, 16, ...)."""
    step = max(1, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step
