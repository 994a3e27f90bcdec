"""Pairs whose halves are apart: operators that move quantized values lie between Q and DQ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, placeholder_context, run
from toolkit import Context, Model, half_pairs, keep_float, pairs_of, without_pairs
from toolkit.placement.quantized import pair_count
from toolkit.report.findings import sentence


def ints(*values):
    return np.asarray(values, np.int64)


MOVES = {
    "transpose": ([node("Transpose", ["q"], ["m"], perm=[0, 2, 3, 1])], {}),
    "reshape": ([node("Reshape", ["q", "shape"], ["m"])], {"shape": ints(0, -1)}),
    "flatten": ([node("Flatten", ["q"], ["m"])], {}),
    "max-pool": ([node("MaxPool", ["q"], ["m"], kernel_shape=[2, 2], strides=[2, 2])], {}),
    "slice": ([node("Slice", ["q", "a", "b", "c"], ["m"])], {"a": ints(1), "b": ints(3), "c": ints(2)}),
    "gather": ([node("Gather", ["q", "i"], ["m"], axis=2)], {"i": ints(2, 0)}),
    "unsqueeze": ([node("Unsqueeze", ["q", "a"], ["m"])], {"a": ints(0)}),
    "tile": ([node("Tile", ["q", "r"], ["m"])], {"r": ints(1, 2, 1, 1)}),
    "expand": ([node("Expand", ["q", "s5"], ["m"])], {"s5": ints(2, 1, 1, 1, 1)}),
    "pad": ([node("Pad", ["q", "p"], ["m"])], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "pad-filled": ([node("Pad", ["q", "p", "v"], ["m"])], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.int8(9)}),
    "depth-to-space": ([node("DepthToSpace", ["q"], ["m"], blocksize=2)], {}),
    "relu": ([node("Relu", ["q"], ["m"])], {}),
    "clip": ([node("Clip", ["q", "lo", "hi"], ["m"])], {"lo": np.int8(-60), "hi": np.int8(90)}),
    "reduce-max": ([node("ReduceMax", ["q"], ["m"], axes=[2, 3])], {}),
    "concat-constant": ([node("Concat", ["q", "k"], ["m"], axis=1)],
                        {"k": np.arange(48, dtype=np.int8).reshape(1, 3, 4, 4).repeat(2, 0)}),
    "two-in-a-row": ([node("Transpose", ["q"], ["t"], perm=[0, 2, 3, 1]), node("Reshape", ["t", "shape"], ["m"])],
                     {"shape": ints(0, -1)}),
    "split": ([node("Split", ["q"], ["m", "rest"], axis=2)], {}),
    "resize": ([node("Resize", ["q", "", "twice"], ["m"], mode="nearest")], {"twice": np.asarray([1, 1, 2, 2], np.float32)}),
}  # fmt: skip
CHANNELS = {"depth-to-space": 4}


def moved(name, kind=np.int8, zero=-7, scale=0.05, domain=""):
    """x -> Mul -> Q -> what moves -> DQ -> Mul: the same in float where nothing is cut off."""
    nodes, weights = MOVES[name]
    constants = {key: value.astype(kind) if value.dtype == np.int8 else value for key, value in weights.items()}
    grid = {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, kind), "two": np.float32(2)}
    inner = [node("QuantizeLinear", ["h", "s", "z"], ["q"]), *nodes, node("DequantizeLinear", ["m", "s", "z"], ["d"])]
    for one in inner:
        if one.op_type.endswith("Linear"):
            one.domain = domain
    proto = build(
        [node("Mul", ["x", "two"], ["h"]), *inner, node("Mul", ["d", "two"], ["y"])],
        {"x": [2, CHANNELS.get(name, 3), 4, 4]}, {"y": None}, {**constants, **grid},
    )  # fmt: skip
    if domain:
        proto.opset_import.add(domain=domain, version=1)
    return proto


@pytest.mark.parametrize("name", MOVES)
def test_operators_between_the_halves_go_on_in_float(name):
    proto = moved(name)
    model = Model.from_proto(proto)
    assert [[one.op for one in pair.between[::-1]] for pair in pairs_of(model)] == [[n.op_type for n in MOVES[name][0]]]
    assert pair_count(model) == 1
    x = {"x": normal(2, CHANNELS.get(name, 3), 4, 4, scale=0.7)}
    (before,) = run(model, x)
    context = Context()
    StripQDQ(keep_ranges=True)(model, context)
    kinds = set(ops(model))
    assert not kinds & {"QuantizeLinear", "DequantizeLinear"} and pair_count(model) == 0
    # node and tensor names are the user's own
    names = {n.name for n in model.nodes}
    assert {n.name for n in MOVES[name][0]} <= names and not any("float" in one for one in names)
    assert "d" in {t.name for n in model.nodes for t in n.outputs}
    (after,) = run(model, x)
    # half a step, twice, after a factor of 2
    assert after.shape == before.shape and np.abs(after - before).max() <= 0.05 + 1e-5
    assert np.abs(after - before).max() > 1e-4
    assert context.known_ranges.amax("h") == context.known_ranges.amax("d") == pytest.approx(134 * 0.05)


@pytest.mark.parametrize(
    ("kind", "zero", "scale"), [(np.uint8, 120, 0.05), (np.int16, -300, 0.001), (np.uint16, 31000, 0.001)]
)
@pytest.mark.parametrize("name", ["transpose", "reshape", "gather"])
def test_other_types_of_other_domains(name, kind, zero, scale):
    proto = moved(name, kind, zero, scale, "com.microsoft")
    model = Model.from_proto(proto)
    assert pair_count(model) == 1
    x = {"x": normal(2, 3, 4, 4, scale=0.7)}
    (before,) = run(model, x)
    StripQDQ()(model)
    assert "QuantizeLinear" not in ops(model)
    assert 1e-6 < np.abs(run(model, x)[0] - before).max() <= scale + 1e-5


def gathered(kind=np.int8, zero=3, per_channel=False):
    table = np.random.default_rng(0).integers(-120 + 128 * (kind is np.uint8), 120, (50, 8)).astype(kind)
    scale = np.linspace(0.01, 0.05, 8, dtype=np.float32) if per_channel else np.float32(0.02)
    zeros = np.full(scale.shape, zero, kind)
    attrs = {"axis": 2} if per_channel else {}
    proto = build(
        [node("Gather", ["table", "ids"], ["g"]), node("DequantizeLinear", ["g", "s", "z"], ["e"], **attrs),
         node("MatMul", ["e", "w"], ["y"], "mm")],
        {"ids": ["n", "t"]}, {"y": ["n", "t", 4]}, {"table": table, "s": scale, "z": zeros, "w": normal(8, 4)},
        types={"ids": TensorProto.INT64},
    )  # fmt: skip
    return proto, (table.astype(np.float32) - zero) * scale


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("kind", "zero"), [(np.int8, 0), (np.int8, 3), (np.uint8, 130)])
def test_a_quantized_table_becomes_float(kind, zero, per_channel):
    proto, table = gathered(kind, zero, per_channel)
    model = Model.from_proto(proto)
    ids = {"ids": ints(3, 7, 49, 0).reshape(2, 2)}
    (before,) = run(model, ids)
    assert pair_count(model) == 1
    context = Context()
    StripQDQ(keep_ranges=True)(model, context)
    assert ops(model) == {"Gather": 1, "MatMul": 1}
    assert np.array_equal(model.constant(model.node("g").inputs[0]), table.astype(np.float32))
    assert np.allclose(run(model, ids)[0], before, atol=1e-6)
    assert set(context.known_ranges.tensors) == {"e"}


def test_a_symmetric_table_is_complete_for_insert():
    model = Model.from_proto(gathered(zero=0)[0])
    context = placeholder_context()
    InsertQDQ()(model, context)
    assert ops(model) == {"Gather": 1, "MatMul": 1, "DequantizeLinear": 2, "QuantizeLinear": 1}
    assert context.plan.get("mm").precision.quantized
    again = Context()
    InsertQDQ()(model, again)
    assert [e.node for e in again.journal.of("noted") if e.rule == "complete"] == ["mm"]


def shared(precision_zero=0):
    """Q -> MaxPool -> DQ -> Conv, and the tensor before Q is read by another Conv."""
    return build(
        [
            node("Conv", ["x", "w1"], ["c"]), node("QuantizeLinear", ["c", "s", "z"], ["q"]),
            node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2]), node("DequantizeLinear", ["p", "s", "z"], ["d"]),
            node("Conv", ["d", "w2"], ["y"], "after"), node("Conv", ["c", "w2"], ["y2"], "beside"),
        ],
        {"x": [1, 3, 6, 6]}, {"y": [1, 4, 5, 5], "y2": [1, 4, 6, 6]},
        {"w1": normal(3, 3, 1, 1), "w2": normal(4, 3, 1, 1, seed=1), "s": np.float32(0.031), "z": np.int8(precision_zero)},
    )  # fmt: skip


def test_insert_reads_the_scale_of_a_pair_whose_halves_are_apart():
    model = Model.from_proto(shared())
    context = placeholder_context()
    InsertQDQ()(model, context)
    after, beside = (model.node(name).inputs[0].inputs[0] for name in ("after", "beside"))
    assert after.op == beside.op == "DequantizeLinear"
    assert beside.inputs[0].inputs[0] is model.node("p").inputs[0].inputs[0]
    assert {float(model.constant(n.inputs[1])) for n in (after, beside)} == {float(np.float32(0.031))}


def test_a_node_that_is_kept_float_reads_a_twin_of_what_lies_between():
    proto = shared()
    model, context = Model.from_proto(proto), Context()
    context.model = model
    keep_float(context, model.node("after"), "fp16", "a test")
    model.tidy()
    assert "QuantizeLinear" not in ops(model)
    plain = without_pairs(Model.from_proto(proto))
    x = {"x": normal(1, 3, 6, 6)}
    assert all(np.array_equal(a, b) for a, b in zip(run(model, x), run(plain, x)))
    # what the user calls it stays
    assert plain.node("p").op == "MaxPool" and plain.node("after").inputs[0].inputs[0].name == "p"


def test_several_tensors_of_one_scale_go_through_a_concat():
    grid = {"s": np.float32(0.05), "z": np.int8(4), "s2": np.float32(0.07)}

    def proto(second):
        return build(
            [
                node("Sigmoid", ["x"], ["a"]), node("Tanh", ["x"], ["b"]),
                node("QuantizeLinear", ["a", "s", "z"], ["qa"]), node("QuantizeLinear", ["b", second, "z"], ["qb"]),
                node("Concat", ["qa", "qb"], ["c"], axis=1), node("DequantizeLinear", ["c", "s", "z"], ["d"]),
                node("Relu", ["d"], ["y"]),
            ],
            {"x": [2, 4]}, {"y": [2, 8]}, grid,
        )  # fmt: skip

    model = Model.from_proto(proto("s"))
    x = {"x": normal(2, 4)}
    (before,) = run(model, x)
    (pair,) = pairs_of(model)
    assert [q.inputs[0].name for q in pair.quantizers] == ["b", "a"] or len(pair.quantizers) == 2
    StripQDQ()(model)
    assert ops(model) == {"Sigmoid": 1, "Tanh": 1, "Concat": 1, "Relu": 1}
    assert np.abs(run(model, x)[0] - before).max() <= 0.026
    unlike, context = Model.from_proto(proto("s2")), Context()
    StripQDQ()(unlike, context)
    assert "DequantizeLinear" in ops(unlike)
    assert [(e.node, e.rule, e.why.values["why"], e.why.values["at"]) for e in context.journal.of("declined")] == [
        ("d", "no-pair", "scales", "qb")
    ]


def test_what_computes_with_quantized_values_is_named_and_the_pair_stays():
    proto = build(
        [
            node("Relu", ["x"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            node("Cast", ["q"], ["q32"], to=TensorProto.INT32), node("CumSum", ["q32", "axis"], ["sum"]),
            node("Cast", ["sum"], ["m"], to=TensorProto.INT8), node("DequantizeLinear", ["m", "s", "z"], ["y"]),
        ],
        {"x": [2, 4]}, {"y": [2, 4]}, {"s": np.float32(0.05), "z": np.int8(0), "axis": np.asarray(1, np.int32)},
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    before = run(model, {"x": normal(2, 4)})[0]
    StripQDQ()(model, context)
    assert np.array_equal(run(model, {"x": normal(2, 4)})[0], before)
    said = {(e.node, e.why.values["why"], e.why.values["at"]) for e in context.journal.of("declined")}
    assert said == {("y", "operator", "sum"), ("q", "operator", "sum")}
    assert {half.node.name for half in half_pairs(model)} == {"y", "q"}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("kind", "wide", "zero"),
    [(np.int8, np.int8, -7), (np.uint8, np.uint8, 120), (np.int8, np.int32, 0), (np.uint8, np.int16, 120)],
)
def test_values_that_are_cast_to_a_type_that_holds_them_are_those_of_the_pair(kind, wide, zero, stored):
    """Q, Cast, Transpose, Cast, DQ; int32 has no zero point in onnxruntime but 0."""
    wider = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(wide))
    given = normal(2, 4, scale=0.7)
    grid = {"s": np.float32(0.05), "z": np.asarray(zero, kind), "Z": np.asarray(zero, wide)}
    steps = np.clip(np.round(given / grid["s"]) + zero, *((-128, 127) if kind is np.int8 else (0, 255))).astype(kind)
    first = [] if stored else [node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    proto = build(
        [*first, node("Cast", ["q"], ["c"], to=wider), node("Transpose", ["c"], ["t"]), node("Cast", ["t"], ["m"], to=wider),
         node("DequantizeLinear", ["m", "s", "Z"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        {"x": [2, 4]}, {"y": [2, 2]}, grid | ({"q": steps} if stored else {}), opset=21,
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    (before,) = run(model, {"x": given})
    (pair,) = pairs_of(model)
    assert pair.grid.kind_name == np.dtype(kind).name and not list(half_pairs(model))
    StripQDQ(keep_ranges=True)(model, context)
    assert not set(ops(model)) & {"QuantizeLinear", "DequantizeLinear"}
    (after,) = run(model, {"x": given})
    assert np.allclose(
        after, given @ ((steps.astype(np.float32) - zero) * 0.05).T if stored else given @ given.T, atol=1e-5
    )
    assert np.allclose(before, after, atol=1e-5 if stored else 0.025 * 8)
    if not stored:
        assert context.known_ranges.amax("x") == pytest.approx(0.05 * max(127 - zero, 128 + zero if zero else 0)
                                                               if kind is np.int8 else 0.05 * 135)  # fmt: skip


@pytest.mark.parametrize("filled", [0, 127, 128, 3000])
def test_constants_beside_values_that_were_cast_do_not_widen_their_range(filled):
    """The range of x became that of int32, 107374184, as the type of the number that a Pad fills in."""
    proto = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["c"], to=TensorProto.INT32),
         node("Pad", ["c", "pads", "filled"], ["p"]), node("DequantizeLinear", ["p", "s", "Z"], ["y"])],
        {"x": [2, 4]}, {"y": [2, 6]},
        {"s": np.float32(0.05), "z": np.int8(0), "Z": np.int32(0), "pads": np.array([0, 1, 0, 1]), "filled": np.int32(filled)},
        opset=21,
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    (before,) = run(model, {"x": normal(2, 4)})
    StripQDQ(keep_ranges=True)(model, context)
    (after,) = run(model, {"x": normal(2, 4)})
    assert np.abs(after - before).max() <= 0.025 * 1.001
    if filled > 127:
        assert "DequantizeLinear" in ops(model) and not context.known_ranges
    else:
        assert ops(model) == {"Pad": 1}
        found = {name: one.amax for name, one in context.known_ranges.tensors.items()}
        assert found == pytest.approx(dict.fromkeys(("x", "y"), 127 * 0.05))


def test_values_of_two_types_that_meet_after_casts_are_no_pair():
    """Each would get the range of one of them."""
    proto = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["a"]), node("Cast", ["a"], ["A"], to=TensorProto.INT16),
         node("QuantizeLinear", ["w", "s", "u"], ["b"]), node("Cast", ["b"], ["B"], to=TensorProto.INT16),
         node("Concat", ["A", "B"], ["c"], axis=1), node("DequantizeLinear", ["c", "s", "Z"], ["y"])],
        {"x": [2, 4], "w": [2, 4]}, {"y": [2, 8]},
        {"s": np.float32(0.05), "z": np.int8(5), "u": np.uint8(5), "Z": np.int16(5)}, opset=21,
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    StripQDQ(keep_ranges=True)(model, context)
    assert "DequantizeLinear" in ops(model) and not context.known_ranges
    assert [(e.node, e.why.values["why"]) for e in context.journal.of("declined")] == [("y", "operator")]


def test_values_cut_off_by_a_cast_are_no_pair():
    """From uint8 to int8 255 becomes -1."""
    proto = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["m"], to=TensorProto.INT8),
         node("DequantizeLinear", ["m", "s", "Z"], ["y"])],
        {"x": [2, 4]}, {"y": [2, 4]}, {"s": np.float32(0.05), "z": np.uint8(5), "Z": np.int8(5)},
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    StripQDQ()(model, context)
    assert "DequantizeLinear" in ops(model)
    assert [(e.node, e.why.values["at"]) for e in context.journal.of("declined")] == [("y", "m")]


def test_an_integer_reader_keeps_its_quantizer_while_the_pair_goes():
    proto = build(
        [
            node("Tanh", ["x"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            node("Transpose", ["q"], ["t"]), node("DequantizeLinear", ["t", "s", "z"], ["d"]), node("Neg", ["d"], ["y"]),
            node("ArgMax", ["t"], ["best"], axis=0), node("Shape", ["t"], ["size"]),
        ],
        {"x": [2, 4]}, {"y": [4, 2], "best": [1, 2], "size": [2]}, {"s": np.float32(0.01), "z": np.int8(0)},
        types={"best": TensorProto.INT64, "size": TensorProto.INT64},
    )  # fmt: skip
    model, context = Model.from_proto(proto), Context()
    x = {"x": normal(2, 4)}
    before = run(model, x)
    StripQDQ()(model, context)
    after = run(model, x)
    assert np.abs(before[0] - after[0]).max() <= 0.0051 and np.array_equal(before[1], after[1])
    assert list(after[2]) == [4, 2] and model.node("size").inputs[0].name == "d"
    assert ops(model) == {"Tanh": 1, "QuantizeLinear": 1, "Transpose": 2, "Neg": 1, "ArgMax": 1, "Shape": 1}
    assert [(e.node, e.why.values["at"]) for e in context.journal.of("declined")] == [("q", "best")]


def test_a_layer_that_reads_half_a_pair_is_told_what_computes_with_its_values():
    proto = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("TopK", ["q", "k"], ["m", "i"], "best"),
            node("DequantizeLinear", ["m", "s", "z"], ["d"], "dq"), node("MatMul", ["d", "w"], ["y"], "mm"),
        ],
        {"x": [2, 4]}, {"y": [2, 4]},
        {"s": np.float32(0.05), "z": np.int8(3), "k": ints(3), "w": normal(3, 4)},
    )  # fmt: skip
    context = Context()
    InsertQDQ()(Model.from_proto(proto), context)
    (said,) = [sentence(e.why) for e in context.journal.of("declined") if e.node == "mm"]
    assert "strip_qdq cannot remove it: it is not half of a Q/DQ pair: 'best' (TopK) computes" in said
    assert "before" not in said


@pytest.mark.parametrize("axis", [-1, 3])
@pytest.mark.parametrize("move", ["Unsqueeze", "Squeeze"])
def test_channels_are_followed_where_no_shape_is_written(move, axis):
    """Exporters write the shapes of inputs and outputs alone."""
    table = np.random.default_rng(0).integers(-120, 120, (50, 8) if move == "Unsqueeze" else (1, 50, 8)).astype(np.int8)
    scale, zero = np.linspace(0.01, 0.05, 8, dtype=np.float32), np.arange(8, dtype=np.int8)
    stem = (
        [node("Gather", ["table", "ids"], ["g"]), node("Unsqueeze", ["g", "a"], ["m"])]
        if move == "Unsqueeze"
        else [node("Squeeze", ["table", "a"], ["t"]), node("Gather", ["t", "ids3"], ["m"])]
    )
    proto = build(
        [*([node("Unsqueeze", ["ids", "a"], ["ids3"])] if move == "Squeeze" else []), *stem,
         node("DequantizeLinear", ["m", "s", "z"], ["e"], axis=axis), node("MatMul", ["e", "w"], ["y"], "mm")],
        {"ids": ["n", "t"]}, {"y": None}, {"table": table, "s": scale, "z": zero, "w": normal(8, 4), "a": ints(0)},
        types={"ids": TensorProto.INT64},
    )  # fmt: skip
    model = Model.from_proto(proto)
    ids = {"ids": ints(3, 7, 49, 0).reshape(2, 2)}
    (before,) = run(model, ids)
    assert pair_count(model) == 1
    StripQDQ()(model)
    assert "DequantizeLinear" not in ops(model)
    assert np.allclose(run(model, ids)[0], before, atol=1e-6)


@pytest.mark.parametrize("between", ["Transpose", "Unsqueeze", "MaxPool", "Split"])
def test_channels_are_followed_through_what_moves_them(between):
    """One scale a channel: the axis of Q and that of DQ differ where an operator moves the channels."""
    make, axis, extra = {
        "Transpose": (node("Transpose", ["q"], ["m"], perm=[0, 2, 3, 1]), 3, {}),
        "Unsqueeze": (node("Unsqueeze", ["q", "a"], ["m"]), 2, {"a": ints(0)}),
        "MaxPool": (node("MaxPool", ["q"], ["m"], kernel_shape=[2, 2]), 1, {}),
        "Split": (node("Split", ["q"], ["m", "r"], axis=3), 1, {}),
    }[between]
    scale = np.asarray([0.03, 0.05, 0.08], np.float32)

    def proto(axis):
        return build(
            [
                node("Tanh", ["x"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"], axis=1), make,
                node("DequantizeLinear", ["m", "s", "z"], ["d"], axis=axis), node("Neg", ["d"], ["y"]),
            ],
            {"x": [2, 3, 4, 4]}, {"y": None}, {"s": scale, "z": np.zeros(3, np.int8), **extra},
        )  # fmt: skip

    model = Model.from_proto(proto(axis))
    x = {"x": normal(2, 3, 4, 4)}
    (before,) = run(model, x)
    StripQDQ()(model)
    assert "QuantizeLinear" not in ops(model)
    assert np.abs(run(model, x)[0] - before).max() <= 0.041


def test_weights_moved_after_their_quantizer_are_constants_again():
    weight = normal(8, 4, seed=3)
    stored = np.clip(np.rint(weight / 0.03), -128, 127).astype(np.int8)
    proto = build(
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("DequantizeLinear", ["t", "s", "z"], ["d"], axis=1),
         node("MatMul", ["x", "d"], ["y"], "mm")],
        {"x": ["n", 4]}, {"y": ["n", 8]}, {"w": stored, "s": np.full(8, 0.03, np.float32), "z": np.zeros(8, np.int8)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    StripQDQ()(model)
    assert ops(model) == {"MatMul": 1}
    assert np.allclose(model.constant(model.node("mm").inputs[1]), stored.T * np.float32(0.03))


def test_a_pair_across_a_branchs_border_is_followed():
    """Q outside, DQ inside both branches of an If."""

    def branch(op):
        return helper.make_graph(
            [node("Transpose", ["q"], [f"t_{op}"]), node("DequantizeLinear", [f"t_{op}", "s", "z"], [f"d_{op}"]),
             node(op, [f"d_{op}"], [f"o_{op}"])],
            op, [], [helper.make_tensor_value_info(f"o_{op}", TensorProto.FLOAT, [4, 2])],
        )  # fmt: skip

    proto = build(
        [
            node("Tanh", ["x"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            helper.make_node("If", ["c"], ["y"], "choose", then_branch=branch("Neg"), else_branch=branch("Abs")),
        ],
        {"x": [2, 4], "c": []}, {"y": [4, 2]}, {"s": np.float32(0.01), "z": np.int8(1)}, types={"c": TensorProto.BOOL},
    )  # fmt: skip
    model = Model.from_proto(proto)
    feeds = [{"x": normal(2, 4), "c": np.asarray(flag)} for flag in (True, False)]
    before = [run(model, feed)[0] for feed in feeds]
    assert pair_count(model) == 2
    StripQDQ()(model)
    assert not set(ops(model)) & {"QuantizeLinear", "DequantizeLinear"}
    assert all(np.abs(run(model, feed)[0] - wanted).max() <= 0.0051 for feed, wanted in zip(feeds, before))
