"""Names that a subgraph gives to tensors of its own although one around it has them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit import Model
from toolkit.graph.proto.nodes import subgraphs_of
from toolkit.graph.proto.scopes import unshadowed
from toolkit.graph.sessions.session import session


def value(name, dims):
    return helper.make_tensor_value_info(name, 1, dims)


def shadowing():
    """An If whose branches have a weight and a tensor called as ones around them, and in one an If that reads both."""
    inner = [
        helper.make_graph([node(op, ["h"], ["z"], name=f"inner {op}")], "inner", [], [value("z", ["n", 4])])
        for op in ("Relu", "Neg")
    ]
    then = helper.make_graph(
        [node("MatMul", ["a", "w"], ["h"], name="own w"),
         node("If", ["c"], ["z"], then_branch=inner[0], else_branch=inner[1], name="inner if")],
        "then", [], [value("z", ["n", 4])], [numpy_helper.from_array(normal(6, 4, seed=9), "w")],
    )  # fmt: skip
    other = helper.make_graph([node("MatMul", ["a", "w"], ["z"], name="outer w")], "else", [], [value("z", ["n", 4])])
    return build(
        [node("MatMul", ["x", "v"], ["a"]), node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["c"]),
         node("If", ["c"], ["i"], then_branch=then, else_branch=other, name="if"),
         node("MatMul", ["a", "w"], ["h"]), node("Add", ["h", "i"], ["z"]), node("Identity", ["z"], ["y"])],
        {"x": ["n", 5]}, {"y": ["n", 4]}, {"v": normal(5, 6, seed=1), "w": normal(6, 4, seed=2), "zero": np.float32(0)},
    )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_read_within_stays_what_it_is_and_nothing_has_two_names(sign):
    proto = shadowing()
    x = {"x": sign * np.abs(normal(3, 5, seed=4))}
    a = x["x"] @ normal(5, 6, seed=1)
    own, outer = a @ normal(6, 4, seed=9), a @ normal(6, 4, seed=2)
    wanted = outer + (np.maximum(own, 0) if sign > 0 else outer)
    model = Model.from_proto(proto)
    np.testing.assert_allclose(session(model).run(x)["y"], wanted, rtol=1e-5, atol=1e-6)
    model.check()
    # the branch's w and h, and z of both branches and of the inner ones
    assert unshadowed(proto.graph) == 6 and not unshadowed(proto.graph)
    around = {name for one in proto.graph.node for name in one.output} | {t.name for t in proto.graph.initializer}
    for graph in subgraphs_of(proto.graph):
        own = {name for one in graph.node for name in one.output} | {t.name for t in graph.initializer}
        assert not own & around and {v.name for v in graph.output} <= own
