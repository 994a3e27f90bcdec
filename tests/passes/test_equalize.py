from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from passes.correct_bias import CorrectBias
from passes.equalize import Equalize
from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, build, node, normal, ops, run, said
from tests.toolkit.search.planted import trained
from toolkit import Code, Context, Model
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.evaluate import evaluate


def uneven(*shape: int, seed: int = 0, axis: int = 0) -> np.ndarray:
    scale = np.exp2(np.linspace(-4, 4, shape[axis]))
    spread = [1] * len(shape)
    spread[axis] = -1
    return (normal(*shape, seed=seed) * scale.reshape(spread)).astype(np.float32)


def depthwise_chain(activation: str = "Relu") -> Model:
    return Model.from_proto(build(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]), node(activation, ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["c1"], group=8, pads=[1, 1, 1, 1]), node(activation, ["c1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"]), node(activation, ["c2"], ["r2"]), node("GlobalAveragePool", ["r2"], ["g"]),
            node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "w3", "b3"], ["y"]),
        ],
        {"x": ["n", 3, 6, 6]}, {"y": ["n", 5]},
        {"w0": uneven(8, 3, 3, 3), "b0": normal(8, seed=1), "w1": uneven(8, 1, 3, 3, seed=2), "b1": normal(8, seed=3),
         "w2": uneven(12, 8, 1, 1, seed=4, axis=1), "w3": uneven(12, 5, seed=5), "b3": normal(5, seed=6)},
    ))  # fmt: skip


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_the_function_stays_the_same_and_channels_are_even(activation):
    model = depthwise_chain(activation)
    x = normal(4, 3, 6, 6, seed=9)
    before, kinds = run(model, {"x": x})[0], ops(model)
    context = Context()
    Equalize()(model, context)
    model.check()
    assert ops(model) == kinds and not Equalize().applicable_layers(model)
    np.testing.assert_allclose(run(model, {"x": x})[0], before, rtol=1e-4, atol=1e-4)
    assert {e.node for e in context.journal.of("changed")} == {"c0", "c1", "c2"}
    first, second = (
        np.abs(model.constant(model.node(name).inputs[1])).reshape(8, -1).max(axis=1) for name in ("c0", "c1")
    )
    np.testing.assert_allclose(first, second, rtol=0.05)


def in_forms(linear: str, pool: str) -> Model:
    """The depthwise chain with another Gemm after it, its linear layers and its pool in either form."""
    weights = {
        "w0": uneven(8, 3, 3, 3), "b0": normal(8, seed=1), "w3": uneven(8, 12, seed=5), "b3": normal(12, seed=6),
        "w4": uneven(12, 5, seed=7), "b4": normal(5, seed=8),
    }  # fmt: skip
    nodes = [node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]), node("Relu", ["c0"], ["r0"])]
    if pool == "ReduceMean":
        nodes.append(node("ReduceMean", ["r0"], ["f"], axes=[2, 3], keepdims=0))
    else:
        nodes += [node("GlobalAveragePool", ["r0"], ["g"]), node("Flatten", ["g"], ["f"])]
    for number, (read, out) in enumerate((("f", "l3"), ("r3", "y")), 3):
        if linear == "Gemm":
            nodes.append(node("Gemm", [read, f"w{number}", f"b{number}"], [out], f"linear{number}"))
        else:
            add = [f"b{number}", f"m{number}"] if linear == "Add first" else [f"m{number}", f"b{number}"]
            nodes += [node("MatMul", [read, f"w{number}"], [f"m{number}"], f"linear{number}"), node("Add", add, [out])]
        if out != "y":
            nodes.append(node("Relu", [out], ["r3"]))
    return Model.from_proto(build(nodes, {"x": ["n", 3, 6, 6]}, {"y": ["n", 5]}, weights))


@pytest.mark.parametrize("pool", ["ReduceMean", "GlobalAveragePool"])
@pytest.mark.parametrize("linear", ["Gemm", "Add last", "Add first"])
def test_layers_are_equalized_whichever_way_they_are_written(linear, pool):
    model = in_forms(linear, pool)
    x = normal(4, 3, 6, 6, seed=9)
    before, kinds = run(model, {"x": x})[0], ops(model)
    assert Equalize().applicable_layers(model) == {"linear3", "linear4"}
    context = Context()
    Equalize()(model, context)
    model.check()
    assert ops(model) == kinds
    np.testing.assert_allclose(run(model, {"x": x})[0], before, rtol=1e-4, atol=1e-4)
    assert {e.node for e in context.journal.of("changed")} == {"c0", "linear3"}
    plain = in_forms("Gemm", "GlobalAveragePool")
    Equalize()(plain)
    for name in ("c0", "linear3", "linear4"):
        np.testing.assert_allclose(
            model.constant(model.node(name).inputs[1]), plain.constant(plain.node(name).inputs[1]), rtol=1e-6
        )


def test_channels_of_a_convolution_are_not_the_last_axis_of_a_matmul():
    """Eight channels, and eight columns that the MatMul reads."""
    weights = {"w0": uneven(8, 3, 3, 3), "w3": normal(8, 8, seed=5), "b3": normal(8, seed=6)}
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        node("MatMul", ["c0", "w3"], ["m"]),
        node("Add", ["m", "b3"], ["y"]),
    ]
    context = Context()
    Equalize()(Model.from_proto(build(nodes, {"x": ["n", 3, 8, 8]}, {"y": None}, weights)), context)
    assert not context.journal.of("changed") and {"op": "MatMul"} in said(context.journal, Code.NOT_HOMOGENEOUS)


def test_what_does_not_pass_factors_through_is_declined():
    model = depthwise_chain("Sigmoid")
    context = Context()
    Equalize()(model, context)
    assert {"op": "Sigmoid"} in said(context.journal, Code.NOT_HOMOGENEOUS)
    assert not context.journal.of("changed")


@pytest.mark.parametrize("turned", [0, 1])
def test_a_pair_with_a_transposed_gemm_is_declined_with_its_reason(turned):
    weights = {"w0": uneven(8, 8), "w1": normal(8, 8, seed=5)}
    nodes = [
        node("Gemm", ["x", "w0"], ["h"], name="first", transA=int(turned == 0)),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "w1"], ["y"], name="second", transA=int(turned == 1)),
    ]
    context = Context()
    Equalize()(Model.from_proto(build(nodes, {"x": [8, 8]}, {"y": [8, 8]}, weights)), context)
    assert not context.journal.of("changed")
    assert [(e.node, e.why) for e in context.journal.of("declined") if e.why.code is Code.CHANNELS] == [
        ("first", Code.CHANNELS(other="second"))
    ]


def test_a_result_read_twice_is_left_alone(residual):
    context = Context()
    Equalize()(residual, context)
    assert {e.node for e in context.journal.of("declined") if e.rule == "shared"} == {"c0"}


def accuracy(model: Model, **settings: bool) -> tuple[float, float, list[Mapping[str, Any]]]:
    data = CalibrationData.open(str(MODELS / "digits_calibration.npz"), model)
    test = CalibrationData.open(str(MODELS / "digits_test.npz"), model, labels=True)
    context = Context(provider=Calibrator(data))
    subject = model.copy()
    if settings.get("equalize"):
        Equalize()(subject, context)
    InsertQDQ()(subject, context)
    if settings.get("correct"):
        CorrectBias()(subject, context)
    found = evaluate(model, subject, test, metric="top1", layer_samples=1)
    return found.float_value, found.value, said(context.journal, Code.EFFECT)


def test_equalize_gives_back_what_uneven_channels_lose():
    model = trained("digits_uneven")
    right, plain, _ = accuracy(model)
    _, even, effects = accuracy(model, equalize=True)
    assert right - plain >= 0.05
    assert even - plain >= 0.04 and right - even <= 0.01
    assert [(one["by"], one["quantized"]) for one in effects] == [("equalize", "int8")]
    assert effects[0]["after_db"] > effects[0]["before_db"]
    assert accuracy(model, correct=True)[1] > plain
