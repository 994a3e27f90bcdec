"""Embeddings: the answer is the direction of a vector, and which other sample is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.tasks.base import LEVEL, AnswerTally, Rows, Task, flat, one_each

_BLOCK = 512
_NEAR = 0.1
"""A neighbour is as good as the nearest within this share of what sets the nearest apart from the middle one."""


class Embedding(Task):
    """One answer a sample: it stays where the cosine with the float model's is at least ``min_cosine`` and the nearest
    of the other samples is still among the float model's nearest.

    Outputs are [batch, features] or [batch, positions, features]; of positions the mean counts for neighbours, and
    the mean of the positions' cosines.
    """

    name: ClassVar[str] = "embedding"
    least: ClassVar[float] = 0.95
    floor_name: ClassVar[str] = "min_cosine"
    floor: ClassVar[float] = 0.99
    perfect: ClassVar[float | None] = 1.0
    figure: ClassVar[str] = "cosine_p5"

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_EMBEDDING(floor=self.level_needed, near=_NEAR)

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch: both vectors and their cosine, of each sample."""
        axis = int(self.settings.get("axis", -1))
        a, b = (_positions(values[0], axis) for values in (wanted, found))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
        cosine = np.where((a == b).all(axis=-1), 1.0, np.nan_to_num(cosine, nan=-1.0))
        return {"wanted": a.mean(axis=1), "found": b.mean(axis=1), LEVEL: cosine.mean(axis=1)}

    def tally(self, parts: Sequence[Rows]) -> AnswerTally:
        """All samples: neighbours are looked for among them."""
        joined = {
            name: np.concatenate([rows[name] for rows in parts if name in rows])
            for name in ("wanted", "found", LEVEL)
            if any(name in rows for rows in parts)
        }
        level = joined.get(LEVEL, np.zeros(0))
        right = np.nan_to_num(level, nan=-1.0) >= self.level_needed
        if "wanted" in joined and len(joined["wanted"]) == len(level):
            right &= kept_neighbours(joined["wanted"], joined["found"])
        return super().tally([one_each(right, level)])

    def level_of(self, levels: Array) -> float | None:
        """The 5th percentile."""
        known = np.nan_to_num(levels, nan=-1.0)
        return float(np.quantile(known, 0.05)) if len(known) else None


def kept_neighbours(wanted: Array, found: Array) -> Array:
    """Whether each sample's nearest other one stays, bool [samples].

    It stays where the one that is nearest now was as near to the float model, to within a tenth of what set its nearest
    apart from the middle one of all. Fewer than three samples have no neighbours to choose from.

    Args:
        wanted: the float model's vectors, float64 [samples, features].
        found: the other model's.
    """
    count = len(wanted)
    if count < 3:
        return np.ones(count, bool)
    a, b = (_unit(values) for values in (wanted, found))
    kept = np.zeros(count, bool)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        near, now = a[rows] @ a.T, b[rows] @ b.T
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
