"""The difference of a tensor from its float counterpart, accumulated batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.base.sums import sum_of_products, sum_of_squares
from toolkit.base.types import Array
from toolkit.evaluation.numerics.masks import LEAST_MASK, all_finite, all_plain, largest_magnitude, masks
from toolkit.evaluation.numerics.ranks import largest

_FEW_SAMPLES = 8


@dataclass(frozen=True)
class TensorError:
    """The error of a tensor relative to its float counterpart.

    Attributes:
        sqnr_db: SQNR in dB; None if the tensors are identical or not comparable.
        max_abs: the largest absolute difference; None if NaN or infinity occurred.
    """

    sqnr_db: float | None
    max_abs: float | None


@dataclass(frozen=True)
class OutputFigures(TensorError):
    """The figures of an output relative to the float model's; see ``Difference`` for each."""

    cosine: float | None = None
    agreement: float | None = None
    variation_db: float | None = None
    positions: int = 0
    masks_lost: int = 0


@dataclass
class Difference:
    """The difference of a tensor from its float counterpart, accumulated over batches in float64.

    SQNR = 10 log10(sum(reference^2) / sum((reference - value)^2)), in dB. A masked value has no signal. If the other
    tensor has an ordinary value in its place, the difference counts as twice the largest unmasked magnitude of its row.
    In place of -inf, a value that is below the unmasked values of its row by more than their range still counts as
    masked.

    Attributes:
        masks_lost: number of values that are masked only in the float tensor.
    """

    signal: float = 0.0
    noise: float = 0.0
    cross: float = 0.0
    power: float = 0.0
    max_abs: float = 0.0
    broken: int = 0
    masks_lost: int = 0
    same: int = 0
    positions: int = 0
    sums: dict[tuple[int, ...], tuple[Array, Array]] = field(default_factory=dict)

    def add(self, reference: Array, value: Array, classes: bool = False, on: Array | None = None) -> None:
        """Add one batch of both tensors, of equal shape.

        Args:
            reference: the float tensor.
            value: the other tensor.
            classes: whether the last axis holds scores of classes, to compare their argmax.
            on: which entries count, bool, broadcastable to the tensors; None for all.
        """
        a = np.asarray(reference, np.float32)
        b = np.asarray(value, np.float32)
        if classes:
            self.add_argmax(a, b, on)
        if on is not None:
            a, b = (np.where(on, one, np.float32(0)) for one in (a, b))
        # values that are finite and smaller than any mask need no checks one by one
        if not (all_plain(a) and math.isfinite(largest_magnitude(b))):
            a, b = self._usable(a, b)
        with np.errstate(over="ignore"):
            d = a - b
        largest = largest_magnitude(d)
        if math.isinf(largest):
            d = a.astype(np.float64) - b
            largest = largest_magnitude(d)
        flat_a, flat_b, flat_d = a.reshape(-1), b.reshape(-1), d.reshape(-1)
        self.signal += sum_of_squares(flat_a)
        self.noise += sum_of_products(flat_d, flat_d)
        self.cross += sum_of_products(flat_a, flat_b)
        self.power += sum_of_products(flat_b, flat_b)
        self.max_abs = max(self.max_abs, largest)

    def add_argmax(self, reference: Array, value: Array, on: Array | None = None) -> Array:
        """Count the positions whose argmax is the float model's; returns which these are, bool [...].

        Args:
            reference: the float model's scores, float32 [..., classes].
            value: the other model's scores.
            on: see ``add``.
        """
        # NaN is never the argmax
        plain = (one if all_finite(one) else np.where(np.isnan(one), -np.inf, one) for one in (reference, value))
        same = same_argmax(*plain)
        counted = same if on is None else same[positions_on(on, reference)]
        self.same += int(counted.sum())
        self.positions += counted.size
        return same

    def _usable(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Both tensors with zeros where the float one is not finite or a mask, or the other one is not finite."""
        usable = np.isfinite(a)
        broken = usable & ~np.isfinite(b)
        self.broken += int(broken.sum())
        keep = usable & ~broken
        # the difference of masks would dominate everything else
        masked = masks(a)
        hidden = np.isneginf(a) if masked is None else masked | np.isneginf(a)
        if masked is not None:
            keep &= ~masked
        if keep.all():
            return a, b
        kept, others = np.where(keep, a, 0), np.where(keep, b, 0)
        bared = hidden & np.isfinite(b) & ((np.abs(b) < LEAST_MASK) | ((a > 0) != (b > 0)))
        if bared.any():
            row = tuple(range(1, a.ndim)) or None
            low, high = (
                pick(a, axis=row, keepdims=True, where=keep, initial=end)
                for pick, end in ((np.min, np.inf), (np.max, -np.inf))
            )
            # the logarithm of a probability that rounding raised above 0 is far below all scores, so still a mask
            bared &= ~np.isneginf(a) | ~keep.any(axis=row, keepdims=True) | ~(b < 2 * low - high)
            self.masks_lost += int(bared.sum())
            reach = 2 * np.abs(kept).max(axis=row, keepdims=True)
            others = np.where(bared, reach, others)
        return kept, others

    def merge(self, other: Difference) -> None:
        """Add the sums of another part of the samples."""
        for name in ("signal", "noise", "cross", "power", "broken", "masks_lost", "same", "positions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        for shape, (count, total) in other.sums.items():
            mine, held = self.sums.get(shape, (np.zeros((), int), np.zeros(shape)))
            self.sums[shape] = mine + count, held + total

    def add_equal(self, reference: Array, value: Array, on: Array | None = None) -> None:
        """Add one batch of integers or the like: the number of equal elements, and the largest difference.

        Args:
            reference: the float model's tensor.
            value: the other model's tensor, of the same shape.
            on: see ``add``.
        """
        if on is not None:
            kept = np.broadcast_to(on, reference.shape)
            reference, value = reference[kept], value[kept]
        self.same += int((reference == value).sum())
        self.positions += reference.size
        if reference.dtype.kind in "iub" and reference.size:
            apart = np.abs(reference.astype(np.float64) - value.astype(np.float64))
            self.max_abs = max(self.max_abs, float(apart.max()))
        elif self.same < self.positions:
            self.max_abs = 1.0

    def lose(self, reference: Array, value: Array, positions: int = 0) -> None:
        """Add one batch of tensors of different shapes: all of the reference is lost, and all of the value is noise.

        Args:
            reference: the float model's tensor.
            value: the other model's tensor, of another shape.
            positions: number of positions that count as having another argmax.
        """
        self.add(reference, np.zeros_like(reference))
        self.add(np.zeros_like(value), value)
        self.positions += positions

    def follow(self, reference: Array, on: Array | None = None) -> None:
        """Accumulate the mean of a batched output by shape, for ``variation_db``; ``on`` as in ``add``."""
        if reference.ndim == 0 or not reference.size or np.isnan(reference).any():
            return
        rows, masked = np.asarray(reference, np.float64), masks(np.asarray(reference, np.float32))
        rows = np.where(np.isinf(rows) if masked is None else masked | np.isinf(rows), 0.0, rows)
        own = np.asarray(len(rows))
        if on is not None:
            rows, own = np.where(on, rows, 0.0), on.sum(axis=0)
        count, total = self.sums.get(rows.shape[1:], (np.zeros((), int), np.zeros(rows.shape[1:])))
        self.sums[rows.shape[1:]] = count + own, total + rows.sum(axis=0)

    @property
    def seen(self) -> bool:
        """Whether any value was compared, other than zeros in both tensors."""
        return bool(self.signal or self.noise or self.broken or self.positions)

    @property
    def sqnr_db(self) -> float | None:
        """SQNR in dB, at most 150 (more than float32 resolves); None if the tensors are identical or not comparable."""
        if self.noise == 0 or self.signal == 0 or self.broken:
            return None
        return min(10 * math.log10(self.signal / self.noise), 150.0)

    @property
    def steady(self) -> bool:
        """Whether the float output is the same for every sample."""
        count = sum(int(n.max()) for n, _ in self.sums.values())
        power = self._steady_power
        # a shape of a single sample cannot vary
        least = 2 if len(self.sums) == 1 else _FEW_SAMPLES * max(len(self.sums), 1)
        return count >= least and self.signal <= power * (1 + 1e-7)

    @property
    def _steady_power(self) -> float:
        """The power of the mean of all samples."""
        return sum(float((total * total / np.maximum(count, 1)).sum()) for count, total in self.sums.values())

    @property
    def varying(self) -> float | None:
        """Share of the float output's power that varies between samples; None with too few samples."""
        steady = self._steady_power
        samples = sum(int(count.max()) for count, _ in self.sums.values())
        if samples < _FEW_SAMPLES * len(self.sums) or not self.sums or self.signal <= 0:
            return None
        share = 1.0 - steady / self.signal
        return share if share > 1e-9 else None

    @property
    def variation_db(self) -> float | None:
        """Power of the variation between samples over the noise, in dB; None with too few samples.

        A model that returns the same answer for every input can have a high SQNR; this figure is then 0 dB or less.
        """
        share = self.varying
        if share is None or self.noise == 0 or self.broken:
            return None
        return 10 * math.log10(share * self.signal / self.noise)

    @property
    def cosine(self) -> float | None:
        """Cosine similarity of both tensors; None if one is all zeros."""
        norm = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.cross / norm if norm > 0 else None

    @property
    def agreement(self) -> float | None:
        """Top-1 agreement, the share of positions with the same argmax; None if none was compared.

        For integers and the like it is the share of equal elements.
        """
        return self.same / self.positions if self.positions else None

    @property
    def error(self) -> TensorError:
        """SQNR and largest difference."""
        return TensorError(self.sqnr_db, None if self.broken else self.max_abs)

    def figures(self) -> OutputFigures:
        """All figures of a model's output."""
        error = self.error
        known = self.cosine, self.agreement, self.variation_db, self.positions, self.masks_lost
        return OutputFigures(error.sqnr_db, error.max_abs, *known)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether an array holds floats; numpy itself does not count bfloat16 and float8."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name.startswith(("bfloat", "float")))


def positions_on(on: Array, scores: Array) -> Array:
    """Which positions of scores [..., classes] count, bool [...]; ``on`` as in ``Difference.add``.

    All count if ``on`` varies along the classes, since it then does not select positions.
    """
    if on.shape[-1] != 1:
        return np.ones(scores.shape[:-1], bool)
    return np.broadcast_to(on[..., 0], scores.shape[:-1])


def same_argmax(reference: Array, value: Array) -> Array:
    """Whether the argmax over the last axis is the float model's, bool [...]; any of tied float scores counts as equal.

    Args:
        reference: the float model's scores, float32 [..., classes].
        value: the other model's scores, of the same shape.
    """
    chosen = np.take_along_axis(reference, value.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best = largest(reference)
    # the difference of infinities is NaN
    level = np.where(np.isfinite(best), best, 0)
    slack = 1e-6 * np.maximum(np.abs(level), 1e-30)
    return np.asarray(np.where(np.isfinite(best), chosen >= level - slack, chosen == best))
