"""Compare a classifier's answers with labels: are they right, no better than chance, or right by another numbering?"""

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
"""Least share of labels that the answers must predict before the labels count as renamed."""
_ONE_TO_ONE = 0.8
"""If at least this share of the predicted labels has one answer per label, the classes are the same, only renamed."""
_NO_CLASS = -1
_MORE_RIGHT, _NO_CHANCE = 0.05, 7.88
"""How many more answers another threshold must make right, as a share of the samples, and chi-squared at 0.5 % with one
degree of freedom, by which McNemar's test compares two sets of answers."""


class _Numbering(NamedTuple):
    """Another numbering of the labels: how many answers it makes right, and the code and values of its finding."""

    right: int
    code: EvaluationCode
    values: dict[str, object]


class ClassAnswers:
    """Collects the classes that a model answers and the labels, for all positions with a label."""

    def __init__(self) -> None:
        self._chosen: list[Array] = []
        self._labels: list[Array] = []
        self._classes = 0
        self._scores: list[Array] = []
        self._line = 0.0

    @property
    def count(self) -> int:
        """The number of answers collected."""
        return sum(map(len, self._labels))

    def take(self, scores: Array, label: Array) -> None:
        """Add a batch: scores, float [..., classes], and labels, integer [...]."""
        given = labelled(label)
        # argmax would take NaN for the largest score
        chosen = np.where(np.isnan(scores).any(axis=-1), _NO_CLASS, scores.argmax(axis=-1))
        self._chosen.append(chosen[given])
        self._labels.append(np.asarray(label[given], np.int64))
        self._classes = scores.shape[-1]

    def take_single(self, scores: Array, label: Array, line: float) -> None:
        """Also add the scores of class 1 of two, float [samples], if the threshold ``line`` was guessed."""
        given = labelled(label)
        self._scores.append(np.asarray(scores, np.float64)[given])
        self._line = line

    def skill(self) -> float:
        """The accuracy above that of the best constant answer, as a share of the possible gain; 0 or more.

        If another numbering of the labels fits better, it is used.
        """
        right, count, numberings = self._right()
        most, chance = max([right, *(one.right for one in numberings)]) / count, self._chance()
        return max((most - chance) / (1 - chance), 0.0) if chance < 1 else 0.0

    def suspicion(self, known: Mapping[str, object]) -> Finding | None:
        """A finding that the answers are clearly wrong, with the likely cause; None if they are not.

        Args:
            known: further values of the finding: metric, value and samples.
        """
        right, count, numberings = self._right()
        if numberings:
            # of equally good ones max takes the first, which is the simplest
            found = max(numberings, key=lambda one: one.right)
            return found.code(**known, share=found.right / count, **found.values)
        if self._scores and (better := self._better_line()) is not None:
            line, fits = better
            return EvaluationCode.OTHER_THRESHOLD(**known, threshold=self._line, better=line, share=fits / count)
        # if all labels are equal, a constant answer would be perfect, so the baseline is a random guess
        chance = self._chance() if self._often() < 1 else 1.0 / self._classes
        most = chance + 2 * math.sqrt(chance * (1 - chance) / count)
        # with very few answers or labels of little variety, even a perfect model would not exceed ``most``
        if right / count <= most < 1:
            return EvaluationCode.FLOAT_MODEL_USELESS(**{**known, "value": right / count}, useless=chance)
        return None

    def _right(self) -> tuple[int, int, list[_Numbering]]:
        """How many answers are right, how many there are, and the numberings by which clearly more would be right."""
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
        # the most frequent label can be predicted from any answer
        least = max(wilson(right, count)[1], 2 * right / count, _TOLD, self._often())
        if wilson(renamed, count)[0] > least:
            joined = alone < _ONE_TO_ONE * renamed
            found.append(_Numbering(renamed, EvaluationCode.LABELS_RENAMED, {"joined": joined}))
        return right, count, found

    def _better_line(self) -> tuple[float, int] | None:
        """A better threshold for class 1, midway between two scores, and how many answers are right with it.

        None if it is not clearly better: the gain over the guessed threshold is below 5 % of the samples or not
        significant, or it is not significantly better than one answer for all.
        """
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        order = np.argsort(scores, kind="stable")
        scores, holds = scores[order], labels[order] == 1
        if not np.isfinite(scores).all() or len(scores) != len(labels):
            return None
        # right[i]: correct answers with the threshold below score i, so that all scores before it mean label 0
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
        """The accuracy of the best constant answer or of a random guess, whichever is larger."""
        return max(1.0 / self._classes, self._often())

    def _often(self) -> float:
        """The share of the most frequent label."""
        labels = np.concatenate(self._labels)
        return float(np.unique(labels, return_counts=True)[1].max()) / len(labels)


def _common(values: Array) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _renamed(chosen: Array, labels: Array) -> tuple[int, int]:
    """How many labels can be predicted from the answers, because samples with the same answer share a label.

    If there are many, the model may be right by its own numbering of classes.

    Returns:
        Their number, and how many remain if only one answer may stand for each label.
    """
    right: dict[int, list[int]] = {}
    for answer in np.unique(chosen):
        own, counts = np.unique(labels[chosen == answer], return_counts=True)
        first, *others = np.argsort(-counts, kind="stable")
        # a sample's own label does not count towards its prediction
        if counts[first] - 1 > counts[others].max(initial=0):
            right.setdefault(int(own[first]), []).append(int(counts[first]))
    return sum(map(sum, right.values())), sum(map(max, right.values()))
