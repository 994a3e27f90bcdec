from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from passes.shift import Shift
from tests.conftest import build, node, normal, run, said
from toolkit import Code, Context, Model, Precision, note_input_mean
from toolkit.calibration.provider import Calibrator
from toolkit.calibration.related_inputs import RelatedInputs
from toolkit.calibration.weight_rounding import round_for_output
from toolkit.contract.ranges import Range, Ranges
from toolkit.data.dataset import CalibrationData
from toolkit.placement.grid import on_grid
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.plan_search import PlanSearch
from toolkit.simulation import output_rounding
from toolkit.simulation.channels import sqnr_against
from toolkit.simulation.layer_inputs import collect_rows
from toolkit.simulation.rounder import RoundedWeight, Rounder
from toolkit.simulation.simulation import Simulation

WIDTH = 16
LOW_RANK = normal(3, WIDTH, seed=4)
"""What the inputs are mixed of: so few directions leave most errors of the weights without effect."""
# by form: the layer, its weight, the shape of a sample
FORMS = {
    "conv": ([node("Conv", ["x", "w"], ["y"])], normal(8, WIDTH, 1, 1, seed=1), [WIDTH, 5, 5]),
    "strided": (
        [node("Conv", ["x", "w"], ["y"], pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2])],
        normal(8, WIDTH, 3, 3, seed=1), [WIDTH, 9, 9],
    ),
    "grouped": ([node("Conv", ["x", "w"], ["y"], group=2)], normal(8, WIDTH // 2, 3, 3, seed=1), [WIDTH, 5, 5]),
    "one-dimensional": ([node("Conv", ["x", "w"], ["y"], pads=[1, 1])], normal(8, WIDTH, 3, seed=1), [WIDTH, 12]),
    "gemm": ([node("Gemm", ["x", "w"], ["y"])], normal(WIDTH, 8, seed=1), [WIDTH]),
    "gemm-turned": ([node("Gemm", ["x", "w"], ["y"], transB=1)], normal(8, WIDTH, seed=1), [WIDTH]),
    "matmul": ([node("MatMul", ["x", "w"], ["y"])], normal(WIDTH, 8, seed=1), [5, WIDTH]),
}  # fmt: skip


def mixed(shape: list[int], count: int, seed: int = 0) -> np.ndarray:
    """Samples whose channels are mixed of three."""
    axis = -1 if len(shape) < 3 and shape[-1] == WIDTH else 1
    free = [count, *shape]
    free[axis] = 3
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(normal(*free, seed=seed), axis, -1) @ LOW_RANK, -1, axis))


def made(form: str) -> tuple[Model, CalibrationData]:
    nodes, weight, shape = FORMS[form]
    model = Model.from_proto(build(nodes, {"x": ["n", *shape]}, {"y": None}, {"w": weight}))
    samples = [{"x": row[None]} for row in mixed(shape, 48)]
    return model, CalibrationData.open(samples, model)


@pytest.mark.parametrize("form", FORMS)
def test_rows_times_weights_are_the_output(form):
    model, data = made(form)
    (layer,) = model.nodes
    weight = FORMS[form][1]
    (rows,) = collect_rows(model, [layer], {"y": weight.shape}, data, 48, 4096).values()
    turned = layer.op == "MatMul" or form == "gemm"
    wide = (weight.T if turned else weight).reshape(len(rows), -1, rows.shape[2])
    found = np.einsum("grk,gok->rgo", rows, wide).reshape(rows.shape[1], -1)
    (out,) = run(model, {"x": np.concatenate([s.inputs["x"] for s in data.samples()])})
    known = {tuple(np.round(row, 2)) for row in (np.moveaxis(out, 1, -1) if layer.op == "Conv" else out).reshape(-1, 8)}
    near = sum(tuple(np.round(row, 2)) in known for row in found)
    assert near > 0.9 * len(found)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4, Precision.FP8])
def test_each_weight_is_rounded_to_make_up_for_the_errors_of_those_before_it(precision):
    rows, weights = normal(60, 40).astype(np.float64) * np.linspace(2, 0.5, 40), normal(1, 5, 40, seed=1)
    scales = np.full((1, 5, 1), 2.5 / precision.max)
    found = round_for_output(weights, scales, RelatedInputs(rows[None].astype("f4")), precision, 0.1)
    # with moments = U U^T the error that reaches an input is U^T errors, in the order of the inputs' power
    power = (rows**2).mean(axis=0)
    order = np.argsort(-power)
    moments = (rows.T @ rows / 60 + 0.1 * power.mean() * np.eye(40))[order][:, order]
    upper = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1]
    whole, levels, scale = weights[0][:, order].astype(np.float64), found[0][:, order], scales[0, 0, 0]
    errors = whole - levels * scale
    for at in range(40):
        wanted = (whole[:, at] + errors[:, :at] @ upper[:at, at] / upper[at, at]) / scale
        # what lies between two levels may fall to either side in float32
        around = [on_grid(wanted * (1 + off), precision) for off in (-1e-4, 1e-4)]
        assert ((levels[:, at] == around[0]) | (levels[:, at] == around[1])).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_output_is_nearer_to_the_float_one(form):
    model, data = made(form)
    levels = {}
    for weights in ("mse", "output"):
        context = Context(provider=Calibrator(data, method="minmax"))
        quantized = model.copy()
        InsertQDQ(weights=weights)(quantized, context)
        quantized.check()
        # the weights' noise alone
        for one in quantized.nodes:
            if one.op == "DequantizeLinear" and one.inputs[0].inputs[0].inputs[0].name == "x":
                for reader in list(one.outputs[0].outputs):
                    reader.inputs[0] = one.inputs[0].inputs[0].inputs[0]
        quantized.tidy()
        levels[weights] = sqnr_against(model, quantized, data)
    (noise,) = said(context.journal, Code.ROUNDING_NOISE)
    assert levels["output"] > levels["mse"] + (4 if form != "grouped" else 2)
    assert noise["after_db"] > noise["before_db"] + 2
    assert levels["output"] == pytest.approx(noise["after_db"], abs=2)


@pytest.mark.parametrize("count", [20, 40, 200])
def test_what_few_samples_have_in_common_by_chance_is_no_rule(count):
    # 64 inputs without relations: on 20 samples every one of them is a sum of others
    weight = normal(64, 8, seed=1)
    model = Model.from_proto(build([node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": None}, {"w": weight}))
    (layer,), data = model.nodes, CalibrationData.open([{"x": row[None]} for row in normal(count, 64, seed=2)], model)
    plain = Rounder("mse", Precision.INT8)
    found, _ = output_rounding.round_on_samples(model, [layer], data, plain)
    fresh = normal(4096, 64, seed=3)
    nearest = plain.rounded("w", weight, 1)
    chosen = found["w", 1].values if found else nearest
    noise = [np.square(fresh @ (values - weight)).sum() for values in (nearest, chosen)]
    assert noise[1] < 1.02 * noise[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_of_one_sample_do_not_decide_on_its_others(count):
    # of each sample the rows lie in directions of its own, which say nothing of the next one's
    weight, free = normal(32, 8, seed=1), np.random.default_rng(3)
    samples = [normal(400, 4, seed=10 + i) @ free.standard_normal((4, 32)).astype("f4") for i in range(count + 40)]
    model = Model.from_proto(
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 400, 32]}, {"y": None}, {"w": weight})
    )
    data = CalibrationData.open([{"x": rows[None]} for rows in samples[:count]], model)
    plain = Rounder("mse", Precision.INT8)
    found, _ = output_rounding.round_on_samples(model, list(model.nodes), data, plain)
    assert (("w", 1) in found) <= (count > 2)
    chosen = found["w", 1].values if found else plain.rounded("w", weight, 1)
    fresh = np.concatenate(samples[count:])
    noise = [np.square(fresh @ (values - weight)).sum() for values in (plain.rounded("w", weight, 1), chosen)]
    assert noise[1] < 1.02 * noise[0]


def test_held_out_samples_are_whole():
    rows, ends = np.arange(12.0, dtype=np.float32).reshape(1, 6, 2), np.array([1, 3, 6])
    powers = output_rounding._powers(np.ones((1, 1, 2)), rows, ends)
    sums = np.square(rows[0].sum(axis=1))
    np.testing.assert_allclose(powers, [sums[0], sums[1:3].sum(), sums[3:].sum()])


def test_without_two_samples_to_hold_out_the_rounding_is_said_to_be_the_nearest():
    model, data = made("matmul")
    context = Context(provider=Calibrator(data.first(2), method="minmax"))
    InsertQDQ(weights="output")(model, context)
    assert len(said(context.journal, Code.ROUNDED_TO_NEAREST)) == 1
    assert not said(context.journal, Code.ROUNDING_NOISE)


def test_a_range_that_clips_what_matters_is_given_up(monkeypatch):
    # nothing that is chosen by samples helps: its ranges are those of the weights' own error
    monkeypatch.setattr(output_rounding, "_DAMPINGS", (1e9,))
    # one input is far larger than all others, and its weights are the largest of each output
    weight, rows = normal(64, 8, seed=1), normal(64, 64, seed=2)
    weight[0], rows[:, 0] = 12 * np.sign(weight[0]), 100 * rows[:, 0]
    model = Model.from_proto(build([node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": None}, {"w": weight}))
    data = CalibrationData.open([{"x": row[None]} for row in rows], model)
    rounder = Rounder("output", Precision.INT4)
    found, _ = output_rounding.round_on_samples(model, list(model.nodes), data, rounder)
    assert (
        np.square(rows @ (found["w", 1].values - weight)).sum()
        < 0.5 * np.square(rows @ (rounder.rounded("w", weight, 1) - weight)).sum()
    )


def test_independent_inputs_are_rounded_to_the_nearest():
    weights, scales = normal(1, 4, 8, seed=3).astype(np.float64), np.full((1, 4, 1), 0.05)
    rows = np.diag(np.linspace(1, 2, 8))[None].astype(np.float32)
    for some in (rows, np.concatenate([rows, -rows], axis=1)):
        inputs = RelatedInputs(some)
        np.testing.assert_array_equal(
            round_for_output(weights, scales, inputs, Precision.INT8), np.rint(weights / 0.05)
        )
        # nothing leaves the type
        assert round_for_output(weights * 100, scales, inputs, Precision.INT8).max() == 127
    # an input that is always zero is no obstacle
    rows[0, 3, 3] = 0
    assert np.isfinite(round_for_output(weights, scales, RelatedInputs(rows), Precision.INT8)).all()


def by_inverse(weights: np.ndarray, scale: float, rows: np.ndarray, damping: float) -> np.ndarray:
    """GPTQ's algorithm 1 as it is published, in float64, for INT8 and one group."""
    moments = rows.T @ rows / len(rows)
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + damping * np.diag(moments).mean() * np.eye(len(moments))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, found = weights[:, order].copy(), np.empty_like(weights)
    for column in range(len(order)):
        stored = np.clip(np.rint(left[:, column] / scale), -128, 127)
        found[:, order[column]] = stored
        error = (left[:, column] - stored * scale) / factor[column, column]
        left[:, column:] -= np.outer(error, factor[column, column:])
    return found


@pytest.mark.parametrize("count", [24, 120, 2000])
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_weights_are_rounded_as_by_the_inverse(count, damping):
    # fewer rows than inputs, about as many, and many more; more inputs than are dealt with at a time
    rows = normal(count, 40, seed=5) @ normal(40, 300, seed=6) + normal(count, 300, seed=7)
    rows *= np.linspace(0.2, 3, 300, dtype=np.float32)
    weights = normal(1, 6, 300, seed=8).astype(np.float64)
    found = round_for_output(weights, np.full((1, 6, 1), 0.03), RelatedInputs(rows[None]), Precision.INT8, damping)
    wanted = by_inverse(weights[0], 0.03, rows.astype(np.float64), damping)
    # a value between two levels may go either way, and takes those after it with it
    assert (found[0] == wanted).mean() > 0.97
    errors = [
        np.square(rows @ (0.03 * one - weights[0]).T).sum() for one in (found[0], wanted, np.rint(weights[0] / 0.03))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05) and errors[0] < 0.6 * errors[2]


def test_a_search_sees_the_same_weights():
    nodes = [node("HardSwish", ["x"], ["h"]), node("Conv", ["h", "w", "b"], ["c"]), node("Conv", ["c", "v"], ["y"])]
    weights = {"w": normal(8, WIDTH, 1, 1, seed=1), "b": normal(8, seed=2), "v": normal(4, 8, 1, 1, seed=3)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH, 5, 5]}, {"y": ["n", 4, 5, 5]}, weights))
    data = CalibrationData.open([{"x": row[None]} for row in mixed([WIDTH, 5, 5], 24)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    # a shifted input, whose mean the bias makes up for
    Shift(only_if_better=False)(model, context)
    settings = SearchSettings(limits={"max_drop": None, "min_sqnr_db": 20.0, "min_agreement": None})
    sim = PlanSearch(InsertQDQ(weights="output"), settings, model, context, lambda *given: given[0]).simulation
    assert {tensor for tensor, _ in sim.rounder.chosen} == {"w", "v"}
    for kept in ([], ["c"]):
        twin = model.copy()
        InsertQDQ(exclude=kept, weights="output")(twin, Context(provider=context.provider, known_ranges=sim.ranges))
        assert sim.without(kept).sqnr_db == pytest.approx(sqnr_against(model, twin, data), abs=0.01)


def test_a_trial_rounds_again_only_what_it_changed(monkeypatch):
    nodes = [node("Gemm", ["x", "w"], ["h"]), node("Gemm", ["h", "v"], ["y"])]
    weights = {"w": normal(WIDTH, 8, seed=1), "v": normal(8, 4, seed=2)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH]}, {"y": ["n", 4]}, weights))
    samples = [{"x": row[None]} for row in mixed([WIDTH], 24)]

    def on(count: int, **known: object) -> Context:
        return Context(provider=Calibrator(CalibrationData.open(samples[:count], model), method="minmax"), **known)

    context, rounded = on(16), []
    plain = output_rounding.round_on_samples
    monkeypatch.setattr(
        output_rounding, "round_on_samples",
        lambda model, nodes, *rest: rounded.append([one.name for one in nodes]) or plain(model, nodes, *rest),
    )  # fmt: skip
    first, second = (one.name for one in model.nodes)
    InsertQDQ(weights="output").rounder(model, context)
    # what is noted of an input is part of what weights are rounded for, and those that are halved for some inputs are others
    noted, halved, again = model.copy(), model.copy(), model.copy()
    note_input_mean(noted, noted.node(second), np.full(8, 0.5))
    half = np.linspace(0.5, 1.0, WIDTH, dtype=np.float32)[:, None]
    halved.node(first).inputs[1].values = weights["w"] * half
    # the factors of a helper that is applied again differ in their last bits, and so do the means that it notes
    again.node(first).inputs[1].values = weights["w"] * half * (1 + 1e-6 * normal(WIDTH, 8))
    note_input_mean(again, again.node(second), np.full(8, 0.5) + 1e-6 * normal(8))
    for trial in (model.copy(), noted, halved, again):
        made = InsertQDQ(weights="output").rounder(trial, context.fork())
    assert np.allclose(made.chosen["w", 1].values, weights["w"] * half, atol=0.1 * np.abs(weights["w"]).max())
    # what more samples told holds for a trial on fewer, and not the other way round
    for count in (4, 24):
        InsertQDQ(weights="output").rounder(model.copy(), on(count, roundings=context.roundings))
    assert rounded == [[first, second], [second], [first], [first, second]]


def test_what_multiplies_an_output_channel_does_not_change_how_its_weights_are_rounded(monkeypatch):
    """A helper divides a layer's output channels for the layer after it, and does not where that stays float."""
    nodes = [node("Conv", ["x", "w"], ["y"])]
    weights = {"w": normal(8, WIDTH, 1, 1, seed=1)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH, 4, 4]}, {"y": None}, weights))
    samples = [{"x": row[None]} for row in mixed([WIDTH, 4, 4], 24)]
    data = CalibrationData.open(samples, model)
    context, divided = Context(provider=Calibrator(data, method="minmax")), model.copy()
    factor = np.linspace(0.3, 3.0, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
    divided.nodes[0].inputs[1].values = weights["w"] * factor
    before = InsertQDQ(weights="output").rounder(model, context).chosen["w", 0]
    fresh = InsertQDQ(weights="output").rounder(divided, Context(provider=context.provider)).chosen["w", 0]
    monkeypatch.setattr(output_rounding, "round_on_samples", None)
    again = InsertQDQ(weights="output").rounder(divided, context).chosen["w", 0]
    whole = np.rint(before.values / before.scale.reshape(factor.shape))
    assert np.array_equal(np.rint(again.values / again.scale.reshape(factor.shape)), whole)
    assert np.abs(again.values - fresh.values).max() <= np.abs(fresh.scale).max()
    rows = np.concatenate([sample["x"][0].reshape(WIDTH, -1).T for sample in samples])
    signal, *errors = (
        np.square(rows @ values[:, :, 0, 0].T).sum()
        for values in (weights["w"] * factor, *(one.values - weights["w"] * factor for one in (again, fresh)))
    )
    # scales are stored in few digits, which is all that differs
    assert errors[0] < errors[1] + 1e-6 * signal


@pytest.mark.parametrize("form", ["gemm", "gemm-turned"])
def test_weights_of_one_block_a_channel_are_rounded_again_where_a_factor_multiplies_the_channels(form):
    """A block's scale depends on more than its channel's, and its shape is another than that of channels' scales."""
    model, data = made(form)
    context, divided = Context(provider=Calibrator(data, method="minmax")), model.copy()
    weight = divided.nodes[0].inputs[1]
    factor = np.linspace(0.3, 3.0, 8, dtype=np.float32)
    weight.values = weight.values * (factor[:, None] if form == "gemm-turned" else factor)
    plain = Rounder("output", Precision.INT4, block=WIDTH)
    output_rounding.rounder_on_samples(model, model.nodes, data, plain, context)
    (again,) = output_rounding.rounder_on_samples(divided, divided.nodes, data, plain, context).chosen.values()
    (fresh,) = output_rounding.rounder_on_samples(divided, divided.nodes, data, plain, Context()).chosen.values()
    assert np.array_equal(again.values, fresh.values) and np.array_equal(again.scale, fresh.scale)


def test_rows_of_a_depthwise_convolution_are_as_many_as_its_few_inputs_need():
    nodes = [node("Conv", ["x", "w"], ["y"], group=WIDTH), node("Conv", ["x", "v"], ["z"])]
    weights = {"w": normal(WIDTH, 1, 3, 3), "v": normal(WIDTH, WIDTH, 3, 3)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH, 9, 9]}, {"y": None, "z": None}, weights))
    data = CalibrationData.open([{"x": row[None]} for row in mixed([WIDTH, 9, 9], 32)], model)
    shapes = {one.name: one.inputs[1].shape for one in model.nodes}
    rows = collect_rows(model, model.nodes, shapes, data, 32, 1024)
    assert [rows[one.name].shape for one in model.nodes] == [(WIDTH, 128, 9), (1, 1024, 9 * WIDTH)]


def test_a_layer_that_is_too_wide_is_named(monkeypatch):
    nodes = [node("Gemm", ["x", "w"], ["wide"]), node("Gemm", ["wide", "v"], ["y"])]
    weights = {"w": normal(WIDTH, 8, seed=1), "v": normal(8, 4, seed=2)}
    model = Model.from_proto(build(nodes, {"x": ["n", WIDTH]}, {"y": ["n", 4]}, weights))
    data = CalibrationData.open([{"x": row[None]} for row in mixed([WIDTH], 24)], model)
    monkeypatch.setattr("toolkit.simulation.output_rounding._MOST", 8)
    context = Context(provider=Calibrator(data, method="minmax"))
    InsertQDQ(weights="output")(model, context)
    assert said(context.journal, Code.ROUNDED_TO_NEAREST) == [{"nodes": ("wide",)}]


def test_without_samples_weights_are_rounded_to_the_nearest():
    model, _ = made("gemm")
    context = Context(known_ranges=Ranges({"x": Range(4.0, "manual")}))
    InsertQDQ(weights="output")(model, context)
    assert said(context.journal, Code.ROUNDED_WITHOUT_SAMPLES) == [{}]
    assert not said(context.journal, Code.ROUNDING_NOISE)


def test_what_calibration_samples_told_of_weights_and_biases_is_part_of_what_a_simulation_depends_on():
    weights = {"w": normal(8, 8, seed=1), "b": normal(8, seed=2)}
    model = Model.from_proto(
        build([node("Gemm", ["x", "w", "b"], ["y"], name="y")], {"x": ["n", 8]}, {"y": ["n", 8]}, weights)
    )
    data = CalibrationData.open([{"x": normal(1, 8, seed=n)} for n in range(8)], model)
    ranges = Context(provider=Calibrator(data, method="minmax")).ranges(model, ["x"])
    found = []
    for mean, value in ((None, None), (0.5, None), (1.5, None), (None, 1.0), (None, 2.0)):
        noted, chosen = model.copy(), {}
        if mean is not None:
            note_input_mean(noted, next(iter(noted.nodes)), np.full(8, mean))
        if value is not None:
            chosen["w", 1] = RoundedWeight(np.ones(8, np.float32), np.full((8, 8), value, np.float32))
        found.append(Simulation(noted, ranges, data, rounder=Rounder("minmax", Precision.INT8, chosen)).fingerprint())
    assert len(set(found)) == len(found)
