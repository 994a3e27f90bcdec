"""Power ratios in decibels."""

from __future__ import annotations

import math


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), in dB.

    Infinite without noise; minus infinity if there is noise but no signal, or the noise is not finite.

    Args:
        signal: power, at least 0.
        noise: power, at least 0.
    """
    if noise == 0:
        return math.inf
    # the ratio of the smallest and the largest numbers is 0
    ratio = signal / noise if math.isfinite(noise) else 0.0
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf
