"""A classifier of the digits that is small enough to be quantized again in every test: three layers with weights."""

from __future__ import annotations

import functools

import numpy as np
import onnx

from tests.conftest import MODELS, build, node, normal, run


@functools.cache
def small_digits() -> onnx.ModelProto:
    """Images [n, 1, 8, 8] to scores [n, 10]: two convolutions of random weights, and a head fitted to their outputs.

    The head is the ridge regression on all digits of models/, which tells nearly all of them.
    """
    stored = [np.load(MODELS / name) for name in ("digits_calibration.npz", "digits_test.npz")]
    images = np.concatenate([one["image"] for one in stored])
    labels = np.concatenate([one["label"] for one in stored])
    weights = {
        "stem.weight": normal(8, 1, 3, 3, seed=21, scale=0.5),
        "second.weight": normal(16, 8, 3, 3, seed=2, scale=0.2),
    }
    for name, channels, seed in (("stem", 8, 3), ("second", 16, 5)):
        weights[f"{name}.scale"] = 1 + 0.1 * normal(channels, seed=seed)
        weights[f"{name}.shift"] = 0.1 * normal(channels, seed=seed + 1)
        weights[f"{name}.mean"], weights[f"{name}.variance"] = (
            np.zeros(channels, np.float32),
            np.ones(channels, np.float32),
        )
    nodes = [
        node("Conv", ["image", "stem.weight"], ["s"], "stem", pads=[1, 1, 1, 1]), normalization("stem", "s", "sn"),
        node("Relu", ["sn"], ["sr"]),
        node("Conv", ["sr", "second.weight"], ["c"], "second", pads=[1, 1, 1, 1], strides=[2, 2]),
        normalization("second", "c", "cn"), node("Relu", ["cn"], ["cr"]), node("Flatten", ["cr"], ["f"]),
    ]  # fmt: skip
    inputs = {"image": ["n", 1, 8, 8]}
    (features,) = run(build(nodes, inputs, {"f": ["n", 256]}, weights), {"image": images})
    wanted = np.eye(10)[labels] - 0.1
    exact = features.astype(np.float64)
    head = np.linalg.solve(exact.T @ exact + np.eye(256), exact.T @ wanted)
    nodes.append(node("Gemm", ["f", "head.weight"], ["logits"], "head"))
    return build(nodes, inputs, {"logits": ["n", 10]}, {**weights, "head.weight": head.astype(np.float32)})


def normalization(layer: str, source: str, result: str) -> onnx.NodeProto:
    names = [source, *(f"{layer}.{part}" for part in ("scale", "shift", "mean", "variance"))]
    return node("BatchNormalization", names, [result], f"{layer}_norm")
