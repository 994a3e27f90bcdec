"""CTC: the answer is the decoded sequence, with repeats collapsed and blanks removed."""

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
    """Best-path decoding of one sample: A. Graves et al., "Connectionist temporal classification", ICML 2006.

    Args:
        chosen: the argmax of each position, integers [positions].
        blank: the blank class.
    """
    first = np.ones(len(chosen), bool)
    first[1:] = chosen[1:] != chosen[:-1]
    return tuple(int(one) for one in chosen[first & (chosen != blank)])


def readings(value: Array, axis: int, blank: int) -> list[tuple[int, ...]]:
    """Best-path decoding of a batch.

    Args:
        value: scores with the classes along ``axis``, or class numbers, integers [batch, positions].
        axis: the axis of the classes.
        blank: the blank class.

    Returns:
        The classes of each sample. A position with a NaN counts as class -1, because argmax would take NaN for the
        largest score.
    """
    chosen = flat(value) if value.dtype.kind in "iub" else _best_classes(scores(value, axis))
    return [best_path(line, blank) for line in chosen]


@kept_where_fixed
def _best_classes(wide: Array) -> Array:
    """The argmax of each position, -1 if one of its scores is NaN."""
    best = wide.argmax(axis=-1)
    return best if all_finite(wide) else np.where(np.isnan(wide).any(axis=-1), -1, best)


@kept_where_fixed
def deciding(value: Array, blank: int) -> Array:
    """The positions at which taking the second best class changes the decoded sequence, bool [batch, positions].

    Elsewhere only the alignment changes, as when a letter extends over one more position: given the previous position,
    this and the next position together still decode to the same classes.

    Args:
        value: scores, [batch, positions, classes].
        blank: the blank class.
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
    """One answer per sample: the decoded sequence. Outputs are scores [batch, positions, classes], or class numbers."""

    name: ClassVar[str] = "ctc"
    nothing: ClassVar[float] = -math.inf

    def rule(self) -> Finding:
        """See ``Task.rule``."""
        return EvaluationCode.RULE_READING(blank=int(self.settings.get("blank", 0)))

    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """See ``Task.compare``."""
        axis, blank = int(self.settings.get("axis", -1)), int(self.settings.get("blank", 0))
        a, b = (readings(values[0], axis, blank) for values in (wanted, found))
        broken = np.isnan(flat(np.asarray(found[0], np.float32))).any(axis=1)
        right = np.asarray([x == y for x, y in zip(a, b)], bool) & ~broken
        if wanted[0].dtype.kind in "iub":
            return one_each(right)
        own = scores(wanted[0], axis)
        return chosen_each(right, own, scores(found[0], axis), decides=deciding(own, blank))
