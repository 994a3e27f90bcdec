"""Clues from whether the values of a vector or position are rivals, as scores of classes are, or vary on their own.

The gradient of a softmax's cross-entropy sums to 0 over the classes, so training raises the score of one class by what
it lowers the others: the mean of all scores stays where it was initialized, and their differences grow. In taggers of
two and three classes that were trained from scratch, with accuracies above 0.7, the mean had up to 0.2 of the variance
that it has in independent values. Coordinates, angles and the steps of a forecast have no such rivals.
"""

from __future__ import annotations

import numpy as np

from toolkit.evaluation.guessing.clue import ANY, PAR, SHARES, Clue, of_values
from toolkit.evaluation.guessing.value_clues import never_sure, one_order, own_levels
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

_CHANCES = frozenset({"Sigmoid", "HardSigmoid"})
_ONE_SIDED = frozenset({"Relu", "Softplus", "Exp", "Abs", "Pow", "Sqrt", "Clip"})
"""Operators that keep all values above 0, those of class scores too."""
_POINT = 3
"""Most values of a point, [x, y] or [x, y, z]."""
_MOST_CLASSES = 64
"""Scores of as many tokens share a level of their position: weights tied to the embedding have a common direction."""
_ROWS = 32
"""Fewest positions, of all samples, that tell whether values are rivals."""
_RIVALS, _INDEPENDENT = 0.2, 0.6
"""Largest variance of the mean of rivals, and least of values that are none, as a share of what it is for independent
values."""
_TOGETHER = 0.5
"""Least share of the variance that is common to values that vary together; in scores of rivals it is next to none."""
_FEWEST_STEPS, _SAMPLES = 6, 8
"""Fewest steps whose neighbours tell an order, and fewest samples that tell the mean of each position."""
_STEADY, _GROWTH = 0.9, 3.0
"""Least rank correlation of the variance with the step, and how many times the variance of the first quarter of the
steps of a forecast that of the last must be. A random walk's is about 6 times as large."""
_ABOVE = 0.98
"""Least share of positions all of whose values are above 0, as places in a picture. Some scores of rivals are below."""

_WON = 0.9
"""Least share of the positions with values above 0 that have a winner. A segmentation that was trained with a Relu at
its end has one at 99.9 % of these positions, its features have none."""


def values_of_rows(output: SeenOutput, seen: SeenModel, axis: int, features: bool) -> list[Clue]:
    """Clues from the values of rows to continuous values rather than class scores.

    Args:
        output: the output, whose samples are rows.
        seen: the model that it belongs to.
        axis: the axis of the values that may be class scores, counted from the end.
        features: whether name or operators say scores or features; the weaker signs do not count then.
    """
    found = [] if features else _points(output, seen, axis)
    if not found and not output.ops & SHARES and own_levels(output, axis):
        found = of_values("own levels", 1.5)
    if not found and not features:
        found = of_values("one order", 1.5) if one_order(output, axis) else _varying_together(output, axis)
    return [*found, *of_values("never sure", 2.5), ANY] if never_sure(output) else found


def _points(output: SeenOutput, seen: SeenModel, axis: int) -> list[Clue]:
    """Clues from rows that may be points, [x, y] or [x, y, z], since their values are no rivals.

    Independent values may also be scores of labels that do not exclude each other, of each position of an input: such
    an output is judged as both. Points in an image, of which the model has a fixed number unlike any extent of its
    inputs, are none of these. A model that reads tokens has labels of them. Scores may be above 0 too, as evidence is.
    """
    if output.ops & (SHARES | _CHANCES) or not 2 <= output.shape[axis] <= _POINT:
        return []
    above, alone = above_zero(output, axis), independent(output, axis) and not seen.reads_tokens
    kind = "above zero" if above else "points"
    places = -3 - axis
    extents = {extent for one in seen.inputs.values() for extent in one.shape}
    own = output.fixed(places) and output.shape[places] not in extents
    if alone and own and seen.images:
        return [*of_values(kind, 2.5), ANY]
    return of_values(kind, PAR) if above or alone else []


def values_of_vectors(output: SeenOutput, axis: int) -> list[Clue]:
    """Clues from the values of vectors to continuous values rather than class scores.

    Values that are all above 0 may also be those of actions, of which the largest is the answer.

    Args:
        output: the output, whose samples are vectors.
        axis: the axis of the values, counted from the end.
    """
    together = _varying_together(output, axis)
    above = not output.ops & (SHARES | _CHANCES) and above_zero(output, axis)
    return of_values("above zero", PAR) if above and not together else together


def _varying_together(output: SeenOutput, axis: int) -> list[Clue]:
    """Clues from values that mostly rise and fall together; with certainty if neighbours do so the most and all grow.

    The values of actions rise and fall together too, and their largest one is the answer. Where actions have an order,
    as steering angles have, neighbours do so the most as well, but all vary about as much, by the value of the state.
    """
    count = output.shape[axis]
    common = common_share(output, axis) if count < _MOST_CLASSES and not output.ops & (SHARES | _CHANCES) else None
    if common is None or common < max(_TOGETHER, 1.5 / count):
        return []
    forecast = output.has_bands(axis, _FEWEST_STEPS) and _grows(output, axis)
    return [*of_values("together", 2.5), ANY] if forecast else of_values("together", PAR)


def _grows(output: SeenOutput, axis: int) -> bool:
    """Whether the variance grows steadily along an axis, as with the steps of a forecast."""
    spread = output.stacked(axis).var(axis=0)
    steady = np.corrcoef(spread.argsort().argsort(), np.arange(len(spread)))[0, 1] >= _STEADY
    part = max(len(spread) // 4, 1)
    return bool(steady and spread[-part:].mean() >= _GROWTH * spread[:part].mean())


def independent(output: SeenOutput, axis: int) -> bool:
    """Whether the values along an axis are no rivals: their mean varies about as in independent values, or more."""
    common = common_share(output, axis)
    return common is not None and common >= _INDEPENDENT / output.shape[axis]


def may_be_rivals(output: SeenOutput, axis: int) -> bool:
    """Whether the values along an axis, which have no order, may be rivals: their mean hardly varies or is not known.

    Values with an order are a signal, whose mean may be 0 in each sample, as that of rivals is.
    """
    common = common_share(output, axis)
    return (common is None or common < _RIVALS / output.shape[axis]) and not output.has_bands(axis, _FEWEST_STEPS)


def above_zero(output: SeenOutput, axis: int) -> bool:
    """Whether nearly all positions have only values above 0 although no operator bounds them."""
    if output.discrete or output.ops & _ONE_SIDED or output.sums_to_one(axis):
        return False
    rows = output.stacked(axis)
    return len(rows) >= _ROWS and bool((rows > 0).all(axis=1).mean() >= _ABOVE)


def has_winners(output: SeenOutput, axis: int) -> bool:
    """Whether nearly wherever values are above 0 one is most of the sum, as of scores of classes after a Relu.

    Rivals' scores are about 0 on average, so few of them are above it at one position; of features, about half are.
    A winner has at least the mean of an even share and of all: 3/4 of two values, of which one is always half the sum.

    Args:
        output: the output, with no value below 0.
        axis: the axis of the values, counted from the end.
    """
    rows = output.stacked(axis)
    rows = rows[(rows > 0).any(axis=1) & np.isfinite(rows).all(axis=1)]
    return len(rows) >= _ROWS and bool(
        (rows.max(axis=1) >= (1 + 1 / rows.shape[1]) / 2 * rows.sum(axis=1)).mean() >= _WON
    )


def common_share(output: SeenOutput, axis: int) -> float | None:
    """The share of the values' variance that is their mean's, 0 to 1; 1 / extent if they are independent.

    Values are taken from their mean over samples, position by position if all samples have as many positions.

    Args:
        axis: the axis over which the mean is taken, counted from the end.

    Returns:
        None for integers, probabilities, too few positions, values that are not finite, and constants.
    """
    if output.discrete or output.shape[axis] < 2 or output.sums_to_one(axis):
        return None
    rows = output.stacked(axis)
    if len(rows) < _ROWS or not np.isfinite(rows).all():
        return None
    alike = all(one.shape == output.shape for one in output.samples) and len(output.samples) >= _SAMPLES
    whole = rows.reshape(len(output.samples), -1, rows.shape[1]) if alike else rows[:, None]
    moved = whole - whole.mean(axis=0)
    total = float(np.square(moved).sum())
    return float(np.square(moved.mean(axis=-1)).sum()) * rows.shape[1] / total if total > 0 else None
