"""Classification: the answer is the class with the highest score, or the set of labels above a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.metric import two_classes
from toolkit.evaluation.tasks.base import SIDE, OutputPart, Rows, Task, chosen_each, flat, one_each, same_choice, scores


class Classification(Task):
    """One answer per sample: the argmax over the classes, or, if ``threshold`` is set, whether the score is above it.

    Outputs are scores [batch, classes], one score per sample, or integers that are class numbers.
    """

    name: ClassVar[str] = "classification"
    nothing: ClassVar[float] = -math.inf

    def rule(self) -> Finding | None:
        """See ``Task.rule``."""
        if "threshold" not in self.settings:
            return None
        one = bool(self.settings.get("single"))
        return EvaluationCode.RULE_LABELS(threshold=float(self.settings["threshold"]), single=one)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``."""
        (a,), (b,) = wanted, found
        if a.dtype.kind in "iub":
            return one_each(flat(a == b).all(axis=1))
        if "threshold" in self.settings:
            limit = float(self.settings["threshold"])
            sides = [two_classes(np.asarray(x, np.float32), limit)[:, None] for x in (a, b)]
            return _one_choice(chosen_each(same_choice(*sides).all(axis=1), *sides), sides[0])
        axis = int(self.settings.get("axis", -1))
        a, b = scores(a, axis), scores(b, axis)
        return _one_choice(chosen_each(same_choice(a, b).all(axis=1), a, b), a)


def classification(part: OutputPart) -> Task:
    """Create the task for a part: ``LabelSets`` for several independent labels, else ``Classification``."""
    several = "threshold" in part.settings and not part.settings.get("single")
    return LabelSets(part) if several else Classification(part)


class LabelSets(Classification):
    """Multi-label classification: one answer per sample, the set of labels with scores above ``threshold``."""

    figure: ClassVar[str] = "labels"

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``; the level is the IoU of the two models' label sets, NaN if both are empty."""
        (a,), (b,) = wanted, found
        if a.dtype.kind in "iub":
            return super().compare(wanted, found)
        limit, rows = float(self.settings["threshold"]), [flat(np.asarray(x, np.float32)) for x in (a, b)]
        sets, whole = [one > limit for one in rows], ~np.isnan(rows[1]).any(axis=1)
        both, either = (np.asarray(join(*sets).sum(axis=1), np.float64) for join in (np.logical_and, np.logical_or))
        share = np.divide(both, either, out=np.full(len(either), np.nan), where=either > 0)
        return one_each((sets[0] == sets[1]).all(axis=1) & whole, share)


def _one_choice(rows: Rows, wanted: Array) -> Rows:
    """The rows, plus the float model's class of each sample if ``wanted`` is [batch, 1, classes] of several classes."""
    if wanted.shape[1] != 1 or wanted.shape[2] < 2:
        return rows
    return {**rows, SIDE: wanted[:, 0].argmax(axis=-1)}
