from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import passes.smooth as smooth_module
from passes.insert_qdq import InsertQDQ
from passes.shift import Shift
from passes.smooth import Smooth
from tests.conftest import build, node, normal, ops, run
from toolkit import Context, Model
from toolkit.calibration.provider import Calibrator
from toolkit.contract.helper import HelperCode
from toolkit.data.dataset import CalibrationData
from toolkit.graph.surgery.tensors import make_constant
from toolkit.report.findings import sentence
from toolkit.simulation.channels import sqnr_against


def outliers(width: int = 16, written_out: bool = False, shared: bool = False) -> Model:
    gain = np.ones(width, np.float32)
    gain[[2, 7]] = 80
    shift = normal(width, seed=4, scale=0.1)
    if written_out:
        norm = [node("Mul", ["x", "g"], ["gx"]), node("Add", ["gx", "s"], ["h"])]
    else:
        norm = [node("LayerNormalization", ["x", "g", "s"], ["h"])]
    nodes = [
        *norm,
        node("MatMul", ["h", "wq"], ["q"]),
        node("MatMul", ["h", "wk"], ["k"]),
        node("Add", ["q", "k"], ["a"]),
    ]
    nodes.append(node("Add", ["a", "h"], ["y"]) if shared else node("Relu", ["a"], ["y"]))
    weights = {f"w{n}": normal(width, width, seed=i, scale=0.2) for i, n in enumerate("qk")}
    return Model.from_proto(
        build(nodes, {"x": ["n", 3, width]}, {"y": ["n", 3, width]}, {"g": gain, "s": shift, **weights})
    )


def smoothed(model: Model, **settings: object) -> tuple[Model, Context]:
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    twin = model.copy()
    Smooth(**settings)(twin, context)
    twin.check()
    x = normal(4, 3, 16, seed=77)
    np.testing.assert_allclose(run(twin, {"x": x})[0], run(model, {"x": x})[0], rtol=2e-4, atol=2e-3)
    return twin, context


def test_the_normalization_takes_the_factors():
    for written_out in (False, True):
        model = outliers(written_out=written_out)
        twin, context = smoothed(model)
        assert ops(twin) == ops(model)
        assert {e.node for e in context.journal.of("changed")} == {"q", "k"}
        assert any(e.rule == "effect" for e in context.journal.of("noted"))


def test_layers_that_the_plan_keeps_float_are_left_alone_together():
    for kept, changed in ((("q",), {"q", "k"}), (("q", "k"), set())):
        model = outliers()
        data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
        context = Context(provider=Calibrator(data, method="minmax"), judges_helpers=False)
        for name in kept:
            context.plan.ask(name, "fp16", "asked for")
        Smooth()(model, context)
        # what one of the readers gains by, all of them get
        assert {e.node for e in context.journal.of("changed")} == changed
        assert [e.rule for e in context.journal.of("declined")] == (["kept", "kept"] if not changed else [])


def test_asked_again_with_a_layer_kept_float_it_does_for_the_others_what_it_did_before(monkeypatch):
    nodes = [node("LayerNormalization", ["x", "g"], ["h"]), node("MatMul", ["h", "w0"], ["m"]),
             node("LayerNormalization", ["m", "g"], ["n"]), node("MatMul", ["n", "w1"], ["y"])]  # fmt: skip
    gain = np.ones(16, np.float32)
    gain[3] = 60
    weights = {"g": gain, **{f"w{i}": normal(16, 16, seed=i, scale=0.2) for i in range(2)}}
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 16]}, {"y": ["n", 3, 16]}, weights))
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
    looked, smooth, made = [], Smooth(), []
    own = smooth_module.collect_rows
    monkeypatch.setattr(
        smooth_module, "collect_rows", lambda model, nodes, *more: looked.append(nodes) or own(model, nodes, *more)
    )
    for kept in ((), ("m",)):
        form = model.copy()
        context = Context(provider=Calibrator(data, method="minmax"), judges_helpers=False)
        for name in kept:
            context.plan.ask(name, "fp32", "asked for")
        smooth(form, context)
        assert {e.node for e in context.journal.of("changed")} == {"m", "y"} - set(kept)
        made.append(form)
    both, one = made
    assert [len(nodes) for nodes in looked] == [2, 0]
    weight = [form.constant(form.node("y").inputs[1]) for form in (both, one, model)]
    assert (weight[0] == weight[1]).all() and (weight[0] != weight[2]).any()
    # of other weights it asks anew
    other = model.copy()
    other.node("y").inputs[1] = make_constant("w2", weights["w1"] * np.linspace(0.1, 5, 16, dtype=np.float32)[:, None])
    smooth(other, Context(provider=Calibrator(data, method="minmax"), judges_helpers=False))
    assert [[node.name for node in nodes] for nodes in looked[2:]] == [["y"]]


def test_what_was_chosen_under_other_settings_is_chosen_anew():
    gain = np.ones(16, np.float32)
    gain[3] = 60
    nodes = [node("LayerNormalization", ["x", "g"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 16]}, {"y": ["n", 3, 16]}, {"g": gain, "w": normal(16, 16)}))
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)

    def weight(smooth):
        form = model.copy()
        smooth(form, Context(provider=Calibrator(data, method="minmax"), judges_helpers=False))
        return form.constant(form.node("y").inputs[1])

    first = Smooth(strength=0.9)
    before, wanted = weight(first), weight(Smooth(strength=0.3))
    assert (before != wanted).any()
    assert (weight(first.model_copy(update={"strength": 0.3})) == wanted).all()
    first.strength = 0.3
    assert (weight(first) == wanted).all()


def test_a_normalization_without_a_shift_takes_the_factors():
    gain = np.ones(16, np.float32)
    gain[3] = 60
    nodes = [node("RMSNormalization", ["x", "g"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    weights = {"g": gain, "w": normal(16, 16, seed=1, scale=0.2)}
    proto = build(nodes, {"x": ["n", 3, 16]}, {"y": ["n", 3, 16]}, weights, opset=23, ir_version=10)
    model = Model.from_proto(proto)
    twin, context = smoothed(model)
    assert ops(twin) == ops(model) and {e.node for e in context.journal.of("changed")} == {"y"}


def test_a_product_that_is_an_output_too_keeps_its_values():
    """The factors of a normalization that is written out would be seen there."""
    proto = outliers(written_out=True).to_proto()
    proto.graph.output.append(helper.make_tensor_value_info("gx", TensorProto.FLOAT, ["n", 3, 16]))
    model = Model.from_proto(proto)
    twin, _ = smoothed(model)
    assert ops(twin)["Mul"] == 2
    x = normal(4, 3, 16, seed=77)
    np.testing.assert_array_equal(run(twin, {"x": x})[1], run(model, {"x": x})[1])


def test_int8_is_better_for_it():
    model = outliers()
    twin, context = smoothed(model)
    data = context.provider.data
    noise = []
    for subject in (model, twin):
        quantized = subject.copy()
        InsertQDQ()(quantized, Context(provider=Calibrator(data, method="minmax")))
        noise.append(sqnr_against(model, quantized, data))
    assert noise[1] > noise[0] + 3


def test_with_other_readers_a_mul_is_inserted_or_it_is_declined():
    twin, _ = smoothed(outliers(shared=True))
    assert ops(twin)["Mul"] == 1
    twin, context = smoothed(outliers(shared=True), insert=False)
    assert "Mul" not in ops(twin) and {e.rule for e in context.journal.of("declined")} == {"no-norm"}


def test_even_channels_are_left_alone():
    _, context = smoothed(outliers(), least=1000.0)
    assert {e.rule for e in context.journal.of("declined")} == {"even"}
    assert not context.journal.of("changed")


def planted(nodes: list, weights: dict, rank: int) -> tuple[Model, Model, Context]:
    """A model whose hidden tensor has an outlier channel, smoothed; the function is checked to be the same."""
    size = {2: [16], 3: [3, 16], 4: [16, 3, 3]}[rank]
    proto = build(nodes, {"x": ["n", *size]}, {"y": None}, weights)
    model = Model.from_proto(proto)
    data = CalibrationData.open([{"x": normal(1, *size, seed=i)} for i in range(24)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    twin = model.copy()
    Smooth(only_if_better=False)(twin, context)
    twin.check()
    x = normal(4, *size, seed=77)
    np.testing.assert_allclose(run(twin, {"x": x})[0], run(model, {"x": x})[0], rtol=2e-4, atol=2e-3)
    return model, twin, context


W, V = normal(16, 16, seed=1, scale=0.2), normal(16, 16, seed=2, scale=0.2)
LOUD = np.ones(16, np.float32)
LOUD[3] = 60
K, L = ((w.T.reshape(16, 16, 1, 1)) for w in (W * LOUD, V))


@pytest.mark.parametrize(
    ("nodes", "weights", "rank"),
    [
        ([node("Conv", ["x", "w"], ["h"]), node("Conv", ["h", "v"], ["y"])], {"w": K, "v": L}, 4),
        (
            [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]),
             node("MaxPool", ["r"], ["h"], kernel_shape=[2, 2]), node("Conv", ["h", "v"], ["y"])],
            {"w": K, "v": L}, 4,
        ),
        (
            [node("BatchNormalization", ["x", "g", "s", "s", "o"], ["h"]), node("Conv", ["h", "v"], ["y"], pads=[1, 1, 1, 1])],
            {"g": LOUD, "s": 0 * LOUD, "o": LOUD**0, "v": L}, 4,
        ),
        ([node("Gemm", ["x", "w"], ["h"]), node("Gemm", ["h", "v"], ["y"])], {"w": W * LOUD, "v": V}, 2),
        (
            [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["a"]), node("Relu", ["a"], ["h"]),
             node("MatMul", ["h", "v"], ["y"])],
            {"w": W * LOUD, "b": LOUD / 10, "v": V}, 3,
        ),
    ],
    ids=["conv", "relu and pool", "batch norm", "gemm", "matmul"],
)  # fmt: skip
def test_what_makes_the_tensor_takes_the_factors(nodes, weights, rank):
    model, twin, context = planted(nodes, weights, rank)
    assert ops(twin) == ops(model)
    assert "y" in {e.node for e in context.journal.of("changed")}
    levels = []
    for subject in (model, twin):
        quantized = subject.copy()
        InsertQDQ(include=["y"])(quantized, Context(provider=Calibrator(context.provider.data, method="minmax")))
        levels.append(sqnr_against(model, quantized, context.provider.data))
    assert levels[1] > levels[0] + 6


def test_the_strength_is_the_one_of_which_the_output_loses_least():
    # weights that are as uneven as the input: what is taken from one is given to the other
    model = outliers()
    levels = {}
    for strength in (None, 0.3, 0.5, 0.8):
        twin, context = smoothed(model, strength=strength, only_if_better=False)
        quantized = twin.copy()
        InsertQDQ()(quantized, Context(provider=Calibrator(context.provider.data, method="minmax")))
        levels[strength] = sqnr_against(model, quantized, context.provider.data)
    assert levels[None] >= max(levels.values()) - 1


def test_what_is_best_as_it_is_stays(monkeypatch):
    # the channel that is loud has the largest weights too: whichever gets easier, the other gets harder
    monkeypatch.setattr("passes.smooth._STRENGTHS", (0.1, 0.9))
    nodes = [node("LayerNormalization", ["x", "g"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    _, _, context = planted(nodes, {"g": LOUD, "v": V * LOUD[:, None]}, 3)
    assert {e.rule for e in context.journal.of("declined")} == {"no-strength"}


@pytest.mark.parametrize("step", [Smooth(measure=False), Shift(measure=False)])
def test_a_layer_that_reads_its_input_transposed_has_a_line(step):
    """[in, batch] in place of [batch, in]: what is last are the samples."""
    nodes = [node("Relu", ["x"], ["r"]), node("Gemm", ["r", "w", "b"], ["y"], transA=1)]
    weights = {"w": normal(4, 6, seed=1), "b": normal(6)}
    model = Model.from_proto(build(nodes, {"x": [4, 8]}, {"y": [8, 6]}, weights))
    context = Context(provider=Calibrator(CalibrationData.open([{"x": normal(4, 8)}], model), method="minmax"))
    (gemm,) = [one.name for one in model.nodes if one.op == "Gemm"]
    step(model, context)
    assert [one.why.code for one in context.journal.events if one.node == gemm] == [HelperCode.READS_TRANSPOSED]
    assert "transA" in sentence(HelperCode.READS_TRANSPOSED())
    assert ops(model) == {"Relu": 1, "Gemm": 1}
