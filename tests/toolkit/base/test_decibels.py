"""Ratios of power in decibels."""

from __future__ import annotations

import math

import pytest

from toolkit.base.decibels import decibels


@pytest.mark.parametrize(
    ("signal", "noise", "level"),
    [(100.0, 1.0, 20.0), (1.0, 1000.0, -30.0), (1.0, 0.0, math.inf), (0.0, 0.0, math.inf), (0.0, 1.0, -math.inf),
     (1.0, math.inf, -math.inf), (1.0, math.nan, -math.inf), (1e-300, 1e300, -math.inf),
     (math.inf, 1.0, math.inf), (math.nan, 1.0, -math.inf)],
)  # fmt: skip
def test_the_level_of_a_ratio(signal: float, noise: float, level: float) -> None:
    assert decibels(signal, noise) == pytest.approx(level)
