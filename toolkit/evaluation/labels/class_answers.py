"""Answers by class against labels: whether they are right, a guess, or right under another numbering."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.metric import labelled
from toolkit.evaluation.numerics.intervals import wilson

_TOLD = 0.4
_ONE_TO_ONE = 0.8
"""Of the labels that answers tell, the share with one answer a label from which on they are the same classes."""
_NO_CLASS = -1
_MORE_RIGHT, _NO_CHANCE = 0.05, 7.88
"""The second is chi-squared at 0.5 % with one degree of freedom, by which McNemar's test compares sets of answers."""


class _Numbering(NamedTuple):
    """Another numbering of the labels: how many answers it makes right, and the finding that reports it."""

    right: int
    code: EvaluationCode
    values: dict[str, object]


class ClassAnswers:
    """The classes that a model answers and those that labels name, of all positions with a label."""

    def __init__(self) -> None:
        self._chosen: list[Array] = []
        self._labels: list[Array] = []
        self._classes = 0
        self._scores: list[Array] = []
        self._line = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self._labels))

    def take(self, scores: Array, label: Array) -> None:
        """Take in a batch: scores, float [..., classes], and labels, integer [...]."""
        given = labelled(label)
        # argmax takes NaN for the largest score
        chosen = np.where(np.isnan(scores).any(axis=-1), _NO_CLASS, scores.argmax(axis=-1))
        self._chosen.append(chosen[given])
        self._labels.append(np.asarray(label[given], np.int64))
        self._classes = scores.shape[-1]

    def take_single(self, scores: Array, label: Array, line: float) -> None:
        """Take in, besides, scores of class 1 of two, float [samples], where the ``line`` between them was guessed."""
        given = labelled(label)
        self._scores.append(np.asarray(scores, np.float64)[given])
        self._line = line

    def skill(self) -> float:
        """How far the answers get from the best guess to all right, by the labels' own numbering; 0 or more."""
        right, count, numberings = self._right()
        most, chance = max([right, *(one.right for one in numberings)]) / count, self._chance()
        return max((most - chance) / (1 - chance), 0.0) if chance < 1 else 0.0

    def suspicion(self, known: Mapping[str, object]) -> Finding | None:
        """What is plainly wrong with them; None where nothing is.

        Args:
            known: what the finding says besides: metric, value and samples.
        """
        right, count, numberings = self._right()
        if numberings:
            # among equals the simplest, which comes first
            found = max(numberings, key=lambda one: one.right)
            return found.code(**known, share=found.right / count, **found.values)
        if self._scores and (better := self._better_line()) is not None:
            line, fits = better
            return EvaluationCode.OTHER_THRESHOLD(**known, threshold=self._line, better=line, share=fits / count)
        # where all labels are one, what needs no model is a guess: the class is that of the data, not of a constant
        chance = self._chance() if self._often() < 1 else 1.0 / self._classes
        most = chance + 2 * math.sqrt(chance * (1 - chance) / count)
        # with so few answers, or labels so alike, the best model would seem no better
        if right / count <= most < 1:
            return EvaluationCode.FLOAT_MODEL_USELESS(**{**known, "value": right / count}, useless=chance)
        return None

    def _right(self) -> tuple[int, int, list[_Numbering]]:
        """How many answers are right, of how many, and by which other numberings of labels clearly more would be."""
        chosen, labels = np.concatenate(self._chosen), np.concatenate(self._labels)
        right, count = int((chosen == labels).sum()), len(chosen)
        found: list[_Numbering] = []
        labels, chosen = labels[chosen != _NO_CLASS], chosen[chosen != _NO_CLASS]
        if not len(chosen):
            return right, count, found
        for modulo in (0, self._classes):
            apart = (labels - chosen) % modulo if modulo else labels - chosen
            offset = _common(apart)
            shifted = int((apart == offset).sum())
            if offset and wilson(shifted, count)[0] > wilson(right, count)[1]:
                nearest = offset - modulo if 2 * offset > modulo > 0 else offset
                found.append(_Numbering(shifted, EvaluationCode.LABELS_SHIFTED, {"offset": nearest, "modulo": modulo}))
        renamed, alone = _renamed(chosen, labels)
        # any answer predicts the most frequent label
        least = max(wilson(right, count)[1], 2 * right / count, _TOLD, self._often())
        if wilson(renamed, count)[0] > least:
            joined = alone < _ONE_TO_ONE * renamed
            found.append(_Numbering(renamed, EvaluationCode.LABELS_RENAMED, {"joined": joined}))
        return right, count, found

    def _better_line(self) -> tuple[float, int] | None:
        """Where class 1 should begin, midway between two scores, and how many answers are right then.

        None where that is not clearly better: fewer than a twentieth more are right than by the line that was guessed,
        or as many as chance may give, or one answer for all is as right.
        """
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        order = np.argsort(scores, kind="stable")
        scores, holds = scores[order], labels[order] == 1
        if not np.isfinite(scores).all() or len(scores) != len(labels):
            return None
        # with the line before the score at each place, those below it are right where the label is 0
        right = np.concatenate([[0], np.cumsum(~holds)]) + holds.sum() - np.concatenate([[0], np.cumsum(holds)])
        between = np.flatnonzero(scores[1:] > scores[:-1]) + 1
        if not len(between):
            return None
        place = int(between[right[between].argmax()])
        line = float(scores[place - 1] / 2 + scores[place] / 2)
        for others, least in ((scores > self._line, _MORE_RIGHT), (np.full(len(scores), holds.mean() > 0.5), 0.0)):
            gain, changed = int(right[place]) - int((others == holds).sum()), int(((scores > line) != others).sum())
            if gain < least * len(scores) or gain**2 < _NO_CHANCE * changed:
                return None
        return line, int(right[place])

    def _chance(self) -> float:
        """The share of labels that the best constant answer has, or a guess."""
        return max(1.0 / self._classes, self._often())

    def _often(self) -> float:
        """The share of the most frequent label."""
        labels = np.concatenate(self._labels)
        return float(np.unique(labels, return_counts=True)[1].max()) / len(labels)


def _common(values: Array) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _renamed(chosen: Array, labels: Array) -> tuple[int, int]:
    """How many labels the other samples with the same answer predict: the model may be right by its own numbering.

    Returns:
        Their number, and how many of them are left with one answer a label.
    """
    right: dict[int, list[int]] = {}
    for answer in np.unique(chosen):
        own, counts = np.unique(labels[chosen == answer], return_counts=True)
        first, *others = np.argsort(-counts, kind="stable")
        # a sample's own label does not count towards its prediction
        if counts[first] - 1 > counts[others].max(initial=0):
            right.setdefault(int(own[first]), []).append(int(counts[first]))
    return sum(map(sum, right.values())), sum(map(max, right.values()))
