"""Generation: a decoder's logits, in which every position is an answer, the next token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.tasks.base import COUNT, ERROR, GAP, RIGHT, SAME, Rows, Task, chosen_each, same_choice, scores
from toolkit.evaluation.tasks.chance import expected_flips


class Generation(Task):
    """One answer per position: the argmax, given the tokens before it.

    Outputs are logits [batch, positions, vocabulary], or [batch, frames, tokens, vocabulary] of a transducer, where
    each pair of a frame and a token is a position. Since every position is a separate choice, the expected number of
    changes is estimated from the gaps of all of them.
    """

    name: ClassVar[str] = "generation"
    nothing: ClassVar[float] = -math.inf

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``."""
        axis = int(self.settings.get("axis", -1))
        if wanted[0].dtype.kind in "iub":
            return _counted(same_choice(wanted[0], found[0]))
        a, b = scores(wanted[0], axis), scores(found[0], axis)
        same = same_choice(a, b)
        if a.shape[-1] < 2 or not a.size:
            return _counted(same)
        alone = chosen_each(same.reshape(-1), *(one.reshape(-1, 1, one.shape[-1]) for one in (a, b)))
        return {**alone, SAME: alone[RIGHT], **_counted(same)}

    def _expected(self, joined: Rows) -> float | None:
        """See ``AnswerTally``."""
        answers, gaps = int(joined.get(COUNT, np.zeros(0)).sum()), joined.get(GAP, np.zeros(0))
        return answers * expected_flips(gaps, joined[ERROR]) if answers and len(gaps) == answers else None


def _counted(same: Array) -> Rows:
    each = same.reshape(len(same), math.prod(same.shape[1:]))
    return {RIGHT: each.sum(axis=1).astype(np.float64), COUNT: np.full(len(each), float(each.shape[1]))}
