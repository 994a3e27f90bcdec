"""What onnxruntime can run of a model with plugins, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.base.errors import ModelError
from toolkit.graph.ort_forms.kernels import runs
from toolkit.graph.sessions.measured import measured_outputs
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session


def plugin(op, inputs, outputs, name, domain=""):
    return helper.make_node(op, inputs, outputs, name, domain=domain)


def branched(domain="my.ops"):
    """a feeds both a plugin and a Conv; their sum is y, the Conv alone z."""
    proto = build(
        [
            node("Conv", ["x", "w0"], ["a"]),
            node("Conv", ["a", "w1"], ["b"]),
            plugin("Plug", ["a"], ["p"], "plug", domain),
            node("Add", ["b", "p"], ["s"]),
            node("Conv", ["s", "w2"], ["y"]),
            node("GlobalAveragePool", ["b"], ["z"]),
        ],
        {"x": ["n", 3, 4, 4]}, {"y": None, "z": ["n", 4, 1, 1]},
        {"w0": normal(4, 3, 1, 1), "w1": normal(4, 4, 1, 1, seed=1), "w2": normal(2, 4, 1, 1, seed=2)},
    )  # fmt: skip
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return Model.from_proto(proto)


@pytest.mark.parametrize("domain", ["", "my.ops", "TRT"])
def test_a_plugin_in_the_middle_leaves_what_does_not_need_it(domain):
    model = branched(domain)
    left = not_run(model)
    assert left.plugins == {"plug": f"{domain}::Plug" if domain else "Plug"}
    assert left.downstream == {"s": "plug", "y": "plug"}
    assert left.tensors.keys() == {"p", "s", "y"}
    assert left.feeds == ["a", "b"]
    loaded = session(model)
    assert list(loaded.outputs) == measured_outputs(model) == ["z", "a", "b"]
    found = loaded.run({"x": normal(2, 3, 4, 4)})
    np.testing.assert_allclose(found["z"][..., 0, 0], found["b"].mean((2, 3)), atol=1e-6)
    with pytest.raises(ModelError, match=r"'s' comes from node 'plug'"):
        session(model, outputs=["s"])
    model.check()


def test_a_plugin_at_the_beginning_leaves_nothing():
    model = Model.from_proto(
        build(
            [plugin("Pre_TRT", ["x"], ["p"], "pre"), node("Conv", ["p", "w"], ["y"])],
            {"x": ["n", 3, 4, 4]}, {"y": None}, {"w": normal(4, 3, 1, 1)},
        )
    )  # fmt: skip
    loaded = session(model, outputs=["x"])
    x = normal(1, 3, 4, 4)
    assert loaded.outputs == ("x",) and loaded.run({"x": x})["x"] is x
    assert session(model).outputs == () and session(model).run({"x": x}) == {}


def test_a_plugin_inside_an_if_is_that_of_the_node_around_it():
    then = helper.make_graph(
        [plugin("Plug", ["a"], ["t"], "inner", "my.ops")], "then", [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Identity", ["a"], ["e"])], "other", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)]
    )
    proto = build(
        [
            node("Relu", ["x"], ["a"]),
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Greater", ["m", "zero"], ["c"]),
            node("If", ["c"], ["i"], then_branch=then, else_branch=other),
            node("Neg", ["i"], ["y"]),
        ],
        {"x": ["n", 4]}, {"y": None}, {"zero": np.array(0, np.float32)},
    )  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    for source in (Model.from_proto(proto), proto):
        assert session(source).outputs == ("a",)
    assert not_run(Model.from_proto(proto)).plugins == {"i": "my.ops::Plug"}


def test_integers_count_only_where_a_plugin_reads_no_float():
    nodes = [node("ArgMax", ["x"], ["i"], axis=1), node("Abs", ["x"], ["a"])]
    mixed = build([*nodes, plugin("Plug", ["i", "a"], ["y"], "p")], {"x": ["n", 4]}, {"y": None})
    alone = build([nodes[0], plugin("Plug", ["i"], ["y"], "p")], {"x": ["n", 4]}, {"y": None})
    assert session(mixed).outputs == ("a",)
    assert session(alone).outputs == ("i",)


def test_functions_and_contributed_operators_are_no_plugins():
    assert runs("", "Conv") and runs("com.microsoft", "FusedMatMul") and runs("", "Constant")
    # no kernel, but a function that is made of others
    assert runs("", "Bernoulli", 17) and runs("ai.onnx", "Mish", 18)
    assert not runs("", "EfficientNMS_TRT", 17) and not runs("my.ops", "Conv")
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = build([helper.make_node("Twice", ["x"], ["y"], "t", domain="own")], {"x": [2]}, {"y": None})
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    assert session(proto).run({"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]


def test_an_operator_that_onnx_does_not_have_survives_a_raised_opset():
    proto = build(
        [node("Conv", ["x", "w"], ["a"]), plugin("Plug_TRT", ["a"], ["y"], "p")],
        {"x": ["n", 3, 4, 4]}, {"y": None}, {"w": normal(4, 3, 1, 1)}, opset=11,
    )  # fmt: skip
    model = Model.from_proto(proto)
    model.raise_opset(13)
    model.check()
    assert model.opset == 13 and model.node("p").op == "Plug_TRT" and not model.node("p").domain
