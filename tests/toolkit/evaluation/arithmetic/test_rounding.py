from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context, run
from tests.control_flow import subgraph, switch
from toolkit import Model
from toolkit.backends.lowering.strong import lower
from toolkit.base.errors import BackendError
from toolkit.base.precision import Precision
from toolkit.contract.plan import PrecisionPlan
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import evaluate as evaluation
from toolkit.evaluation.arithmetic.rounding import with_rounding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.findings import sentence


def there_and_back():
    nodes = [node("Add", ["x", "c"], ["b"]), node("Sub", ["b", "c"], ["y"])]
    return Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, {"c": np.full(1, 8000, np.float32)}))


@pytest.mark.parametrize(("rest", "step"), [(Precision.FP16, 4.0), (Precision.BF16, 32.0)])
def test_what_lies_between_two_nodes_is_rounded(rest, step):
    lowered = lower(there_and_back(), PrecisionPlan(), rest=rest).model
    x = np.float32([0.1, 1.1, 3.0, 7.0])
    found = run(Model.from_light(with_rounding(lowered)), {"x": x})[0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.round(x / step) * step)


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_the_evaluation_has_both_arithmetics_of_float16(rest):
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=rest).model
    found = evaluation.evaluate(model, lowered, CalibrationData.open([{"x": np.float32([0.1, 1.1, 3.0, 7.0])}], model))
    assert (found.unrounded is not None) == (rest is Precision.FP16)
    if found.unrounded is not None:
        assert found.outputs["y"].max_abs > 1 > 0.01 > found.unrounded.found.outputs["y"].max_abs


def test_of_many_samples_a_quarter_is_run_without_the_rounding():
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=Precision.FP16).model
    samples = [{"x": np.full(4, 0.1 * number, np.float32)} for number in range(20)]
    found = evaluation.evaluate(model, lowered, CalibrationData.open(samples, model), batch=4)
    other = found.unrounded
    assert (found.samples, other.found.samples, other.rounded.samples) == (20, 5, 5)
    # what is rounded to multiples of 4 is off by all of it
    assert other.rounded.outputs["y"].max_abs > 0.5 > 0.01 > other.found.outputs["y"].max_abs


@pytest.mark.parametrize(
    ("count", "some"), [(16, None), (17, 4), (100, 25), (128, 32), (240, 32), (256, 32), (480, 60)]
)
def test_of_very_many_samples_an_eighth_is_run_without_the_rounding(count, some):
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=Precision.FP16).model
    samples = [{"x": np.full(4, 0.1 * number, np.float32)} for number in range(count)]
    found = evaluation.evaluate(model, lowered, CalibrationData.open(samples, model), batch=32)
    other = found.unrounded
    assert other.found.samples == (some or count) and found.samples == count
    assert other.rounded is None if some is None else other.rounded.samples == some


def test_of_very_many_nodes_the_other_arithmetic_is_left_out(monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_UNROUNDED", 1)
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=Precision.FP16).model
    found = evaluation.evaluate(model, lowered, CalibrationData.open([{"x": np.ones(4, np.float32)}], model))
    said = next(note for note in found.notes if note.code is EvaluationCode.UNROUNDED_LEFT_OUT)
    assert found.unrounded is None and said.values == {"nodes": len(lowered.nodes), "most": 1}


def test_no_memory_for_the_other_arithmetic_costs_its_figures_alone(monkeypatch):
    def no_samples_error(*given):
        raise BackendError("onnxruntime ran out of memory")

    monkeypatch.setattr(evaluation, "run_natively", no_samples_error)
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=Precision.FP16).model
    found = evaluation.evaluate(model, lowered, CalibrationData.open([{"x": np.ones(4, np.float32)}], model))
    assert found.unrounded is None and "y" in found.outputs
    assert EvaluationCode.UNROUNDED_NOT_RUN in [note.code for note in found.notes]


def test_float32_is_not_touched():
    lowered = lower(there_and_back(), PrecisionPlan(), rest=Precision.FP32).model
    x = np.float32([0.1, 1.1, 3.0, 7.0])
    np.testing.assert_array_equal(run(Model.from_light(with_rounding(lowered)), {"x": x})[0], run(lowered, {"x": x})[0])


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_quantized_model_keeps_its_function(name, request):
    model = request.getfixturevalue(name)
    shape = [d if isinstance(d, int) else 2 for d in model.input_shapes()["x"]]
    context = placeholder_context()
    InsertQDQ()(model, context)
    lowered = lower(model, context.plan).model
    x = normal(*shape)
    plain, rounded = run(lowered, {"x": x})[0], run(Model.from_light(with_rounding(lowered)), {"x": x})[0]
    assert 0 < np.abs(plain - rounded).max() < 0.05 * np.abs(plain).max()


def rounded_tensors(light):
    return [
        one.output[0].removesuffix(" rounded") for one in light.proto.graph.node if one.output[0].endswith(" rounded")
    ]


def test_what_picks_among_rounded_values_is_not_rounded_again():
    nodes = [node("Add", ["x", "c"], ["a"]), node("Relu", ["a"], ["r"]), node("Clip", ["a", "low", "top"], ["k"]),
             node("Concat", ["r", "k"], ["b"], axis=0), node("Transpose", ["b"], ["t"]), node("Abs", ["t"], ["s"]),
             node("Sigmoid", ["s"], ["y"])]  # fmt: skip
    constants = {"c": np.full(1, 0.3, np.float32), "low": np.float32(-0.1), "top": np.float32(1.7)}
    model = Model.from_proto(build(nodes, {"x": [8]}, {"y": [16]}, constants))
    light = with_rounding(lower(model, PrecisionPlan(), rest=Precision.FP16).model)
    assert "a" in rounded_tensors(light) and not {"r", "k", "b", "t", "s"} & set(rounded_tensors(light))
    x = normal(8)
    a = (x.astype(np.float16).astype(np.float32) + np.float32(np.float16(0.3))).astype(np.float16)
    s = np.abs(np.concatenate([np.maximum(a, 0), np.clip(a, np.float16(-0.1), np.float16(1.7))]))
    wanted = (1 / (1 + np.exp(-s.astype(np.float32)))).astype(np.float16)
    np.testing.assert_allclose(run(Model.from_light(light), {"x": x})[0], wanted, atol=1e-3)


def test_what_picks_among_dequantized_values_is_rounded():
    nodes = [node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
             node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
             node("Reshape", ["d", "shape"], ["e"]), node("Relu", ["e"], ["y"])]  # fmt: skip
    constants = {"scale": np.float32(0.1).reshape(()), "zero": np.int8(0).reshape(()), "shape": np.int64([8])}
    model = Model.from_proto(build(nodes, {"x": [8]}, {"y": [8]}, constants, opset=19))
    lowered = lower(model, PrecisionPlan(), rest=Precision.FP16).model
    light = with_rounding(lowered)
    (relu,) = (one for one in light.proto.graph.node if one.op_type == "Relu")
    found = run(Model.from_light(light), {"x": np.linspace(-1, 5, 8, dtype=np.float32)})[0]
    assert relu.output[0].endswith(" before rounding")
    np.testing.assert_array_equal(found, found.astype(np.float16))


def there_and_back_inside(tag):
    """A branch that adds 8000 and takes it away again, in float16; both branches call the sum the same."""
    wide = {f"{tag} c": np.full(1, 8000 if tag == "then" else 16000, np.float16)}
    nodes = [node("Add", ["h", f"{tag} c"], ["sum"]), node("Sub", ["sum", f"{tag} c"], [f"{tag} out"])]
    return subgraph(nodes, {f"{tag} out": [4]}, weights=wide, types={f"{tag} out": TensorProto.FLOAT16})


@pytest.mark.parametrize("on", [True, False])
def test_what_lies_inside_and_around_an_if_is_rounded(on):
    """8000 leaves steps of 4 and 16000 of 8; outside 2000 leaves steps of 1, however many Ifs there are."""
    nodes = [node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16), node("Add", ["x16", "c"], ["b"]),
             node("Sub", ["b", "c"], ["outside"]), node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
             switch("if", "on", ["inside"], there_and_back_inside("then"), there_and_back_inside("else")),
             node("Cast", ["inside"], ["y"], to=1), node("Cast", ["outside"], ["z"], to=1)]  # fmt: skip
    weights = {"c": np.full(1, 2000, np.float16), "on": np.array(on)}
    model = Model.from_proto(build(nodes, {"x": [4]}, {"y": [4], "z": [4]}, weights))
    x, unknown = np.float32([0.1, 1.1, 3.7, 7.0]), []
    y, z = run(Model.from_light(with_rounding(model, unknown)), {"x": x})
    step = 4.0 if on else 8.0
    np.testing.assert_array_equal(y, np.round(x / step) * step)
    np.testing.assert_array_equal(z, np.round(x))
    assert unknown == []
    found = evaluation.evaluate(model, model, CalibrationData.open([{"x": x}], model))
    assert not {note.code for note in found.notes} & {EvaluationCode.ROUNDING_PARTLY_MEASURED}
    # onnxruntime's own arithmetic, in which the float model ran as well, rounds nothing in between
    assert found.outputs["y"].max_abs > 0.5 and found.outputs["z"].max_abs > 0.1 and found.unrounded is not None


def test_each_step_of_a_loop_is_rounded():
    """Ten times 0.3 is added to 2000, whose steps are 1 in float16: nothing is left of it."""
    half = TensorProto.FLOAT16
    body = subgraph(
        [node("Identity", ["on in"], ["on out"]), node("Add", ["state", "d"], ["raised"]),
         node("Identity", ["raised"], ["next"]), node("Sub", ["raised", "c"], ["row"])],
        {"on out": [], "next": [1], "row": [1]}, {"i": [], "on in": [], "state": [1]},
        {"d": np.full(1, 0.3, np.float16), "c": np.full(1, 2000, np.float16)},
        {"on out": TensorProto.BOOL, "next": half, "row": half, "i": TensorProto.INT64, "on in": TensorProto.BOOL,
         "state": half},
    )  # fmt: skip
    nodes = [node("Cast", ["x"], ["h"], to=half), node("Loop", ["n", "on", "h"], ["last", "rows"], body=body),
             node("Cast", ["last"], ["y"], to=1), node("Cast", ["rows"], ["z"], to=1)]  # fmt: skip
    weights = {"n": np.array(10), "on": np.array(True)}
    model = Model.from_proto(build(nodes, {"x": [1]}, {"y": [1], "z": [10, 1]}, weights))
    y, z = run(Model.from_light(with_rounding(model)), {"x": np.float32([2000])})
    assert y.tolist() == [2000.0] and not z.any()


def test_what_is_of_an_unknown_type_inside_a_branch_is_named():
    def branch(tag, inner):
        nodes = [inner, node("Neg", [f"{tag} m"], [f"{tag} out"])]
        return subgraph(nodes, {f"{tag} out": [4]}, types={f"{tag} out": TensorProto.FLOAT16})

    strange = node("Strange", ["h"], ["then m"], "strange", domain="com.example")
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
             switch("if", "on", ["half"], branch("then", strange), branch("else", node("Relu", ["h"], ["else m"]))),
             node("Cast", ["half"], ["y"], to=1)]  # fmt: skip
    proto = build(nodes, {"x": [4]}, {"y": None}, {"on": np.array(True)})
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    unknown = []
    made = with_rounding(Model.from_proto(proto), unknown)
    assert unknown == ["strange"]
    casts = [one.g.node for one in made.proto.graph.node[3].attribute]
    assert [[one.op_type for one in each] for each in casts] == [
        ["Relu", "Neg"], ["Strange", "Neg", "Cast", "Cast"],
    ]  # fmt: skip
    said = EvaluationCode.ROUNDING_PARTLY_MEASURED(types=["fp16"], nodes=unknown)
    assert "only in part: what 'strange' return inside" in sentence(said)


def test_what_a_branch_picks_of_outer_values_is_rounded_unless_these_are():
    """What DequantizeLinear gives is not rounded, and the branch hides a name of the graph around it."""
    half = TensorProto.FLOAT16

    def branch(tag, name):
        nodes = [node("Relu", [name], [f"{tag} m"]), node("Neg", [f"{tag} m"], [f"{tag} out"])]
        return subgraph(nodes, {f"{tag} out": [8]}, types={f"{tag} out": half})

    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["d"]), node("Cast", ["x"], ["h"], to=half),
             switch("if", "on", ["half"], branch("then", "d"), branch("else", "h")),
             node("Cast", ["half"], ["y"], to=1)]  # fmt: skip
    weights = {"q": np.arange(8, dtype=np.int8), "scale": np.float16(0.1), "zero": np.int8(0), "on": np.array(True)}
    made = with_rounding(Model.from_proto(build(nodes, {"x": [8]}, {"y": [8]}, weights, opset=19)))
    (choice,) = (one for one in made.proto.graph.node if one.op_type == "If")
    bodies = {one.name: [inner.op_type for inner in one.g.node] for one in choice.attribute}
    assert bodies == {"then_branch": ["Relu", "Cast", "Cast", "Neg"], "else_branch": ["Relu", "Neg"]}
