"""What float16 adds to a simulated plan: noise powers add, and so do the squares of the answers to expect to change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.conftest import normal
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome, compare, summed
from toolkit.evaluation.comparison.share_limits import ShareLimit
from toolkit.evaluation.comparison.type_noise import TypeNoise
from toolkit.evaluation.tasks import OutputPart

ANSWERS = Answers([OutputPart("classification", ("y",))])
SCORES = normal(4000, 10, seed=1)


def outcome(*errors):
    found = SCORES + sum(errors)
    return summed([compare({"y": SCORES}, {"y": found}, ["y"], ANSWERS)], answers=ANSWERS)


def test_what_was_measured_apart_says_what_both_do_together():
    pairs, rounding = (normal(4000, 10, seed=seed, scale=scale) for seed, scale in ((2, 0.03), (3, 0.04)))
    simulated, alone, both = outcome(pairs), outcome(rounding), outcome(pairs, rounding)
    predicted = TypeNoise.of(alone).added_to(simulated)
    assert predicted.noise == pytest.approx(both.noise, rel=0.02)
    assert predicted.flips == pytest.approx(both.flips, rel=0.05) and both.flips > 1.1 * alone.flips
    (one,), (other,) = predicted.tallies, both.tallies
    assert one.expected == pytest.approx(other.expected, rel=0.05)
    added = TypeNoise.between(both, simulated)
    assert added.noise == pytest.approx(alone.noise, rel=0.05)
    assert added.expected == pytest.approx(alone.tallies[0].expected / 4000, rel=0.1)
    assert TypeNoise.between(simulated, both) == TypeNoise(0.0) and added.largest(TypeNoise(0.0)) == added


def test_a_budget_leaves_room_for_what_the_types_add():
    limit, types = 0.01, TypeNoise(2e-5, 0.002, 0.003)
    plain = Budget(min_unchanged=1 - limit, margin=1.0)
    room = Budget(min_unchanged=1 - limit, margin=1.0, types=types)
    share = ShareLimit("min_unchanged", 0.0, 64, limit)
    assert room.allowed(share) == plain.allowed(share) == plain.left_of(share)
    assert room.left_of(share) == pytest.approx(math.sqrt(plain.allowed(share) ** 2 - 0.003**2))
    # what the types take whole leaves next to nothing, and never nothing to divide by
    taken = Budget(min_unchanged=1 - limit, margin=1.0, types=TypeNoise(1.0, 1.0, 1.0)).left_of(share)
    assert 0 < taken < 0.01 * plain.allowed(share)
    noisy = Budget(min_sqnr_db=30.0, types=types)
    assert noisy.most_noise(Outcome(0.0)) == pytest.approx(1e-3 - 2e-5) and plain.most_noise(Outcome(0.0)) is None
    assert not noisy.lacks(Outcome(0.97e-3), Outcome(0.0))
    assert set(noisy.lacks(Outcome(0.99e-3), Outcome(0.0))) == {"min_sqnr_db"}
    assert not Budget(min_sqnr_db=30.0).lacks(Outcome(0.99e-3), Outcome(0.0))


def test_the_float_model_itself_needs_no_room():
    float_model, types = outcome(np.zeros(1, np.float32)), TypeNoise(1.0, 1.0, 1.0)
    assert types.added_to(float_model) is float_model
    assert not Budget(min_sqnr_db=30.0, min_agreement=0.99, margin=1.0, types=types).lacks(float_model, float_model)


def test_noise_that_types_add_counts_against_the_variation_too():
    found = TypeNoise(9e-4).added_to(Outcome(1e-4, variation_db=5.0))
    assert found.variation_db == pytest.approx(-5.0)
