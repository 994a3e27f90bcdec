from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from tests.conftest import build, node, normal, ops, placeholder_context, residual_proto, run
from tests.passes.test_insert_qdq import random_chain
from tests.toolkit.backends.backend_models import recurrent
from toolkit import Code, Journal, Model, Precision, PrecisionPlan
from toolkit.backends.backend import EngineSettings
from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.prepare import admit_for
from toolkit.backends.lowering.strong import lower
from toolkit.backends.none import NoBackend
from toolkit.base.errors import RecipeError
from toolkit.graph import model as graph_model
from toolkit.graph.shape_inference.inferred import Inferred
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.report.findings import sentence


def type_of(model, name):
    return onnx_type(model.node(name).outputs[0].dtype)


def casts(model):
    return [n for n in model.nodes if n.op == "Cast"]


def test_everything_becomes_float16_between_casts_at_the_borders(residual):
    x = normal(2, 3, 8, 8)
    before = run(residual, {"x": x})[0]
    lowered = lower(residual, PrecisionPlan()).model
    assert sorted(n.attrs["to"] for n in casts(lowered)) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert type_of(lowered, "c1") == TensorProto.FLOAT16
    assert lowered.signature() == residual.signature()
    assert np.abs(run(lowered, {"x": x})[0] - before).max() < 0.02 * np.abs(before).max()


def test_pairs_get_float16_scales_and_stored_weights(residual):
    context = placeholder_context()
    InsertQDQ()(residual, context)
    x = normal(2, 3, 8, 8)
    before = run(residual, {"x": x})[0]
    result = lower(residual, context.plan)
    lowered = result.model
    assert lowered.opset >= 19
    assert ops(lowered)["QuantizeLinear"] == 5
    dequantizers = [n for n in lowered.nodes if n.op == "DequantizeLinear"]
    assert {onnx_type(n.inputs[1].dtype) for n in dequantizers} == {TensorProto.FLOAT16}
    stored = lowered.node("c1").inputs[1].inputs[0].inputs[0]
    assert onnx_type(stored.dtype) == TensorProto.INT8
    assert casts(lowered)[-1].outputs[0].name == "y"
    assert np.abs(run(lowered, {"x": x})[0] - before).max() < 0.05 * np.abs(before).max()
    assert lowered.metadata["c1"]["qtool.precision"] == "int8"


def test_nodes_are_not_compared_by_what_they_hold(monkeypatch, residual):
    context = placeholder_context()
    InsertQDQ()(residual, context)
    # onnx-graphsurgeon does so to find one among the readers of a tensor, here the zero point of all pairs
    monkeypatch.setattr(gs.Node, "__eq__", lambda one, other: pytest.fail("nodes were compared"))
    assert "int8" in {props["qtool.precision"] for props in lower(residual, context.plan).model.metadata.values()}


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16])
def test_stored_weights_keep_the_zero_points_of_their_pair(rest):
    attrs, inputs = {"axis": 1}, ["s", "z"]
    nodes = [
        node("QuantizeLinear", ["w", *inputs], ["q"], **attrs), node("DequantizeLinear", ["q", *inputs], ["d"], **attrs),
        node("MatMul", ["x", "d"], ["y"]),
    ]  # fmt: skip
    scale, zero = np.float32([0.03125, 0.0625, 0.125]), np.int8([5, -7, 90])
    model = Model.from_proto(build(nodes, {"x": [2, 4]}, {"y": None}, {"w": normal(4, 3), "s": scale, "z": zero}))
    x = normal(2, 4)
    before = run(model, {"x": x})[0]
    lowered = lower(model, PrecisionPlan(), rest=rest).model
    assert "QuantizeLinear" not in ops(lowered)
    assert np.abs(run(lowered, {"x": x})[0] - before).max() < 0.01 * np.abs(before).max()


def test_an_fp32_island_has_one_cast_in_and_one_out(attention):
    context = placeholder_context()
    KeepPrecision(ops=["Softmax"], precision="fp32")(attention, context)
    lowered = lower(attention, context.plan).model
    assert type_of(lowered, "p") == TensorProto.FLOAT
    inner = [n for n in casts(lowered) if n.inputs[0].name not in ("x",) and n.outputs[0].name != "y"]
    assert len(inner) == 2


def test_bf16_where_asked():
    model = Model.from_proto(build([node("Relu", ["x"], ["r"]), node("Sigmoid", ["r"], ["y"])], {"x": [4]}, {"y": [4]}))
    plan = PrecisionPlan()
    plan.ask("r", Precision.BF16, "test")
    lowered = lower(model, plan, rest=Precision.FP32).model
    assert type_of(lowered, "r") == TensorProto.BFLOAT16


def test_values_beyond_float16_stay_fp32_with_the_value_in_the_reason(residual):
    journal = Journal()
    result = lower(residual, PrecisionPlan(), observed={"c1": (-1e5, 2.0)}, journal=journal)
    assert result.types.node["c1"] is Precision.FP32
    assert result.types.node["r1"] is Precision.FP32
    beyond = Code.BEYOND_TYPE(tensor="c1", value=1e5, precision="fp16", limit=65504.0, constant=False)
    assert result.types.reason["c1"] == beyond
    assert result.plan.get("c1") is None
    assert result.model.metadata["c1"] == {"qtool.precision": "fp32"}
    result.say(lambda reason: f"{reason.code}!")
    assert result.model.metadata["c1"]["qtool.reason"] == f"{result.reasons['c1'].code}!"
    assert {e.node: e.rule for e in journal.of("declined")} == {"c1": "float-range", "r1": "float-range"}


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_with_lengths_stays_fp32(op):
    """TensorRT's parser selects between its values and zeros of float32, and refuses the two in unlike types."""
    model = recurrent(op, lengths=True)
    result = lower(model, PrecisionPlan())
    assert [one for one, kind in result.types.node.items() if kind is Precision.FP32] == ["h"]
    assert result.types.reason == {"h": EngineCode.SEQUENCE_LENGTHS(op=op, lengths="lengths")}
    assert type_of(result.model, "h") == TensorProto.FLOAT
    given = {"x": normal(3, 5, 6), "lengths": np.array([5, 2, 3], np.int32)}
    assert np.abs(run(model, given)[0] - run(result.model, given)[0]).max() < 1e-2
    free = lower(recurrent(op, lengths=False), PrecisionPlan())
    assert set(free.types.node.values()) == {Precision.FP16} and not free.types.reason


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("io", [{"x": Precision.FP16}, {}])
def test_a_float16_input_is_computed_with_before_a_recurrent_layer_in_fp32(op, io):
    """Behind a Cast alone, or a Cast and a Transpose, TensorRT-RTX does not build the loop."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
             node(op, ["t", "w", "r", "", "lengths"], ["h"], hidden_size=4), node("Relu", ["h"], ["y"])]  # fmt: skip
    weights = {"w": normal(1, rows, 6), "r": normal(1, rows, 4), "lengths": np.array([5, 2, 3], np.int32)}
    model, journal = Model.from_proto(build(nodes, {"x": [3, 5, 6]}, {"y": None}, weights)), Journal()
    result = lower(model, PrecisionPlan(), io=io, journal=journal)
    (layer,) = [one for one in result.model.nodes if one.op == op]
    assert layer.inputs[0].inputs[0].op == "Add"
    said = [event for event in journal.of("changed") if event.what == EngineCode.SUM_WITH_ZERO()]
    assert [(one.node, one.why) for one in said] == [("h_input_sum", EngineCode.FEEDS_RECURRENT(node="h"))]
    x = normal(3, 5, 6).astype(np.float16)
    given = run(result.model, {"x": x if io else x.astype(np.float32)})[0]
    assert np.abs(run(model, {"x": x.astype(np.float32)})[0] - given).max() < 1e-2


def test_what_feeds_a_recurrent_layer_that_is_asked_for_fp32_runs_in_the_type_of_the_rest():
    plan, journal = PrecisionPlan(), Journal()
    plan.ask("h", Precision.FP32, "test")
    result = lower(recurrent("LSTM", lengths=False), plan, journal=journal)
    assert [one for one, kind in result.types.node.items() if kind is Precision.FP32] == ["h"]
    (layer,) = [one for one in result.model.nodes if one.op == "LSTM"]
    assert layer.inputs[0].inputs[0].op == "Add"
    assert [event.node for event in journal.of("changed") if event.what == EngineCode.SUM_WITH_ZERO()] == [
        "h_input_sum"
    ]


def test_weights_beyond_float16_stay_fp32():
    weight = normal(4, 4)
    weight[0, 0] = 1e6
    model = Model.from_proto(
        build(
            [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])], {"x": [2, 4]}, {"y": None}, {"w": weight}
        )
    )
    result = lower(model, PrecisionPlan())
    assert result.types.node["m"] is Precision.FP32 and result.types.reason["m"].values["value"] == 1e6
    assert result.types.node["y"] is Precision.FP16


def test_a_filling_beyond_float16_stays_fp32_with_its_reader():
    """A causal mask as torch exports it: a size known only when the model runs, filled with a large number."""
    fill = numpy_helper.from_array(np.array([1e9], np.float32))
    proto = build(
        [node("Shape", ["x"], ["size"]), node("ConstantOfShape", ["size"], ["big"], "fill", value=fill),
         node("Mul", ["big", "mask"], ["far"], "mul"), node("Sub", ["x", "far"], ["d"], "sub"), node("Relu", ["d"], ["y"], "relu")],
        {"x": ["n", 4]}, {"y": ["n", 4]}, {"mask": np.array([0, 0, 1, 1], np.float32)},
    )  # fmt: skip
    x = {"x": normal(3, 4)}
    result = lower(Model.from_proto(proto), PrecisionPlan())
    assert set(result.types.reason) == {"fill", "mul"}
    assert result.types.reason["fill"] == Code.BEYOND_TYPE(
        tensor="big", value=1e9, precision="fp16", limit=65504.0, constant=True
    )
    result.model.check()
    wanted, found = run(proto, x)[0], run(result.model, x)[0]
    assert np.isfinite(found).all() and np.allclose(found, wanted, atol=2e-3)


def test_a_clip_bound_beyond_float16_is_no_reason():
    model = Model.from_proto(build(
        [node("Clip", ["x", "low", "high"], ["y"])], {"x": [4]}, {"y": [4]},
        {"low": np.float32(0).reshape(()), "high": np.float32(3.4e38).reshape(())},
    ))  # fmt: skip
    result = lower(model, PrecisionPlan())
    assert result.types.node["y"] is Precision.FP16
    assert np.allclose(run(result.model, {"x": np.float32([-1, 0, 1, 2])})[0], [0, 0, 1, 2])


def test_arithmetic_that_becomes_an_index_stays_fp32():
    model = Model.from_proto(build(
        [
            node("Mul", ["x", "k"], ["m"]), node("Floor", ["m"], ["f"]), node("Cast", ["f"], ["i"], to=TensorProto.INT64),
            node("Gather", ["table", "i"], ["y"]),
        ],
        {"x": [4]}, {"y": [4, 3]}, {"k": np.float32(1000).reshape(()), "table": normal(5000, 3)},
    ))  # fmt: skip
    result = lower(model, PrecisionPlan())
    assert result.types.node["m"] is Precision.FP32
    assert result.types.node["y"] is Precision.FP16
    x = np.float32([0.001, 2.049, 4.097, 4.999])
    assert np.allclose(run(result.model, {"x": x})[0], run(model, {"x": x})[0], atol=0.01)


def test_integers_beyond_what_float16_counts_stay_fp32():
    model = Model.from_proto(build(
        [node("Cast", ["x"], ["c"], to=TensorProto.FLOAT), node("Relu", ["c"], ["y"])], {"x": [4]}, {"y": [4]}, types={"x": TensorProto.INT64},
    ))  # fmt: skip
    assert lower(model, PrecisionPlan(), observed={"c": (0, 3000)}).types.node["c"] is Precision.FP32
    assert lower(model, PrecisionPlan(), observed={"c": (0, 1000)}).types.node["c"] is Precision.FP16


def test_a_subgraph_runs_in_fp32_and_reads_fp32():
    inner = helper.make_graph(
        [node("Mul", ["r", "r"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, [4])]
    )
    other = helper.make_graph([node("Neg", ["r"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, [4])])
    model = Model.from_proto(build(
        [node("Relu", ["x"], ["r"]), node("If", ["c"], ["o"], then_branch=inner, else_branch=other), node("Sigmoid", ["o"], ["y"])],
        {"x": [4], "c": []}, {"y": [4]}, types={"c": TensorProto.BOOL},
    ))  # fmt: skip
    context = placeholder_context()
    context.plan.ask("t", "fp16", "a pass of somebody's")
    journal = Journal()
    result = lower(model, context.plan, journal=journal)
    assert type_of(result.model, "r") == TensorProto.FLOAT16
    declined = {e.node: e for e in journal.of("declined")}
    assert declined.keys() >= {"t", "e", "o"} and {declined[name].rule for name in "teo"} == {"stays-fp32"}
    assert sentence(declined["e"].why) == "stays fp32: it is inside a subgraph, which keeps its types"
    feeds = {"x": np.float32([1, -2, 3, 0]), "c": np.array(True)}
    assert np.allclose(run(result.model, feeds)[0], run(model, feeds)[0], atol=1e-3)


@pytest.mark.parametrize(
    ("domain", "op", "words"),
    [
        ("ai.onnx.ml", "Scaler", "an operator of ONNX's domain ai.onnx.ml"),
        ("my.own", "Scaler", "is not an ONNX operator"),
    ],
)
def test_an_operator_of_onnx_s_other_domains_is_not_called_unknown_to_onnx(domain, op, words):
    proto = build([node("Relu", ["x"], ["s"], "scaler"), node("Relu", ["s"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})
    scaler = helper.make_node(op, ["x"], ["s"], "scaler", domain=domain, offset=[0.0], scale=[2.0])
    proto.graph.node[0].CopyFrom(scaler)
    proto.opset_import.add(domain=domain, version=1)
    types = lower(Model.from_proto(proto), PrecisionPlan()).types
    assert words in sentence(types.reason["scaler"])


def test_an_operator_without_a_float16_form_stays_fp32():
    model = Model.from_proto(build(
        [node("CumSum", ["x", "axis"], ["c"]), node("Relu", ["c"], ["y"])], {"x": [4]}, {"y": [4]}, {"axis": np.array(0, np.int64)}, opset=13,
    ))  # fmt: skip
    result = lower(model, PrecisionPlan())
    assert result.types.node["c"] is Precision.FP32
    assert result.types.reason["c"] == Code.NO_SUCH_FORM(op="CumSum", precision="fp16", opset=13)


def test_casts_of_the_model_that_became_idle_are_removed():
    model = Model.from_proto(build(
        [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Relu", ["h"], ["r"]), node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
         node("Cast", ["f"], ["h2"], to=TensorProto.FLOAT16), node("Sigmoid", ["h2"], ["s"]), node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)],
        {"x": [4]}, {"y": [4]},
    ))  # fmt: skip
    lowered = lower(model, PrecisionPlan()).model
    types = [(onnx_type(n.inputs[0].dtype), n.attrs["to"]) for n in casts(lowered)]
    assert all(a != b for a, b in types)


def test_io_types_change_only_where_the_recipe_says(residual):
    lowered = lower(residual, PrecisionPlan(), io={"x": Precision.FP16}).model
    assert lowered.signature().inputs == (("x", TensorProto.FLOAT16),)
    assert lowered.signature().outputs == (("y", TensorProto.FLOAT),)
    with pytest.raises(RecipeError, match="not a float input or output"):
        lower(residual, PrecisionPlan(), io={"z": Precision.FP16})


def test_a_scale_that_float16_cannot_hold_keeps_its_layer_fp32():
    model = Model.from_proto(build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("MatMul", ["d", "w"], ["y"]),
        ],
        {"x": [2, 4]}, {"y": None}, {"w": normal(4, 4), "s": np.float32(1.7e-7).reshape(()), "z": np.array(0, np.int8)},
    ))  # fmt: skip
    result = lower(model, PrecisionPlan())
    assert result.types.node["y"] is Precision.FP32 and result.types.reason["y"].code is Code.SCALE_LOST


def test_one_pair_read_in_two_types_gets_two_dequantizers():
    model = Model.from_proto(build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("MatMul", ["d", "w"], ["a"]), node("Softmax", ["d"], ["b"]), node("Add", ["a", "b"], ["y"]),
        ],
        {"x": [2, 4]}, {"y": None}, {"w": normal(4, 4), "s": np.float32(0.1).reshape(()), "z": np.array(0, np.int8)},
    ))  # fmt: skip
    plan = PrecisionPlan()
    plan.ask("b", Precision.FP32, "test")
    lowered = lower(model, plan).model
    assert ops(lowered)["DequantizeLinear"] == 2
    assert ops(lowered)["QuantizeLinear"] == 1
    run(lowered, {"x": normal(2, 4)})


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_lowering_changes_no_shape_and_no_name_and_runs(data):
    model = Model.from_proto(random_chain(data, data.draw(st.integers(13, 21))))
    context = placeholder_context()
    if data.draw(st.booleans()):
        InsertQDQ()(model, context)
    names = [n for n in model.node_names() if data.draw(st.booleans())]
    if names:
        chosen = data.draw(st.sampled_from(["fp16", "fp32"]))
        if any(model.node(n).op not in ("QuantizeLinear", "DequantizeLinear") for n in names):
            KeepPrecision(nodes=names, precision=chosen)(model, context)
    lowered = lower(model, context.plan).model
    before, after = model.facts(), lowered.facts()
    shared = set(before.shapes) & set(after.shapes)
    assert all(before.shapes[n] == after.shapes[n] for n in shared)
    assert set(model.node_names()) - {n.name for n in model.nodes if n.op in ("QuantizeLinear", "Cast")} <= set(
        lowered.node_names()
    )
    x = normal(2, 4, 6, 6)
    for a, b in zip(run(model, {"x": x}), run(lowered, {"x": x})):
        assert a.dtype == b.dtype and np.abs(a - b).max() <= 0.05 * max(np.abs(a).max(), 1.0)


def test_constant_nodes_cannot_get_out_of_step_with_their_readers():
    from onnx import numpy_helper

    model = Model.from_proto(build(
        [node("Relu", ["x"], ["r"]), node("Constant", [], ["k"], value=numpy_helper.from_array(normal(4, 4))), node("MatMul", ["r", "k"], ["y"])],
        {"x": [2, 4]}, {"y": [2, 4]},
    ))  # fmt: skip
    plan = PrecisionPlan()
    plan.ask("y", Precision.FP32, "test")
    x = normal(2, 4)
    assert np.allclose(run(lower(model, plan).model, {"x": x})[0], run(model, {"x": x})[0], atol=1e-2)


def test_an_epsilon_that_float16_loses_keeps_its_chain_fp32():
    weights = {"two": np.float32(2).reshape(()), "eps": np.float32(1e-12).reshape(())}
    model = Model.from_proto(build(
        [
            node("ReduceMean", ["x"], ["mean"], axes=[-1]), node("Sub", ["x", "mean"], ["d"]), node("Pow", ["d", "two"], ["sq"]),
            node("ReduceMean", ["sq"], ["var"], axes=[-1]), node("Add", ["var", "eps"], ["ve"]), node("Sqrt", ["ve"], ["sd"]),
            node("Div", ["d", "sd"], ["y"]),
        ],
        {"x": [2, 8]}, {"y": [2, 8]}, weights,
    ))  # fmt: skip
    result = lower(model, PrecisionPlan())
    assert {n for n, t in result.types.node.items() if t is Precision.FP32} == {"ve", "sd", "y"}
    x = normal(2, 8)
    x[0] = 1.5
    assert np.isfinite(run(result.model, {"x": x})[0]).all()


def test_values_that_float16_would_lose_stay_fp32():
    model = Model.from_proto(build([node("Relu", ["x"], ["r"]), node("Sigmoid", ["r"], ["y"])], {"x": [4]}, {"y": [4]}))
    result = lower(model, PrecisionPlan(), observed={"x": (-1, 1), "r": (0, 3e-8), "y": (0, 1)})
    assert result.types.reason["r"] == Code.VANISHING_VALUES(tensor="r", value=3e-8)


def test_a_small_scale_keeps_the_layer_before_its_quantizer_fp32():
    model = Model.from_proto(build(
        [node("Relu", ["x"], ["r"]), node("QuantizeLinear", ["r", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Relu", ["d"], ["y"])],
        {"x": [4]}, {"y": [4]}, {"s": np.float32(1e-8).reshape(()), "z": np.array(0, np.int8)}, opset=19,
    ))  # fmt: skip
    x = np.float32([1e-7, 5e-7, 2e-7, 9e-7])
    lowered = lower(model, PrecisionPlan()).model
    assert np.allclose(run(lowered, {"x": x})[0], run(model, {"x": x})[0], rtol=0.01)


def test_a_half_model_with_a_subgraph_stays_valid():
    inner = helper.make_graph(
        [node("MatMul", ["r", "w"], ["m"]), node("Add", ["m", "b"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 10, [2, 4])],
    )
    other = helper.make_graph([node("Neg", ["r"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 10, [2, 4])])
    half = {"w": normal(4, 4).astype(np.float16), "b": normal(4).astype(np.float16)}
    model = Model.from_proto(build(
        [node("Relu", ["x"], ["r"]), node("If", ["c"], ["o"], then_branch=inner, else_branch=other), node("Relu", ["o"], ["y"])],
        {"x": [2, 4], "c": []}, {"y": [2, 4]}, half, types={"c": TensorProto.BOOL, "x": 10, "y": 10},
    ))  # fmt: skip
    feeds = {"x": normal(2, 4).astype(np.float16), "c": np.array(True)}
    for rest in (Precision.FP16, Precision.FP32):
        assert np.allclose(
            run(lower(model, PrecisionPlan(), rest=rest).model, feeds)[0], run(model, feeds)[0], atol=1e-2
        )


def test_an_int32_bias_becomes_float():
    weights = {"w": np.ones((4, 3, 1, 1), np.int8), "ws": np.float32(0.1).reshape(()), "wz": np.array(0, np.int8),
               "b": np.array([10, 20, 30, 40], np.int32), "bs": np.float32(0.01).reshape(())}  # fmt: skip
    model = Model.from_proto(build(
        [node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]), node("DequantizeLinear", ["b", "bs"], ["bd"]), node("Conv", ["x", "wd", "bd"], ["y"])],
        {"x": [1, 3, 2, 2]}, {"y": [1, 4, 2, 2]}, weights,
    ))  # fmt: skip
    lowered = lower(model, PrecisionPlan()).model
    assert ops(lowered)["DequantizeLinear"] == 1
    x = normal(1, 3, 2, 2)
    assert np.allclose(run(lowered, {"x": x})[0], run(model, {"x": x})[0], atol=1e-2)


def test_widening_and_narrowing_again_leaves_no_cast():
    model = Model.from_proto(build(
        [node("MatMul", ["x", "w"], ["m"]), node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Relu", ["f"], ["r"]),
         node("Cast", ["r"], ["h"], to=TensorProto.FLOAT16), node("Sigmoid", ["h"], ["y"])],
        {"x": [2, 4]}, {"y": [2, 4]}, {"w": normal(4, 4).astype(np.float16)}, types={"x": 10, "y": 10},
    ))  # fmt: skip
    plan = PrecisionPlan()
    plan.ask("r", Precision.FP16, "test")
    lowered = lower(model, plan).model
    types = [(onnx_type(n.inputs[0].dtype), n.attrs["to"]) for n in casts(lowered)]
    assert all(a != b for a, b in types)
    assert len(casts(lowered)) <= 1
    run(lowered, {"x": normal(2, 4).astype(np.float16)})


@pytest.mark.parametrize("rest", [Precision.FP16, Precision.BF16])
def test_halves_in_two_types_have_one_scale(rest):
    """Pairs of others: a scale that no type of 16 bits holds, from a float32 input to a layer of 16 bits."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("MatMul", ["d", "w"], ["y"], "mm"), node("Erf", ["d"], ["e"], "wide")]  # fmt: skip
    scale = np.float32(0.0371)
    proto = build(nodes, {"x": ["n", 16]}, {"y": ["n", 4], "e": ["n", 16]},
                  {"s": scale, "z": np.int8(0), "w": normal(16, 4)}, opset=19)  # fmt: skip
    plan = PrecisionPlan()
    plan.ask("wide", Precision.FP32, "it is asked for")
    lowered = lower(Model.from_proto(proto), plan, rest=rest).model
    lowered.check()
    assert ops(lowered)["DequantizeLinear"] == 2 and ops(lowered)["QuantizeLinear"] == 1
    found = {float(lowered.constant(n.inputs[1]).astype(np.float32)) for n in lowered.nodes if "antize" in n.op}
    wanted = float(scale.astype(helper.tensor_dtype_to_np_dtype(rest.onnx_type)))
    assert found == {wanted} and wanted != float(scale)


@pytest.mark.parametrize("rest", [Precision.FP16, Precision.BF16])
def test_a_normalization_whose_mean_is_read_keeps_the_type_that_it_says_for_it(rest):
    proto = build(
        [node("LayerNormalization", ["x", "g", "b"], ["y", "mean", "inverse"], "norm"), node("Relu", ["y"], ["z"], "r")],
        {"x": ["n", 8]}, {"z": ["n", 8], "mean": ["n", 1], "inverse": ["n", 1]},
        {"g": np.ones(8, np.float32), "b": np.zeros(8, np.float32)},
    )  # fmt: skip
    found = lower(Model.from_proto(proto), PrecisionPlan(), rest=rest)
    types = found.model.facts().types
    assert [types[name] for name in ("mean", "inverse", "z")] == [TensorProto.FLOAT] * 3
    assert found.types.node["norm"] is Precision.FP32 and found.types.node["r"] is rest


@pytest.mark.parametrize("asked", [Precision.INT8, Precision.FP16])
def test_a_rehearsal_without_the_pairs_raises_the_opset_as_lowering_does_with_them(residual, asked):
    plan = PrecisionPlan()
    plan.ask("c1", asked, Code.OWN_WORDS(text="asked"))
    before = residual.opset
    admit_for(NoBackend(), EngineSettings(), residual, plan, rest=Precision.FP16, io={})
    assert before < 19
    assert residual.opset == (19 if asked is Precision.INT8 else before)


@pytest.mark.parametrize("opset", [17, 19])
def test_what_is_known_of_a_graph_is_not_found_out_from_its_copy_again(monkeypatch, opset):
    """Nor where lowering raises its opset, which changes the number alone."""
    graph, context = Model.from_proto(residual_proto(opset)), placeholder_context()
    InsertQDQ()(graph, context)
    known, asked = graph.settle(checked=True).facts(), []
    exported, inferred = graph_model.export, Inferred._inferred
    monkeypatch.setattr(graph_model, "export", lambda *given: asked.append("export") or exported(*given))
    monkeypatch.setattr(Inferred, "_inferred", lambda *given: asked.append(len(given[1])) or inferred(*given))
    lowered = lower(graph, context.plan).model
    assert lowered.opset == 19 and graph.opset == opset
    # the one export is that of the lowered graph, to be checked
    assert asked.count("export") == 1
    found = lowered.facts()
    assert all(found.shapes[name] == shapes for name, shapes in known.shapes.items() if name in found.shapes)
