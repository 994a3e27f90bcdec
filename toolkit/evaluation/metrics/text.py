"""Metrics of recognized and generated text: exact readings, edits per character and per word, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.types import Array
from toolkit.evaluation.metric import Metric, MetricOptions, pick_scores, unlike_shapes
from toolkit.evaluation.numerics.resampling import NO_UNIT, Summed
from toolkit.evaluation.tasks.ctc import readings


class _Readings:
    """Reads CTC outputs [batch, positions, classes]; labels are integers [batch, length], padded with -1."""

    higher_is_better = True

    def __init__(self, options: MetricOptions) -> None:
        self.options = options
        self.right = self.count = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch.

        Raises:
            DataError: labels are not integers, one row per sample, or the output has no scores of classes.
        """
        scores, label = pick_scores(outputs, self.options, labels)
        if label.dtype.kind not in "iu" or label.ndim != 2:
            raise DataError(f"labels of readings have shape {list(label.shape)} and type {label.dtype.name}",
                            remedy="give integers [samples, length], padded with -1")  # fmt: skip
        if len(scores) != len(label) or (scores.ndim < 2 and scores.dtype.kind not in "iub"):
            raise unlike_shapes(scores, label, "give one row of labels for each sample, of its scores by class")
        for found, row in zip(self._read(scores, outputs), label):
            self._add(found, tuple(int(one) for one in row[row >= 0]))

    def _read(self, scores: Array, outputs: Mapping[str, Array]) -> Sequence[Sequence[int]]:
        """The readings of a batch, each from as many positions as the model's lengths output says."""
        blank, lengths = self.options.blank, outputs.get(self.options.lengths or "")
        if lengths is None or lengths.size != len(scores):
            return readings(scores, -1, blank)
        rows = zip(scores, np.clip(lengths.reshape(-1), 0, scores.shape[1]).tolist())
        return [readings(row[None, :count], -1, blank)[0] if count else () for row, count in rows]

    def _add(self, found: Sequence[int], wanted: Sequence[int]) -> None:
        self.right += found == wanted
        self.count += 1

    @property
    def answers(self) -> int:
        """Number of readings that the value is a share of."""
        return self.count

    def value(self) -> float:
        """Share of right readings, 0 to 1; NaN if there are none."""
        return self.right / self.count if self.count else math.nan


class CharacterErrorRate(_Readings, Summed):
    """Edits (insertions, deletions, substitutions) per character of the labels; lower is better."""

    higher_is_better = False

    def __init__(self, options: MetricOptions) -> None:
        _Readings.__init__(self, options)
        Summed.__init__(self, 2)

    def _add(self, found: Sequence[int], wanted: Sequence[int]) -> None:
        own, label = self.parts(found), self.parts(wanted)
        self.take(np.array([edit_distance(own, label)]), np.array([len(label)]))

    def parts(self, reading: Sequence[int]) -> Sequence[object]:
        """The units of edits: characters."""
        return reading

    @property
    def answers(self) -> int:
        """Number of characters or words in the labels."""
        return int(self.sums()[1])

    def value(self) -> float:
        """Edits per character or word, at least 0; NaN if no label has any."""
        return self.of(self.sums())


class WordErrorRate(CharacterErrorRate):
    """Edits per word of the labels; ``space`` separates words, without it every class is a word."""

    def parts(self, reading: Sequence[int]) -> Sequence[object]:
        """The units of edits: words."""
        space = self.options.space
        if space is None:
            return reading
        return [tuple(run) for kept, run in groupby(reading, lambda one: one != space) if kept]


class Perplexity(Summed):
    """Exp of the mean negative log-likelihood of the labels; output logits [batch, positions, classes]."""

    higher_is_better = False

    def __init__(self, options: MetricOptions) -> None:
        super().__init__(2)
        self.options = options

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add one batch; negative labels are left out.

        Raises:
            DataError: the labels' shape is not that of the positions.
        """
        scores, label = pick_scores(outputs, self.options, labels)
        if label.shape != scores.shape[:-1]:
            raise unlike_shapes(scores, label, "give the next token of every position")
        keep = label >= 0
        wide = np.asarray(scores[keep], np.float64)
        chosen = label[keep].astype(np.int64)
        if chosen.size and chosen.max() >= wide.shape[-1]:
            raise DataError(f"a label is {int(chosen.max())}, and the output has {wide.shape[-1]} classes",
                            remedy="give tokens of the model's vocabulary")  # fmt: skip
        wide = wide - wide.max(axis=-1, keepdims=True)
        likelihood = np.take_along_axis(wide, chosen[:, None], axis=-1)[:, 0] - np.log(np.exp(wide).sum(axis=-1))
        rows = np.nonzero(keep)[0]
        self.take(np.bincount(rows, -likelihood, len(label)), np.bincount(rows, minlength=len(label)))

    def of(self, sums: Array) -> float:
        """The value, at least 1; NaN if no position has a label."""
        mean = super().of(sums)
        return mean if math.isnan(mean) else math.exp(min(mean, 700.0))

    def units(self) -> Array:
        """Each sample with a label is a unit of its own."""
        told = np.concatenate(self.rows)[:, 1] > 0
        return np.where(told, np.arange(len(told)), NO_UNIT)


def edit_distance(first: Sequence[object], second: Sequence[object]) -> int:
    """Insertions, deletions and substitutions between two sequences: V. I. Levenshtein, 1966."""
    row = list(range(len(second) + 1))
    for place, one in enumerate(first, 1):
        before, row[0] = row[0], place
        for other in range(1, len(second) + 1):
            before, row[other] = row[other], min(
                row[other] + 1, row[other - 1] + 1, before + (one != second[other - 1])
            )  # fmt: skip
    return row[-1]


BUILT_IN: dict[str, Callable[[MetricOptions], Metric]] = {
    "ctc_exact": _Readings,
    "cer": CharacterErrorRate,
    "wer": WordErrorRate,
    "perplexity": Perplexity,
}
