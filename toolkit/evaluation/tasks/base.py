"""What every task has in common: the part of the outputs that it reads, answers sample by sample, and their tally."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.numerics.difference import is_float, same_argmax
from toolkit.evaluation.numerics.intervals import LimitStanding, standing, wilson
from toolkit.evaluation.numerics.masks import LEAST_MASK, masks
from toolkit.evaluation.observation.position_mask import at_positions, positions_with_answers
from toolkit.evaluation.tasks.chance import below_floor, expected_flips, weakest
from toolkit.evaluation.tasks.preference import closest, likely_lost, preference

STANDS_IN = "stands_in"
"""The setting of a part whose values are judged in place of answers that the samples do not show."""
FOUND = frozenset({"detections", "iou", "points", "labels"})
"""Figures of what is found in a sample, of which there may be nothing."""
Rows = Mapping[str, Array]
"""What one batch adds, by name, a row a sample."""

RIGHT, COUNT, LEVEL = "right", "count", "level"
PREFERRED, LEAD, SAME = "preferred", "lead", "same"
GAP, ERROR = "gap", "error"
SIDE = "side"


@dataclass(frozen=True)
class OutputPart:
    """A part of the outputs that is judged by itself: an output, a slice of its channels, or several together.

    Attributes:
        task: how it is read.
        outputs: the outputs' names; a task that reads several says in which order.
        settings: what the task must know: plain numbers and words.
        channels: axis, first and last channel (inclusive) where it is a slice; None for whole outputs.
    """

    task: str
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[int, int, int] | None = None

    @property
    def first_and_last(self) -> list[int] | None:
        """The first and the last channel of a slice, whatever its axis; None for whole outputs."""
        return list(self.channels[1:]) if self.channels is not None else None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**asdict(self), "outputs": list(self.outputs), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OutputPart:
        """Read what ``to_json`` gave."""
        channels = content.get("channels")
        sliced = (int(channels[0]), int(channels[1]), int(channels[2])) if channels is not None else None
        return cls(content["task"], tuple(content["outputs"]), dict(content["settings"]), sliced)


@dataclass(frozen=True)
class AnswerTally:
    """How many answers of a part stay the float model's.

    Attributes:
        part: the part of the outputs that was read.
        kept: the number of answers that stay.
        answers: the number of answers, which is that of the samples where each has one.
        least: the smallest share that must stay, by the task's default.
        level: the figure that shows best how far answers change; None where the share says it all.
        figure: what ``level`` is: ``positions``, ``cosine_p5``, ``psnr_db``, ``snr_db``, or one of ``FOUND``.
        independent: the number of answers that count as independent.
        lost: the changed answers, each weighted by how likely it costs accuracy according to the float model's own
            scores (see ``likely_lost``); None where these do not tell.
        expected: how many of as many similar answers are expected to change: those that nearly changed count in part.
            None where an answer is neither a single choice of a class nor a level over a floor.
        only: the class that the float model gives every sample, of a part with one choice a sample: a model that always
            gives it would keep every answer. None where samples differ, or have several choices each.
    """

    part: OutputPart
    kept: float
    answers: int
    least: float
    level: float | None = None
    figure: str = ""
    independent: float = 0.0
    lost: float | None = None
    expected: float | None = None
    only: int | None = None

    @property
    def judges_values(self) -> bool:
        """Whether values are judged in place of answers that the samples do not show: no answer is lost with them."""
        return bool(self.part.settings.get(STANDS_IN))

    @property
    def share(self) -> float:
        """The share of answers that stay, 0 to 1; all of them where there is none that could be lost."""
        return self.kept / self.answers if self.answers else 1.0

    @property
    def empty(self) -> bool:
        """Whether the samples hold nothing of what is found in them: no detection, label, place of a mask or row."""
        places = self.figure in FOUND and self.level is None
        return not self.answers or (places and self.answers == self.kept)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``share``."""
        return wilson(self.share * self.independent, self.independent)

    def standing(self, least: float | None = None) -> LimitStanding:
        """Whether enough answers stay; ``least`` in place of the task's default.

        Values that stand in for answers show no loss of these: too few of them are kept to prove anything.
        """
        if not self.answers:
            return LimitStanding.MET
        limit = 1.0 - (self.least if least is None else least)
        found = standing(self.answers - self.kept, self.answers, limit, self.independent)
        return LimitStanding.UNPROVEN if self.judges_values and found is LimitStanding.MISSED else found

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**asdict(self), "part": self.part.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AnswerTally:
        """Read what ``to_json`` gave."""
        return cls(**{**content, "part": OutputPart.from_json(content["part"])})


class Task(ABC):
    """A reader of one part: what an answer is, and when it stays the float model's.

    Attributes:
        name: what recipes call it.
        least: the share of answers that must stay, by default.
        floor_name: the budget's name for the level from which on an answer counts as unchanged; empty without one.
        floor: that level.
        perfect: the level of an answer that is the float model's own; None where levels are dB, which have none.
        figure: see ``AnswerTally``.
    """

    name: ClassVar[str]
    least: ClassVar[float] = 0.99
    floor_name: ClassVar[str] = ""
    floor: ClassVar[float] = 0.0
    perfect: ClassVar[float | None] = None
    figure: ClassVar[str] = ""

    def __init__(self, part: OutputPart) -> None:
        self.part, self.settings = part, part.settings
        self.level_needed = float(self.settings.get("floor", self.floor))

    def rule(self) -> Finding | None:
        """When an answer counts as unchanged, with every tolerance; None where it has to be the same to the letter."""
        return None

    def rows(
        self, wanted: Mapping[str, Array], found: Mapping[str, Array], inputs: Mapping[str, Array] | None = None
    ) -> Rows:
        """One batch: the float model's outputs and the other's, by name, for some inputs.

        An output whose shape differs has lost all its answers, of the model that gives more. Positions that an input
        turns off, or that lie beyond the float model's lengths, hold no answers; a sample without others adds no row.
        """
        pairs = [(self._cut(wanted[name]), self._cut(found[name])) for name in self.part.outputs]
        unlike = any(a.shape != b.shape for a, b in pairs)
        if unlike and not self.any_shape:
            lost = max(len(self._samples(each)) for each in pairs[0])
            return {RIGHT: np.zeros(lost), COUNT: np.ones(lost), LEVEL: np.full(lost, np.nan)}
        if not unlike and all(a.size == 0 for a, _ in pairs):
            # an answer that holds nothing has nothing to lose
            return one_each(np.ones(len(self._samples(pairs[0][0]))))
        if not unlike:
            pairs = [_judged(a, b, self.nothing) for a, b in pairs]
        both = [self._samples(a) for a, _ in pairs], [self._samples(b) for _, b in pairs]
        on = positions_with_answers(self.settings, both[0][0], inputs or {}, wanted)
        return self.compare(*both) if on is None else self._compare_at(*both, on)

    def _compare_at(self, wanted: Sequence[Array], found: Sequence[Array], on: Array) -> Rows:
        """``compare`` of nothing but some positions, bool [batch, positions]; samples with as many go together."""
        axis, counts = int(self.settings["positions"]), on.sum(axis=1)
        made: dict[str, dict[int, Array]] = {RIGHT: {}, COUNT: {}}
        for count in np.unique(counts[counts > 0]):
            samples = np.flatnonzero(counts == count)
            rows = self.compare(*([at_positions(one, samples, on, axis) for one in side] for side in (wanted, found)))
            for name, values in rows.items():
                each = values.reshape(len(samples), -1, *values.shape[1:])
                made.setdefault(name, {}).update(zip(samples.tolist(), each))
        empty = np.zeros(0)
        return {name: np.concatenate([rows[one] for one in sorted(rows)] or [empty]) for name, rows in made.items()}

    def samples(self, outputs: Mapping[str, Array]) -> list[Array]:
        """The part's outputs of one batch, each with its samples along the first axis."""
        return [self._samples(self._cut(outputs[name])) for name in self.part.outputs]

    nothing: ClassVar[float] = 0.0
    """What stands in both models' outputs where the float model gives none that could stay: of scores the least."""
    any_shape: ClassVar[bool] = False
    """Whether outputs of unlike shapes can be compared, as with a number of detections that varies."""

    @abstractmethod
    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """One batch of the part's outputs, each [batch, ...].

        Returns:
            By default ``right``, ``count`` and, where there is one, ``level``: float64 [batch]; of scores of classes
            ``preferred`` and ``lead`` too, see ``chosen_each``.
        """

    def tally(self, parts: Sequence[Rows]) -> AnswerTally:
        """All batches together."""
        names = {name for rows in parts for name in rows}
        joined = {name: np.concatenate([rows[name] for rows in parts if name in rows]) for name in names}
        right, count = joined.get(RIGHT, np.zeros(0)), joined.get(COUNT, np.zeros(0))
        level = self.level_of(joined[LEVEL]) if LEVEL in joined and len(joined[LEVEL]) else None
        return AnswerTally(
            part=self.part,
            kept=float(right.sum()),
            answers=int(count.sum()),
            least=self.least,
            level=level,
            figure=self.figure,
            independent=_independent(right, count),
            lost=self._lost(parts, joined[LEAD]) if LEAD in joined and len(joined[LEAD]) else None,
            expected=self._expected(joined),
            only=_only(joined.get(SIDE, np.zeros(0))),
        )

    def _expected(self, joined: Rows) -> float | None:
        """See ``AnswerTally``."""
        right = joined.get(RIGHT, np.zeros(0))
        samples = len(right)
        if samples and all(len(joined.get(name, ())) == samples for name in (GAP, ERROR)):
            return samples * expected_flips(joined[GAP], joined[ERROR])
        if samples and self.floor_name and len(joined.get(LEVEL, ())) == samples:
            # levels that are no numbers are lost, however far the others are from the floor, but where nothing was
            levels = np.where(np.isnan(joined[LEVEL]) & (right == joined[COUNT]), np.inf, self._in_db(joined[LEVEL]))
            return samples * below_floor(levels, float(self._in_db(np.float64(self.level_needed))))
        return None

    def _lost(self, parts: Sequence[Rows], leads: Array) -> float:
        """How many answers are likely lost over all batches; a batch without scores counts each change in full."""
        usual = float(np.median(leads))
        return float(sum(
            likely_lost(rows.get(SAME, rows[RIGHT]), rows[PREFERRED], usual).sum() if PREFERRED in rows
            else (rows[COUNT] - rows[RIGHT]).sum() for rows in parts
        ))  # fmt: skip

    def _in_db(self, levels: Any) -> Array:
        """Levels of any shape as dB of what they lack to a perfect one; those without one are dB already.

        What is lacking differs from sample to sample by factors: of overlaps most lie near 1 and a few far below, and
        a width that suits both there is in logarithms alone.
        """
        if self.perfect is None:
            return np.asarray(levels)
        return np.where(np.isnan(levels), np.nan, db(np.ones(()), np.asarray(self.perfect - levels)))

    def level_of(self, levels: Array) -> float | None:
        """The figure of all samples from each one's, float64 [samples]: the mean."""
        known = levels[np.isfinite(levels)]
        return float(known.mean()) if len(known) else None

    def _cut(self, value: Array) -> Array:
        if self.part.channels is None:
            return value
        axis, first, last = self.part.channels
        return value[(slice(None),) * (axis % value.ndim) + (slice(first, last + 1),)]

    def _samples(self, value: Array) -> Array:
        """The output with its samples along the first axis; one sample where it has no such axis."""
        axis = self.settings.get("batch_axis", 0)
        if axis is None or value.ndim == 0:
            return value[None]
        return np.moveaxis(value, axis, 0)


def one_each(right: Any, level: Any = None) -> Rows:
    """Rows of samples that have one answer each."""
    rows = {RIGHT: np.asarray(right, np.float64), COUNT: np.ones(len(right))}
    return rows if level is None else {**rows, LEVEL: np.asarray(level, np.float64)}


def chosen_each(right: Any, wanted: Array, found: Array, level: Any = None, decides: Array | None = None) -> Rows:
    """Rows of samples that have one answer each, made of the best class at each position.

    Args:
        right: whether each stays, [batch].
        wanted: the float model's scores, [batch, positions, classes].
        found: the other model's.
        level: see ``one_each``.
        decides: the positions where another choice is another answer, see ``weakest``.
    """
    kept = np.asarray(right, bool)
    preferred = np.zeros(len(kept))
    if not kept.all():
        unknown = np.isnan(found)
        broken = unknown.any(axis=(1, 2))
        chosen = (np.where(unknown, -np.inf, found) if broken.any() else found).argmax(axis=-1)
        preferred = np.where(kept, 0.0, np.where(broken, np.inf, preference(wanted, chosen)))
    rows = {**one_each(right, level), PREFERRED: preferred, LEAD: closest(wanted)}
    if not wanted.shape[1] or wanted.shape[2] < 2:
        return rows
    gaps, errors = weakest(wanted, found, decides)
    return {**rows, GAP: gaps, ERROR: errors}


def scores(value: Array, axis: int = -1) -> Array:
    """Scores of classes in float32 with the classes last, [batch, positions, classes]; NaN is what wins nowhere.

    Masked classes of -inf stay what they are: the least.
    """
    last = np.moveaxis(np.asarray(value, np.float32), axis, -1)
    return flat(last, 1)


def flat(value: Array, last: int = 0) -> Array:
    """The array with its axes merged into one, except for the first and so many last ones; any extent may be 0."""
    end = value.ndim - last
    return value.reshape(*value.shape[:1], math.prod(value.shape[1:end]), *value.shape[end:])


def _judged(wanted: Array, found: Array, nothing: float) -> tuple[Array, Array]:
    """Two tensors of one shape with ``nothing`` in both where the float model gives no answer that could be lost.

    That is NaN, and of values a mask or an infinity that the other model gives too.
    """
    if not is_float(wanted.dtype) or not is_float(found.dtype):
        return wanted, found
    # a mask is more than float16 holds
    a, b = (one if one.dtype in (np.float32, np.float64) else one.astype(np.float32) for one in (wanted, found))
    unknown = np.isnan(a)
    if math.isfinite(nothing):
        masked, alike = masks(np.asarray(a, np.float32)), (np.abs(b) >= LEAST_MASK) & ((a > 0) == (b > 0))
        unknown |= (np.isinf(a) if masked is None else np.isinf(a) | masked) & alike
    if not unknown.any():
        return wanted, found
    return np.where(unknown, a.dtype.type(nothing), a), np.where(unknown, b.dtype.type(nothing), b)


def same_choice(wanted: Array, found: Array) -> Array:
    """Where the argmax is the float model's, bool [batch, positions]; not where the other model gives NaN.

    Args:
        wanted: scores, or integers that are the choice already.
        found: likewise, of the same shape.
    """
    if wanted.dtype.kind in "iub":
        return np.asarray(flat(wanted == found))
    return np.asarray(same_argmax(wanted, found) & ~np.isnan(found).any(axis=-1))


def _only(answers: Array) -> int | None:
    """The one answer that all samples have; None where they differ, or are not several."""
    return int(answers[0]) if len(answers) > 1 and (answers == answers[0]).all() else None


def _independent(right: Array, count: Array) -> float:
    """How many answers count as independent: those of one sample go wrong together (Kish's design effect)."""
    total, samples = float(count.sum()), len(count)
    if samples < 2 or total <= samples:
        return total
    share = float(right.sum()) / total
    alone = share * (1 - share) / total
    if alone <= 0:
        return total
    spread = float(np.square(right - share * count).sum()) * samples / (samples - 1) / total**2
    return max(float(samples), total * min(1.0, alone / max(spread, 1e-300)))


def db(signal: Array, noise: Array) -> Array:
    """10 log10(signal / noise), dB; 150 where there is no noise, as float32 has no more."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 10 * np.log10(signal / noise)
    return np.where(noise <= 0, 150.0, np.clip(np.nan_to_num(level, nan=-math.inf), -150.0, 150.0))
