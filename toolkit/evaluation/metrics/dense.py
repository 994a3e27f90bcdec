"""Metrics of images, maps and masks: mean IoU, mean squared and absolute error, PSNR and SSIM."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.evaluation.metric import (
    UNLABELLED_PIXEL,
    Metric,
    MetricOptions,
    check_finite,
    non_unit_dims,
    pick,
    threshold_of,
    unlike_shapes,
)
from toolkit.evaluation.numerics.resampling import NO_UNIT, Summed
from toolkit.evaluation.tasks.segmentation import mask_of

_PIXELS = (
    "give integers [samples, height, width], the class of every pixel, or [samples, masks, height, width] with 0 or 1 "
    "for each mask"
)
_WINDOW = 7
_STEP, _LEAST_NOISE = 1 / 255, 1e-12


class _Alike(Summed):
    """A metric of an output and a label of the same shape; axes of length 1 may be missing in either."""

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        super().__init__(2)
        self.options = options

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: the label's shape is not the output's, or it holds NaN or infinities.
        """
        values, label = pick(outputs, self.options, labels)
        if label.shape[:1] != values.shape[:1] or non_unit_dims(label.shape[1:]) != non_unit_dims(values.shape[1:]):
            raise unlike_shapes(values, label, "give a label of the output's shape")
        wanted = np.asarray(label, np.float64).reshape(values.shape)
        check_finite(wanted)
        self.add(np.asarray(values, np.float64), wanted)

    def add(self, values: Array, label: Array) -> None:
        """Add values and labels of one batch, float64 [batch, ...]."""

    def take_elements(self, errors: Array) -> None:
        """Add an error per element, float64 [batch, ...]."""
        rows = errors.reshape(len(errors), math.prod(errors.shape[1:]))
        self.take(rows.sum(axis=1), np.full(len(rows), rows.shape[1]))


class MeanSquaredError(_Alike):
    """Mean squared difference between the output and the label, in squared units of the output."""

    higher_is_better = False

    def __init__(self, options: MetricOptions) -> None:
        super().__init__(options)
        self._labels = _Variance()

    def add(self, values: Array, label: Array) -> None:
        """Add values and labels of one batch."""
        self._labels.take(label)
        self.take_errors(values - label)

    def take_errors(self, errors: Array) -> None:
        """Add the differences of outputs and labels, float64 [batch, ...]."""
        self.take_elements(np.square(errors))

    @property
    def label_spread(self) -> float:
        """The variance of the labels."""
        return self._labels.value


class MeanAbsoluteError(MeanSquaredError):
    """Mean absolute difference, in the output's unit."""

    def take_errors(self, errors: Array) -> None:
        """Add the differences of outputs and labels, float64 [batch, ...]."""
        self.take_elements(np.abs(errors))

    @property
    def label_spread(self) -> float:
        """The mean absolute deviation of the labels, from their variance, if they are normally distributed."""
        return math.sqrt(self._labels.value * 2 / math.pi)


class _Variance:
    """The variance of labels over samples, each element about its own mean, or a common one if shapes differ."""

    def __init__(self) -> None:
        self._totals: Array | None = None
        self._count = self._size = 0
        self._sum = self._squares = 0.0

    def take(self, labels: Array) -> None:
        """Add a batch, float64 [batch, ...]."""
        totals = labels.sum(axis=0)
        if not self._count:
            self._totals = totals
        elif self._totals is not None:
            self._totals = self._totals + totals if self._totals.shape == totals.shape else None
        self._count, self._size = self._count + len(labels), self._size + labels.size
        self._sum, self._squares = self._sum + float(totals.sum()), self._squares + float(np.square(labels).sum())

    @property
    def value(self) -> float:
        """The variance; 0 without labels."""
        if not self._size:
            return 0.0
        alike = (
            self._sum**2 / self._size if self._totals is None else float(np.square(self._totals).sum()) / self._count
        )
        return max(self._squares - alike, 0.0) / self._size


class Psnr(_Alike):
    """Mean over samples of 10 log10(peak^2 / mse), in dB; for the peak see ``peak_of``."""

    def add(self, values: Array, label: Array) -> None:
        """Add values and labels of one batch."""
        peak = peak_of(label)
        noise = np.square((values - label) / peak).reshape(len(values), -1).mean(axis=1)
        self.take(-10 * np.log10(np.maximum(noise, _LEAST_NOISE)), np.ones(len(values)))


class Ssim(_Alike):
    """Mean structural similarity over windows of 7: Z. Wang et al., IEEE Trans. Image Processing 13(4), 2004.

    Images are [batch, channels, height, width]; windows are uniform, not Gaussian.
    """

    def add(self, values: Array, label: Array) -> None:
        """Add values and labels of one batch.

        Raises:
            DataError: they are not images of at least 7 by 7 pixels.
        """
        if values.ndim < 3 or min(values.shape[-2:]) < _WINDOW:
            raise DataError(f"ssim needs images, and the output has shape {list(values.shape)}", remedy="use psnr")
        peak = peak_of(label)
        first, second = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        a, b = _means(values), _means(label)
        variance_a, variance_b = _means(values * values) - a * a, _means(label * label) - b * b
        common = _means(values * label) - a * b
        level = (2 * a * b + first) * (2 * common + second)
        level /= (a * a + b * b + first) * (variance_a + variance_b + second)
        self.take(level.reshape(len(values), -1).mean(axis=1), np.ones(len(values)))


def peak_of(label: Array) -> float:
    """The size of the labels' pixel range: 0 to 255, 0 to 1, or -1 to 1.

    Labels that are all smaller than 1/255, and not all 0, are not pixels: the size of their own range.
    """
    low, high = (float(label.min()), float(label.max())) if label.size else (0.0, 1.0)
    if 0 < max(high, -low) < _STEP:
        return max(high, 0.0) - min(low, 0.0)
    return 255.0 if high > 2 else 2.0 if low < -0.01 else 1.0


def _means(values: Array) -> Array:
    """Means over windows of the last two axes, by running sums."""
    for axis in (-2, -1):
        sums = np.cumsum(values, axis=axis)
        zeros = np.zeros_like(np.take(sums, [0], axis=axis))
        sums = np.concatenate([zeros, sums], axis=axis)
        ends = np.take(sums, range(_WINDOW, sums.shape[axis]), axis=axis)
        values = (ends - np.take(sums, range(sums.shape[axis] - _WINDOW), axis=axis)) / _WINDOW
    return values


class MeanIoU:
    """Mean over classes of intersection over union, counted over all pixels; 255 among the labels is left out.

    Outputs are scores [batch, classes, height, width], or with classes along the options' ``axis``, a single map of
    scores, or class numbers [batch, height, width]; labels are integers [batch, height, width]. Of several independent
    masks, labels are 0 or 1 for each, of the outputs' shape; the mean is over the masks. If they put each pixel of all
    samples in exactly one mask, they are classes, and the largest score counts.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options = options
        self.told: list[Array] = [np.zeros(0, bool)]
        self.samples = 0
        # by class: sample, pixels of the class in both output and label, and in either
        self.counts: dict[int, list[Array]] = {}
        # the same if labels are 0 or 1 for each mask, but put each pixel in exactly one
        self.of_largest: dict[int, list[Array]] = {}
        self.overlap = False

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: labels are not a class for every pixel, nor 0 or 1 for every pixel of each mask.
        """
        scores, label = pick(outputs, self.options, labels)
        if scores.ndim < 3:
            raise unlike_shapes(scores, label, _PIXELS)
        label = label.reshape(len(label), *label.shape[-2:]) if label.ndim == 4 and label.shape[1] == 1 else label
        axis = 1 if self.options.axis is None else self.options.axis
        if scores.dtype.kind == "f" and label.shape == scores.shape and scores.ndim > 3 and scores.shape[axis] > 1:
            self._add_masks(
                np.moveaxis(scores, axis, 1), np.moveaxis(label, axis, 1), threshold_of(scores, self.options)
            )
            return
        single = scores.dtype.kind == "f" and (scores.ndim == 3 or scores.shape[axis] == 1)
        found = mask_of(scores, axis, threshold_of(scores, self.options) if single else None)
        if label.dtype.kind not in "iub" or found.shape != label.reshape(len(label), -1).shape:
            raise unlike_shapes(scores, label, _PIXELS)
        wanted = label.reshape(len(label), -1).astype(np.int64)
        keep = wanted != UNLABELLED_PIXEL
        for one in np.union1d(found[keep], wanted[keep]).tolist():
            self._count(self.counts, one, (found == one) & keep, (wanted == one) & keep)
        self._told(keep)

    def _add_masks(self, scores: Array, label: Array, threshold: float) -> None:
        """Add scores and labels of several masks, [batch, masks, height, width] each."""
        wanted = label.reshape(*label.shape[:2], -1)
        keep = wanted != UNLABELLED_PIXEL
        if not np.isin(wanted[keep], (0, 1)).all():
            raise unlike_shapes(scores, label, _PIXELS)
        values = np.asarray(scores, np.float32).reshape(wanted.shape)
        best = values.argmax(axis=1)[:, None] == np.arange(wanted.shape[1])[:, None]
        one_each = (keep.all(axis=1) & ((wanted == 1).sum(axis=1) == 1)) | ~keep.any(axis=1)
        self.overlap = self.overlap or not bool(one_each.all())
        for counts, found in ((self.counts, values > threshold), (self.of_largest, best)):
            # a score that is NaN is wrong, whatever the label
            right = np.where(np.isnan(values), wanted != 1, found)
            for one in range(wanted.shape[1]):
                here = keep[:, one]
                self._count(counts, one, right[:, one] & here, (wanted[:, one] == 1) & here)
        self._told(keep.reshape(len(label), -1))

    def _count(self, counts: dict[int, list[Array]], one: int, found: Array, wanted: Array) -> None:
        """Count the pixels of a class in each sample, bool [batch, pixels] each."""
        both, either = (found & wanted).sum(axis=1), (found | wanted).sum(axis=1)
        pixels = np.stack([self.samples + np.arange(len(found)), both, either], axis=1)
        counts.setdefault(one, []).append(pixels[either > 0])

    def _told(self, keep: Array) -> None:
        self.told.append(np.asarray(keep.any(axis=1)))
        self.samples += len(keep)

    def value(self) -> float:
        """The value over all samples, 0 to 1; NaN if no pixel has a class."""
        return self.value_among(np.ones(self.samples, bool))

    def units(self) -> Array:
        """Each sample with a labelled pixel is a unit of its own."""
        return np.where(np.concatenate(self.told), np.arange(self.samples), NO_UNIT)

    def value_among(self, kept: Array) -> float:
        """The value over the samples that are ``kept``, bool [samples]."""
        chosen = self.of_largest if self.of_largest and not self.overlap else self.counts
        totals = [(counts := np.concatenate(parts))[kept[counts[:, 0]]].sum(axis=0) for parts in chosen.values()]
        shares = [int(common) / int(union) for _, common, union in totals if union]
        return math.fsum(shares) / len(shares) if shares else math.nan


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "psnr": Psnr,
    "ssim": Ssim,
    "miou": MeanIoU,
}
