"""Random numbers that are the same in every run: of the right kind, and none that hang on a batch."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node
from toolkit.graph.drawn import STEADY, draw_the_same
from toolkit.graph.nodes import all_nodes
from toolkit.graph.sessions import session


def drawing(op, *, opset=17, name="draw", rank=3, inner=False, **attrs):
    """y is what ``op`` draws, like x or of a shape of its own; within an If where ``inner``."""
    like = ["x"] if op.endswith("Like") or op == "Bernoulli" else []
    made = [node(op, like, ["r"], name, **attrs), node("Cast", ["r"], ["y"], to=TensorProto.FLOAT)]
    if inner:
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        branch = helper.make_graph(made, "branch", [], [out])
        made = [node("If", ["c"], ["y"], "if", then_branch=branch, else_branch=branch)]
    made.append(node("Identity", ["x"], ["z"]))
    sides = [f"n{i}" for i in range(rank)]
    return build(made, {"x": sides}, {"y": None, "z": sides}, {"c": np.array(True)} if inner else {}, opset)


def drawn(proto, shape=(4, 50, 100)):
    return session(proto).run({"x": np.full(shape, 0.3, np.float32)})["y"]


@pytest.mark.parametrize("opset", [9, 11, 17, 22])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(
    ("op", "attrs", "mean", "deviation"),
    [
        ("RandomNormalLike", {"dtype": 1}, 0.0, 1.0),
        ("RandomNormalLike", {"dtype": 10, "mean": 2.0, "scale": 3.0}, 2.0, 3.0),
        ("RandomNormal", {"shape": [100, 50], "scale": 0.5}, 0.0, 0.5),
        ("RandomUniformLike", {"dtype": 1, "low": -1.0, "high": 5.0}, 2.0, 6 / 12**0.5),
        ("RandomUniform", {"shape": [5000], "dtype": 10, "seed": 3.0}, 0.5, 12**-0.5),
    ],
)
def test_numbers_are_of_the_kind_that_the_node_says(op, attrs, mean, deviation, opset, inner):
    proto = drawing(op, opset=opset, inner=inner, **attrs)
    found = drawn(proto)
    assert found.mean() == pytest.approx(mean, abs=0.05 * deviation)
    assert found.std() == pytest.approx(deviation, rel=0.03)
    near = (np.abs(found - mean) < deviation).mean()
    assert near == pytest.approx(0.683 if "Normal" in op else 3**-0.5, abs=0.02)
    # another node's, or another seed's, differ
    assert np.array_equal(found, drawn(proto))
    for other in (drawing(op, opset=opset, name="other", **attrs), drawing(op, opset=opset, **{**attrs, "seed": 7.0})):
        assert abs(np.corrcoef(found.reshape(-1), drawn(other).reshape(-1))[0, 1]) < 0.1


def test_a_sample_has_its_numbers_alone_and_among_others():
    proto = drawing("RandomNormalLike")
    together, alone = drawn(proto, (4, 50, 100)), drawn(proto, (1, 50, 100))
    assert all(np.array_equal(row, alone[0]) for row in together) and len(np.unique(alone)) > 4900
    # an axis alone need not be that of samples, and numbers of a shape of their own have none
    assert len(np.unique(drawn(drawing("RandomNormalLike", rank=1), (500,)))) > 490
    assert len(np.unique(drawn(drawing("RandomUniform", shape=[500])))) > 490


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 4), (1, 1)])
@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_any_shape_can_be_drawn(op, shape):
    assert drawn(drawing(op, rank=len(shape)), shape).shape == shape


def test_bernoulli_draws_as_often_as_its_input_says():
    found = drawn(drawing("Bernoulli"), (2, 100, 100))
    assert set(np.unique(found)) == {0.0, 1.0} and found.mean() == pytest.approx(0.3, abs=0.02)


def test_a_node_that_takes_its_type_from_its_input_stays_before_types_can_be_taken():
    for opset, replaced in ((14, False), (15, True)):
        assert draw_the_same(drawing("RandomNormalLike", opset=opset)) is replaced
    assert not draw_the_same(build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}))


def test_what_is_drawn_at_any_depth_is_replaced():
    def draw(out):
        return node("RandomUniform", [], [out], f"draw {out}", shape=[40])

    def branch(nodes, out):
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])

    inner = branch([draw("a")], "a")
    nodes = [draw("b"), node("If", ["c"], ["d"], "inner", then_branch=inner, else_branch=inner)]
    outer = branch([*nodes, node("Add", ["b", "d"], ["e"])], "e")
    nodes = [draw("f"), node("If", ["c"], ["g"], "outer", then_branch=outer, else_branch=outer), node("Add", ["f", "g"], ["y"])]
    proto = build(nodes, {"x": [1]}, {"y": None}, {"c": np.array(True)})
    feed = {"x": np.zeros(1, np.float32)}
    assert np.array_equal(session(proto).run(feed)["y"], session(proto).run(feed)["y"])
    assert draw_the_same(proto) and not any(one.op_type in STEADY for one in all_nodes(proto.graph.node))
