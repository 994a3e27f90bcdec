from __future__ import annotations

import numpy as np
import pytest

from passes.compensate import Compensate
from passes.correct_bias import CorrectBias
from passes.insert_qdq import InsertQDQ
from passes.shift import Shift
from tests.conftest import build, node, normal, ops, run, said
from toolkit import Code, Context, Model
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.simulation.channels import sqnr_against

WIDTH = 8


def shrunk(*shape: int, axis: int = 0) -> np.ndarray:
    """Weights of which all but one round to 1 where they are 1.4 of their channel's scale; that one reads zeros."""
    steps = np.full(shape, 1.4, np.float32) * np.sign(normal(*shape, seed=3))
    steps[tuple(slice(None) if i == axis else 0 for i in range(len(shape)))] = 127
    return (steps * np.float32(2**-9)).astype(np.float32)


# by form: the layer, the rank of the input, its weights
FORMS = {
    "conv": ([node("Conv", ["x", "w", "b"], ["y"])], 4, {"w": shrunk(6, WIDTH, 1, 1)}),
    "padded": ([node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], 4, {"w": shrunk(6, WIDTH, 3, 3)}),
    "transposed": ([node("ConvTranspose", ["x", "w", "b"], ["y"])], 4, {"w": shrunk(WIDTH, 6, 1, 1, axis=1)}),
    "gemm": ([node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)], 2, {"w": shrunk(WIDTH, 6, axis=1)}),
    "gemm-turned": ([node("Gemm", ["x", "w"], ["y"], transB=1)], 2, {"w": shrunk(6, WIDTH)}),
    "matmul": ([node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])], 3, {"w": shrunk(WIDTH, 6, axis=1)}),
}  # fmt: skip


def made(form: str) -> tuple[Model, list[dict[str, np.ndarray]]]:
    nodes, rank, weights = FORMS[form]
    size = {2: [WIDTH], 3: [5, WIDTH], 4: [WIDTH, 4, 4]}[rank]
    out = {2: [6], 3: [5, 6], 4: [6, 4, 4]}[rank]
    used = {name for one in nodes for name in one.input}
    given = {"b": normal(6, seed=2, scale=0.001), **weights}
    model = Model.from_proto(
        build(nodes, {"x": ["n", *size]}, {"y": ["n", *out]}, {n: v for n, v in given.items() if n in used})
    )
    rows = normal(32, *size, seed=9) + 0.5
    rows[(slice(None), 0) if rank == 4 else (..., 0)] = 0
    return model, [{"x": row[None]} for row in rows]


def quantized(model: Model, samples: list[dict[str, np.ndarray]]) -> tuple[Model, Context]:
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    plain = model.copy()
    InsertQDQ()(plain, context)
    return plain, context


def stored(model: Model) -> list[np.ndarray]:
    """The integers of the quantized weights."""
    found = []
    for one in model.nodes:
        weight = model.constant(one.inputs[0]) if one.op == "QuantizeLinear" else None
        if weight is not None:
            scale = model.constant(one.inputs[1])
            shape = [1] * weight.ndim
            shape[int(one.attrs.get("axis", 0))] = -1
            found.append(np.rint(weight / scale.reshape(shape)))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_rounding_shrinks_is_given_back(form):
    model, samples = made(form)
    plain, context = quantized(model, samples)
    better = plain.copy()
    Compensate()(better, context)
    better.check()
    assert ops(better) == ops(plain)
    for before, after in zip(stored(plain), stored(better)):
        np.testing.assert_array_equal(before, after)
    (error,) = [event.why.values for event in context.journal.of("changed", by="compensate")]
    # 1.4 steps were rounded to 1
    assert error["factor"] == pytest.approx(0.4, abs=0.05)
    data = context.provider.data
    levels = [sqnr_against(model, one, data) for one in (plain, better)]
    # the rounding of the activations is what is left
    assert levels[0] < 15 and levels[1] > 38
    (effect,) = said(context.journal, Code.EFFECT)
    assert effect["by"] == "compensate" and effect["helps"]


def test_the_bias_alone_brings_the_mean_back():
    model, samples = made("conv")
    plain, context = quantized(model, samples)
    better = plain.copy()
    Compensate(scale=False, only_if_better=False)(better, context)
    x = np.concatenate([one["x"] for one in samples])
    right, before, after = (run(one, {"x": x})[0].mean(axis=(0, 2, 3)) for one in (model, plain, better))
    assert np.abs(after - right).max() < 1e-4 < np.abs(before - right).max()
    assert [np.abs(event.why.values["factor"]) for event in context.journal.of("changed", by="compensate")] == [0]


def test_scales_that_several_layers_share_stay():
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"]), node("MatMul", ["y", "w"], ["n"]),
        node("Add", ["b", "n"], ["z"]),
    ]  # fmt: skip
    weights = {"w": shrunk(WIDTH, WIDTH, axis=1), "b": normal(WIDTH, seed=2)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH]}, {"z": ["n", WIDTH]}, weights))
    plain, context = quantized(model, [{"x": normal(1, WIDTH, seed=i) + 1} for i in range(16)])
    Compensate(only_if_better=False)(plain, context)
    changed = context.journal.of("changed", by="compensate")
    assert {event.node for event in changed} == {"m", "n"} and {event.why.values["factor"] for event in changed} == {0}


def test_what_has_no_bias_or_no_pair_is_left_alone():
    model = Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 6]}, {"w": normal(8, 6)})
    )
    plain, context = quantized(model, [{"x": normal(1, 8, seed=i)} for i in range(4)])
    Compensate()(plain, context)
    assert [event.rule for event in context.journal.of("declined", by="compensate")] == ["no-bias"]
    context = Context()
    Compensate()(model, context)
    assert said(context.journal, Code.NO_QUANTIZED_WEIGHTS) == [{}]


def test_what_the_quantizer_has_made_up_for_is_not_again():
    nodes = [node("HardSwish", ["x"], ["h"]), node("Conv", ["h", "w", "b"], ["y"])]
    weights = {"w": normal(6, WIDTH, 1, 1, seed=1), "b": normal(6, seed=2)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH, 4, 4]}, {"y": ["n", 6, 4, 4]}, weights))
    samples = [{"x": row[None]} for row in normal(32, WIDTH, 4, 4, seed=9) * 2]
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    plain = model.copy()
    Shift(only_if_better=False)(plain, context)
    InsertQDQ()(plain, context)
    Compensate(only_if_better=False)(plain, context)
    x = np.concatenate([one["x"] for one in samples])
    right, after = (run(one, {"x": x})[0].mean(axis=(0, 2, 3)) for one in (model, plain))
    assert np.abs(after - right).max() < 1e-3


@pytest.mark.parametrize("kind", [Compensate, CorrectBias])
@pytest.mark.parametrize("form", ["conv", "gemm"])
def test_what_is_corrected_is_not_corrected_twice(form, kind, tmp_path):
    model, samples = made(form)
    once, context = quantized(model, samples)
    kind(only_if_better=False)(once, context)
    twice = Model.load(once.copy().save(tmp_path / "once.onnx"))
    before = twice.fingerprint()
    again = Context(provider=context.provider)
    kind(only_if_better=False)(twice, again)
    assert twice.fingerprint() == before and said(again.journal, Code.BIAS_SETTLED) == [{}]
