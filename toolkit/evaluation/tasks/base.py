"""The base of all tasks: the part of the outputs that one reads, the answers of each sample, and their tally."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.evaluation.numerics.difference import is_float, same_argmax
from toolkit.evaluation.numerics.intervals import LimitStanding, standing, wilson
from toolkit.evaluation.numerics.masks import LEAST_MASK, masks
from toolkit.evaluation.observation.position_mask import at_positions, positions_with_answers
from toolkit.evaluation.quantized_values import dequantized
from toolkit.evaluation.tasks.chance import below_floor, expected_flips, weakest
from toolkit.evaluation.tasks.preference import closest, likely_lost, preference

STANDS_IN = "stands_in"
"""The setting of a part whose values are compared because no change of answers would show on these samples."""
FOUND = frozenset({"detections", "iou", "points", "labels"})
"""Names of the figures about objects in a sample; a sample may have no objects."""
Rows = Mapping[str, Array]
"""Results of one batch by name, with one row per sample."""

RIGHT, COUNT, LEVEL = "right", "count", "level"
PREFERRED, LEAD, SAME = "preferred", "lead", "same"
GAP, ERROR = "gap", "error"
SIDE = "side"


@dataclass(frozen=True)
class OutputPart:
    """A part of the outputs that is judged separately: an output, a slice of its channels, or several outputs.

    Attributes:
        task: the name of the task that reads the part.
        outputs: the names of the outputs, in the order that the task expects.
        settings: settings of the task; JSON-able values.
        channels: axis, first and last channel (inclusive) of a slice; None for whole outputs.
    """

    task: str
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[int, int, int] | None = None

    @property
    def first_and_last(self) -> list[int] | None:
        """The first and the last channel (inclusive) of a slice; None for whole outputs."""
        return list(self.channels[1:]) if self.channels is not None else None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**vars(self), "outputs": list(self.outputs), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OutputPart:
        """Create one from the result of ``to_json``."""
        channels = content.get("channels")
        sliced = (int(channels[0]), int(channels[1]), int(channels[2])) if channels is not None else None
        return cls(content["task"], tuple(content["outputs"]), dict(content["settings"]), sliced)


@dataclass(frozen=True)
class AnswerTally:
    """How many answers of a part are unchanged compared with the float model.

    Attributes:
        part: the part of the outputs that was read.
        kept: the number of unchanged answers.
        answers: the number of answers; the number of samples if each has one answer.
        least: the smallest share of answers that must be unchanged, by the task's default, 0 to 1.
        level: the figure that best shows by how much answers change; None if the share suffices.
        figure: the name of ``level``: ``positions``, ``cosine_p5``, ``psnr_db``, ``snr_db``, or one of ``FOUND``.
        independent: the number of answers that count as independent.
        lost: the sum over changed answers of how likely each costs accuracy, by the float model's own scores (see
            ``likely_lost``); None if there are no scores.
        expected: how many of as many answers on similar samples are expected to change; answers that nearly changed
            count in part. None if an answer is neither the choice of one class nor a level above a floor.
        only: the class that the float model returns for every sample, if each sample has one choice of class, or a
            number for the classes of its positions: a constant model would keep all answers. None if samples differ, or
            if an answer is something else.
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
        """Whether the part's values stand in for answers (see ``STANDS_IN``); a change of values is no lost answer."""
        return bool(self.part.settings.get(STANDS_IN))

    @property
    def share(self) -> float:
        """The share of unchanged answers, 0 to 1; 1 if there are no answers."""
        return self.kept / self.answers if self.answers else 1.0

    @property
    def empty(self) -> bool:
        """Whether the samples have nothing to compare: no detection, label, masked pixel, key point or row."""
        places = self.figure in FOUND and self.level is None
        return not self.answers or (places and self.answers == self.kept)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``share``."""
        return wilson(self.share * self.independent, self.independent)

    def standing(self, least: float | None = None) -> LimitStanding:
        """Whether enough answers are unchanged; ``least`` replaces the task's default share.

        For values that stand in for answers, a missed limit is only ``UNPROVEN``: it does not show that answers change.
        """
        if not self.answers:
            return LimitStanding.MET
        limit = 1.0 - (self.least if least is None else least)
        found = standing(self.answers - self.kept, self.answers, limit, self.independent)
        return LimitStanding.UNPROVEN if self.judges_values and found is LimitStanding.MISSED else found

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**vars(self), "part": self.part.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AnswerTally:
        """Create one from the result of ``to_json``."""
        return cls(**{**content, "part": OutputPart.from_json(content["part"])})


class Task(ABC):
    """Reads one part: defines what an answer is, and when it counts as unchanged.

    Attributes:
        name: the task's name in recipes.
        least: the share of answers that must be unchanged by default, 0 to 1.
        floor_name: the budget's name for the level from which on an answer counts as unchanged; empty if there is none.
        floor: the default of that level, in the figure's unit.
        perfect: the level of an answer equal to the float model's; None if levels are in dB, which have no maximum.
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
        """When an answer counts as unchanged, with all tolerances, for the report; None if it must be identical."""
        return None

    def rows(
        self, wanted: Mapping[str, Array], found: Mapping[str, Array], inputs: Mapping[str, Array] | None = None
    ) -> Rows:
        """Compare one batch.

        If an output's shapes differ, all answers are lost; their number is the larger of the two. Positions that an
        input masks, or that are beyond the float model's lengths, are ignored; samples without any others add no row.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs by name.
            inputs: the batch's inputs by name; needed if an input masks positions.
        """
        pairs = [(self._cut(wanted[name]), self._cut(found[name])) for name in self.part.outputs]
        unlike = any(a.shape != b.shape for a, b in pairs)
        if unlike and not self.any_shape:
            lost = max(len(self._samples(each)) for each in pairs[0])
            return {RIGHT: np.zeros(lost), COUNT: np.ones(lost), LEVEL: np.full(lost, np.nan)}
        if not unlike and all(a.size == 0 for a, _ in pairs):
            # empty outputs are equal
            return one_each(np.ones(len(self._samples(pairs[0][0]))))
        if not unlike:
            pairs = [_judged(a, b, self.nothing) for a, b in pairs]
        both = self._each([a for a, _ in pairs]), self._each([b for _, b in pairs])
        on = positions_with_answers(self.settings, both[0][0], inputs or {}, wanted)
        return self.compare(*both) if on is None else self._compare_at(*both, on)

    def _compare_at(self, wanted: Sequence[Array], found: Sequence[Array], on: Array) -> Rows:
        """``compare`` restricted to the positions ``on``, bool [batch, positions], in groups of equal counts."""
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
        """The part's outputs for one batch, sliced to its channels, with samples along the first axis."""
        return self._each([self._cut(outputs[name]) for name in self.part.outputs])

    nothing: ClassVar[float] = 0.0
    """Replaces values in both outputs if the float model's is NaN or masked; -inf for class scores."""
    any_shape: ClassVar[bool] = False
    """Whether outputs of different shapes can be compared, such as varying numbers of detections."""

    @abstractmethod
    def compare(self, wanted: Sequence[Array], found: Sequence[Array]) -> Rows:
        """Compare one batch of the part's outputs, each [batch, ...]: the float model's and the other model's.

        Returns:
            By default ``right``, ``count`` and, if there is one, ``level``, float64 [batch]; for class scores also
            those of ``chosen_each``.
        """

    def tally(self, parts: Sequence[Rows]) -> AnswerTally:
        """Sum up the results of all batches."""
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
            # a level of NaN counts as lost, unless the answer is unchanged because there was nothing to lose
            levels = np.where(np.isnan(joined[LEVEL]) & (right == joined[COUNT]), np.inf, self._in_db(joined[LEVEL]))
            return samples * below_floor(levels, float(self._in_db(np.float64(self.level_needed))))
        return None

    def _lost(self, parts: Sequence[Rows], leads: Array) -> float:
        """The likely number of lost answers over all batches; in batches without scores each change counts fully."""
        usual = float(np.median(leads))
        return float(sum(
            likely_lost(rows.get(SAME, rows[RIGHT]), rows[PREFERRED], usual).sum() if PREFERRED in rows
            else (rows[COUNT] - rows[RIGHT]).sum() for rows in parts
        ))  # fmt: skip

    def _in_db(self, levels: Any) -> Array:
        """Levels, of any shape, as the distance from ``perfect`` in dB; unchanged if they are in dB already.

        The distances differ by factors between samples: most overlaps are near 1 and a few far below. Only in
        logarithms does one width of ``below_floor``'s kernel suit both.
        """
        if self.perfect is None:
            return np.asarray(levels)
        return np.where(np.isnan(levels), np.nan, db(np.ones(()), np.asarray(self.perfect - levels)))

    def level_of(self, levels: Array) -> float | None:
        """The figure for all samples from those of each, float64 [samples]: the mean of the finite ones, else None."""
        known = levels[np.isfinite(levels)]
        return float(known.mean()) if len(known) else None

    def _cut(self, value: Array) -> Array:
        if self.part.channels is None:
            return value
        axis, first, last = self.part.channels
        return value[(slice(None),) * (axis % value.ndim) + (slice(first, last + 1),)]

    def _each(self, values: Sequence[Array]) -> list[Array]:
        """All outputs of the part with samples along the first axis."""
        return [self._samples(value, place) for place, value in enumerate(values)]

    def _samples(self, value: Array, place: int = 0) -> Array:
        """The part's output at ``place`` with samples along the first axis; without a batch axis it is one sample."""
        scales, axes = (self.settings.get(name, ()) for name in ("quantized", "batch_axes"))
        value = dequantized(value, scales[place] if place < len(scales) else None)
        axis = axes[place] if place < len(axes) else self.settings.get("batch_axis", 0)
        if axis is None or value.ndim == 0:
            return value[None]
        return np.moveaxis(value, axis, 0)


def one_each(right: Any, level: Any = None) -> Rows:
    """Rows for samples with one answer each: whether each is unchanged, and the level of each, [batch]."""
    rows = {RIGHT: np.asarray(right, np.float64), COUNT: np.ones(len(right))}
    return rows if level is None else {**rows, LEVEL: np.asarray(level, np.float64)}


def chosen_each(right: Any, wanted: Array, found: Array, level: Any = None, decides: Array | None = None) -> Rows:
    """Rows for samples with one answer each, which consists of the argmax at each position.

    Args:
        right: whether each answer is unchanged, [batch].
        wanted: the float model's scores, [batch, positions, classes].
        found: the other model's scores, of the same shape.
        level: see ``one_each``.
        decides: the positions where another choice is another answer, see ``weakest``.

    Returns:
        Besides those of ``one_each``: ``preferred`` (see ``preference``; infinite where the other model returns NaN),
        ``lead`` (see ``closest``), and ``gap`` and ``error`` (see ``weakest``), each [batch].
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
    """Class scores in float32 with ``axis`` last, [batch, positions, classes]; NaN and -inf are left as they are."""
    last = np.moveaxis(np.asarray(value, np.float32), axis, -1)
    return flat(last, 1)


def flat(value: Array, last: int = 0) -> Array:
    """The array with all axes between the first and the ``last`` last ones merged into one; extents may be 0."""
    end = value.ndim - last
    return value.reshape(*value.shape[:1], math.prod(value.shape[1:end]), *value.shape[end:])


def _judged(wanted: Array, found: Array, nothing: float) -> tuple[Array, Array]:
    """Two tensors of one shape with ``nothing`` in both wherever the float model has no valid value.

    That is wherever it returns NaN or, unless ``nothing`` is infinite, a mask or infinity that the other returns too.
    """
    if not is_float(wanted.dtype) or not is_float(found.dtype):
        return wanted, found
    # mask values exceed the range of float16
    a, b = (one if one.dtype in (np.float32, np.float64) else one.astype(np.float32) for one in (wanted, found))
    unknown = np.isnan(a)
    if math.isfinite(nothing):
        masked, alike = masks(np.asarray(a, np.float32)), (np.abs(b) >= LEAST_MASK) & ((a > 0) == (b > 0))
        unknown |= (np.isinf(a) if masked is None else np.isinf(a) | masked) & alike
    if not unknown.any():
        return wanted, found
    return np.where(unknown, a.dtype.type(nothing), a), np.where(unknown, b.dtype.type(nothing), b)


def same_choice(wanted: Array, found: Array) -> Array:
    """Whether the argmax is the float model's, bool [batch, positions]; False if the other model returns NaN.

    Args:
        wanted: the float model's scores [batch, positions, classes], or its choices, integers [batch, ...].
        found: those of the other model, of the same shape.
    """
    if wanted.dtype.kind in "iub":
        return np.asarray(flat(wanted == found))
    return np.asarray(same_argmax(wanted, found) & ~np.isnan(found).any(axis=-1))


def _only(answers: Array) -> int | None:
    """The answer that all samples share; None if they differ or there are fewer than two."""
    return int(answers[0]) if len(answers) > 1 and (answers == answers[0]).all() else None


def _independent(right: Array, count: Array) -> float:
    """The effective number of independent answers: those of one sample often change together (Kish's design effect)."""
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
    """10 log10(signal / noise) in dB, within -150 and 150, which is beyond float32's precision; 150 without noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 10 * np.log10(signal / noise)
    return np.where(noise <= 0, 150.0, np.clip(np.nan_to_num(level, nan=-math.inf), -150.0, 150.0))
