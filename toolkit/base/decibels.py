"""Ratios of power in decibels."""

from __future__ import annotations

import math


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), in dB.

    Infinite where there is no noise; minus infinity where there is noise and no signal, or the noise is not finite.

    Args:
        signal: power, 0 or more.
        noise: power, 0 or more.
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
