"""Metrics of rankings: recall among nearest neighbours, and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.data.batch import Labels
from toolkit.evaluation.metric import Metric, MetricOptions, pick_scores
from toolkit.evaluation.numerics.ranks import ranks

_BLOCK = 512


class _Vectors:
    """Collects one vector per sample, averaged over positions if there are any, and one label per sample.

    In a model of two towers, also the other tower's vector of each sample.
    """

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options = options
        self.vectors: list[Array] = []
        self.others: list[Array] = []
        self.labels: list[Array] = []
        self.places: list[int] = []

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            RecipeError: there is no such output.
            DataError: there is not one label per sample.
        """
        values, label = pick_scores(outputs, self.options, labels)
        if label.size != len(values):
            raise DataError(f"labels have shape {list(label.shape)}, and the batch has {len(values)} samples",
                            remedy="give one label per sample")  # fmt: skip
        self.vectors.append(_rows(values))
        self.labels.append(label.reshape(-1))
        self.places += labels.indices if isinstance(labels, Labels) else ()
        if self.options.among is not None:
            other = replace(self.options, output=self.options.among)
            self.others.append(_rows(pick_scores(outputs, other, labels)[0]))

    def _all(self) -> tuple[Array, Array]:
        return np.concatenate(self.vectors), np.concatenate(self.labels)


def _rows(values: Array) -> Array:
    """One vector per sample, float64 [samples, features], averaged over positions if there are any."""
    rows = np.asarray(values, np.float64)
    return np.asarray(rows.reshape(len(rows), -1, rows.shape[-1] if rows.ndim > 1 else 1).mean(axis=1))


class RecallAtK(_Vectors):
    """Share of samples with their label among the k nearest others by cosine, if another sample has their label.

    In a model of two towers, each sample's neighbours are the other tower's vectors, of which its own is one.
    """

    def __init__(self, k: int, options: MetricOptions) -> None:
        super().__init__(options)
        self.k = k

    @property
    def answers(self) -> int:
        """Number of samples whose label another sample has; with two towers, of all samples."""
        if self.others or not self.labels:
            return sum(map(len, self.labels))
        _, counts = np.unique(np.concatenate(self.labels), return_counts=True)
        return int(counts[counts > 1].sum())

    def value(self) -> float:
        """The value, 0 to 1; NaN if no two samples have the same label."""
        if not self.answers:
            # called after each sample until the value is a number, so skip the distances
            return math.nan
        vectors, labels = self._all()
        unit = _unit(vectors)
        among, alone = (_unit(np.concatenate(self.others)), False) if self.others else (unit, True)
        right = count = 0
        for start in range(0, len(unit), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(unit)))
            near = unit[rows] @ among.T
            alike = labels[rows][:, None] == labels[None]
            if alone:
                near[np.arange(len(rows)), rows] = -np.inf
                alike[np.arange(len(rows)), rows] = False
            k = min(self.k, len(among) - alone)
            best = np.argpartition(-near, max(k - 1, 0), axis=1)[:, :k] if k else np.zeros((len(rows), 0), int)
            hit = np.take_along_axis(alike, best, axis=1).any(axis=1)
            asked = alike.any(axis=1)
            right, count = right + int((hit & asked).sum()), count + int(asked.sum())
        return right / count


def _unit(vectors: Array) -> Array:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.nan_to_num(vectors / np.where(norms > 0, norms, 1.0))


def _cosines(first: Array, second: Array) -> Array:
    """The cosine of each row of two matrices, float64 [rows]; 0 if a row is 0."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))


class Spearman(_Vectors):
    """Spearman's rank correlation of labels with outputs of one value, or with cosines of samples 2i and 2i + 1.

    Batches may mix samples of different pairs, by their shapes; the samples' indices in the data identify pairs. In a
    model of two towers, a pair is a sample's own vectors: its cosine is that of both towers' vectors.
    """

    def value(self) -> float:
        """The value, -1 to 1; NaN if nothing varies."""
        return self.value_among(np.ones(sum(map(len, self.vectors)), bool))

    def units(self) -> Array:
        """The pair of each sample; with one value or both towers' vectors per sample, each is a unit of its own."""
        vectors, _ = self._all()
        alone = vectors.shape[1] == 1 or bool(self.others)
        return np.arange(len(vectors)) if alone else self._places(len(vectors)) // 2

    def value_among(self, kept: Array) -> float:
        """The value over the samples that are ``kept``, bool [samples]."""
        vectors, labels = self._all()
        if vectors.shape[1] == 1:
            found, labels = vectors[kept, 0], labels[kept]
        elif self.others:
            found, labels = _cosines(vectors[kept], np.concatenate(self.others)[kept]), labels[kept]
        else:
            left, right = (side[kept[side]] for side in self._pairs(len(vectors)))
            found, labels = _cosines(vectors[left], vectors[right]), labels[left]
        a, b = ranks(found), ranks(np.asarray(labels, np.float64))
        if len(a) < 2 or a.std() == 0 or b.std() == 0:
            return math.nan
        return float(np.corrcoef(a, b)[0, 1])

    def _places(self, count: int) -> Array:
        return np.asarray(self.places if len(self.places) == count else range(count))

    def _pairs(self, count: int) -> tuple[Array, Array]:
        """The rows of the first and of the second sample of each pair; unpaired samples are left out."""
        places = self._places(count)
        at = {int(place): row for row, place in enumerate(places)}
        found = [(row, at[place + 1]) for place, row in sorted(at.items()) if place % 2 == 0 and place + 1 in at]
        made = np.array(found, np.int64).reshape(-1, 2)
        return made[:, 0], made[:, 1]


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "recall_at_1": lambda options: RecallAtK(1, options),
    "recall_at_5": lambda options: RecallAtK(5, options),
    "spearman": Spearman,
}
