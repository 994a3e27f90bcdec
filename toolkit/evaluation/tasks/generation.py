"""Logits of a decoder: every position is an answer, the next token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.tasks.base import COUNT, RIGHT, Rows, Task, same_choice, scores


class Generation(Task):
    """An answer a position, given the tokens before it. Outputs are logits [batch, positions, vocabulary]."""

    name: ClassVar[str] = "generation"
    nothing: ClassVar[float] = -math.inf

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        axis = int(self.settings.get("axis", -1))
        same = same_choice(scores(wanted[0], axis), scores(found[0], axis))
        return {RIGHT: same.sum(axis=1).astype(np.float64), COUNT: np.full(len(same), float(same.shape[1]))}
