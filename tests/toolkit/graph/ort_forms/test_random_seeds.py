"""Random numbers that are the same in every run: of the right kind, and none that hang on a batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node
from toolkit.graph.ort_forms.random_seeds import STEADY, fix_random_seeds
from toolkit.graph.proto.nodes import all_nodes
from toolkit.graph.sessions.session import session


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


@pytest.mark.parametrize("opset", [11, 14, 15])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_type_that_is_the_inputs_is_taken_from_it_in_any_opset(kind, opset):
    nodes = [node("Cast", ["x"], ["h"], to=kind), node("RandomNormalLike", ["h"], ["r"], "draw")]
    nodes += [node("Add", ["h", "r"], ["a"]), node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)]
    proto = build(nodes, {"x": ["n", 50, 100]}, {"y": None}, {}, opset)
    found = drawn(proto)
    assert np.array_equal(found, drawn(proto)) and found.std() == pytest.approx(1, abs=0.05)
    assert not fix_random_seeds(build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}))


def test_a_type_that_nobody_knows_leaves_the_node_as_it_is_before_types_can_be_taken():
    nodes = [node("Mystery", ["x"], ["h"], domain="com.mine"), node("RandomNormalLike", ["h"], ["y"], "draw")]
    for opset, replaced in ((14, False), (15, True)):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])]
        graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name="y")])
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.mine", 1)]
        assert fix_random_seeds(helper.make_model(graph, opset_imports=opsets)) is replaced


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("opset", [12, 15, 22])
def test_a_dropout_that_trains_drops_the_same_in_every_run(opset, kind):
    half = helper.tensor_dtype_to_np_dtype(kind).type
    nodes = [node("Cast", ["x"], ["h"], to=kind), node("Dropout", ["h", "share", "trains"], ["d", "mask"], "drop")]
    nodes += [node("Cast", ["d"], ["y"], to=TensorProto.FLOAT), node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT)]
    for trains in (True, False):
        weights = {"share": np.array(0.25, half), "trains": np.array(trains)}
        loaded = session(build(nodes, {"x": ["n", 50, 100]}, {"y": None, "m": None}, weights, opset))
        x = np.random.default_rng(0).standard_normal((4, 50, 100)).astype(half).astype(np.float32)
        found, again = (loaded.run({"x": x}) for _ in range(2))
        assert np.array_equal(found["y"], again["y"])
        if not trains:
            assert np.array_equal(found["y"], x) and found["m"].all()
            continue
        assert found["m"].mean() == pytest.approx(0.75, abs=0.02)
        assert all(np.array_equal(row, found["m"][0]) for row in found["m"])
        np.testing.assert_allclose(found["y"], x * found["m"] / 0.75, rtol=2e-3)


def test_a_dropout_that_never_trains_stays():
    for trains in ({"trains": np.array(False)}, {}):
        inputs = ["x", "", "trains"] if trains else ["x"]
        assert not fix_random_seeds(build([node("Dropout", inputs, ["y"])], {"x": [2]}, {"y": [2]}, trains, 13))
    told = build([node("Dropout", ["x", "", "t"], ["y"])], {"x": [2]}, {"y": [2]}, {"t": np.array(True)}, 13)
    assert fix_random_seeds(told)


def test_classes_are_drawn_as_often_as_they_are_likely_and_the_same_in_every_run():
    shares = np.array([[0.2, 0.5, 0.3], [0.05, 0.05, 0.9]], np.float32)
    nodes = [node("Log", ["x"], ["l"]), node("Multinomial", ["l"], ["c"], "draw", sample_size=4000, dtype=7)]
    loaded = session(build([*nodes, node("Cast", ["c"], ["y"], to=1)], {"x": ["n", 3]}, {"y": None}))
    found = loaded.run({"x": shares})["y"]
    assert found.shape == (2, 4000) and np.array_equal(found, loaded.run({"x": shares})["y"])
    np.testing.assert_allclose([[(row == k).mean() for k in range(3)] for row in found], shares, atol=0.03)


def test_what_is_drawn_at_any_depth_is_replaced():
    def draw(out):
        return node("RandomUniform", [], [out], f"draw {out}", shape=[40])

    def branch(nodes, out):
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])

    inner = branch([draw("a")], "a")
    nodes = [draw("b"), node("If", ["c"], ["d"], "inner", then_branch=inner, else_branch=inner)]
    outer = branch([*nodes, node("Add", ["b", "d"], ["e"])], "e")
    nodes = [
        draw("f"),
        node("If", ["c"], ["g"], "outer", then_branch=outer, else_branch=outer),
        node("Add", ["f", "g"], ["y"]),
    ]
    proto = build(nodes, {"x": [1]}, {"y": None}, {"c": np.array(True)})
    feed = {"x": np.zeros(1, np.float32)}
    assert np.array_equal(session(proto).run(feed)["y"], session(proto).run(feed)["y"])
    assert fix_random_seeds(proto) and not any(one.op_type in STEADY for one in all_nodes(proto.graph.node))
