"""Masks are left out of what is compared; quantities that are as large, or larger, are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.evaluation.comparison.clipping import Clipping
from toolkit.evaluation.guessing.parts import parts_for
from toolkit.evaluation.numerics.difference import Difference
from toolkit.evaluation.numerics.masks import masks, valued
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import OutputPart, reader
from toolkit.evaluation.tasks.chance import expected_flips, gaps_and_errors, weakest


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def db(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 10 * math.log10(np.square(a).sum() / np.square(a - b).sum())


def compared(a, b, classes=False, batch=32):
    found = Difference()
    for begin in range(0, len(a), batch):
        found.add(a[begin : begin + batch], b[begin : begin + batch], classes)
        found.follow(a[begin : begin + batch])
    return found


@given(st.integers(-100, 100), st.booleans())
def test_scale_changes_no_figure(exponent, many):
    scale = np.float32(2.0**exponent)
    a = normal((64, 1200 if many else 12))
    b = a + np.float32(0.1) * normal(a.shape, 1)
    one, scaled = compared(a, b, batch=64), compared(a * scale, b * scale, batch=64)
    assert one.sqnr_db == pytest.approx(db(a, b), abs=1e-3)
    assert scaled.sqnr_db == pytest.approx(one.sqnr_db, abs=1e-3)
    assert scaled.max_abs == pytest.approx(float(scale) * one.max_abs)
    assert scaled.cosine == pytest.approx(one.cosine, abs=1e-5)
    assert scaled.variation_db == pytest.approx(one.variation_db, abs=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e12])
def test_large_quantities_are_judged_as_small_ones(scale):
    wanted = normal((400, 8))
    found = wanted + 0.2 * normal(wanted.shape, 1)
    settings = {"few": True, "mean": 0.0, "variance": scale**2}
    task = reader(OutputPart("regression", ("y",), settings))
    tally = task.tally([task.rows({"y": wanted * np.float32(scale)}, {"y": found * np.float32(scale)})])
    levels = -10 * np.log10(np.square((wanted - found).astype(np.float64)).mean(axis=1))
    assert tally.level == pytest.approx(levels.mean(), abs=1e-3) and tally.kept == (levels >= 20).sum() < 20


def test_large_channels_beside_small_ones_count():
    scale = np.array([1, 1, 1e10, 1e10], np.float32)
    a = normal((96, 4)) * scale
    b = a + 0.1 * normal(a.shape, 1) * scale
    assert compared(a, b).sqnr_db == pytest.approx(db(a, b), abs=1e-3)


def test_the_largest_floats_have_a_difference():
    a = np.full((4, 4), 3e38, np.float32)
    found = compared(a, -a)
    assert found.max_abs == pytest.approx(6e38) and found.sqnr_db == pytest.approx(-20 * math.log10(2), abs=1e-6)


@pytest.mark.parametrize("mask", [-1e4, -65504, -1e6, -1e9, -1e10, 1e9, float(np.finfo(np.float32).min)])
def test_masks_are_told_from_quantities(mask):
    scores = 10 * normal((4, 6, 6))
    hidden = np.triu(np.ones((6, 6), bool), 1)
    masked = np.where(hidden, np.float32(mask) + scores, scores)
    twice = np.where(hidden & (np.arange(6) > 3), np.float32(max(2 * mask, -3e38)), masked)
    for values in (masked, twice):
        found = masks(values)
        assert found is not None and np.array_equal(found, np.broadcast_to(hidden, found.shape))
        assert np.array_equal(valued(values), scores[:, ~hidden].reshape(-1))
    assert masks(scores) is None and masks(scores * np.float32(1e10)) is None
    # sums of masked scores are quantities, a thousand million times as large as what was quantized
    with np.errstate(over="ignore"):
        assert masks(masked @ normal((6, 5))) is None


def test_one_class_left_out_and_one_large_value():
    assert masks(np.array([[0.5, -1e9, 3.0]], np.float32)).tolist() == [[False, True, False]]
    assert masks(np.array([[0.5], [3e9]], np.float32)) is None
    assert masks(np.array([math.nan, math.inf, 1.0], np.float32)) is None


@pytest.mark.parametrize("large", [
    np.linspace(-20000, -9000, 5000),  # all sizes, closer to each other than the others spread
    -12000 + 300 * normal(500),
    np.array([-12000.0]),
    np.array([12000.0, 12000.0]),
    -(10.0 ** np.linspace(4, 6, 40)),
], ids=["dense", "wide", "single", "positive", "many"])  # fmt: skip
def test_large_negative_quantities_are_no_masks(large):
    values = np.concatenate([normal(500), large.astype(np.float32)])
    assert masks(values) is None and valued(values).size == values.size


@pytest.mark.parametrize("mask", [-1e4, -1e9])
@pytest.mark.parametrize("noise", [0.01, 2.0])
def test_padded_positions_do_not_hide_lost_scores(mask, noise):
    """Start and end scores of a text, with a mask added where it is padded: what is lost is lost between the others."""
    scores, hidden = 4 * normal((64, 24)), np.arange(24) >= np.random.default_rng(1).integers(10, 24, (64, 1))
    a = np.where(hidden, np.float32(mask) + scores, scores).astype(np.float32)
    b = (a + np.float32(noise) * normal(a.shape, 2)).astype(np.float32)
    level = db(np.where(hidden, 0, a), np.where(hidden, 0, b))
    assert compared(a, b, batch=64).sqnr_db == pytest.approx(level, abs=0.05)
    output = SeenOutput("scores", ("N", "S"), list(a))
    (part,) = parts_for("regression", output, SeenModel([output], {}, frozenset()))
    assert part.settings["variance"] == pytest.approx(16, rel=0.15)
    task = reader(part)
    tally = task.tally([task.rows({"scores": a}, {"scores": b})])
    assert tally.kept == (64 if noise < 1 else 0)


@pytest.mark.parametrize("mask", [-math.inf, -1e9])
def test_a_class_that_is_left_out_does_not_win(mask):
    """All scores are below 0, as logarithms are: what stands for none would be the best if it counted as 0."""
    a = np.full((8, 4), -5, np.float32)
    a[:, 0], a[:, 1] = mask, -1
    b = a.copy()
    b[:6, 1:3] = b[:6, 2:0:-1]
    found = compared(a, b, classes=True)
    assert found.agreement == 2 / 8
    a[0, 2], b[7, 1] = math.nan, math.nan
    assert compared(a, b, classes=True).agreement == 1 / 8


@pytest.mark.parametrize(("mask", "beside"), [(-1e4, -math.inf), (-1e4, -1e9), (-65504, -1e10)])
def test_a_mask_beside_another_is_one_too(mask, beside):
    """Padding by -1e4 beside what comes later by -inf or -1e9: neither is a score."""
    scores, places = 4 * normal((32, 24)), np.arange(24)
    padded, later = (
        np.broadcast_to((places > 12) & (places < 18), scores.shape),
        np.broadcast_to(places >= 18, scores.shape),
    )
    a = np.where(padded, np.float32(mask) + scores, np.where(later, np.float32(beside), scores)).astype(np.float32)
    found = masks(a)
    assert found is not None and np.array_equal(found, padded | (later & np.isfinite(a)))
    b = a + np.where(padded | later, 0, normal(a.shape, 3))
    seen = compared(a, b)
    assert seen.sqnr_db == pytest.approx(db(np.where(padded | later, 0, a), np.where(padded | later, 0, b)), abs=1e-3)
    assert seen.variation_db is not None and seen.masks_lost == 0


@pytest.mark.parametrize("mask", [-1e4, -1e9, -math.inf])
def test_a_mask_that_is_lost_counts_in_the_noise(mask):
    """The answers may stay: a score that is masked no longer need not be the best."""
    scores = normal((16, 24)).clip(-2, 2)
    scores[:, 0] = 2
    a, hidden = scores.copy(), np.broadcast_to(np.arange(24) >= 20, scores.shape)
    a[hidden] += np.float32(mask)
    assert compared(a, a).masks_lost == 0 and compared(a, a.clip(-65504)).masks_lost == 0
    b = np.where(hidden, np.float32(-1), a)
    found = compared(a, b, classes=True)
    assert found.agreement == 1 and found.masks_lost == hidden.sum()
    # twice the largest unmasked score of its row, for each of the four
    noise, signal = 16 * 4 * 4.0**2, np.square(scores[~hidden].astype(np.float64)).sum()
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)


def test_clipping_of_large_quantities():
    values = 1e10 * normal(1000)
    found = Clipping(1e10)
    found.add(values)
    lost = np.maximum(np.abs(values.astype(np.float64)) - 1e10, 0)
    assert (found.values, found.clipped) == (1000, (lost > 0).sum())
    assert found.largest == np.abs(values).max()
    assert found.level_db == pytest.approx(
        10 * math.log10(np.square(values.astype(np.float64)).sum() / (lost**2).sum())
    )


def test_masks_are_not_what_noise_is_held_against():
    values = normal((16, 6, 6))
    values[:, np.triu(np.ones((6, 6), bool), 1)] = -1e9
    output = SeenOutput("y", ("N", 6, 6), list(values))
    parts = parts_for("regression", output, SeenModel([output], {}, frozenset()))
    assert all(0.5 < part.settings["variance"] < 2 for part in parts)


@pytest.mark.parametrize("mask", [-1e4, -65504, -1e9, -math.inf])
@pytest.mark.parametrize("positions", [1, 12])
def test_how_a_mask_is_rounded_is_no_error_of_the_scores(mask, positions):
    """In float16 a score that -1e4 was added to has steps of 8, and -1e9 is -65504: neither brings a class closer."""
    scores = 2 * normal((200, positions, 16))
    hidden = np.random.default_rng(1).random(scores.shape) > 0.6
    hidden[..., 0] = False
    a = np.where(hidden, np.float32(mask) + scores, scores).astype(np.float32)
    b = np.clip(a + 1e-3 * normal(a.shape, 2), -65504 if mask > -math.inf else -math.inf, None)
    b = b.astype(np.float16).astype(np.float32)
    assert expected_flips(*weakest(a, b)) < 0.02
    # a class that is left out no more is an error
    b[:, 0, 0], b[hidden] = -50, 0
    assert expected_flips(*weakest(a, b)) > 0.3


# gaps of 1e9 and more may be those to masks: near ties among them are not evened out
@pytest.mark.parametrize(("exponent", "close"), [(-100, 1e-3), (-40, 1e-3), (20, 1e-3), (80, 0.2)])
def test_the_changes_to_expect_do_not_depend_on_scale(exponent, close):
    wanted = normal((300, 6))
    found = wanted + np.float32(0.2) * normal(wanted.shape, 1)
    scale = np.float32(2.0**exponent)
    one, other = (expected_flips(*gaps_and_errors(a, b)) for a, b in ((wanted, found), (wanted * scale, found * scale)))
    assert one > 0.05 and other == pytest.approx(one, rel=close)


def test_the_logarithm_of_0_is_no_mask_that_is_lost():
    """Rounding makes 1e-5 of a probability of 0: its logarithm lies as far from the others as infinity does."""
    share = np.abs(normal((8, 40))).clip(0.1, 1)
    share[:, ::9] = 0
    with np.errstate(divide="ignore"):
        a, b = np.log(share), np.log(np.maximum(share, np.float32(1e-5)))
    found = compared(a, b)
    assert found.masks_lost == 0 and found.max_abs == 0


def test_a_row_of_nothing_but_masks_may_lose_them():
    """There are no scores in it that the other's could lie below."""
    a, b = normal((3, 8)), normal((3, 8), 3)
    a[1] = -math.inf
    assert compared(a, b).masks_lost == 8
