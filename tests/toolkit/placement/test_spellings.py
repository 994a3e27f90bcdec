"""Pairs in the spellings of TensorRT's parser, Transformer Engine and onnxruntime: read as ONNX's, bit by bit the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, ops, placeholder_context, run
from toolkit import Code, Context, Model, Precision, keep_float, without_pairs
from toolkit.backends.lowering.strong import lower
from toolkit.graph.sessions.session import session
from toolkit.placement.quantized import pair_count
from toolkit.placement.spellings import load_source, write_as_onnx
from toolkit.run.checks.gpu_types import types_of_pairs


def mlp(opset=17, width=64):
    nodes = [node("MatMul", ["x", "w"], ["m"], name="one"), node("Relu", ["m"], ["r"]),
             node("Gemm", ["r", "v", "b"], ["y"], name="two", transB=1)]  # fmt: skip
    weights = {"w": normal(width, 96, seed=1, scale=0.2), "v": normal(32, 96, seed=2, scale=0.2), "b": normal(32)}
    return build(nodes, {"x": ["n", width]}, {"y": ["n", 32]}, weights, opset=opset)


X = {"x": normal(5, 64, seed=7)}


def foreign(nodes, inputs, weights, tensors=(), opset=17, types=None):
    """A model with operators of other domains, which the checker has not seen."""
    proto = build(nodes, inputs, {"y": None}, weights, opset=opset, types=types)
    proto.graph.initializer.extend(tensors)
    proto.opset_import.extend(helper.make_opsetid(domain, 1) for domain in {one.domain for one in nodes} if domain)
    return proto


def respelled(proto, precision, domain="trt"):
    """The same pairs as TensorRT's operators, which say their type by their names."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for one in proto.graph.node:
        if one.op_type in ("QuantizeLinear", "DequantizeLinear"):
            one.op_type, one.domain = f"TRT_{precision}{one.op_type}", domain
            del one.input[2:]
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def test_fp8_by_tensorrts_operators_at_an_old_opset():
    plain = Model.from_proto(mlp())
    InsertQDQ(dtype="fp8")(plain, placeholder_context())
    proto = respelled(plain.to_proto(), "FP8")
    next(one for one in proto.opset_import if not one.domain).version = 17
    found = Model.from_proto(proto)
    assert pair_count(found) == 0
    assert write_as_onnx(found) == 8
    assert found.opset == 19
    assert ops(found) == ops(plain)
    assert types_of_pairs(found) == {Precision.FP8}
    assert pair_count(found) == 4
    found.check()
    np.testing.assert_array_equal(run(found, X)[0], run(plain, X)[0])


@pytest.mark.parametrize("held", [TensorProto.INT4, TensorProto.INT8])
@pytest.mark.parametrize("said", [True, False])
def test_int4_by_tensorrts_operators(held, said):
    plain = Model.from_proto(mlp())
    InsertQDQ(dtype="int4", block=32)(plain, placeholder_context())
    stored = lower(plain, placeholder_context().plan, rest=Precision.FP32).model
    proto = respelled(stored.to_proto(), "INT4")
    for one in proto.graph.initializer:
        if one.data_type == TensorProto.INT4:
            values = onnx.numpy_helper.to_array(one).astype(np.int8)
            one.CopyFrom(helper.make_tensor(one.name, held, values.shape, values.reshape(-1)))
    for one in proto.graph.node:
        if "INT4" in one.op_type and not said:
            # TensorRT finds axis and block by the shapes
            del one.attribute[:]
    found = Model.from_proto(proto)
    assert write_as_onnx(found) == 2
    assert types_of_pairs(found) == {Precision.INT4}
    np.testing.assert_array_equal(run(found, X)[0], run(stored, X)[0])


@pytest.mark.parametrize("domain", ["trt", "com.microsoft"])
def test_onnxs_operators_in_a_domain_of_another(domain):
    plain = Model.from_proto(mlp())
    InsertQDQ()(plain, placeholder_context())
    proto = plain.to_proto()
    for one in proto.graph.node:
        if "quantize" in one.op_type.lower():
            one.domain = domain
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    found = Model.from_proto(proto)
    assert write_as_onnx(found) == 8
    assert {one.domain for one, _ in found.walk()} <= {None, ""}
    np.testing.assert_array_equal(run(found, X)[0], run(plain, X)[0])


@pytest.mark.parametrize("kind", [TensorProto.UINT16, TensorProto.INT16, TensorProto.INT4])
def test_onnxruntimes_types_that_came_later_raise_the_opset(kind):
    zero = helper.make_tensor("z", kind, [], [3])
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], domain="com.microsoft"), node("Relu", ["d"], ["y"])]  # fmt: skip
    found = Model.from_proto(foreign(nodes, {"x": [4]}, {"s": np.array(0.5, np.float32)}, [zero]))
    write_as_onnx(found)
    assert found.opset == 21
    found.check()
    assert found.to_proto().opset_import[0].version == 21
    values = np.array([-1.2, 0, 0.6, 2.4], np.float32)
    np.testing.assert_array_equal(run(found, {"x": values})[0], [0, 0, 0.5, 2.0 if kind == TensorProto.INT4 else 2.5])


@pytest.mark.parametrize("precision", ["nvfp4", "mxfp8"])
@pytest.mark.parametrize("rest", [Precision.FP32, Precision.FP16])
def test_blocks_come_back_as_the_pairs_that_lowering_wrote(precision, rest, tmp_path):
    plain, context = Model.from_proto(mlp()), placeholder_context()
    InsertQDQ(dtype=precision)(plain, context)
    lowered = lower(plain, context.plan, rest=rest).model
    found = load_source(lowered.save(tmp_path / "lowered.onnx"))
    assert found.changed["pairs"] >= 6
    quantizing = {"QuantizeLinear", "DequantizeLinear"}
    assert {op: number for op, number in ops(found).items() if "uantize" in op} == {
        "QuantizeLinear": 2, "DequantizeLinear": 4
    }  # fmt: skip
    assert types_of_pairs(found) == {Precision(precision)}
    assert {one.op for one, _ in found.walk() if one.domain} <= quantizing
    np.testing.assert_array_equal(run(found, X)[0], session(lowered).run(X)["y"])
    again = placeholder_context()
    InsertQDQ(dtype=precision)(found, again)
    assert {name for name, one in again.plan.items() if one.precision == precision} == {"one", "two"}
    twice = lower(found, again.plan, rest=rest).model
    assert ops(twice) == ops(lowered)
    np.testing.assert_array_equal(run(twice, X)[0], run(lowered, X)[0])


def test_marks_of_an_export_that_was_not_finished_are_nvfp4():
    nodes = [node("TRT_FP4QDQ", ["w"], ["d"], domain="trt", block_size=16), node("Transpose", ["d"], ["t"], perm=[1, 0]),
             node("MatMul", ["x", "t"], ["y"])]  # fmt: skip
    found = Model.from_proto(foreign(nodes, {"x": ["n", 64]}, {"w": normal(8, 64, seed=3)}))
    assert write_as_onnx(found) == 1
    assert types_of_pairs(found) == {Precision.NVFP4}
    wanted = X["x"] @ normal(8, 64, seed=3).T
    error = np.square(run(found, X)[0] - wanted).sum() / np.square(wanted).sum()
    assert 1e-4 < error < 2e-2


@pytest.mark.parametrize("word", ["TRT_FP8", ""])
def test_a_cast_after_a_pair_is_the_pairs_own(word):
    # as Transformer Engine writes them: float32 inside of the pair, float16 around it
    domain, zero = ("trt", []) if word else ("", ["z"])
    nodes = [node("Cast", ["x"], ["wide"], to=1),
             node(f"{word}QuantizeLinear", ["wide", "s", *zero], ["q"], domain=domain),
             node(f"{word}DequantizeLinear", ["q", "s", *zero], ["d"], domain=domain), node("Cast", ["d"], ["h"], to=10),
             node("MatMul", ["h", "w"], ["y"])]  # fmt: skip
    weights = {"s": np.array(0.25, np.float32), "z": np.array(0, np.int8), "w": normal(64, 8).astype(np.float16)}
    half = dict.fromkeys("xy", TensorProto.FLOAT16)
    found = Model.from_proto(foreign(nodes, {"x": ["n", 64]}, weights, types=half))
    before = run(found, {"x": X["x"].astype(np.float16)})[0] if not word else None
    write_as_onnx(found)
    assert ops(found) == {"Cast": 1, "QuantizeLinear": 1, "DequantizeLinear": 1, "MatMul": 1}
    found.check()
    assert found.node("y").inputs[0].inputs[0].op == "DequantizeLinear"
    if before is not None:
        np.testing.assert_allclose(run(found, {"x": X["x"].astype(np.float16)})[0], before, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("out", "kind"), [("h", TensorProto.FLOAT16), ("d", TensorProto.FLOAT), ("c", TensorProto.INT8)]
)
def test_what_gives_an_output_stays(out, kind):
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["c"], to=3),
             node("DequantizeLinear", ["c", "s", "z"], ["d"]), node("Cast", ["d"], ["h"], to=10),
             node("MatMul", ["h", "w"], ["y"])]  # fmt: skip
    weights = {"s": np.array(0.25, np.float32), "z": np.array(0, np.int8), "w": normal(64, 8).astype(np.float16)}
    proto = build(nodes, {"x": ["n", 64]}, {"y": None, out: None}, weights, types={"y": TensorProto.FLOAT16, out: kind})
    found = Model.from_proto(proto)
    before = run(found, X)
    # what is written anew is counted: the half whose Cast goes
    assert write_as_onnx(found) == 1
    assert found.opset == (19 if out == "c" else 17)
    found.check()
    for now, then in zip(run(found, X), before, strict=True):
        np.testing.assert_allclose(now, then, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("scale", "kind", "casts"),
    [(1 / 3, 16, 0), (1.00390625, 16, 0), (0.1, 10, 0), (3e-6, 10, 1), (1e-9, 10, 1), (1e6, 10, 1)],
)
def test_a_cast_stays_where_its_type_does_not_hold_the_scale(scale, kind, casts):
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("Cast", ["d"], ["h"], to=kind), node("Relu", ["h"], ["y"])]  # fmt: skip
    weights = {"s": np.array(scale, np.float32), "z": np.array(0, np.int8)}
    found = Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, weights, types={"y": kind}))
    assert write_as_onnx(found) == 1 - casts and ops(found).get("Cast", 0) == casts
    # the operator set that has pairs of 16 bits is wanted only where one is made
    assert found.opset == (17 if casts else 19)


def test_a_cast_after_onnxruntimes_pair_raises_the_opset():
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], domain="com.microsoft"),
             node("Cast", ["d"], ["h"], to=10), node("Relu", ["h"], ["y"])]  # fmt: skip
    weights = {"s": np.array(0.25, np.float32), "z": np.array(0, np.int8)}
    found = Model.from_proto(foreign(nodes, {"x": [4]}, weights, opset=13, types={"y": TensorProto.FLOAT16}))
    before = run(found, {"x": X["x"][0, :4]})[0]
    assert write_as_onnx(found) == 2 and found.opset == 19 and "Cast" not in ops(found)
    found.check()
    assert np.array_equal(run(found, {"x": X["x"][0, :4]})[0], before)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("apart", [False, True])
def test_both_halves_have_one_scale_where_a_cast_is_taken_in(kind, apart):
    """Also where the exporter stored the scale twice, and where another reader stays in float32."""
    scale = np.array(0.1, np.float32)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             node("DequantizeLinear", ["q", "t" if apart else "s", "z"], ["d"]),
             node("DequantizeLinear", ["q", "s", "z"], ["wide"]),
             node("Cast", ["d"], ["h"], to=kind), node("Relu", ["h"], ["y"]), node("Relu", ["wide"], ["z0"])]  # fmt: skip
    weights = {"s": scale, "z": np.array(0, np.int8), **({"t": scale} if apart else {})}
    proto = build(nodes, {"x": [4]}, {"y": [4], "z0": [4]}, weights, types={"y": kind})
    found = Model.from_proto(proto)
    assert write_as_onnx(found) == 1 and "Cast" not in ops(found)
    found.check()
    scales = [found.constant(one.inputs[1]).astype(np.float64) for one in found.nodes if "antize" in one.op]
    rounded = float(scale.astype(helper.tensor_dtype_to_np_dtype(kind)))
    assert len(scales) == 3 and all(float(one) == rounded for one in scales) and rounded != float(scale)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_scale_of_16_bits_takes_the_output_no_further_from_the_float_one(kind):
    """It turns other values at the border of two levels, so that the file's numbers differ, and of bfloat16 adds its own rounding."""
    width, rows = 64, normal(256, 64, seed=3)
    nodes, weights, name, seen = [], {}, "x", rows
    for i in range(3):
        wide = normal(width, width, seed=10 + i) * np.float32(0.18)
        scale, scales = np.float32(np.abs(seen).max() / 127), np.abs(wide).max(axis=0) / 127
        stored = np.rint(wide / scales).astype(np.int8)
        weights |= {
            f"s{i}": scale,
            "z": np.array(0, np.int8),
            f"t{i}": scales,
            f"w{i}": stored,
            "c": np.zeros(width, np.int8),
        }
        nodes += [
            node("Cast", [name], [f"f{i}"], to=1), node("QuantizeLinear", [f"f{i}", f"s{i}", "z"], [f"q{i}"]),
            node("DequantizeLinear", [f"q{i}", f"s{i}", "z"], [f"d{i}"]), node("Cast", [f"d{i}"], [f"h{i}"], to=kind),
            node("DequantizeLinear", [f"w{i}", f"t{i}", "c"], [f"e{i}"], axis=1), node("Cast", [f"e{i}"], [f"g{i}"], to=kind),
            node("MatMul", [f"h{i}", f"g{i}"], [f"m{i}"]), node("Relu", [f"m{i}"], [f"r{i}"]),
        ]  # fmt: skip
        name, seen = f"r{i}", np.maximum(seen @ wide, 0)
    nodes.append(node("Cast", [name], ["y"], to=1))
    found = Model.from_proto(
        build(nodes, {"x": ["n", width]}, {"y": ["n", width]}, weights, opset=19, types={"x": kind})
    )
    feed = {"x": rows.astype(helper.tensor_dtype_to_np_dtype(kind))}
    file = session(found, optimise=False).run(feed)["y"]
    assert write_as_onnx(found) == 6
    levels = [10 * np.log10(np.square(seen).sum() / np.square(seen - values).sum())
              for values in (file, session(found, optimise=False).run(feed)["y"])]  # fmt: skip
    assert levels[0] > 25 and abs(levels[1] - levels[0]) < (0.1 if kind == TensorProto.FLOAT16 else 0.5)


@pytest.mark.parametrize("moved", [False, True])
def test_a_pair_that_casts_leaves_a_cast_where_it_is_taken_out(moved):
    """float32 before the pair, float16 after it: for the float form, and for a node that is kept in float."""
    between = [node("Transpose", ["q"], ["m"], perm=[1, 0])] if moved else []
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), *between,
             node("DequantizeLinear", ["m" if moved else "q", "s", "z"], ["d"]), node("Cast", ["d"], ["h"], to=10),
             node("Relu", ["h"], ["y"], "relu"), node("Neg", ["h"], ["n"], "neg")]  # fmt: skip
    weights = {"s": np.array(0.25, np.float32), "z": np.array(0, np.int8)}
    half = dict.fromkeys("yn", TensorProto.FLOAT16)
    found = Model.from_proto(build(nodes, {"x": [4, 64]}, {"y": None, "n": None}, weights, types=half))
    wanted = X["x"][:4].astype(np.float16)
    wanted = wanted.T if moved else wanted
    assert write_as_onnx(found) and "Cast" not in ops(found)
    plain = without_pairs(found)
    plain.check()
    assert ops(plain)["Cast"] == 1 and "QuantizeLinear" not in ops(plain)
    assert np.array_equal(run(plain, {"x": X["x"][:4]})[1], -wanted)
    context = Context()
    context.model = found
    keep_float(context, found.node("neg"), "fp16", Code.TRIAL())
    found.tidy()
    found.check()
    assert ops(found)["Cast"] == 1 and ops(found)["QuantizeLinear"] == 1
    assert np.array_equal(run(found, {"x": X["x"][:4]})[1], -wanted)


def test_branches_that_read_one_pair_have_a_cast_each():
    """A pair that casts, its halves in different graphs: what one branch of an If makes, the other cannot read."""
    branches = {
        name: helper.make_graph(
            [node("DequantizeLinear", ["q", "h", "z"], [f"{op}_d"]), node(op, [f"{op}_d"], [f"{op}_y"])], op, [],
            [helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT16, [4])],
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }  # fmt: skip
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("If", ["yes"], ["y"], **branches)]
    weights = {"s": np.array(0.25, np.float32), "h": np.array(0.25, np.float16), "z": np.array(0, np.int8)}
    for yes in (True, False):
        given = weights | {"yes": np.array(yes)}
        found = Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, given, 19, types={"y": TensorProto.FLOAT16}))
        plain = without_pairs(found)
        plain.check()
        wanted = X["x"][0, :4].astype(np.float16)
        wanted = np.maximum(wanted, 0) if yes else -wanted
        assert np.array_equal(run(plain, {"x": X["x"][0, :4]})[0], wanted)


def test_what_gives_the_output_of_a_body_stays():
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("Cast", ["d"], ["h"], to=10)]  # fmt: skip
    half = helper.make_tensor_value_info("h", TensorProto.FLOAT16, None)
    body = helper.make_graph(nodes, "body", [], [half])
    other = helper.make_graph(
        [node("Cast", ["x"], ["o"], to=10)], "other", [], [helper.make_tensor_value_info("o", 10, None)]
    )
    weights = {"s": np.array(0.25, np.float32), "z": np.array(0, np.int8), "c": np.array(True)}
    proto = build(
        [node("If", ["c"], ["y"], then_branch=body, else_branch=other)],
        {"x": ["n", 64]},
        {"y": None},
        weights,
        types={"y": TensorProto.FLOAT16},
    )
    found = Model.from_proto(proto)
    assert write_as_onnx(found) == 0
    assert "h" in [tensor.name for one, _ in found.walk() for tensor in one.outputs]


def test_what_is_in_no_known_form_stays():
    nodes = [node("TRT_FP4DynamicQuantize", ["x", "s"], ["q", "t"], domain="trt", axis=0, block_size=16),
             node("DequantizeLinear", ["t", "s"], ["u"]), node("DequantizeLinear", ["q", "u"], ["y"], axis=0, block_size=16)]  # fmt: skip
    found = Model.from_proto(foreign(nodes, {"x": [32, 8]}, {"s": np.array(0.01, np.float32)}, opset=23))
    before = ops(found)
    assert write_as_onnx(found) == 0
    assert ops(found) == before


def test_onnxruntimes_operators_stay_where_the_opset_cannot_be_raised():
    zero = helper.make_tensor("z", TensorProto.UINT16, [], [3])
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
             node("DequantizeLinear", ["q", "s", "z"], ["d"], domain="com.microsoft"),
             node("GroupNormalization", ["d", "g", "b"], ["y"], num_groups=2)]  # fmt: skip
    weights = {"s": np.array(0.5, np.float32), "g": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}
    found = Model.from_proto(foreign(nodes, {"x": [1, 4, 3]}, weights, [zero], opset=18))
    assert write_as_onnx(found) == 0
    assert found.opset == 18 and pair_count(found) == 1
