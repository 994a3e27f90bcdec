from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context, run
from toolkit import Model
from toolkit.backends.lowering import lower
from toolkit.base.errors import BackendError, ModelError
from toolkit.base.precision import Precision
from toolkit.contract.plan import PrecisionPlan
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import evaluate as evaluation
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.rounding import with_rounding


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


def test_of_very_many_nodes_the_other_arithmetic_is_left_out(monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_UNROUNDED", 1)
    model = there_and_back()
    lowered = lower(model.copy(), PrecisionPlan(), rest=Precision.FP16).model
    found = evaluation.evaluate(model, lowered, CalibrationData.open([{"x": np.ones(4, np.float32)}], model))
    said = next(note for note in found.notes if note.code is EvaluationCode.UNROUNDED_LEFT_OUT)
    assert found.unrounded is None and said.values == {"nodes": len(lowered.nodes), "most": 1}


def test_no_memory_for_the_other_arithmetic_costs_its_figures_alone(monkeypatch):
    def none_left(*given):
        raise BackendError("onnxruntime ran out of memory")

    monkeypatch.setattr(evaluation, "_as_it_is", none_left)
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
    return [one.output[0].removesuffix(" rounded") for one in light.proto.graph.node if one.output[0].endswith(" rounded")]


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


def test_subgraphs_are_refused():
    def branch(op):
        out = helper.make_tensor_value_info(f"{op} out", TensorProto.FLOAT, [4])
        return helper.make_graph([node(op, ["x"], [f"{op} out"])], op, [], [out])

    nodes = [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Greater", ["top", "zero"], ["on"]),
             node("If", ["on"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))]  # fmt: skip
    proto = build(nodes, {"x": [4]}, {"y": [4]}, {"zero": np.float32(0).reshape(())})
    with pytest.raises(ModelError, match="If, Loop or Scan"):
        with_rounding(Model.from_proto(proto))
