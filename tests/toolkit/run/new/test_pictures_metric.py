"""The metric of a new recipe for a model whose output is a picture of what its input shows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit.cli.main import invoke
from toolkit.run.recipe.recipe import Recipe

COUNT, SIDE = 24, 64
WEIGHTS = np.array([[1, 2, 1], [2, 20, 2], [1, 2, 1]]) / 32
RNG = np.random.default_rng(0)


def scenes(side, channels=3):
    """Smooth pictures from 0 to 1, float32 [samples, channels, side, side]."""
    coarse = np.random.default_rng(7).uniform(0.1, 0.9, (COUNT, channels, 4, 4))
    return coarse.repeat(side // 4, axis=2).repeat(side // 4, axis=3).astype(np.float32)


def noisy(pictures, level=0.05):
    return (pictures + level * RNG.standard_normal(pictures.shape)).astype(np.float32)


def mean_filter(channels):
    """A 3 by 3 mean of each channel that weighs the middle most, as the weights of a Conv."""
    kernel = np.zeros((channels, channels, 3, 3), np.float32)
    kernel[range(channels), range(channels)] = WEIGHTS
    return kernel


def convolved(channels, **shapes):
    conv = node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1])
    return build(
        [conv], {"x": ["n", channels, SIDE, SIDE]}, {"y": ["n", channels, SIDE, SIDE]}, {"k": mean_filter(channels)}
    )


def enlarging(factor=2):
    nodes = [
        node("Resize", ["x", "", "scales"], ["l"], mode="linear"),
        node("Conv", ["l", "k"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = ["n", 3, factor * SIDE, factor * SIDE]
    weights = {"k": mean_filter(3), "scales": np.array([1, 1, factor, factor], np.float32)}
    return build(nodes, {"x": ["n", 3, SIDE, SIDE]}, {"y": shape}, weights)


def made(tmp_path, proto, x, label):
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=x, label=label)
    out = tmp_path / "made.toml"
    assert invoke(["new", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"), "--out", str(out)]) == 0
    assert invoke(["check", str(out)]) == 0
    return Recipe.load(out).evaluation


def test_an_enlarged_picture_is_judged_by_its_psnr(tmp_path):
    section = made(tmp_path, enlarging(), noisy(scenes(SIDE)), scenes(2 * SIDE))
    assert (section.metric, section.task, section.budget.max_drop) == ("psnr", "regression", 0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_denoised_picture_is_judged_by_its_psnr(tmp_path, channels, scale):
    pictures = scenes(SIDE, channels)
    section = made(tmp_path, convolved(channels), noisy(pictures) * np.float32(scale), pictures * np.float32(scale))
    assert section.metric == "psnr"


def test_a_picture_of_8_bits_is_judged_by_its_psnr(tmp_path):
    shape = ["n", SIDE, SIDE, 3]
    nodes = [
        node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT), node("MatMul", ["f", "w"], ["m"]),
        node("Clip", ["m", "low", "high"], ["c"]), node("Cast", ["c"], ["y"], to=onnx.TensorProto.UINT8),
    ]  # fmt: skip
    weights = {"w": (0.9 * np.eye(3) + 0.03).astype(np.float32), "low": np.float32(0), "high": np.float32(255)}
    kinds = {"x": onnx.TensorProto.UINT8, "y": onnx.TensorProto.UINT8}
    proto = build(
        nodes, {"x": shape}, {"y": shape}, {name: np.asarray(one) for name, one in weights.items()}, types=kinds
    )
    pictures = np.moveaxis(scenes(SIDE), 1, -1)
    x = (255 * np.clip(noisy(pictures), 0, 1)).astype(np.uint8)
    assert made(tmp_path, proto, x, (255 * pictures).astype(np.uint8)).metric == "psnr"


def test_a_map_that_shows_something_else_is_judged_by_its_values(tmp_path):
    """A depth has the range of pixels too."""
    nodes = [node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]), node("Sigmoid", ["c"], ["y"])]
    kernel = normal(1, 3, 3, 3, seed=3)
    proto = build(nodes, {"x": ["n", 3, SIDE, SIDE]}, {"y": ["n", 1, SIDE, SIDE]}, {"k": kernel - kernel.mean()})
    x = noisy(scenes(SIDE))
    label = RNG.uniform(0.2, 0.8, (COUNT, 1, SIDE, SIDE)).astype(np.float32)
    assert made(tmp_path, proto, x, label).metric == "mse"


def test_a_picture_that_the_model_meets_is_judged_by_its_squared_error(tmp_path):
    """However little noise is added, the PSNR of what has none falls by many decibels: a limit of 0.1 dB is none."""
    x = noisy(scenes(SIDE))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    label = sum(WEIGHTS[i, j] * padded[:, :, i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3))
    section = made(tmp_path, convolved(3), x, label.astype(np.float32))
    assert section.metric == "mse" and section.budget.max_drop > 1e-6
