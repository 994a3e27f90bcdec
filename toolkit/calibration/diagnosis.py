"""How well one scale fits a tensor, according to its histogram; and tensors whose range differs between profiles."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.base.precision import Precision
from toolkit.calibration import amax as methods
from toolkit.calibration.collection import Collection
from toolkit.calibration.histogram import Histogram, SummedBins
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import Ranges
from toolkit.data.sample import Sample
from toolkit.data.unvaried import same_values, together

_PICTURE = 32
_FEW_SAMPLES = 8


def diagnose(
    histogram: Histogram,
    amax: float,
    precision: Precision,
    by_method: Mapping[str, float],
    summed: SummedBins | None = None,
) -> dict[str, Any]:
    """How well ``amax`` fits the values of a histogram.

    Args:
        amax: the largest magnitude kept.
        by_method: the amax that each method chooses.
        summed: the histogram's ``SummedBins``, if it exists already.

    Returns:
        ``amax``: what each method chooses. ``clipped``: the fraction of values beyond amax. ``sqnr_db``: expected
        (None where undefined). ``outlier_ratio``: the largest magnitude over the 99.9th percentile.
        ``zeros``: the fraction of exact zeros. ``nonfinite``: NaN and infinities left out. ``histogram``: 32 shares
        of the values that are not zero, over equal parts from 0 to the largest magnitude. ``notes``: ``dead`` (only
        zeros), ``one-sided`` (never below zero, so that half of a symmetric INT8's numbers are unused), ``infinite``.
    """
    notes, seen = [], summed or SummedBins(histogram)
    if not seen.absmax:
        notes.append("dead")
    elif histogram.low >= 0 and precision.integer:
        notes.append("one-sided")
    if histogram.nonfinite:
        notes.append("infinite")
    return {
        "amax": dict(by_method),
        "clipped": methods.clipped(seen, amax),
        "sqnr_db": methods.sqnr(seen, amax, precision),
        "outlier_ratio": outlier_ratio(seen),
        "zeros": seen.zeros / seen.count if seen.count else 0.0,
        "nonfinite": histogram.nonfinite,
        "histogram": picture(seen),
        "notes": notes,
    }


def outlier_ratio(histogram: Histogram | SummedBins) -> float | None:
    """The largest magnitude over the 99.9th percentile of the nonzero values; None if all are zero."""
    seen = SummedBins.of(histogram)
    if not seen.absmax:
        return None
    return seen.absmax / methods.percentile(seen, 99.9, zeros=False)


def picture(histogram: Histogram | SummedBins) -> list[float]:
    """32 shares of the values that are not zero, over equal parts of the range from 0 to the largest magnitude."""
    seen = SummedBins.of(histogram)
    total = seen.count - seen.zeros
    if not total:
        return [0.0] * _PICTURE
    edges = np.arange(_PICTURE + 1) * (seen.used / _PICTURE)
    at = np.interp(edges, np.arange(seen.used + 1), np.concatenate([[0], seen.cumulated]))
    return [round(share, 5) if share else 0.0 for share in (np.diff(at) / total).tolist()]


@dataclass(frozen=True)
class ProfileRangeDifference:
    """A tensor whose range differs between profiles: one scale cannot serve both."""

    tensor: str
    low: str
    high: str
    ratio: float


def unlike_profiles(ranges: Ranges, ratio: float = 2.0) -> list[ProfileRangeDifference]:
    """The tensors whose amax differs between two profiles by ``ratio`` or more, the largest ratio first."""
    found = []
    for tensor, value in ranges.tensors.items():
        seen = {name: amax for name, amax in value.per_profile.items() if amax > 0}
        if len(seen) < 2:
            continue
        low, high = min(seen, key=lambda n: seen[n]), max(seen, key=lambda n: seen[n])
        if seen[high] >= ratio * seen[low]:
            found.append(ProfileRangeDifference(tensor, low, high, seen[high] / seen[low]))
    return sorted(found, key=lambda unlike: (-unlike.ratio, unlike.tensor))


def unvaried_inputs(
    collection: Collection, floats: Container[str] = (), first: Sample | None = None, used: Container[str] | None = None
) -> list[Finding]:
    """Findings about inputs that are identical in all samples, or have only one value.

    Inputs that no range depends on, such as an integer mask, may be identical in all samples if another input varies.

    Args:
        collection: the statistics of the samples.
        floats: the float inputs: ranges depend on them, if only through a Concat or another operator that moves values.
        first: one of the samples, which gives the value of inputs that have only one.
        used: the inputs whose values the model uses: others may be identical, and do not count as varying either; None
            for all.
    """
    number = sum(collection.samples.values())
    same = {name: digest for name, digest in collection.same.items() if used is None or name in used}
    everything = number > 1 and all(same.values())
    ranged, told = set(collection.tensors), []
    for name, digest in same.items():
        if first is not None and not first.inputs[name].size:
            # an empty past has no values that could differ
            continue
        seen = collection.total(name) if name in ranged else None
        value = first.inputs[name] if first is not None else None
        ranged_too = name in floats or (seen is not None and bool(seen.count))
        if seen is not None and seen.count > 1 and seen.low == seen.high and (value is None or value.size > 1):
            told.append(Code.UNVARIED_SAMPLES(inputs=[name], samples=number, values=[seen.low]))
        elif digest and number > 1 and (everything or ranged_too):
            told.append(same_values(name, number, value, everything))
    return together(told)


def sparse_profiles(samples: Mapping[str, int], least: int = _FEW_SAMPLES) -> dict[str, int]:
    """The profiles with fewer than ``least`` samples, with the number of samples."""
    return {name: count for name, count in samples.items() if count < least}
