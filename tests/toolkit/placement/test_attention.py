from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, ops, placeholder_context, run
from toolkit import Code, Context, Model
from toolkit.contract.ranges import Range, Ranges
from toolkit.placement.attention import attentions, scale_queries


def scores(op="Mul", mask=True, outputs=("y",)):
    """Scores of two activations, scaled, masked, and made probabilities."""
    scaled = ["s", "c"] if op in ("Mul", "Div") else ["c", "s"]
    nodes = [
        node("MatMul", ["q", "k"], ["s"]), node(op.removeprefix("reverse "), scaled, ["t"]),
        *([node("Add", ["t", "m"], ["masked"])] if mask else []),
        node("Softmax", ["masked" if mask else "t"], ["y"], axis=-1),
    ]  # fmt: skip
    inputs = {"q": [2, 3, 4], "k": [2, 4, 3]}
    return Model.from_proto(build(nodes, inputs, {name: [2, 3, 3] for name in outputs},
                                  {"c": np.float32(0.3), "m": normal(3, 3, seed=5)}))  # fmt: skip


@pytest.mark.parametrize("op", ["Mul", "Div", "reverse Mul"])
@pytest.mark.parametrize("mask", [False, True])
def test_the_scale_goes_before_the_scores(op, mask):
    model, feeds = scores(op, mask), {"q": normal(2, 3, 4), "k": normal(2, 4, 3, seed=1)}
    (before,) = run(model, feeds)
    count = ops(model)
    assert scale_queries(model, {"s"}) == {"t": "s"}
    assert ops(model) == count and [n.op for n in model.nodes][:2] == [op.removeprefix("reverse "), "MatMul"]
    model.check()
    np.testing.assert_allclose(run(model, feeds)[0], before, rtol=1e-5)
    assert scale_queries(model, {"s"}) == {}


@pytest.mark.parametrize(
    ("model", "layers"),
    [(scores(), {"other"}), (scores(outputs=("y", "s")), {"s"}), (scores("reverse Div"), {"s"})],
)
def test_scores_that_others_read_or_that_stay_float_are_left_alone(model, layers):
    nodes = [(n.name, [t.name for t in n.inputs]) for n in model.nodes]
    assert scale_queries(model, layers) == {}
    assert [(n.name, [t.name for t in n.inputs]) for n in model.nodes] == nodes


@pytest.mark.parametrize(("dtype", "taken"), [("fp8", {"s", "c"}), ("int8", set())])
def test_fp8_takes_attention_whole_and_int8_leaves_it_float(attention, dtype, taken):
    context = placeholder_context()
    InsertQDQ(dtype=dtype)(attention, context)
    left = {event.node for event in context.journal.of("declined") if event.why.code is Code.ACTIVATION_MATMUL}
    assert left == {"s", "c"} - taken
    moved = [event.node for event in context.journal.of("changed") if event.what.code is Code.SCALES_QUERIES]
    assert moved == (["ss"] if taken else [])
    if taken:
        quantize = attention.node("s").inputs[0].inputs[0].inputs[0].inputs[0]
        assert quantize.op == "QuantizeLinear" and quantize.inputs[0].inputs[0].name == "ss"


def test_int8_takes_attention_in_the_same_form_where_it_is_asked_for(attention):
    context = placeholder_context()
    InsertQDQ(activation_matmul=True)(attention, context)
    assert [event.node for event in context.journal.of("changed") if event.what.code is Code.SCALES_QUERIES] == ["ss"]
    quantize = attention.node("s").inputs[0].inputs[0].inputs[0].inputs[0]
    assert quantize.op == "QuantizeLinear" and quantize.inputs[0].inputs[0].name == "ss"


@pytest.mark.parametrize("query", ["q_scaled", "q"])
def test_given_ranges_say_in_which_form_attention_has_its_pairs(attention, query):
    """The queries' pair goes where a range of them is: after the scale, or before it, which stays where it was."""
    model = attention.copy()
    names = ("x", query, "kt", "p", "v", "c")
    context = Context(known_ranges=Ranges({name: Range(0.6, "manual", dtype="fp8") for name in names}))
    InsertQDQ(dtype="fp8")(model, context)
    quantize = model.node("s").inputs[0].inputs[0].inputs[0].inputs[0]
    assert quantize.op == "QuantizeLinear" and quantize.inputs[0].name == query
    assert bool(context.journal.of("changed", node="ss")) is (query == "q_scaled")


@pytest.mark.parametrize("quantized", [False, True])
def test_attention_is_found_from_its_scores_to_its_context(attention, quantized):
    if quantized:
        InsertQDQ(activation_matmul=True)(attention, placeholder_context())
    (found,) = attentions(attention)
    # the scale goes to the queries where the products are quantized
    assert [node.name for node in found.nodes] == (["s", "p", "c"] if quantized else ["s", "ss", "p", "c"])
    assert found.quantized is quantized


def test_attention_that_is_quantized_in_part_is_of_neither_kind(attention):
    InsertQDQ(activation_matmul=True, exclude=["s"])(attention, placeholder_context())
    (found,) = attentions(attention)
    assert found.quantized is None


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_scores_that_no_product_reads_are_no_attention(op):
    assert list(attentions(scores(op))) == []


def test_scores_after_more_sums_than_python_recurses_are_found():
    adds = [node("Add", [f"t{i}", "m"], [f"t{i + 1}"]) for i in range(1200)]
    nodes = [
        node("MatMul", ["q", "k"], ["t0"]),
        *adds,
        node("Softmax", ["t1200"], ["p"]),
        node("MatMul", ["p", "k"], ["y"]),
    ]
    shapes = {"q": [2, 3, 3], "k": [2, 3, 3]}
    model = Model.from_proto(build(nodes, shapes, {"y": [2, 3, 3]}, {"m": np.float32(0)}))
    (found,) = attentions(model)
    assert (len(found.nodes), found.nodes[0].name, found.nodes[-1].name) == (1203, "t0", "y")
