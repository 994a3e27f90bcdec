"""Pictures of what an input shows are told from maps that say something of its places, and these are read as both."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node
from tests.toolkit.evaluation.guessing.test_guess import out, seen
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.image_correlation import grids, image_correlation
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.tasks import OutputPart, reader

RNG = np.random.default_rng(5)


def pictures(count=4, channels=3, side=64, seed=0):
    """Smooth pictures, 0 to 1: [count, channels, side, side]."""
    coarse = np.random.default_rng(seed).random((count, channels, 9, 9))
    return np.clip(np.kron(coarse, np.ones((8, 8)))[..., :side, :side], 0.02, 0.98)


CLEAN = pictures()
NOISY = CLEAN + RNG.normal(0, 0.2, CLEAN.shape)


@pytest.mark.parametrize(
    ("made", "alike"),
    [
        (CLEAN, True),
        (np.kron(CLEAN, np.ones((2, 2))), True),
        (CLEAN.mean(axis=1, keepdims=True), True),
        (np.moveaxis(CLEAN, 1, -1), True),
        (1 - CLEAN, False),
        (pictures(seed=1), False),
        (np.ones_like(CLEAN), False),
    ],
    ids=["denoised", "larger", "gray", "channels last", "negative", "another", "even"],
)
def test_what_an_input_shows_is_known_again(made, alike):
    found = np.median([image_correlation(grids({"image": a}), b) for a, b in zip(NOISY, made)])
    assert bool(found > 0.9) is alike


def test_what_is_no_image_is_like_none():
    assert image_correlation(grids({"ids": np.arange(16)}), CLEAN[0]) == 0
    assert image_correlation(grids({"image": CLEAN[0]}), np.zeros((7, 9, 9))) == 0
    assert not grids({"past": np.zeros((0, 8, 4)), "row": np.zeros(8), "one": np.zeros(())})
    assert image_correlation(grids({"image": CLEAN[0]}), np.full((1, 64, 64), np.nan)) == 0


@pytest.mark.parametrize("flip", [False, True])
def test_a_model_is_watched_for_pictures_of_its_input(flip):
    step = node("Transpose", ["s"], ["y"], perm=[0, 1, 3, 2]) if flip else node("Identity", ["s"], ["y"])
    proto = build([node("Sigmoid", ["image"], ["s"]), step], {"image": ["n", 3, 64, 64]}, {"y": ["n", 3, 64, 64]})
    made = 1 / (1 + np.exp(-CLEAN))
    batches = [({"image": a[None]}, {"y": (b.swapaxes(1, 2) if flip else b)[None]}, 1) for a, b in zip(CLEAN, made)]
    (output,) = observe(Model.from_proto(proto), batches).outputs
    assert len(output.likenesses) == 4 and output.shows_input is not flip


@pytest.mark.parametrize(("channels", "last"), [(1, "Sigmoid"), (1, "Clip"), (3, "Sigmoid"), (17, "Sigmoid")])
def test_a_map_of_probabilities_is_read_where_it_is_high_and_by_its_values(channels, last):
    values = pictures(channels=channels, seed=2)
    found = guess(seen(out("importance", values, last)))
    assert [part.task for part in found.parts] == ["segmentation", "regression"] and not found.sure
    assert found.parts[0].settings["threshold"] == 0.5
    # of probabilities that never reach one half their mean
    low = guess(seen(out("importance", 0.3 * values, last)))
    assert low.parts[0].settings["threshold"] == pytest.approx(0.3 * values.mean(), rel=1e-3)


def test_a_map_with_few_places_over_one_half_that_loses_them_all_is_another():
    """Heat maps of key points have peaks of a few pixels."""
    place = np.arange(64)
    peak = np.exp(-((place - 30) ** 2)[:, None] / 2 - (place - 20) ** 2 / 2)
    values = np.tile(np.clip(0.95 * peak, 1e-3, 1)[None, None], (4, 1, 1, 1)).astype(np.float32)
    (mask,) = (part for part in guess(seen(out("heat", values, "Sigmoid"))).parts if part.task == "segmentation")
    made = reader(mask)
    same, none = (made.tally([made.rows({"heat": values}, {"heat": one})]) for one in (values, 0 * values + 1e-3))
    assert same.share == 1 and none.share == 0


@pytest.mark.parametrize(("channels", "last"), [(1, "Sigmoid"), (1, "Clip"), (3, "Sigmoid"), (3, "Conv")])
def test_a_picture_of_what_the_input_shows_is_judged_by_its_values_alone(channels, last):
    output = out("output", pictures(channels=channels), last)
    output.likenesses = [0.97, 0.5, 0.98, 0.99]
    (part,) = guess(seen(output)).parts
    assert part.task == "regression" and part.settings["peak"] > 0.9


def test_of_a_mask_of_one_class_only_what_is_in_it_counts():
    """A third of a small mask is lost, and of all that is outside nearly nothing."""
    wanted = np.zeros((1, 1, 64, 64), np.float32)
    wanted[..., 8:20, 8:20] = 1
    found = wanted.copy()
    found[..., 8:12, 8:20] = 0
    made = reader(OutputPart("segmentation", ("y",), {"threshold": 0.5}))
    assert made.tally([made.rows({"y": wanted}, {"y": found})]).level == pytest.approx(2 / 3)
