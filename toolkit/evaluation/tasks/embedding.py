"""Embeddings: the answer is the direction of a vector, and which other sample is its nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import LEVEL, AnswerTally, Rows, Task, flat, one_each

_BLOCK = 512
"""Rows of the matrix of similarities that are computed at once, to limit memory."""
_NEAR = 0.1
"""A neighbour counts as nearest if its similarity is below the highest by at most this share of the distance between
the highest and the median similarity."""


class Embedding(Task):
    """One answer per sample, a vector.

    It is unchanged if its cosine with the float model's vector is at least ``min_cosine``, and its nearest neighbour
    among the other samples is one of the float model's nearest (see ``kept_neighbours``). Outputs are [batch, features]
    or [batch, positions, features]: then the mean vector decides about neighbours, and the mean cosine is the level.
    With a second output, that of another tower, each sample's neighbours are that output's vectors.
    """

    name: ClassVar[str] = "embedding"
    least: ClassVar[float] = 0.95
    floor_name: ClassVar[str] = "min_cosine"
    floor: ClassVar[float] = 0.99
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "cosine_p5"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        towers = {"among": self.part.outputs[1]} if len(self.part.outputs) > 1 else {}
        return EvaluationCode.RULE_EMBEDDING(floor=self.level_needed, near=_NEAR, **towers)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """Both models' vectors, float64 [batch, features], and the mean cosine of each sample, [batch]."""
        axis = int(self.settings.get("axis", -1))
        a, b = (_positions(values[0], axis) for values in (wanted, found))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        cosine = np.where((a == b).all(axis=-1), 1.0, np.nan_to_num(cosine, nan=-1.0))
        rows = {"wanted": a.mean(axis=1), "found": b.mean(axis=1), LEVEL: cosine.mean(axis=1)}
        if len(wanted) > 1:
            # towers have vectors of one axis
            rows |= {
                "among wanted": flat(wanted[1].astype(np.float64)),
                "among found": flat(found[1].astype(np.float64)),
            }
        return rows

    def tally(self, parts: Sequence[Rows]) -> AnswerTally:
        """See ``Task.tally``; neighbours are searched among all samples."""
        joined = {
            name: np.concatenate([rows[name] for rows in parts if name in rows])
            for name in ("wanted", "found", "among wanted", "among found", LEVEL)
            if any(name in rows for rows in parts)
        }
        level = joined.get(LEVEL, np.zeros(0))
        right = np.nan_to_num(level, nan=-1.0) >= self.level_needed
        if "wanted" in joined and len(joined["wanted"]) == len(level):
            among = (joined["among wanted"], joined["among found"]) if "among wanted" in joined else None
            right &= kept_neighbours(joined["wanted"], joined["found"], among)
        return super().tally([one_each(right, level)])

    def level_of(self, levels: Array) -> float | None:
        """The 5th percentile; None without samples."""
        known = np.nan_to_num(levels, nan=-1.0)
        return float(np.quantile(known, 0.05)) if len(known) else None


def kept_neighbours(wanted: Array, found: Array, among: tuple[Array, Array] | None = None) -> Array:
    """Whether each sample keeps its nearest neighbour, bool [samples].

    By the float model's similarities, the neighbour that is nearest in the other model must be nearly as similar as the
    nearest one: to within a tenth of the distance between the highest and the median similarity. With fewer than three
    samples there is no choice of neighbours, and all count as kept.

    Args:
        wanted: the float model's vectors, float64 [samples, features].
        found: the other model's vectors, of the same shape.
        among: both models' vectors of another tower, in which neighbours are searched, of the same shape; a sample's
            own counts too. None for the other samples' vectors.
    """
    count = len(wanted)
    if count < 3:
        return np.ones(count, bool)
    a, b = (_unit(values) for values in (wanted, found))
    others, others_now = (a, b) if among is None else (_unit(values) for values in among)
    kept = np.zeros(count, bool)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        near, now = a[rows] @ others.T, b[rows] @ others_now.T
        if among is None:
            near[np.arange(len(rows)), rows] = now[np.arange(len(rows)), rows] = -2.0
        best = near.max(axis=1)
        slack = _NEAR * (best - np.median(near, axis=1))
        kept[rows] = near[np.arange(len(rows)), now.argmax(axis=1)] >= best - np.maximum(slack, 1e-6)
    return kept


def _positions(value: Array, axis: int) -> Array:
    last = np.moveaxis(np.asarray(value, np.float64), axis, -1)
    return flat(last, 1)


def _unit(values: Array) -> Array:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(values / np.where(norms > 0, norms, 1.0))
