"""Rewrites of onnxruntime's that are left out, by what a session computes in their place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, parser

from tests.benchmarks.bench_graph import SHAPES
from tests.conftest import build, node, normal
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.rewrites import (
    copying_rewrites,
    idle_rewrites,
    wrong_rewrites,
    wrong_turns,
)
from toolkit.graph.proto.nodes import operators_of
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.session import session

_BETWEEN = {
    "none": "m = Identity (t)",
    "dropout": "m = Dropout (t)",
    "cast": "m = Cast <to = 1> (t)",
    "factor": "m = Mul (t, half)",
    "reshape": "s = Shape (t)\n m = Reshape (t, s)",
    "expand": "s = Constant <value_ints = [1]> ()\n m = Expand (t, s)",
    "slice": "a = Constant <value_ints = [0]> ()\n b = Constant <value_ints = [9999]> ()\n m = Slice (t, a, b)",
}


def _model(body: str, shape: str = "4, 4") -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[N] y)
        <float[4] w = {{1, 2, 3, 4}}, float half = {{0.5}}> {{ {body} }}"""
    return parser.parse_model(text)


@pytest.mark.parametrize("between", _BETWEEN)
def test_transpose_times_vector_through_what_onnxruntime_takes_out(between: str) -> None:
    proto = _model(f"t = Transpose <perm = [1, 0]> (x)\n {_BETWEEN[between]}\n y = MatMul (m, w)")
    x = np.arange(16, dtype=np.float32).reshape(4, 4)

    made = session(Model.from_proto(proto)).run({"x": x})["y"]

    np.testing.assert_allclose(made, x.T @ np.array([1, 2, 3, 4], np.float32) * (0.5 if between == "factor" else 1))


def test_two_transposes_of_which_onnxruntime_makes_one() -> None:
    body = "t = Transpose <perm = [0, 3, 1, 2]> (x)\n m = Transpose <perm = [0, 2, 1, 3]> (t)\n y = MatMul (m, w)"
    proto = _model(body, "2, 4, 4, 4")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [2, 4, 4]))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)

    made = session(Model.from_proto(proto)).run({"x": x})["y"]

    np.testing.assert_allclose(made, x.transpose(0, 1, 3, 2) @ np.array([1, 2, 3, 4], np.float32), rtol=1e-5)


def test_matrices_leave_the_rewrite_on() -> None:
    proto = _model("t = Transpose <perm = [1, 0]> (x)\n m = Cast <to = 1> (square)\n y = MatMul (t, m)")
    proto.graph.initializer.append(helper.make_tensor("square", 1, [4, 4], [1.0] * 16))

    assert wrong_rewrites(proto) == []


@pytest.mark.parametrize("perm", [(1, 0, 2), (1, 2, 0), (1, 2, 0, 3), (1, 2, 3, 0)])
@pytest.mark.parametrize("inner", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_a_product_of_batches_in_float16_does_not_end_the_process(perm: tuple[int, ...], inner: int) -> None:
    """The Transpose of an activation [batch, time, features] to [time, batch, features], as attention has it."""
    shape = (4, 5, 6, 7)[: len(perm)]
    features = shape[perm[-1]]
    weight = normal(features, 9).astype(helper.tensor_dtype_to_np_dtype(inner))
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Transpose", ["h"], ["t"], perm=list(perm)),
        node("Cast", ["t"], ["c"], to=inner), node("MatMul", ["c", "w"], ["m"]), node("Cast", ["m"], ["y"], to=1),
    ]  # fmt: skip
    x, made = normal(*shape), [shape[axis] for axis in perm[:-1]] + [9]
    proto = build(nodes, {"x": list(shape)}, {"y": made}, {"w": weight})
    assert wrong_rewrites(proto) == ["MatmulTransposeFusion"]
    expected = x.astype(np.float16).astype(np.float32).transpose(perm) @ weight.astype(np.float32)
    np.testing.assert_allclose(session(proto).run({"x": x})["y"], expected, rtol=1e-2, atol=1e-2)


def test_a_product_of_batches_in_float32_keeps_the_rewrite() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("MatMul", ["t", "w"], ["y"])]
    proto = build(nodes, {"x": [4, 5, 6]}, {"y": [5, 4, 9]}, {"w": normal(6, 9)})
    assert wrong_rewrites(proto) == []


_BEFORE_PAIR = {
    "transpose": [node("Transpose", ["h"], ["t"], perm=[0, 2, 1])],
    "two transposes": [
        node("Transpose", ["h"], ["m"], perm=[2, 0, 1]),
        node("Transpose", ["m"], ["t"], perm=[1, 0, 2]),
    ],
    "identity": [node("Identity", ["h"], ["m"]), node("Transpose", ["m"], ["t"], perm=[0, 2, 1])],
    "factor": [node("Mul", ["h", "one"], ["m"]), node("Transpose", ["m"], ["t"], perm=[0, 2, 1])],
    "reshape": [node("Transpose", ["h"], ["m"], perm=[0, 2, 1]), node("Reshape", ["m", "shape"], ["t"])],
    "none": [node("Identity", ["h"], ["t"])],
}


def _paired(between: list[onnx.NodeProto], reads: str = "x") -> list[onnx.NodeProto]:
    return [
        node("Tanh", [reads], ["h"]), *between, node("QuantizeLinear", ["t", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Mul", ["d", "two"], ["y"]),
    ]  # fmt: skip


_NUMBERS = {
    "s": np.float32(0.1),
    "z": np.int8(0),
    "two": np.float32(2),
    "one": np.float32(1),
    "shape": np.int64([2, 4, 8]),
}


@pytest.mark.parametrize("between", _BEFORE_PAIR)
def test_an_output_is_not_rounded_by_a_pair_behind_a_transpose(between: str) -> None:
    proto = build(_paired(_BEFORE_PAIR[between]), {"x": [2, 8, 4]}, {"h": [2, 8, 4], "y": None}, _NUMBERS)
    x = normal(2, 8, 4)
    made = session(proto).run({"x": x})
    np.testing.assert_allclose(made["h"], np.tanh(x), atol=1e-6)
    rows = x if between == "none" else x.transpose(0, 2, 1)
    np.testing.assert_allclose(made["y"], np.rint(np.tanh(rows) / np.float32(0.1)) * 0.2, atol=1e-6)
    # the same of an inner tensor that is asked for
    del proto.graph.output[0]
    assert wrong_turns(proto) == []
    np.testing.assert_allclose(session(proto, ["h"]).run({"x": x})["h"], np.tanh(x), atol=1e-6)


@pytest.mark.parametrize(
    "last",
    [node("Transpose", ["t"], ["k"], perm=[0, 2, 1]), node("Identity", ["h"], ["k"]), node("Mul", ["h", "one"], ["k"])],
)
def test_an_output_that_becomes_what_the_transpose_reads_is_not_rounded(last: onnx.NodeProto) -> None:
    """Two Transposes that undo each other, and operators that do nothing, are taken out."""
    nodes = [*_paired(_BEFORE_PAIR["transpose"]), last]
    x = normal(2, 8, 4)
    made = session(build(nodes, {"x": [2, 8, 4]}, {"y": None, "k": [2, 8, 4]}, _NUMBERS)).run({"x": x})
    np.testing.assert_allclose(made["k"], np.tanh(x), atol=1e-6)


@pytest.mark.parametrize("between", [[], [node("Tanh", ["d"], ["e"])]], ids=["none", "tanh"])
def test_every_reader_of_a_pair_behind_a_transpose_gets_its_values_in_order(between: list[onnx.NodeProto]) -> None:
    """The Transpose is moved across the pair and the Concat that joins the values before and after rounding."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("QuantizeLinear", ["t", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Concat", ["d", "t"], ["both"], axis=3),
        *between, node("Transpose", ["e" if between else "d"], ["y"], perm=[0, 2, 1, 3]),
    ]  # fmt: skip
    values = {"s": np.float32(0.1), "z": np.int8(0)}
    proto = build(nodes, {"x": [2, 4, 4, 4]}, {"both": None, "y": None}, values)
    x = normal(2, 4, 4, 4)
    turned = x.transpose(0, 2, 3, 1)
    rounded = np.rint(turned / np.float32(0.1)) * np.float32(0.1)
    made = session(proto).run({"x": x})
    np.testing.assert_allclose(made["both"], np.concatenate([rounded, turned], 3), atol=1e-6)
    last = np.tanh(rounded) if between else rounded
    np.testing.assert_allclose(made["y"], last.transpose(0, 2, 1, 3), atol=1e-6)
    # one reader needs no care
    del proto.graph.node[3], proto.graph.output[0]
    assert wrong_turns(proto) == []


def test_an_output_of_a_body_is_not_rounded_either() -> None:
    made = [helper.make_tensor_value_info(name, 1, None) for name in ("h", "y")]
    same = [node("Identity", ["x"], ["a"]), node("Identity", ["x"], ["b"])]
    others = [helper.make_tensor_value_info(name, 1, None) for name in ("a", "b")]
    branches = {
        "then_branch": helper.make_graph(_paired(_BEFORE_PAIR["transpose"]), "then", [], made),
        "else_branch": helper.make_graph(same, "else", [], others),
    }
    proto = build([node("If", ["yes"], ["u", "v"], **branches)], {"x": [2, 8, 4]}, {"u": None, "v": None},
                  {**_NUMBERS, "yes": np.bool_(True)})  # fmt: skip
    x = normal(2, 8, 4)
    np.testing.assert_allclose(session(proto).run({"x": x})["u"], np.tanh(x), atol=1e-6)


def test_what_a_partition_hands_on_is_not_rounded_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later partitions read it; in the first one a Transpose alone does."""
    nodes = [*_paired(_BEFORE_PAIR["transpose"])[:-1], node("Conv", ["d", "w"], ["y"], pads=[1, 1])]
    for name in ("h", "hc", "hcc", "hccc"):
        nodes += [node("Conv", [name, "v"], [f"{name}r"], pads=[1, 1]), node("Relu", [f"{name}r"], [f"{name}c"])]
    weights = {**_NUMBERS, "w": normal(4, 4, 3), "v": normal(8, 8, 3)}
    proto = build(nodes, {"x": [2, 8, 4]}, {"y": None, "hcccc": None}, weights)
    inputs = {"x": normal(2, 8, 4)}
    whole = session(proto, optimise=False).run(inputs)
    monkeypatch.setattr(sessions, "MOST_NODES", 4)
    monkeypatch.setattr(sessions, "_PARTITION_NODES", 4)
    loaded = session(proto)
    assert loaded.is_partitioned
    for name, values in loaded.run(inputs).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-5)


def test_transpose_of_a_scalar() -> None:
    proto = _model("y = Transpose (x)", "4")
    proto.graph.node[0].attribute.append(helper.make_attribute("perm", [], attr_type=onnx.AttributeProto.INTS))

    assert wrong_rewrites(proto) == []


def _optimised(proto: onnx.ModelProto, left_out: list[str], folder: Path) -> list[str]:
    """The nodes of the graph that onnxruntime makes of a model, each by its operator and all that it is computed of."""
    options, path = ort.SessionOptions(), folder / "optimised.onnx"
    options.log_severity_level, options.optimized_model_filepath = 4, str(path)
    ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
    )
    graph = onnx.load(path).graph
    known = {value.name: value.name for value in graph.input}
    known |= {one.name: repr(onnx.numpy_helper.to_array(one).tolist()) for one in graph.initializer}
    for made_by in graph.node:
        settings = sorted(one.SerializeToString(deterministic=True) for one in made_by.attribute)
        made = repr((made_by.domain, made_by.op_type, [known.get(name, name) for name in made_by.input], settings))
        digest = hashlib.sha256(made.encode()).hexdigest()
        known.update((name, f"{digest} {place}") for place, name in enumerate(made_by.output))
    return sorted(known[name] for made_by in graph.node for name in made_by.output)


_FUSED = {
    "gelu": "d = Div (x, half)\n e = Erf (d)\n a = Add (e, half)\n m = Mul (x, a)\n y = Mul (m, half)",
    "matmul": "t = Transpose <perm = [1, 0]> (x)\n m = MatMul (t, x)\n y = Add (m, w)",
    "gemm": "m = Gemm (x, x)\n y = Relu (m)",
    "quick gelu": "a = Mul (x, half)\n s = Sigmoid (a)\n y = Mul (x, s)",
    "norm": "y = LayerNormalization (x, w, w)",
    "softmax": "a = Add (x, w)\n y = Softmax (a)",
    "pairs": "q = QuantizeLinear (x, half)\n d = DequantizeLinear (q, half)\n r = QuantizeLinear (d, half)\n"
    "y = DequantizeLinear (r, half)",
    "loop": "n = Constant <value = int64 {3}> ()\n c = Constant <value = bool {1}> ()\n y = Loop (n, c, x) <body = b"
    "(int64 i, bool go, float[4, 4] s) => (bool on, float[4, 4] o) { on = Identity (go)\n m = MatMul (s, s)\n"
    "o = Add (m, w) }>",
}


@pytest.mark.parametrize("name", [*_FUSED, *SHAPES])
def test_what_is_left_out_would_have_found_nothing(name: str, tmp_path: Path) -> None:
    proto = _model(_FUSED[name]) if name in _FUSED else SHAPES[name](500)

    left_out = idle_rewrites(operators_of(proto))

    assert len(left_out) > 15
    assert _optimised(proto, left_out, tmp_path) == _optimised(proto, [], tmp_path)


def test_no_rewrite_is_left_out_beside_what_is_written_out_as_a_function() -> None:
    assert idle_rewrites({("", "Add"), ("mine", "Block")}) == []
    assert "MatMulAddFusion" in idle_rewrites({("", "Add")})
    assert "MatMulAddFusion" not in idle_rewrites({("", "Add"), ("", "MatMul")})


@pytest.mark.parametrize("wide", [False, True])
def test_a_normalization_after_float64_is_computed(wide):
    """onnxruntime makes one node of the Cast and the normalization, for which it has no kernel."""
    kind = TensorProto.DOUBLE if wide else TensorProto.FLOAT16
    nodes = [
        node("Cast", ["x"], ["d"], to=kind), node("Add", ["d", "half"], ["e"]), node("Cast", ["e"], ["f"], to=1),
        node("ReduceMean", ["f"], ["m"], axes=[-1]), node("Sub", ["f", "m"], ["c"]), node("Pow", ["c", "two"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[-1]), node("Add", ["v", "eps"], ["w"]), node("Sqrt", ["w"], ["s"]),
        node("Div", ["c", "s"], ["n"]), node("Mul", ["n", "scale"], ["g"]), node("Add", ["g", "bias"], ["y"]),
    ]  # fmt: skip
    weights = {"two": np.float32(2), "eps": np.float32(1e-5), "scale": np.ones(8, np.float32),
               "half": np.array(0.5, np.float64 if wide else np.float16), "bias": np.zeros(8, np.float32)}  # fmt: skip
    proto = build(nodes, {"x": ["n", 4, 8]}, {"y": ["n", 4, 8]}, weights, opset=12)
    x = normal(3, 4, 8)
    c = x - x.mean(axis=-1, keepdims=True)
    found = session(proto).run({"x": x})["y"]
    np.testing.assert_allclose(
        found, c / np.sqrt(np.square(c).mean(axis=-1, keepdims=True) + 1e-5), atol=1e-5 if wide else 1e-2
    )
    assert ("LayerNormFusionL1" in wrong_rewrites(proto)) is wide


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_a_stored_weight_is_not_stored_again_transposed(stored) -> None:
    """From 2 GB on onnxruntime refuses what its own rewrite has made."""
    weight = normal(6, 4).astype(stored)
    nodes = [node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT), node("Transpose", ["wide"], ["t"], perm=[1, 0]),
             node("MatMul", ["x", "t"], ["y"])]  # fmt: skip
    proto = build(nodes, {"x": [2, 4]}, {"y": [2, 6]}, {"w": weight})
    assert set(copying_rewrites(proto)) == {
        "ConstantFolding", "TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider",
    }  # fmt: skip
    x = normal(2, 4, seed=1)
    for packed in (False, True):
        found = session(proto, packed=packed).run({"x": x})["y"]
        np.testing.assert_allclose(found, x @ weight.astype(np.float32).T, rtol=1e-5)
    turned = build([node("Transpose", ["x"], ["y"], perm=[1, 0])], {"x": [2, 4]}, {"y": [4, 2]}, {})
    assert copying_rewrites(turned) == ["ConstantFolding"]
