"""How many answers are likely to change on samples like these, by what nearly changed as well as by what did."""

from __future__ import annotations

import math

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.numerics.masks import LEAST_MASK, all_finite, all_plain, masks
from toolkit.evaluation.numerics.ranks import two_largest

_FLIP_POSITIONS = 4_000
_FLIP_DRAWS = 24
_NEIGHBOURS, _TIE = 2.0, 1e-3
_BANDWIDTH = 1.06
_PERFECT, _FAR = 149.0, 30.0
"""In dB: with a thousandth of the noise that a sample may have it is safe, and how safe tells nothing of others."""
_HUGE = float(np.finfo(np.float32).max)
_LEAST_VARIANCE = 1e-30
_LIKELY = 8
"""How many positions of a sample, those with the least gaps, may be the one whose choice changes first."""
MASKED = -1e9
"""What stands for the score of a class that is masked, as by -inf: infinity less itself would be NaN."""


def gaps_and_errors(wanted: Array, found: Array) -> tuple[Array, Array]:
    """Two figures of every position that has scores of classes.

    Args:
        wanted: the float model's scores, [..., classes].
        found: the other model's.

    Returns:
        The float model's best score less its second, and the variance of the scores' errors over the classes; [...].
    """
    second, best = (one.astype(np.float64) for one in two_largest(wanted))
    with np.errstate(over="ignore", invalid="ignore"):
        apart = found - wanted
        errors = apart.var(axis=-1, ddof=1)
        # errors of 1e-20 or 1e20 have no squares in float32; where all are equal there is nothing to be had
        if not (errors.min(initial=1.0) > _LEAST_VARIANCE and errors.max(initial=0.0) < _HUGE) and apart.any():
            errors = apart.var(axis=-1, ddof=1, dtype=np.float64)
        return best - second, errors


def unmasked(wanted: Array, found: Array) -> tuple[Array, Array]:
    """Scores of two models with ``MASKED`` in place of what is no number in the float model's, or in its own.

    So has a class that a large negative number was added to, where the other model leaves it out too: how 16-bit floats
    round such a number changes no choice, and is no error of the scores.
    """
    plain = all_plain(wanted)
    if plain and all_finite(found):
        return wanted, found
    out = ~np.isfinite(wanted)
    masked = None if plain else masks(np.asarray(wanted, np.float32))
    if masked is not None:
        out |= masked & (wanted < 0) & (found <= -LEAST_MASK)
    return np.where(out, MASKED, wanted), np.where(out | ~np.isfinite(found), MASKED, found)


def weakest(wanted: Array, found: Array, decides: Array | None = None) -> tuple[Array, Array]:
    """``gaps_and_errors`` of the position of each sample whose choice is the most likely to change; [batch].

    A sample that is read as a whole changes with the first of its choices. The position with the least gap for its own
    error represents the sample: if the errors of all positions are of similar size, this finds nine tenths of the
    changes where some ten percent of the samples change, fewer where more do, and never too many (drawn: 6 and 24
    positions, 20 classes).

    Args:
        wanted: the float model's scores, [batch, positions, classes], two classes and one position or more.
        found: the other model's.
        decides: the positions where another choice is another answer, bool [batch, positions]; all where None. In a
            sample without any, no single choice changes the answer.
    """
    a, b = unmasked(wanted, found)
    if decides is not None or a.shape[1] > _LIKELY:
        second, best = two_largest(a)
        apart = best - second
        apart = apart if decides is None else np.where(decides, apart, np.inf)
        near = np.argsort(apart, axis=1, kind="stable")[:, :_LIKELY]
        rows = np.arange(len(near))[:, None]
        apart, a, b = apart[rows, near], a[rows, near], b[rows, near]
    gaps, errors = gaps_and_errors(a, b)
    if decides is not None:
        gaps = np.where(np.isfinite(apart), gaps, -MASKED)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        first = np.nan_to_num(gaps / np.sqrt(errors), nan=0.0, posinf=np.inf).argmin(axis=1)[:, None]
    return np.take_along_axis(gaps, first, 1)[:, 0], np.take_along_axis(errors, first, 1)[:, 0]


def expected_flips(gaps: Array, errors: Array) -> float:
    """The mean share of positions whose argmax errors like these change, whatever happened to change in these samples.

    With errors that are normal and independent between classes, the second class overtakes the first with probability
    Phi(-gap / sqrt(2 variance)). This is averaged over all positions, half of it with each position's own variance and
    half with those of positions drawn evenly from all: where a few positions are quite wrong and the others right, as
    after a TopK that swaps two entries, only few draws are bad. Unlike a count of the changes, to which one of a
    hundred samples adds a whole point, the estimate uses every sample.

    How many of few positions are near ties is chance too, and errors as small as a budget allows change no others: the
    smallest gaps are therefore spread as their density says (see ``_evened``).

    Args:
        gaps: best score less second best, [positions].
        errors: variance of the errors over the classes, [positions].
    """
    step = max(1, len(gaps) // _FLIP_POSITIONS)
    # a variance beyond float32, of scores that lost all meaning, would be no number between two such quantiles
    wide = np.nan_to_num(errors.astype(np.float64), nan=_HUGE, posinf=_HUGE)
    near, own = _evened(gaps[::step].astype(np.float64)), wide[::step]
    drawn = np.quantile(wide, (np.arange(_FLIP_DRAWS) + 0.5) / _FLIP_DRAWS)
    return (_overtaken(near, own) + _overtaken(near[:, None], drawn[None])) / 2


def _evened(gaps: Array) -> Array:
    """The gaps with the k = 2 sqrt(n) closest of n spread between 0 and the largest of these, g, as their density goes.

    The density at 0 is estimated from that many nearest neighbours (D. O. Loftsgaarden, C. P. Quesenberry, "A
    nonparametric estimate of a multivariate density function", 1965): evenly spread, the i-th is g (i - 1/2) / k. Where
    it goes as x^(1/a - 1), that ratio is to the power of a, which is the mean of log(g / gap) (B. M. Hill, "A simple
    general approach to inference about the tail of a distribution", 1975), give or take 1 / sqrt(k - 1): only what a
    differs from 1 by more counts, so that near ties stay and far winners are not doubted. Of 64 samples with a density
    that is even at 0 the estimate of flips lies between 0.4 and 1.8 of the truth in eight of ten draws, and that which
    takes gaps as they are between 0 and 2.6. Gaps to classes that are masked out are no neighbours.
    """
    near = int((gaps < -MASKED / 2).sum())
    count = min(math.ceil(_NEIGHBOURS * math.sqrt(near)), near)
    closest, evened = np.argsort(gaps)[:count], gaps.copy()
    largest = gaps[closest[-1:]]
    if count < 2 or largest[0] <= 0:
        # nothing to spread
        return evened
    apart = float(np.log(largest / np.maximum(gaps[closest[:-1]], largest * _TIE)).mean()) - 1
    power = 1 + math.copysign(max(abs(apart) - 1 / math.sqrt(count - 1), 0.0), apart)
    evened[closest] = largest * ((np.arange(count) + 0.5) / count) ** power
    return evened


def _overtaken(gaps: Array, errors: Array) -> float:
    gaps, spread = np.broadcast_arrays(gaps, np.sqrt(2 * errors))
    ratio = np.divide(gaps, spread, out=np.full(gaps.shape, np.inf), where=spread > 0)
    # a list of plain floats: taking numpy's out of an array costs ten times the function
    return float(np.mean([0.5 * math.erfc(x) for x in (ratio.reshape(-1) / math.sqrt(2)).tolist()]))


def below_floor(levels: Array, floor: float) -> float:
    """The expected share of samples below a floor, from the levels of some samples, by a kernel density estimate.

    Each level stands for a normal distribution around it, with the width of B. W. Silverman, "Density Estimation for
    Statistics and Data Analysis" (1986), equation 3.28: a sample slightly above the floor counts in part. Samples far
    above the others, such as blank ones, must not widen the distribution of the rest: the deviation is at most that of
    the lower half, levels far above the floor count as ``_FAR`` above it, and perfect samples are left out, since with
    most masks perfect the others would seem to vary by tens of dB.

    Args:
        levels: float64 [samples], in dB.
        floor: the level from which on a sample counts as unchanged.
    """
    known = np.minimum(levels[np.isfinite(levels) & (levels < _PERFECT)], floor + _FAR)
    lost = float((levels < floor).sum() - (known < floor).sum() + np.isnan(levels).sum())
    width = _BANDWIDTH * _deviation(known) * len(known) ** -0.2 if len(known) > 1 else 0.0
    with np.errstate(divide="ignore"):
        apart = np.where(known < floor, -np.inf, np.inf) if width <= 0 else (known - floor) / width
    lost += sum(0.5 * math.erfc(one / math.sqrt(2)) for one in apart.tolist())
    return lost / max(len(levels), 1)


def _deviation(values: Array) -> float:
    """The standard deviation, or that of the values below the median and their mirror images; the smaller."""
    below = np.minimum(values - np.median(values), 0.0)
    return min(float(values.std(ddof=1)), math.sqrt(2 * float(np.square(below).mean())))
