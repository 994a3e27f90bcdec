"""A forecast holds values, although each of its steps has a largest one as classes do."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import normal as seeded
from tests.toolkit.evaluation.guessing.test_guess import TOKENS, normal, out, seen, softmax
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.horizons import forecasts
from toolkit.report.findings import sentence

SERIES = {"x": np.zeros((96, 7), np.float32)}
RNG = np.random.default_rng(11)
LEVELLED = [seeded(16, count, seed=count) + seeded(16, 1, scale=9.0) for count in (6, 12)]
"""The scores of two heads, with a level that all of a sample share."""


def horizons(*shapes, noise=0.1):
    """What a model forecasts of the same steps by itself for each horizon, float32 [16, ...] each."""
    longest = tuple(max(extents) for extents in zip(*shapes))
    whole = np.cumsum(RNG.standard_normal((16, *longest)), axis=1)
    cut = (whole[(slice(None), *(slice(extent) for extent in shape))] for shape in shapes)
    return [(one + noise * RNG.standard_normal(one.shape)).astype(np.float32) for one in cut]


def tasks(*outputs, inputs=SERIES):
    found = guess(seen(*outputs, inputs=inputs)).parts
    return {one.name: [part.task for part in found if part.outputs == (one.name,)] for one in outputs}


@pytest.mark.parametrize("names", [("next6", "next12"), ("a", "b")])
@pytest.mark.parametrize("shapes", [((6,), (12,)), ((6, 1), (12, 1)), ((6, 3), (12, 3)), ((24, 7), (48, 7))])
def test_two_horizons_of_a_forecast_are_values(shapes, names):
    short, long = horizons(*shapes)
    found = guess(seen(out(names[0], short, "Gemm"), out(names[1], long, "Gemm"), inputs=SERIES))
    assert {part.task for part in found.parts} == {"regression"}
    assert "a longer or a shorter horizon of what another output forecasts" in sentence(found.finding())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # two heads of classes, without and with what moves all scores of a sample alike
        (normal(16, 6), normal(16, 12)),
        LEVELLED,
        (normal(16, 10, 6), normal(16, 10, 12)),
        (softmax(horizons((6,))[0]), softmax(horizons((12,))[0])),
    ],
)
def test_two_heads_of_classes_are_no_horizons(first, second):
    a, b = out("a", first, "Gemm"), out("b", second, "Gemm")
    assert forecasts(a, seen(a, b, inputs={"x": np.zeros(5, np.float32)}), False) == []


def test_parts_of_one_tensor_and_tokens_are_no_horizons():
    (whole,) = horizons((12,))
    a, b = out("a", whole[:, :6], "Gemm"), out("b", whole, "Gemm")
    assert forecasts(a, seen(a, b, inputs=SERIES), False) == []
    short, long = (out(name, one, "MatMul") for name, one in zip("ab", horizons((6, 40), (12, 40))))
    assert forecasts(short, seen(short, long, inputs=TOKENS), False) == []


def test_what_is_called_scores_is_judged_as_classes_too():
    short, long = horizons((6,), (12,))
    assert tasks(out("logits", short, "Gemm"), out("scores", long, "Gemm"))["logits"] == [
        "classification",
        "regression",
    ]


def test_of_two_or_three_values_both_readings_count():
    short, long = horizons((2,), (3,))
    assert tasks(out("a", short, "Gemm"), out("b", long, "Gemm"))["a"] == ["classification", "regression"]


@pytest.mark.parametrize(("shape", "both"), [((24, 7), True), ((7, 24), False), ((96, 7), False), ((24, 5), False)])
def test_the_channels_of_a_series_in_other_steps_may_be_its_forecast(shape, both):
    found = tasks(out("y", normal(8, *shape), "MatMul"))["y"]
    assert ("regression" in found) is both and "sequence" in found


@pytest.mark.parametrize(
    ("read", "shape"),
    [((100, 39), (100, 61)), ((49, 40), (49, 12)), ((100, 13), (100, 39)), ((80, 300), (61, 300))],
    ids=["phonemes", "words", "more classes than features", "frames last"],
)
def test_classes_of_each_frame_of_features_are_no_forecast(read, shape):
    inputs = {"x": np.zeros(read, np.float32)}
    assert tasks(out("y", normal(8, *shape), "MatMul"), inputs=inputs)["y"] == ["sequence"]


def test_channels_may_lie_before_steps():
    inputs = {"x": np.zeros((7, 96), np.float32)}
    assert "regression" in tasks(out("y", normal(8, 7, 24), "MatMul"), inputs=inputs)["y"]


def test_what_comes_next_is_a_token_only_where_tokens_are_read():
    values = normal(8, 6, 9)
    assert "generation" not in tasks(out("next", values, "Gemm"), inputs={"x": np.zeros((96, 4), np.float32)})["next"]
    assert "generation" in tasks(out("next", values, "Gemm"), inputs=TOKENS)["next"]
    assert "generation" in tasks(out("lm", values, "Gemm"), inputs={"x": np.zeros((96, 4), np.float32)})["lm"]
