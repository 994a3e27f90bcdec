"""Making ranges from a collection: the method of each tensor, its amax, and the diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toolkit.base.cpu import cores
from toolkit.base.errors import RangesError, did_you_mean, did_you_mean_pattern
from toolkit.base.precision import Precision
from toolkit.base.text import matching
from toolkit.base.threads import in_threads
from toolkit.calibration.amax import DEFAULT, NAMES, amax_by
from toolkit.calibration.collection import Collection
from toolkit.calibration.diagnosis import diagnose
from toolkit.calibration.histogram import Histogram, SummedBins
from toolkit.contract.ranges import Range, Ranges

_WEIGHT_STEPS = 1000


def make_ranges(
    collection: Collection,
    method: str = DEFAULT,
    percentile: float = 99.99,
    precision: Precision = Precision.INT8,
    by_pattern: Mapping[str, str] | None = None,
    profile_weights: Mapping[str, float] | None = None,
) -> Ranges:
    """The range of every collected tensor that had a value in any sample.

    No choice made here requires running the model again.

    Args:
        collection: what ``collect`` returned.
        method: minmax, entropy, percentile (or ``percentile:99.9``) or mse.
        percentile: for method percentile, in percent.
        precision: the type that the tensors will be quantized to: INT8 or FP8.
        by_pattern: methods by tensor name or glob; later patterns take precedence.
        profile_weights: the weight of a sample by profile; 1 by default.

    Raises:
        RangesError: an unknown method, pattern or profile.
    """
    names = [name for name in collection.tensors if collection.has_values(name)]
    chosen = check_methods(names, method, by_pattern or {})
    weights = _whole_weights(profile_weights or {}, collection.profiles)
    profiles = collection.profiles

    def one(name: str) -> Range:
        total = collection.total(name, weights=weights)
        summed = SummedBins(total)
        by_method = {word: amax_by(word, summed, precision, percentile) for word in NAMES}
        word = chosen[name]
        # a pattern may set its own percentile
        amax = by_method[word] if word in by_method else amax_by(word, summed, precision, percentile)

        def rechosen(amax: float, word: str) -> Range:
            again = collection.total(name, weights=weights)
            return made(amax, word, again, diagnose(again, amax, precision, by_method))

        def made(amax: float, word: str, total: Histogram, diagnosis: dict[str, Any]) -> Range:
            observed = (total.low, total.high) if total.low <= total.high else None
            seen, types = sum(collection.samples.values()), str(precision)
            return Range(amax, word, observed, by_profile(name, amax, word), seen, diagnosis, types, rechosen)

        return made(amax, word, total, diagnose(total, amax, precision, by_method, summed))

    def by_profile(name: str, amax: float, word: str) -> dict[str, float]:
        if len(collection.samples) <= 1:
            return dict.fromkeys(profiles, amax)
        # a search finds a tensor's amax on the samples of all profiles
        word = word if word.partition(":")[0] in NAMES else chosen[name]
        return {profile: amax_by(word, collection.total(name, profile), precision, percentile) for profile in profiles}

    with ThreadPoolExecutor(cores()) as pool:
        tensors = dict(zip(names, in_threads(pool, cores(), one, names)))
    settings: dict[str, Any] = {"method": method, "percentile": percentile, "precision": str(precision)}
    settings.update(methods=dict(by_pattern or {}), weights=dict(profile_weights or {}))
    return Ranges(
        tensors,
        collection.extremes(),
        {profile: collection.samples_of(profile) for profile in profiles},
        {**collection.made_from, **settings},
    )


def check_methods(names: Sequence[str], method: str, by_pattern: Mapping[str, str]) -> dict[str, str]:
    """The method of every tensor.

    Raises:
        RangesError: there is no such method, or a pattern matches no tensor.
    """
    for word in (method, *by_pattern.values()):
        if word.partition(":")[0] not in NAMES:
            raise RangesError(f"there is no method '{word}'", remedy=did_you_mean(word, NAMES))
    chosen = dict.fromkeys(names, method)
    for pattern, own in by_pattern.items():
        hits = matching(pattern, chosen)
        if not hits:
            raise RangesError(
                f"the method pattern '{pattern}' matches no tensor that was collected",
                remedy=did_you_mean_pattern(pattern, names),
                value=pattern,
            )
        chosen.update(dict.fromkeys(hits, own))
    return chosen


def _whole_weights(weights: Mapping[str, float], profiles: Sequence[str]) -> dict[str, int]:
    """The weights as integers in the same ratio, exact to 1/1000 of the largest or better."""
    for name, weight in weights.items():
        if name not in profiles:
            raise RangesError(
                f"a weight is given for profile '{name}', which has no samples", remedy=did_you_mean(name, profiles)
            )
        if not (math.isfinite(weight) and weight > 0):
            raise RangesError(f"the weight of profile '{name}' is {weight}", remedy="give a positive number")
    if not weights:
        return {}
    every = {profile: weights.get(profile, 1.0) for profile in profiles}
    whole = {profile: max(1, round(weight * _WEIGHT_STEPS)) for profile, weight in every.items()}
    divisor = math.gcd(*whole.values())
    return {profile: value // divisor for profile, value in whole.items()}
