"""Multiply-accumulates of every operator that makes some, and one share of the arithmetic."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal
from tests.control_flow import layers_in_branches
from toolkit import Model
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.graph.layers.macs import macs
from toolkit.graph.layers.work import Work, facts_at_opt, node_macs, unlike_branches, work_of
from toolkit.graph.shape_inference.facts import Facts


def counted(op: str, inputs: list, outputs: list, domain: str = "", **attrs) -> int | None:
    """The count of one node whose inputs and outputs have these shapes; None leaves an input out."""
    import onnx_graphsurgeon as gs

    def tensors(kind: str, shapes: list) -> list:
        return [gs.Variable(f"{kind}{i}" if shape is not None else "") for i, shape in enumerate(shapes)]

    made = gs.Node(op, "n", attrs, tensors("i", inputs), tensors("o", outputs), domain=domain)
    shapes = {
        f"{kind}{i}": [tuple(s)] for kind, all_ in (("i", inputs), ("o", outputs)) for i, s in enumerate(all_) if s
    }
    return macs(made, Facts({}, shapes))


CONTRIB = "com.microsoft"
QKV = [(2, 5, 12), (2, 7, 12), (2, 7, 12)]
CASES = [
    ("Conv", [(2, 6, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)], {"group": 2}, 2 * 4 * 36 * 27),
    ("ConvTranspose", [(2, 6, 4, 4), (6, 3, 2, 2)], [(2, 3, 8, 8)], {}, 2 * 6 * 16 * 12),
    ("DeformConv", [(1, 3, 8, 8), (4, 3, 3, 3), (1, 18, 6, 6)], [(1, 4, 6, 6)], {}, 4 * 36 * 27),
    ("Gemm", [(5, 3), (7, 3)], [(5, 7)], {"transB": 1}, 5 * 7 * 3),
    ("Gemm", [(3, 5), (3, 7)], [(5, 7)], {"transA": 1}, 5 * 7 * 3),
    ("MatMul", [(4, 5, 3), (3, 7)], [(4, 5, 7)], {}, 4 * 5 * 7 * 3),
    # two directions, four gates of eight, three inputs, over six steps of five sequences
    ("LSTM", [(6, 5, 3), (2, 32, 3), (2, 32, 8)], [(6, 2, 5, 8)], {}, 30 * 2 * 32 * 11),
    ("LSTM", [(5, 6, 3), (2, 32, 3), (2, 32, 8)], [(5, 6, 2, 8)], {"layout": 1}, 30 * 2 * 32 * 11),
    ("GRU", [(6, 5, 3), (1, 24, 3), (1, 24, 8)], [(6, 1, 5, 8)], {}, 30 * 24 * 11),
    ("RNN", [(6, 5, 3), (1, 8, 3), (1, 8, 8)], [(6, 1, 5, 8)], {}, 30 * 8 * 11),
    ("Einsum", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], {"equation": "bij,bjk->bik"}, 2 * 3 * 4 * 5),
    ("Einsum", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], {"equation": "b i j, b j k"}, 2 * 3 * 4 * 5),
    ("Einsum", [(6, 1, 3, 4), (7, 4, 5)], [(6, 7, 3, 5)], {"equation": "...ij,...jk->...ik"}, 6 * 7 * 3 * 4 * 5),
    ("Einsum", [(3, 4), (4, 5), (5, 6)], [(3, 6)], {"equation": "ij,jk,kl->il"}, 3 * 4 * 5 + 3 * 5 * 6),
    ("Einsum", [(3, 4)], [(4, 3)], {"equation": "ij->ji"}, 0),
    # element-wise and outer products sum nothing, unlike a product of all elements
    ("Einsum", [(2, 3, 4), (2, 3, 4)], [(2, 3, 4)], {"equation": "bij,bij->bij"}, 0),
    ("Einsum", [(2, 3), (2, 4)], [(2, 3, 4)], {"equation": "bi,bj->bij"}, 0),
    ("Einsum", [(2, 3), (2, 3), (3, 5)], [(2, 5)], {"equation": "ij,ij,jk->ik"}, 2 * 3 * 5),
    ("Einsum", [(2, 3), (2, 3)], [(2,)], {"equation": "bi,bi->b"}, 2 * 3),
    ("Attention", [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)], [(2, 3, 5, 6)], {}, 2 * 3 * 5 * 7 * (4 + 6)),
    ("Attention", [(2, 6, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)], [(2, 6, 5, 6)], {}, 2 * 6 * 5 * 7 * (4 + 6)),
    ("Attention", QKV, [(2, 5, 12)], {"q_num_heads": 3, "kv_num_heads": 3}, 2 * 3 * 5 * 7 * 8),
    ("Attention", [*QKV, None, (2, 3, 9, 4), (2, 3, 9, 4)], [(2, 5, 12)], {"q_num_heads": 3, "kv_num_heads": 3}, 2 * 3 * 5 * 16 * 8),
    ("ConvInteger", [(2, 6, 8, 8), (4, 3, 3, 3)], [(2, 4, 6, 6)], {"group": 2}, 2 * 4 * 36 * 27),
    ("QLinearConv", [(2, 6, 8, 8), (), (), (4, 6, 3, 3), (), ()], [(2, 4, 6, 6)], {}, 2 * 4 * 36 * 54),
    ("MatMulInteger", [(2, 5, 3), (3, 7)], [(2, 5, 7)], {}, 2 * 5 * 7 * 3),
    ("QLinearMatMul", [(2, 5, 3), (), (), (3, 7), (), ()], [(2, 5, 7)], {}, 2 * 5 * 7 * 3),
    ("Relu", [(2, 3)], [(2, 3)], {}, 0),
    ("LinearAttention", [(2, 3)], [(2, 3)], {}, None),
    ("LSTM", [None, (2, 32, 3), (2, 32, 8)], [(6, 2, 5, 8)], {}, None),
]  # fmt: skip
FROM_CONTRIB = [
    ("FusedMatMul", [(2, 3, 5), (3, 7)], [(2, 5, 7)], {"transA": 1}, 2 * 5 * 7 * 3),
    ("FusedMatMul", [(5, 2, 3), (2, 3, 7)], [(2, 5, 7)], {"transBatchA": 1}, 2 * 5 * 7 * 3),
    ("FusedConv", [(2, 6, 8, 8), (4, 6, 3, 3)], [(2, 4, 6, 6)], {}, 2 * 4 * 36 * 54),
    ("QGemm", [(3, 5), (), (), (3, 7)], [(5, 7)], {"transA": 1}, 5 * 7 * 3),
    ("DynamicQuantizeMatMul", [(2, 5, 3), (3, 7)], [(2, 5, 7)], {}, 2 * 5 * 7 * 3),
    ("MatMulNBits", [(4, 5, 32), (16, 1, 16)], [(4, 5, 16)], {"K": 32, "N": 16}, 4 * 5 * 32 * 16),
    ("DynamicQuantizeLSTM", [(6, 5, 3), (2, 3, 32), (2, 8, 32)], [(6, 2, 5, 8)], {}, 30 * 2 * 32 * 11),
    # three projections of 12 channels, then scores and context over 5 keys, or 5 new and 4 old ones
    ("Attention", [(2, 5, 12), (12, 36)], [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * (12 * 36 + 5 * 24)),
    ("Attention", [(2, 5, 12), (12, 36), (36,), None, (2, 2, 3, 4, 4)], [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * (12 * 36 + 9 * 24)),
    ("Attention", [(2, 5, 12), (12, 22)], [(2, 5, 6)], {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 6]}, 2 * 5 * (12 * 22 + 5 * 14)),
    ("MultiHeadAttention", QKV, [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * 7 * 24),
    ("MultiHeadAttention", [(2, 5, 3, 3, 4)], [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * 5 * 24),
    ("MultiHeadAttention", [(2, 5, 12), (2, 7, 3, 2, 4)], [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * 7 * 24),
    ("MultiHeadAttention", [(2, 5, 12), (2, 3, 7, 4), (2, 3, 7, 4)], [(2, 5, 12)], {"num_heads": 3}, 2 * 5 * 7 * 24),
    ("GroupQueryAttention", [(2, 5, 12), (2, 5, 4), (2, 5, 4), (2, 1, 4, 4), (2, 1, 4, 4)], [(2, 5, 12), (2, 1, 9, 4)],
     {"num_heads": 3, "kv_num_heads": 1}, 2 * 5 * 9 * 24),
    ("GroupQueryAttention", [(2, 5, 20), None, None], [(2, 5, 12), None], {"num_heads": 3, "kv_num_heads": 1}, 2 * 5 * 5 * 24),
    ("LongformerAttention", [(2, 5, 12)], [(2, 5, 12)], {}, None),
    ("MoE", [(5, 12)], [(5, 12)], {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "outputs", "attrs", "wanted"), CASES, ids=lambda value: str(value)[:24])
def test_operators_of_onnx(op, inputs, outputs, attrs, wanted):
    assert counted(op, inputs, outputs, **attrs) == wanted


def test_a_product_of_vectors_has_an_output_without_axes_which_is_no_unknown_shape():
    model = Model.from_proto(build([node("MatMul", ["x", "w"], ["y"])], {"x": [3]}, {"y": []}, {"w": normal(3)}))
    assert node_macs(model, model.facts()) == {"y": 3}


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attrs", "wanted"), FROM_CONTRIB, ids=lambda value: str(value)[:24]
)
def test_operators_of_com_microsoft(op, inputs, outputs, attrs, wanted):
    assert counted(op, inputs, outputs, CONTRIB, **attrs) == wanted


@pytest.mark.parametrize("past", [0, 3])
def test_attention_counts_what_its_products_of_matrices_count(past):
    """ONNX's own definition of the operator, as the products that it is made of."""
    shapes = {"q": [2, 6, 5, 4], "k": [2, 3, 7, 4], "v": [2, 3, 7, 4]}
    given = ["q", "k", "v"]
    if past:
        shapes |= {"pk": [2, 3, past, 4], "pv": [2, 3, past, 4]}
        given += ["", "pk", "pv"]
    proto = build([node("Attention", given, ["y"])], shapes, {"y": [2, 6, 5, 4]}, opset=23, ir_version=11)
    model = Model.from_proto(proto)
    feeds = {name: normal(*shape) for name, shape in shapes.items()}
    keys, values = (
        np.repeat(np.concatenate([feeds[p], feeds[n]], 2) if past else feeds[n], 2, 1)
        for p, n in (("pk", "k"), ("pv", "v"))
    )
    scores = feeds["q"] @ keys.swapaxes(2, 3)
    assert (
        node_macs(model, model.facts())["y"] == prod(scores.shape) * 4 + prod((scores @ values).shape) * scores.shape[3]
    )


def scanned(op: str) -> Model:
    """A product of 3 and 4 in a body that runs six times, and one of 3 and 5 after it."""
    body_nodes = [node("MatMul", ["e", "w"], ["p"]), node("Add", ["s", "p"], ["s_out"])]
    inner = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("s", [2, 4]), ("e", [2, 3]))]
    made = [helper.make_tensor_value_info("s_out", TensorProto.FLOAT, [2, 4])]
    if op == "Scan":
        body = helper.make_graph(body_nodes, "body", inner, made)
        loop = node("Scan", ["s0", "x"], ["z"], body=body, num_scan_inputs=1)
    else:
        count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
        go = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("c", "c_out")]
        body_nodes = [node("Gather", ["x", "i"], ["e"], axis=0), *body_nodes, node("Identity", ["c"], ["c_out"])]
        body = helper.make_graph(body_nodes, "body", [count, go[0], inner[0]], [go[1], made[0]])
        loop = node("Loop", ["trips" if op == "Loop" else "given", "", "s0"], ["z"], body=body)
    weights = {"w": normal(3, 4), "v": normal(4, 5), "s0": np.zeros((2, 4), np.float32), "trips": np.int64(6)}
    inputs, types = {"x": [6, 2, 3]}, {}
    if op == "unknown":
        inputs["given"], types = [], {"given": TensorProto.INT64}
    proto = build([loop, node("MatMul", ["z", "v"], ["y"])], inputs, {"y": None}, weights, types=types)
    return Model.from_proto(onnx.shape_inference.infer_shapes(proto))


@pytest.mark.parametrize("op", ["Scan", "Loop"])
def test_bodies_count_as_often_as_they_run(op):
    model = scanned(op)
    found = node_macs(model, model.facts())
    assert (found["p"], found["y"]) == (6 * 2 * 3 * 4, 2 * 4 * 5)


def test_a_body_that_runs_who_knows_how_often_makes_shares_of_nodes():
    model = scanned("unknown")
    assert node_macs(model, model.facts())["p"] is None
    assert work_of(model, facts_at_opt(model, [])).of == "nodes"


def test_trips_that_are_an_inputs_length_are_known_at_opt():
    nodes = [node("Shape", ["x"], ["sides"]), node("Gather", ["sides", "first"], ["trips"])]
    model = carried([node("MatMul", ["s", "u"], ["t"])], before=nodes)
    facts = at_three(model)
    assert facts.trips == {"trips": 3}
    found = node_macs(model, facts)
    assert (found["t"], found["y"]) == (3 * 3 * 8 * 8, 3 * 8 * 5) and work_of(model, facts).of == "macs"


@pytest.mark.parametrize("trips", [2**63 - 1, 2**31 - 1])
def test_trips_that_stand_for_no_limit_make_shares_of_nodes(trips):
    model = carried([node("MatMul", ["s", "u"], ["t"])], trips=trips)
    assert node_macs(model, at_three(model))["t"] is None
    assert work_of(model, at_three(model)).of == "nodes"


def test_of_an_if_the_branch_with_the_most_work_counts():
    model = Model.from_proto(layers_in_branches())
    facts = facts_at_opt(model, Profiles((ShapeProfile("two", {"x": Extent((1, 3, 16), (2, 3, 16), (4, 3, 16))}),)))
    found = node_macs(model, facts)
    lstm = 16 * 2 * (16 * 8 + 16 * 4)
    assert (found["fast_conv"], found["fast_lstm"], found["slow_matmul"]) == (2 * 8 * 16 * 8 * 3, lstm, 0)
    assert unlike_branches(model, facts) == ["choice"]


def test_no_branch_is_said_to_count_alone_where_other_work_is_not_known():
    """Every node counts as one then, those of both branches too."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("MatMul", ["x", weight], [f"m{name}"], f"{name}_matmul")], name, [],
            [helper.make_tensor_value_info(f"m{name}", TensorProto.FLOAT, None)],
        )
        for name, weight in (("then", "narrow"), ("else", "wide"))
    }  # fmt: skip
    nodes = [node("If", ["chosen"], ["y"], "choice", **branches), node("MatMul", ["u", "narrow"], ["z"], "other")]
    constants = {"chosen": np.array(True), "narrow": normal(4, 8), "wide": normal(4, 16)}
    for length, named in ((3, ["choice"]), ("n", [])):
        model = Model.from_proto(build(nodes, {"x": [2, 4], "u": [length, 4]}, {"y": None, "z": None}, constants))
        assert unlike_branches(model, model.facts()) == named


def test_shares_are_of_what_is_known_of_all_nodes():
    work = Work.counted({"a": 30, "b": 70, "c": 0})
    assert work.of == "macs" and work.share(["a", "c", "a", "other"]) == 0.3 and work.macs_share("b") == 0.7
    for counts in ({"a": 30, "b": None}, {"a": 0, "b": 0}):
        work = Work.counted(counts)
        assert work.of == "nodes" and work.share(["a"]) == 0.5 and work.macs_share("a") is None
    assert Work.counted({}).share(["a"]) == 0.0


def carried(step, outer=False, between=False, before=(), trips=6):
    """A state that begins as x W, [n, 8], goes through ``step`` (from "s" to "t"), and is read by a product after.

    ``before`` computes "trips", the number of iterations, which is a constant where nothing does.
    """

    def value(name, kind=TensorProto.FLOAT, sides=None):
        return helper.make_tensor_value_info(name, kind, sides)

    def loop(name, before, after, body):
        ends = [value("i" + name, TensorProto.INT64, []), value("c" + name, TensorProto.BOOL, [])]
        go = node("Identity", ["c" + name], ["d" + name])
        made, inside, left = body
        graph = helper.make_graph(
            [go, *made], "body", [*ends, value(inside)], [value("d" + name, TensorProto.BOOL, []), value(left)]
        )
        return node("Loop", ["trips", "", before], [after], name, body=graph)

    body = (step, "s", "t")
    if outer:
        first = [node("Relu", ["so"], ["r"])] if between else []
        body = ([*first, loop("inner", "r" if between else "so", "to", body)], "so", "to")
    product, after = node("MatMul", ["x", "w"], ["h0"]), node("MatMul", ["h", "v"], ["y"])
    nodes = [*before, product, loop("outer", "h0", "h", body), after]
    weights = {"w": normal(4, 8), "u": normal(8, 8), "v": normal(8, 5), "ones": normal(1, 8)}
    weights |= {"free": np.array([-1, 8]), **({"first": np.int64(0)} if before else {"trips": np.int64(trips)})}
    return Model.from_proto(build(nodes, {"x": ["n", 4]}, {"y": None}, weights))


def at_three(model):
    return facts_at_opt(model, Profiles((ShapeProfile("one", {"x": Extent((1, 4), (3, 4), (9, 4))}),)))


@pytest.mark.parametrize("outer", [False, True], ids=["one Loop", "a Loop in a Loop"])
def test_a_state_that_an_iteration_keeps_has_its_shape_in_the_body_and_after(outer):
    model = carried([node("MatMul", ["s", "u"], ["m"]), node("Tanh", ["m"], ["t"])], outer=outer)
    facts = at_three(model)
    assert facts.shapes["s"] == facts.shapes["t"] == facts.shapes["h"] == [(3, 8)]
    found, times = node_macs(model, facts), 36 if outer else 6
    assert (found["h0"], found["m"], found["y"]) == (3 * 4 * 8, times * 3 * 8 * 8, 3 * 8 * 5)
    assert work_of(model, facts).of == "macs"


def test_of_a_state_that_grows_the_dimensions_that_stay_are_known():
    model = carried([node("Concat", ["s", "ones"], ["t"], axis=0)])
    facts = at_three(model)
    assert facts.shapes["s"] == facts.shapes["h"] == [(-1, 8)] and facts.shapes["y"] == [(-1, 5)]
    assert node_macs(model, facts)["y"] is None and work_of(model, facts).of == "nodes"


def test_of_a_state_whose_shape_the_body_does_not_tell_nothing_is_said():
    model = carried(
        [node("NonZero", ["s"], ["z"]), node("Gather", ["z", "two"], ["d"]), node("Reshape", ["s", "d"], ["t"])]
    )
    assert "s" not in at_three(model).shapes and "h" not in at_three(model).shapes


def test_a_state_that_an_inner_loop_begins_with_after_an_operator_is_known_too():
    model = carried([node("MatMul", ["s", "u"], ["t"])], outer=True, between=True)
    assert node_macs(model, at_three(model))["t"] == 36 * 3 * 8 * 8


def test_a_state_whose_initial_shape_follows_from_values_keeps_it():
    """ONNX's inference loses the size where it goes through a Reshape, which folding makes of an Unsqueeze."""
    sizes = [
        node("Shape", ["x"], ["of x"]), node("Gather", ["of x", "zero"], ["rows"]),
        node("Reshape", ["rows", "one"], ["row"]), node("Concat", ["row", "eight"], ["sizes"], axis=0),
        node("ConstantOfShape", ["sizes"], ["h0"]),
    ]  # fmt: skip
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["on"]), node("Add", ["s", "h"], ["sum"]), node("MatMul", ["sum", "u"], ["t"])
        ], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [node("MatMul", ["x", "w"], ["h"]), *sizes, node("Loop", ["trips", "", "h0"], ["last"], body=body)]
    weights = {"w": normal(4, 8), "u": normal(8, 8), "v": normal(8, 5), "trips": np.int64(6), "zero": np.int64(0)}
    weights |= {"one": np.array([1]), "eight": np.array([8])}
    model = Model.from_proto(
        build([*nodes, node("MatMul", ["last", "v"], ["y"])], {"x": ["n", 4]}, {"y": None}, weights)
    )
    facts = at_three(model)
    assert facts.shapes["s"] == facts.shapes["last"] == [(3, 8)]
    assert node_macs(model, facts)["t"] == 6 * 3 * 8 * 8 and node_macs(model, facts)["y"] == 3 * 8 * 5


def test_where_the_work_of_a_branch_is_not_known_none_is_left_out_and_nobody_is_told_so():
    def branch(name, *nodes):
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8])])

    known = node("MatMul", ["x", "v"], ["e"])
    dynamic = node("MatMul", ["d", "v"], ["f"])
    both = branch("t", node("MatMul", ["x", "w"], ["k"]), dynamic, node("MatMul", ["k", "v"], ["t"]))
    choice = node("If", ["is"], ["y"], then_branch=both, else_branch=branch("e", known), name="choice")
    inputs, weights = {"is": [], "x": [2, 8], "d": ["n", 8]}, {"w": normal(8, 8), "v": normal(8, 8)}
    model = Model.from_proto(build([choice], inputs, {"y": [2, 8]}, weights, types={"is": TensorProto.BOOL}))
    found = node_macs(model, model.facts())
    assert (found["k"], found["f"], found["t"], found["e"]) == (128, None, 128, 128)
    assert unlike_branches(model, model.facts()) == []
    told = facts_at_opt(model, Profiles((ShapeProfile("one", {"d": Extent((1, 8), (1, 8), (1, 8))}),)))
    assert node_macs(model, told)["e"] == 0 and unlike_branches(model, told) == ["choice"]
