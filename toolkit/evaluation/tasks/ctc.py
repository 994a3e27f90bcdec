"""CTC: the answer is the reading, with repeats collapsed and blanks left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from toolkit.base.kept_results import kept_where_fixed
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.numerics.masks import all_finite
from toolkit.evaluation.numerics.ranks import two_best
from toolkit.evaluation.tasks.base import Rows, Task, chosen_each, flat, one_each, scores


def best_path(chosen: Array, blank: int) -> tuple[int, ...]:
    """The reading of one line: A. Graves et al., "Connectionist temporal classification", ICML 2006, best path.

    Args:
        chosen: the best class of each position, integers [positions].
        blank: the class that stands for none.
    """
    first = np.ones(len(chosen), bool)
    first[1:] = chosen[1:] != chosen[:-1]
    return tuple(int(one) for one in chosen[first & (chosen != blank)])


def readings(value: Array, axis: int, blank: int) -> list[tuple[int, ...]]:
    """The readings of a batch, from scores with the classes along ``axis`` or from the classes' numbers.

    A position with a score that is NaN is read as -1, which is no class and no blank: argmax takes NaN for the largest.
    """
    chosen = flat(value) if value.dtype.kind in "iub" else _best_classes(scores(value, axis))
    return [best_path(line, blank) for line in chosen]


@kept_where_fixed
def _best_classes(wide: Array) -> Array:
    """The best class of each position, -1 where a score is NaN."""
    best = wide.argmax(axis=-1)
    return best if all_finite(wide) else np.where(np.isnan(wide).any(axis=-1), -1, best)


@kept_where_fixed
def deciding(value: Array, blank: int) -> Array:
    """The positions where the second best class in place of the best is another reading, bool [batch, positions].

    Elsewhere only the alignment moves, as where a letter is given for one position more: what is read of a position and
    of the next one stays, given the one before.

    Args:
        value: scores, [batch, positions, classes].
        blank: the class that stands for none.
    """
    if value.shape[-1] < 2:
        return np.zeros(value.shape[:2], bool)
    second, best = two_best(value)
    none = np.full((len(best), 1), -1)
    before, after = np.concatenate([none, best[:, :-1]], axis=1), np.concatenate([best[:, 1:], none], axis=1)

    def read(chosen: Array) -> tuple[Array, Array]:
        own = np.where((chosen != before) & (chosen != blank), chosen, -1)
        following = np.where((after != chosen) & (after != blank), after, -1)
        return np.where(own >= 0, own, following), np.where(own >= 0, following, -1)

    kept, changed = read(best), read(second)
    return np.asarray((kept[0] != changed[0]) | (kept[1] != changed[1]))


class Ctc(Task):
    """One answer a sample: its reading. Outputs are scores [batch, positions, classes]."""

    name: ClassVar[str] = "ctc"
    nothing: ClassVar[float] = -math.inf

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_READING(blank=int(self.settings.get("blank", 0)))

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch."""
        axis, blank = int(self.settings.get("axis", -1)), int(self.settings.get("blank", 0))
        a, b = (readings(values[0], axis, blank) for values in (wanted, found))
        broken = np.isnan(flat(np.asarray(found[0], np.float32))).any(axis=1)
        right = np.asarray([x == y for x, y in zip(a, b)], bool) & ~broken
        if wanted[0].dtype.kind in "iub":
            return one_each(right)
        own = scores(wanted[0], axis)
        return chosen_each(right, own, scores(found[0], axis), decides=deciding(own, blank))
