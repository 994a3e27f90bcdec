from __future__ import annotations

import numpy as np
import pytest

from passes.compensate import Compensate
from passes.correct_bias import CorrectBias
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, run, said
from toolkit import Code, Context, Model, note_input_mean, rounded_layers
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData


def corrected(model: Model, samples: list[dict]) -> tuple[Model, Model, Context]:
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    plain = model.copy()
    InsertQDQ()(plain, context)
    better = plain.copy()
    CorrectBias(samples=300)(better, context)
    return plain, better, context


@pytest.mark.parametrize("kind", ["conv", "grouped", "gemm", "gemm-turned", "matmul"])
def test_the_mean_of_every_channel_comes_back(kind):
    shape = [1, 8, 6, 6] if "conv" in kind or kind == "grouped" else [1, 8]
    bias = {"b": normal(6, seed=2)}
    nodes = {
        "conv": ([node("Conv", ["x", "w"], ["y"])], {"w": normal(6, 8, 1, 1, seed=1)}),
        "grouped": ([node("Conv", ["x", "w", "b"], ["y"], group=2)], {"w": normal(6, 4, 1, 1, seed=1), **bias}),
        "gemm": ([node("Gemm", ["x", "w", "b"], ["y"])], {"w": normal(8, 6, seed=1), **bias}),
        "gemm-turned": ([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": normal(6, 8, seed=1)}),
        "matmul": ([node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])], {"w": normal(8, 6, seed=1), **bias}),
    }[kind]  # fmt: skip
    out = ["n", 6, 6, 6] if len(shape) == 4 else ["n", 6]
    model = Model.from_proto(build(nodes[0], {"x": ["n", *shape[1:]]}, {"y": out}, nodes[1]))
    values = np.abs(normal(300, *shape[1:], seed=7)) + 2
    plain, better, context = corrected(model, [{"x": row[None]} for row in values])
    better.check()
    assert ops(better) == ops(plain)
    axes = tuple(i for i in range(len(shape)) if i != 1)
    right, before, after = (run(m, {"x": values})[0].mean(axis=axes) for m in (model, plain, better))
    assert np.abs(after - right).max() < 0.5 * np.abs(before - right).max()
    assert context.journal.of("changed", by="correct_bias")
    (effect,) = said(context.journal, Code.EFFECT)
    assert effect["by"] == "correct_bias" and effect["after_db"] > effect["before_db"]


def test_without_a_place_for_a_bias_it_is_declined():
    model = Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 6]}, {"w": normal(8, 6)})
    )
    _, _, context = corrected(model, [{"x": normal(1, 8, seed=i)} for i in range(4)])
    assert [e.rule for e in context.journal.of("declined", by="correct_bias")] == ["no-bias"]


def test_before_insert_qdq_it_has_nothing_to_do(residual):
    context = Context()
    CorrectBias()(residual, context)
    assert said(context.journal, Code.NO_QUANTIZED_WEIGHTS) == [{}]


@pytest.mark.parametrize("first", ["Conv", "MatMul"])
def test_a_convolution_and_a_matmul_of_one_tensor_have_its_channels_on_different_axes(first):
    """As many channels as positions in a row, so that no shape tells them apart."""
    weights = {"w": normal(6, 4, 1, 1, seed=1), "v": normal(4, 6, seed=2), "b": normal(6, seed=3)}
    nodes = [node("Conv", ["x", "w"], ["y"]), node("MatMul", ["x", "v"], ["m"]), node("Add", ["m", "b"], ["z"])]
    given = nodes if first == "Conv" else [*nodes[1:], nodes[0]]
    model = Model.from_proto(build(given, {"x": ["n", 4, 4, 4]}, {"y": ["n", 6, 4, 4], "z": ["n", 4, 4, 6]}, weights))
    # the channels' means are 1 to 16 on one axis, and 16 to 1 on the other
    values = np.ones((3, 4, 4, 4), np.float32) * np.float32([1, 4, 9, 16]).reshape(4, 1, 1) * np.float32([16, 9, 4, 1])
    context = Context(provider=Calibrator(CalibrationData.open([{"x": row[None]} for row in values], model)))
    InsertQDQ()(model, context)
    errors = {one.node.op: one.rounded().astype(np.float64) - one.weight for one in rounded_layers(model)}
    CorrectBias(only_if_better=False)(model, context)
    held = {one.op: model.constant(one.inputs[-1]) for one in model.nodes if one.op in ("Conv", "Add")}
    by_row, by_column = values.mean(axis=(0, 2, 3)), values.mean(axis=(0, 1, 2))
    added = {"Conv": held["Conv"], "Add": held["Add"] - weights["b"]}
    wanted = {"Conv": -errors["Conv"].reshape(6, 4) @ by_row, "Add": -by_column @ errors["MatMul"]}
    for op in added:
        np.testing.assert_allclose(added[op], wanted[op], atol=0.02 * np.abs(wanted[op]).max())


def test_a_matmul_of_batched_weights_is_declined():
    """One mean per input channel does not tell the mean of its output, which depends on the matrix too."""
    weights = {"w": normal(3, 5, 3, seed=1), "b": normal(3, seed=2)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 3, 5]}, {"y": ["n", 3, 3, 3]}, weights))
    plain, better, context = corrected(model, [{"x": normal(1, 3, 3, 5, seed=i) + 1} for i in range(8)])
    x = normal(2, 3, 3, 5, seed=9)
    np.testing.assert_array_equal(run(better, {"x": x})[0], run(plain, {"x": x})[0])
    assert [e.rule for e in context.journal.of("declined", by="correct_bias")] == ["not-supported"]


LAYERS = {
    "conv": ([node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)], {"w": normal(6, 8, 3, 3, seed=1), "b": normal(6, seed=2)}),
    "depthwise": ([node("Conv", ["x", "w"], ["y"], group=8)], {"w": normal(8, 1, 1, 1, seed=1)}),
    "gemm": ([node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)], {"w": normal(6, 8, seed=1), "b": normal(6, seed=2)}),
    "gemm without a bias": ([node("Gemm", ["x", "w"], ["y"])], {"w": normal(8, 6, seed=1)}),
    "matmul": ([node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])], {"w": normal(8, 6, seed=1), "b": normal(6, seed=2)}),
}  # fmt: skip


def model_layer(model: Model) -> str:
    return next(one.name for one in model.nodes if one.op in ("Conv", "Gemm", "MatMul"))


REMOVALS = {
    "strip": lambda model, context: StripQDQ()(model, context),
    "keep": lambda model, context: KeepPrecision(nodes=[model_layer(model)], precision="fp32")(model, context),
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("correct", [CorrectBias, Compensate], ids=lambda kind: kind.name)
@pytest.mark.parametrize("mean", [False, True], ids=["", "with a noted mean"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_loses_its_pairs_again_is_the_float_layer(kind, mean, correct, removal):
    """What was corrected for rounding is undone where nothing is rounded: the layer's output is shifted otherwise."""
    nodes, weights = LAYERS[kind]
    shape = [8, 6, 6] if "Conv" in nodes[0].op_type else [8]
    out = ["n", weights["w"].shape[0], 6, 6] if len(shape) == 3 else ["n", 6]
    proto = build(nodes, {"x": ["n", *shape]}, {"y": out}, weights)
    model, context, values = Model.from_proto(proto), None, np.abs(normal(40, *shape, seed=7)) + 2
    samples = [{"x": row[None]} for row in values]
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    if mean:
        note_input_mean(model, model.nodes[0], np.full(8, 2.5))
    InsertQDQ()(model, context)
    correct(only_if_better=False)(model, context)
    corrected = run(model, {"x": values})[0]
    REMOVALS[removal](model, context)
    right = run(Model.from_proto(proto), {"x": values})[0]
    found = run(model, {"x": values})[0]
    assert not [one for one in model.nodes if one.op == "QuantizeLinear"]
    assert np.abs(corrected - right).max() > 1e-4
    np.testing.assert_allclose(found, right, atol=2e-6 * np.abs(right).max())


def test_pairs_that_come_back_are_corrected_anew():
    nodes, weights = LAYERS["gemm"]
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 6]}, weights))
    samples = [{"x": np.abs(normal(1, 8, seed=i)) + 2} for i in range(20)]
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    biases = []
    for _ in range(2):
        InsertQDQ()(model, context)
        CorrectBias(only_if_better=False)(model, context)
        biases.append(model.constant(model.nodes[-1].inputs[2]))
        StripQDQ()(model, context)
    np.testing.assert_allclose(biases[1], biases[0], rtol=1e-5)


READS = {
    "one scale": (None, None, False),
    "the default axis": (1, None, False),
    "a negative axis": (1, -1, False),
    "a Transpose": (0, 0, True),
}


def paired(scales: int | None, axis: int | None, turned: bool, out: int) -> Model:
    """x @ w + b of ``out`` channels whose weight has a pair of the model's own, with ``scales`` along this axis."""
    weight = normal(8, out, seed=1)
    stored = weight.T.copy() if turned else weight
    largest = np.abs(stored).max(axis=None if scales is None else 1 - scales)
    scale = np.asarray(largest / 127, np.float32)
    attrs = {} if axis is None else {"axis": axis}
    moved = [node("Transpose", ["d"], ["t"], perm=[1, 0])] if turned else []
    return Model.from_proto(build(
        [node("QuantizeLinear", ["w", "s", "z"], ["q"], **attrs),
         node("DequantizeLinear", ["q", "s", "z"], ["d"], **attrs), *moved,
         node("MatMul", ["x", "t" if turned else "d"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"x": ["n", 8]}, {"y": ["n", out]},
        {"w": stored, "s": scale, "z": np.zeros(scale.shape, np.int8), "b": normal(out, seed=2)},
    ))  # fmt: skip


@pytest.mark.parametrize("out", [6, 8])
@pytest.mark.parametrize("correct", [CorrectBias, Compensate], ids=lambda kind: kind.name)
@pytest.mark.parametrize("read", READS)
def test_a_models_own_pair_is_corrected_in_the_layout_that_the_layer_reads(read, correct, out):
    """Pairs of other tools have one scale, or no axis given, or a Transpose before the layer, as PyTorch exports it."""
    model, x = paired(*READS[read], out), np.abs(normal(40, 8, seed=7)) + 2
    right = x.astype(np.float64) @ normal(8, out, seed=1) + normal(out, seed=2)
    data = CalibrationData.open([{"x": row[None]} for row in x], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    before = np.abs((run(model, {"x": x})[0] - right).mean(axis=0)).max()
    correct(only_if_better=False)(model, context)
    assert np.abs((run(model, {"x": x})[0] - right).mean(axis=0)).max() < 1e-5 < 1e-3 < before
    for removal in REMOVALS.values():
        twin = model.copy()
        removal(twin, Context(provider=context.provider))
        assert "QuantizeLinear" not in ops(twin)
        np.testing.assert_allclose(run(twin, {"x": x})[0], right, atol=1e-5)
