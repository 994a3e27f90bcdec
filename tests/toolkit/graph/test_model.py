from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import (
    LIGHT,
    MODELS,
    OLD_ONNXRUNTIME,
    build,
    node,
    normal,
    ops,
    placeholder_context,
    residual_proto,
    run,
)
from tests.control_flow import conv_in_loop, nested
from toolkit import Context, Extent, Model, Profiles, ShapeProfile
from toolkit.backends.lowering.strong import lower
from toolkit.base.errors import ModelError, PassError
from toolkit.graph import model as graph_model
from toolkit.graph.layers import work as costs
from toolkit.graph.surgery.normalise import normalise
from toolkit.graph.surgery.opset import SAME_FROM


def test_unnamed_and_doubled_nodes_get_unique_names():
    proto = build(
        [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])], {"x": [2]}, {"y": [2]}
    )
    proto.graph.node[0].name = proto.graph.node[1].name = "same"
    proto.graph.node[2].name = ""
    model = Model.from_proto(proto)
    assert model.node_names() == ["same", "same_2", "Relu_y"]
    assert model.changed == {"doubled": 1, "unnamed": 1}


def test_sizes_that_paddle_does_not_know_are_unknown_and_not_equal():
    proto = build([node("Relu", ["x"], ["y"])], {"x": ["?", 3, "?", "w"]}, {"y": ["?", 3, "?", "w"]})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert Model.from_proto(proto).input_shapes() == {"x": [None, 3, None, "w"]}


def test_weights_among_the_inputs_are_constants_in_ir_version_3():
    proto = residual_proto(opset=9)
    proto.ir_version = 3
    proto.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer
    )
    model = Model.from_proto(proto)
    assert [t.name for t in model.graph.inputs] == ["x"]
    InsertQDQ()(model, placeholder_context())
    run(model, {"x": normal(1, 3, 8, 8)})


def test_a_weight_that_is_an_output_is_behind_an_identity():
    """As onnx-simplifier leaves constants that a model returns; a body may read the weight too."""
    proto = conv_in_loop()
    proto.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4, 3]))
    onnx.checker.check_model(proto)
    fed = {"x": normal(2, 4, 8)}
    before = run(proto, fed)
    model, changed = normalise(proto, "m.onnx")
    assert changed["stored"] == 1 and [value.name for value in model.graph.output] == ["y", "w"]
    loaded = Model.from_proto(proto)
    assert {node.name: node.op for node in loaded.nodes}["w/output"] == "Identity"
    for old, new in zip(before, run(loaded, fed), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("apart", [False, True])
def test_a_large_weight_that_is_an_output_keeps_its_values(tmp_path, apart):
    weight = normal(80, 100, seed=3)
    proto = build(
        [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 80]}, {"y": ["n", 100], "w": [80, 100]}, {"w": weight}
    )
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=apart, location="m.data", size_threshold=0)
    fed = {"x": normal(2, 80)}
    for model in (Model.load(tmp_path / "m.onnx"), Model.load(tmp_path / "m.onnx").copy()):
        product, stored = run(model, fed)
        np.testing.assert_allclose(product, fed["x"] @ weight, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(stored, weight)


@pytest.mark.parametrize("opset", range(9, 23 if OLD_ONNXRUNTIME else 24))
def test_every_opset_loads_quantizes_and_lowers(opset):
    model = Model.from_proto(residual_proto(opset))
    x = normal(2, 3, 8, 8)
    before = run(model, {"x": x})[0]
    context = placeholder_context()
    InsertQDQ()(model, context)
    lowered = lower(model, context.plan).model
    after = run(lowered, {"x": x})[0]
    assert np.abs(after - before).max() < 0.2 * np.abs(before).max()


def test_other_opsets_are_refused():
    proto = residual_proto()
    proto.opset_import[0].version = 8
    with pytest.raises(ModelError, match="opset 8"):
        Model.from_proto(proto)


def subgraph_model():
    def branch(name, op):
        return helper.make_graph(
            [node("Conv", ["r", "w"], [f"{name}_c"]), node(op, [f"{name}_c"], [f"{name}_o"])], name, [],
            [helper.make_tensor_value_info(f"{name}_o", 1, None)],
        )  # fmt: skip

    return build(
        [node("Relu", ["x"], ["r"]), node("If", ["cond"], ["o"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")),
         node("Conv", ["o", "w"], ["y"])],
        {"x": [1, 4, 5, 5], "cond": []}, {"y": None}, {"w": normal(4, 4, 1, 1)}, types={"cond": TensorProto.BOOL},
    )  # fmt: skip


def test_subgraphs_are_walked_and_survive_a_round_trip():
    model = Model.from_proto(subgraph_model())
    assert set(model.node_names()) == {"r", "o", "y", "t_c", "t_o", "e_c", "e_o"}
    feeds = {"x": normal(1, 4, 5, 5), "cond": np.array(False)}
    before = run(model, feeds)[0]
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert {e.node for e in context.journal.of("declined") if e.rule == "subgraph"} == {"t_c", "e_c"}
    after = run(lower(model, context.plan).model, feeds)[0]
    assert np.abs(after - before).max() < 0.2 * np.abs(before).max()


def test_a_loop_keeps_its_body():
    body = helper.make_graph(
        [node("Add", ["state", "x"], ["next"]), node("Identity", ["c"], ["go"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", 1, [3])],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, [3])],
    )  # fmt: skip
    model = Model.from_proto(build(
        [node("Loop", ["n", "t", "x"], ["y"], body=body)], {"x": [3]}, {"y": [3]},
        {"n": np.array(3, np.int64), "t": np.array(True)},
    ))  # fmt: skip
    x = normal(3)
    assert np.allclose(run(model, {"x": x})[0], 4 * x)
    assert np.allclose(run(lower(model, placeholder_context().plan).model, {"x": x})[0], 4 * x, atol=1e-2)


def test_node_metadata_survives_what_graphsurgeon_drops(tmp_path):
    proto = residual_proto()
    proto.graph.node[0].metadata_props.add(key="origin", value="stem")
    proto.metadata_props.add(key="author", value="me")
    proto.ir_version = 10
    path = Model.from_proto(proto).save(tmp_path / "m.onnx")
    again = onnx.load(str(path))
    assert {p.key: p.value for p in again.graph.node[0].metadata_props} == {"origin": "stem"}
    assert {p.key: p.value for p in again.metadata_props} == {"author": "me"}
    without = Model.from_proto(proto).to_light(metadata=False).proto
    assert (
        not any(node.metadata_props for node in without.graph.node) and without.metadata_props == again.metadata_props
    )


def test_the_fingerprint_sees_weights_and_graph_and_not_names_of_files(tmp_path):
    first, second = Model.from_proto(residual_proto()), Model.from_proto(residual_proto())
    assert first.fingerprint() == second.fingerprint()
    onnx.save(residual_proto(), str(tmp_path / "a.onnx"))
    assert Model.load(tmp_path / "a.onnx").fingerprint() == first.fingerprint()
    proto = residual_proto()
    values = numpy_helper.to_array(proto.graph.initializer[1]).copy()
    values.flat[7] += 1e-6
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, proto.graph.initializer[1].name))
    assert Model.from_proto(proto).fingerprint() != first.fingerprint()


def test_large_weights_count_in_the_fingerprint():
    def model(last):
        weight = normal(128, 128)
        weight[-1, -1] = last
        return Model.from_proto(
            build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 128]}, {"y": [1, 128]}, {"w": weight})
        )

    assert model(0).fingerprint() == model(0).fingerprint() != model(1).fingerprint()


def test_external_data_is_read_and_stays_as_it_is(tmp_path):
    onnx.save_model(
        residual_proto(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0
    )
    before = (tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.bin").read_bytes()
    model = Model.load(tmp_path / "m.onnx")
    run(model, {"x": normal(1, 3, 8, 8)})
    model.save(tmp_path / "out.onnx")
    assert ((tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.bin").read_bytes()) == before


def test_the_input_file_is_never_written_over(tmp_path):
    onnx.save(residual_proto(), str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="refusing to overwrite"):
        Model.load(tmp_path / "m.onnx").save(tmp_path / "m.onnx")


def test_sparse_initializers_become_dense():
    proto = build(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [1, 3]}, {"y": [1, 2]}, {"w": np.zeros((3, 2), np.float32)}
    )
    values = numpy_helper.from_array(np.float32([5, 7]), "w")
    indices = numpy_helper.from_array(np.array([[0, 1], [2, 0]], np.int64), "i")
    del proto.graph.initializer[:]
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 2]))
    assert np.allclose(run(Model.from_proto(proto), {"x": np.float32([[1, 2, 3]])})[0], [[21, 5]])


def test_local_functions_are_inlined():
    function = helper.make_function(
        "own", "Double", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Double", ["x"], ["y"], domain="own", name="call")
    graph = helper.make_graph(
        [call], "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])]
    )
    proto = helper.make_model(graph, functions=[function], ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])  # fmt: skip
    model = Model.from_proto(proto)
    assert ops(model) == {"Add": 1}


def test_a_call_that_leaves_out_an_attribute_gets_the_functions_default():
    """ONNX's inliner gives it none, so that the operator's own default counts."""
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_function("own", "Leaky", ["a"], ["b"], [leaky], [helper.make_opsetid("", 17)],
                                 attribute_protos=[helper.make_attribute("slope", 0.3)])  # fmt: skip
    # what the caller was not given it does not hand on
    handed = helper.make_node("Leaky", ["b"], ["c"], domain="own")
    handed.attribute.add(name="slope", ref_attr_name="own_slope", type=onnx.AttributeProto.FLOAT)
    outer = helper.make_function(
        "own", "Thrice", ["a"], ["d"],
        [helper.make_node("Leaky", ["a"], ["b"], domain="own"), handed,
         helper.make_node("Leaky", ["c"], ["d"], domain="own", slope=0.2)],
        [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)], attributes=["own_slope"],
    )  # fmt: skip
    proto = build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]})
    del proto.graph.node[:]
    proto.graph.node.extend(
        helper.make_node(op, [a], [b], domain="own", **given)
        for op, a, b, given in (
            ("Thrice", "x", "h", {}),
            ("Thrice", "h", "i", {"own_slope": 0.4}),
            ("Leaky", "i", "y", {}),
        )
    )
    proto.functions.extend([inner, outer])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    assert [round(node.attrs["alpha"], 6) for node in Model.from_proto(proto).nodes] == [
        *(0.3, 0.3, 0.2), *(0.3, 0.4, 0.2), 0.3
    ]  # fmt: skip


def test_a_function_of_another_opset_that_nothing_calls_is_no_fault():
    function = helper.make_function(
        "own", "Shaped", ["a", "b"], ["c"], [node("Reshape", ["a", "b"], ["c"])], [helper.make_opsetid("", 11)]
    )
    proto = build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]})
    proto.functions.append(function)
    assert ops(Model.from_proto(proto)) == {"Relu": 1}


def called_function(body, written, wanted, shape, weights=()):
    """A model of one opset that calls a function of another, and the plain model at the function's opset."""
    names = [one.name for one in weights]
    function = helper.make_function("own", "Part", ["a", *names], ["b"], body, [helper.make_opsetid("", written)])
    value, made = (helper.make_tensor_value_info(name, 1, dims) for name, dims in (("a", shape), ("b", None)))
    call = helper.make_node("Part", ["a", *names], ["b"], domain="own", name="call")
    models = []
    for nodes, opset in (([call], wanted), (body, written)):
        graph = helper.make_graph(nodes, "g", [value], [made], list(weights))
        models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
    models[0].functions.append(function)
    models[0].opset_import.append(helper.make_opsetid("own", 1))
    return models


VECTOR = [numpy_helper.from_array(np.float32([1, 2, 3]), name) for name in ("s", "o", "m", "v")]
GRU = [numpy_helper.from_array(normal(1, 6, 4), "w"), numpy_helper.from_array(normal(1, 6, 2), "r")]
SAME = {
    "Add": (7, 17, [node("Add", ["a", "a"], ["b"])], ()),
    "Reshape": (13, 17, [node("Shape", ["a"], ["l"]), node("Reshape", ["a", "l"], ["b"])], ()),
    "ArgMax": (11, 17, [node("ArgMax", ["a"], ["i"], axis=-1), node("Cast", ["i"], ["b"], to=1)], ()),
    "BatchNormalization": (9, 17, [node("BatchNormalization", ["a", "s", "o", "m", "v"], ["b"])], VECTOR),
    "AveragePool": (7, 21, [node("AveragePool", ["a"], ["b"], kernel_shape=[2], pads=[1, 0])], ()),
    "MaxPool": (8, 17, [node("MaxPool", ["a"], ["b"], kernel_shape=[3])], ()),
    "GRU": (7, 17, [node("GRU", ["a", "w", "r"], ["", "b"], hidden_size=2)], GRU),
    "Shape": (13, 17, [node("Shape", ["a"], ["l"]), node("Cast", ["l"], ["b"], to=1)], ()),
    "Cast": (13, 21, [node("Cast", ["a"], ["i"], to=7), node("Cast", ["i"], ["b"], to=1)], ()),
    "Constant": (
        9,
        17,
        [node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(2))), node("Mul", ["a", "c"], ["b"])],
        (),
    ),
    "TopK": (
        10,
        17,
        [
            node("Constant", [], ["k"], value=numpy_helper.from_array(np.int64([2]))),
            node("TopK", ["a", "k"], ["b", "i"]),
        ],
        (),
    ),
    "Resize": (
        13,
        21,
        [node("Resize", ["a", "", "z"], ["b"], mode="linear")],
        [numpy_helper.from_array(np.float32([1, 1, 2]), "z")],
    ),
    "Shape of a later opset": (15, 13, [node("Shape", ["a"], ["l"]), node("Cast", ["l"], ["b"], to=1)], ()),
}


@pytest.mark.parametrize("case", SAME)
def test_a_function_of_another_opset_is_inlined_where_its_operators_mean_the_same(case):
    """Later versions take more types, or have more attributes, whose defaults change nothing."""
    written, wanted, body, weights = SAME[case]
    proto, plain = called_function(body, written, wanted, [2, 3, 4], weights)
    x = normal(2, 3, 4, seed=1)
    model = Model.from_proto(proto)
    assert model.opset == wanted and not any(one.domain for one in model.nodes)
    (expected,) = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"a": x}
    )
    assert np.array_equal(run(model, {"a": x})[0], expected)


@pytest.mark.parametrize(
    ("op", "written", "wanted", "body"),
    [
        ("Softmax", 11, 17, [node("Softmax", ["a"], ["b"], axis=1)]),
        ("ReduceSum", 11, 17, [node("ReduceSum", ["a"], ["b"], axes=[1])]),
        ("RoiAlign", 10, 17, [node("RoiAlign", ["a", "a", "a"], ["b"])]),
        ("Split", 13, 18, [node("Split", ["a"], ["b", "c"], axis=2)]),
        ("GroupNormalization", 18, 21, [node("GroupNormalization", ["a", "a", "a"], ["b"], num_groups=1)]),
        ("Shape", 15, 13, [node("Shape", ["a"], ["b"], start=1)]),
        ("GridSample", 16, 20, [node("GridSample", ["a", "a"], ["b"])]),
    ],
)
def test_a_function_of_another_opset_is_refused_where_an_operator_may_mean_something_else(op, written, wanted, body):
    proto, _ = called_function(body, written, wanted, [2, 3, 4])
    said = f"'own::Part' cannot be inlined: it is written in ai.onnx {written}, and the model in ai.onnx {wanted}.* where {op} may"
    with pytest.raises(ModelError, match=said):
        Model.from_proto(proto)


def test_a_plugin_that_is_called_like_an_operator_keeps_no_opset_down(residual):
    first = residual.nodes[0]
    first.op, first.domain = "GroupNormalization", "own"
    residual.graph.import_domains = [*(residual.graph.import_domains or []), helper.make_opsetid("own", 1)]
    residual.raise_opset(21)
    assert residual.opset == 21 and ops(residual)["GroupNormalization"] == 1


@pytest.mark.parametrize("inner", [False, True])
def test_a_node_stored_twice_is_refused_by_its_name(inner):
    model = Model.from_proto(nested(True))
    holder = next(node for node, _ in model.walk() if node.op == "If")
    twice = holder.attrs["then_branch"].nodes[0] if inner else model.graph.nodes[0]
    (holder.attrs["then_branch"] if inner else model.graph).nodes.append(twice)
    with pytest.raises(PassError, match=f"two nodes are named '{twice.name}'"):
        model.check()


def test_a_cycle_and_doubled_names_break_the_invariants(residual):
    residual.node("c1").name = "c2"
    with pytest.raises(PassError, match="named 'c2'"):
        residual.check()


def test_facts_hold_every_corner_of_every_profile(residual):
    small = ShapeProfile("small", {"x": Extent((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))})
    facts = residual.facts(Profiles((small,)))
    assert facts.shapes["c1"] == [(1, 8, 8, 8), (2, 8, 8, 8), (4, 8, 8, 8)]
    assert facts.is_float("c1") and facts.rank("f") == 2


def test_shape_arithmetic_is_computed_where_onnx_does_not_follow_it():
    """A head's width as exporters write it: the last dimension, divided, through Casts; nothing is left unknown."""
    parts = [
        node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "two"], ["width"]),
        node("Div", ["width", "heads"], ["quotient"]), node("Cast", ["quotient"], ["wide"], to=TensorProto.FLOAT),
        node("Cast", ["wide"], ["head"], to=TensorProto.INT64), node("Unsqueeze", ["head", "zero"], ["one"]),
        node("Concat", ["lead", "one"], ["split"], axis=0), node("Reshape", ["x", "split"], ["r"]),
        node("Transpose", ["r"], ["q"], perm=[0, 2, 1, 3]), node("Transpose", ["r"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["y"]),
    ]  # fmt: skip
    weights = {"two": np.int64(2), "heads": np.int64(4), "zero": np.array([0]), "lead": np.array([0, 0, 4])}
    model = Model.from_proto(build(parts, {"x": ["n", 16, 64]}, {"y": None}, weights))
    sizes = ShapeProfile("p", {"x": Extent((1, 16, 64), (2, 16, 64), (8, 16, 64))})
    facts = model.facts(Profiles((sizes,)))
    assert facts.shapes["q"] == [(n, 4, 16, 16) for n in (1, 2, 8)]
    assert facts.shapes["shape"] == [(3,)] * 3 and facts.types["head"] == TensorProto.INT64
    assert not [
        t.name for n in model.nodes for t in n.outputs if any(-1 in s for s in facts.shapes.get(t.name, [(-1,)]))
    ]
    opt = costs.facts_at_opt(model, Profiles((sizes,)))
    assert costs.macs(model.nodes[-1], opt) == 2 * 4 * 16 * 16 * 16


@pytest.mark.parametrize(
    "kind", [{"value_ints": [0, 0, 4, -1]}, {"value": onnx.numpy_helper.from_array(np.array([0, 0, 4, -1]))}]
)
def test_shapes_written_as_constants_are_followed(kind):
    parts = [
        node("Constant", [], ["split"], **kind), node("Constant", [], ["half"], value_float=0.5),
        node("Shape", ["x"], ["shape"]), node("Cast", ["shape"], ["wide"], to=TensorProto.FLOAT),
        node("Mul", ["wide", "half"], ["less"]), node("Cast", ["less"], ["size"], to=TensorProto.INT64),
        node("ConstantOfShape", ["size"], ["mask"]), node("Reshape", ["x", "split"], ["y"]),
    ]  # fmt: skip
    model = Model.from_proto(build(parts, {"x": ["n", 16, 64]}, {"y": None, "mask": None}))
    facts = model.facts(Profiles((ShapeProfile("p", {"x": Extent((2, 16, 64), (2, 16, 64), (8, 16, 64))}),)))
    assert facts.shapes["mask"] == [(1, 8, 32), (4, 8, 32)] and facts.shapes["y"] == [(n, 16, 4, 16) for n in (2, 8)]


@pytest.mark.parametrize(
    ("op", "opset"), [("GroupNormalization", 18), ("GroupNormalization", 21), ("MeanVarianceNormalization", 13)]
)
def test_shapes_go_on_after_operators_of_which_onnx_infers_nothing(op, opset):
    """A block of a diffusion model, whose output declares no type either; what is computed stays."""
    grouped = op == "GroupNormalization"
    groups = 2 if opset == 18 else 8
    normalize = node(op, ["c", "s", "b"], ["g"], num_groups=2) if grouped else node(op, ["c"], ["g"])
    proto = build(
        [node("Conv", ["x", "w"], ["c"]), normalize, node("Conv", ["g", "v"], ["d"]),
         node(op, ["d", "s", "b"], ["y"], num_groups=2) if grouped else node(op, ["d"], ["y"])],
        {"x": ["n", 4, 6, 6]}, {"y": None},
        {"w": normal(8, 4, 1, 1), "v": normal(8, 8, 3, 3), "s": np.ones(groups, np.float32), "b": np.zeros(groups, np.float32)},
        opset,
    )  # fmt: skip
    proto.graph.output[0].ClearField("type")
    model = Model.from_proto(proto)
    extent = Extent((1, 4, 6, 6), (1, 4, 6, 6), (2, 4, 6, 6))
    facts = model.facts(Profiles((ShapeProfile("p", {"x": extent}),)))
    assert facts.shapes["g"] == [(n, 8, 6, 6) for n in (1, 2)] and facts.shapes["y"] == [(n, 8, 4, 4) for n in (1, 2)]
    assert op in ops(model)


@pytest.mark.parametrize("rank", [2, 3])
def test_shapes_go_on_behind_operators_of_other_domains_that_keep_them(rank):
    """Features scaled by scikit-learn's converter, given as whole numbers; a block fused by onnxruntime, with its sum."""
    ml = helper.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])
    fused = helper.make_node(
        "SkipLayerNormalization", ["m", "m", "s", "b"], ["l", "", "", "sum"], "fused", domain="com.microsoft"
    )
    gelu = helper.make_node("BiasGelu", ["l", "b"], ["g"], "gelu", domain="com.microsoft")
    nodes = [
        ml,
        node("MatMul", ["scaled", "w"], ["m"]),
        fused,
        gelu,
        node("MatMul", ["g", "v"], ["y"]),
        node("Abs", ["sum"], ["z"]),
    ]
    weights = {"w": normal(6, 8), "v": normal(8, 3), "s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
    proto = build(
        nodes, {"x": ["n", 5, 6][3 - rank :]}, {"y": None, "z": None}, weights, types={"x": TensorProto.INT64}
    )
    proto.opset_import.extend([helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("com.microsoft", 1)])
    model = Model.from_proto(proto)
    given = (2, 5, 6)[3 - rank :]
    facts = model.facts(Profiles((ShapeProfile("p", {"x": Extent(given, given, given)}),)))
    assert facts.types["scaled"] == TensorProto.FLOAT == facts.types["m"]
    assert facts.shapes["scaled"] == [given]
    assert [facts.shapes[name] for name in ("l", "sum", "g", "z", "y")] == [[(*given[:-1], 8)]] * 4 + [
        [(*given[:-1], 3)]
    ]
    assert {"SkipLayerNormalization", "BiasGelu", "Scaler"} <= set(ops(model))


def test_shapes_go_on_behind_what_onnxruntime_fuses():
    """A patch convolution, products and attention as its optimizers write them: the work behind them is known."""

    def fused(op, inputs, outputs, **settings):
        return helper.make_node(op, inputs, outputs, outputs[0], domain="com.microsoft", **settings)

    nodes = [
        fused("FusedConv", ["x", "w"], ["c"], kernel_shape=[2, 2], strides=[2, 2], activation="Relu"),
        node("Reshape", ["c", "rows"], ["flat"]), node("Transpose", ["flat"], ["t"], perm=[0, 2, 1]),
        node("SimplifiedLayerNormalization", ["t", "gain"], ["n"], axis=-1),
        fused("FusedMatMul", ["n", "wide"], ["q"], alpha=0.5, transB=1), fused("FusedMatMul", ["n", "narrow"], ["v"]),
        fused("MultiHeadAttention", ["q", "q", "v"], ["a"], num_heads=2), fused("RotaryEmbedding", ["a", "ids", "cos", "sin"], ["r"]),
        fused("GroupQueryAttention", ["q", "k", "k", "", "", "lengths", "total"], ["g", "past", "more"], num_heads=4, kv_num_heads=2),
        fused("FusedMatMul", ["a", "g"], ["s"], transA=1), fused("FusedGemm", ["m", "dense", "bias"], ["y"], activation="Relu"),
    ]  # fmt: skip
    weights = {
        "w": normal(8, 3, 2, 2), "rows": np.array([0, 8, -1]), "gain": np.ones(8, np.float32), "wide": normal(16, 8), "narrow": normal(8, 4),
        "ids": np.zeros(1, np.int64), "cos": normal(9, 2), "sin": normal(9, 2), "k": normal(2, 9, 8), "lengths": np.array([8, 8], np.int32),
        "total": np.array([9], np.int32), "dense": normal(4, 5), "bias": normal(5), "m": normal(6, 4),
    }  # fmt: skip
    proto = build(nodes, {"x": ["n", 3, 6, 6]}, dict.fromkeys(("r", "s", "g", "y")), weights)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    extent = Extent((2, 3, 6, 6), (2, 3, 6, 6), (2, 3, 6, 6))
    shapes = Model.from_proto(proto).facts(Profiles((ShapeProfile("p", {"x": extent}),))).shapes
    expected = {
        "c": (2, 8, 3, 3), "n": (2, 9, 8), "q": (2, 9, 16), "v": (2, 9, 4), "a": (2, 9, 4), "r": (2, 9, 4), "g": (2, 9, 16),
        "s": (2, 4, 16), "y": (6, 5),
    }  # fmt: skip
    assert {name: shapes.get(name) for name in expected} == {name: [shape] for name, shape in expected.items()}


def test_what_depends_on_values_stays_unknown():
    parts = [node("NonZero", ["x"], ["where"]), node("Shape", ["where"], ["s"]), node("ConstantOfShape", ["s"], ["y"])]
    model = Model.from_proto(build(parts, {"x": ["n", 4]}, {"y": None}))
    facts = model.facts(Profiles((ShapeProfile("p", {"x": Extent((1, 4), (2, 4), (2, 4))}),)))
    assert all(shape in ((2, -1),) for shape in facts.shapes["where"]) and "y" not in {
        name for name, shapes in facts.shapes.items() if shapes and all(-1 not in shape for shape in shapes)
    }


@pytest.mark.parametrize("path", [*sorted(LIGHT.glob("*.onnx")), *sorted(MODELS.glob("*.onnx"))], ids=lambda p: p.stem)
def test_real_models_load_check_and_keep_their_signature(path):
    model = Model.load(path)
    before = model.signature()
    model.check()
    assert model.fingerprint() == model.copy().fingerprint()
    assert model.signature() == before
    with pytest.raises(PassError):
        model.node("no such node")


@settings(max_examples=20, deadline=None)
@given(names=st.lists(st.sampled_from(["", "a", "b", "a_2"]), min_size=1, max_size=8))
def test_names_are_unique_whatever_they_were(names):
    nodes = [node("Relu", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"]) for i in range(len(names))]
    proto = build(nodes, {"x": [2]}, {f"t{len(names) - 1}": [2]})
    for one, name in zip(proto.graph.node, names):
        one.name = name
    found = Model.from_proto(proto).node_names()
    assert len(set(found)) == len(names) and all(found)


def test_constants_fold_in_a_light_model_without_losing_a_node_name():
    model = Model.load(LIGHT / "light_squeezenet.onnx")
    convs = [n.name for n in model.nodes if n.op == "Conv"]
    FoldConstants()(model)
    assert [n.name for n in model.nodes if n.op == "Conv"] == convs
    assert "ConstantOfShape" not in ops(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10_means_the_same_after_conversion(mode):
    model = Model.from_proto(build(
        [node("Resize", ["x", "s"], ["y"], mode=mode)], {"x": [1, 2, 4, 4]}, {"y": None}, {"s": np.float32([1, 1, 2, 2])}, opset=10,
    ))  # fmt: skip
    x = normal(1, 2, 4, 4)
    before = run(model, {"x": x})[0]
    model.raise_opset(19)
    assert np.allclose(run(model, {"x": x})[0], before, atol=1e-5)
    assert model.node_names() == ["y"]


def test_an_opset_that_defines_all_operators_alike_is_another_number(monkeypatch, residual):
    x = {"x": normal(2, 3, 8, 8)}
    before, names = run(residual, x)[0], residual.node_names()
    convert = "onnx.version_converter.convert_version"
    with monkeypatch.context() as patch:
        patch.setattr(convert, lambda proto, target: pytest.fail("it was converted"))
        assert residual.raise_opset(19) == [] and residual.opset == 19
        # Flatten of opset 21 takes more types
        assert residual.raise_opset(21) == [] and residual.opset == 21
    residual.check()
    assert np.array_equal(run(residual, x)[0], before) and residual.node_names() == names
    # who says that GlobalAveragePool of opset 22 is the same?
    targets = []
    monkeypatch.setattr(convert, lambda proto, target: targets.append(target) or proto)
    residual.raise_opset(22)
    assert targets == [22]


def test_bodies_are_of_the_new_opset_where_it_is_another_number(monkeypatch):
    sides = {
        f"{word}_branch": helper.make_graph(
            [node(op, ["x"], [word])], word, [], [helper.make_tensor_value_info(word, TensorProto.FLOAT, [2])]
        )
        for word, op in (("then", "Relu"), ("else", "Neg"))
    }
    types = {"yes": TensorProto.BOOL}
    proto = build([node("If", ["yes"], ["y"], **sides)], {"x": [2], "yes": []}, {"y": [2]}, types=types)
    model = Model.from_proto(proto)
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *given: pytest.fail("it was converted"))
    assert model.raise_opset(21) == []
    assert {graph.opset for _, graph in model.walk()} == {21}
    model.check(types=True)
    x = np.float32([-1, 2])
    assert np.array_equal(run(model, {"x": x, "yes": np.array(True)})[0], [0, 2])
    assert np.array_equal(run(model, {"x": x, "yes": np.array(False)})[0], [1, -2])


def test_a_graph_that_was_converted_goes_at_once():
    model = Model.from_proto(build([node("ReduceMean", ["x"], ["y"], axes=[1])], {"x": [2, 3]}, {"y": None}))
    old = weakref.ref(model.nodes[0])
    was = gc.isenabled()
    gc.disable()
    try:
        model.raise_opset(18)
        assert old() is None and np.allclose(run(model, {"x": np.ones((2, 3), np.float32)})[0], 1)
    finally:
        if was:
            gc.enable()


@pytest.mark.parametrize(("op", "since"), SAME_FROM.items())
def test_operators_that_keep_their_meaning_gain_nothing_that_must_be_given(op, since):
    old, new = onnx.defs.get_schema(op, since, ""), onnx.defs.get_schema(op, onnx.defs.onnx_opset_version(), "")
    assert old.since_version == since
    assert [one.name for one in old.inputs] == [one.name for one in new.inputs]
    assert old.attributes.keys() <= new.attributes.keys()
    assert not any(new.attributes[name].required for name in new.attributes.keys() - old.attributes.keys())


def test_a_deep_model_needs_no_deep_recursion():
    nodes, names = [], ["x"]
    for i in range(700):
        nodes += [node("Conv", [names[-1], "w"], [f"c{i}"]), node("Relu", [f"c{i}"], [f"r{i}"])]
        names.append(f"r{i}")
    proto = build(nodes, {"x": [1, 2, 3, 3]}, {names[-1]: [1, 2, 3, 3]}, {"w": normal(2, 2, 1, 1, scale=0.5)})
    model = Model.from_proto(proto)
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert ops(model)["QuantizeLinear"] == 701


def test_a_copy_keeps_constants_that_subgraphs_share_one():
    """So that a pass that replaces or renames one does it everywhere."""
    from tests.control_flow import layers_in_branches, nested

    for proto in (layers_in_branches(), nested(False)):
        model = Model.from_proto(proto)
        twin = model.copy()
        counts = []
        for one in (model, twin):
            constants = {id(t): t.name for n, _ in one.walk() for t in n.inputs if isinstance(t, gs.Constant)}
            counts.append(sorted(constants.values()))
        assert counts[0] == counts[1]


def test_a_settled_graph_is_exported_once_and_its_copies_are_free(monkeypatch):
    exported = []
    whole = graph_model.export

    def counting(*given, **more):
        exported.append(given)
        return whole(*given, **more)

    monkeypatch.setattr(graph_model, "export", counting)
    model = Model.from_proto(residual_proto())
    before = model.fingerprint()
    with model.settled():
        model.facts()
        assert (model.fingerprint(), len(exported)) == (before, 2)
        model.once("looked", lambda: exported.append("looked"))
        model.once("looked", lambda: exported.append("looked again"))
        model.tidy()
        # a change by the model's own methods is seen
        model.to_proto()
    assert exported[2] == "looked" and len(exported) == 4
    twin = model.settle().copy()
    twin.nodes[0].name = "renamed"
    assert twin.fingerprint() != before == model.fingerprint()


def test_a_settled_graph_is_checked_in_the_order_that_checking_gives_it():
    model = Model.from_proto(residual_proto())
    model.graph.nodes.reverse()
    with model.settled():
        model.to_proto()
        model.check()
        assert [node.name for node in model.to_proto().graph.node] == model.node_names()


def test_what_checking_found_holds_until_the_graph_is_changed(monkeypatch):
    exported = []
    whole = graph_model.export
    monkeypatch.setattr(graph_model, "export", lambda *given: exported.append(given) or whole(*given))
    model = Model.from_proto(residual_proto())
    model.check()
    before = model.settle(checked=True).to_bytes()
    assert len(exported) == 1 and before == Model.from_proto(residual_proto()).settle().to_bytes()
    # a settled graph is not said to be as it was checked, nor is one that a pass or the model itself changed since
    for changes in (Model.tidy, Model.changing, lambda one: FoldConstants().apply(one, Context())):
        other = Model.from_proto(residual_proto())
        other.check()
        changes(other)
        other.nodes[0].name = "renamed"
        exported.clear()
        assert "renamed" in [node.name for node in other.settle(checked=True).to_proto().graph.node]
        assert len(exported) == 1


def test_types_and_shapes_of_one_kind_are_held_once(residual):
    found = residual.facts()
    lists = {id(shapes): tuple(shapes) for shapes in found.shapes.values()}
    assert len(set(lists.values())) == len(lists) < len(found.shapes)


def test_checking_types_refuses_what_strict_inference_refuses(residual):
    residual.check(types=True)
    assert residual.types_fault() is None
    residual.graph.outputs[0].dtype = np.int64
    residual.check()
    with pytest.raises(PassError, match="shape inference refuses the graph"):
        residual.check(types=True)
