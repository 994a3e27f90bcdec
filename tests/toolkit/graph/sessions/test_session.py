"""onnxruntime sessions: inner tensors, literal Q/DQ, weights that are shared and not copied, clear errors."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.toolkit.calibration.networks import chain, model
from toolkit.base.errors import DataError, ModelError
from toolkit.graph.model import Model
from toolkit.graph.sessions import ort_session
from toolkit.graph.sessions.session import session

X = np.arange(-6, 6, dtype=np.float32).reshape(1, 3, 4)


def test_every_kind_of_source(tmp_path: Path) -> None:
    network = chain()
    proto = network.to_proto()
    before = proto.SerializeToString()
    path = network.save(tmp_path / "m.onnx")
    expected = session(network).run({"x": X})["y"]
    for source in (network, proto, before, path, str(path)):
        assert np.array_equal(session(source).run({"x": X})["y"], expected)
        inner = session(source, ["kept", "x", "y"])
        assert inner.outputs == ("kept", "y", "x")
        found = inner.run({"x": X}, ["x", "kept"])
        assert list(found) == ["x", "kept"]
        assert np.array_equal(found["kept"], np.maximum(X + np.array([-1, 0, 4])[:, None], 0))
    assert proto.SerializeToString() == before
    assert [t.name for t in network.graph.outputs] == ["y"]


def test_arrays_outlive_their_run() -> None:
    inner = session(chain())
    first = inner.run({"x": X})["y"]
    kept = first.copy()
    for i in range(20):
        inner.run({"x": X + i})
    del inner
    gc.collect()
    assert np.array_equal(first, kept)


def test_large_weights_are_shared() -> None:
    weight = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)
    network = model("g (float[n, 100] x) => (float[n, 100] y) <float[100, 100] w> { y = MatMul(x, w) }")
    network.graph.tensors()["w"].to_constant(weight)
    network.graph.inputs = [t for t in network.graph.inputs if t.name != "w"]
    fingerprint = network.fingerprint()
    inner = session(network)
    gc.collect()
    x = np.eye(100, dtype=np.float32)
    assert inner.run({"x": x})["y"] == pytest.approx(weight, rel=1e-6)
    assert network.fingerprint() == fingerprint
    assert np.array_equal(network.graph.tensors()["w"].values, weight)


@pytest.mark.parametrize("inside", [False, True])
def test_large_weights_that_nothing_reads_are_left_out(inside: bool) -> None:
    """Of an exporter that left some behind, or of nodes that were cut off; a body's reads count."""
    large = np.arange(5000, dtype=np.float32)
    nodes, outputs = [node("Relu", ["x"], ["y"])], {"y": [5000]}
    if inside:
        body = onnx.helper.make_graph(
            [node("Add", ["y", "left"], ["z"])], "body", [], [onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [5000])]
        )  # fmt: skip
        nodes.append(onnx.helper.make_node("If", ["c"], ["out"], "if", then_branch=body, else_branch=body))
        outputs = {"out": [5000]}
    proto = build(nodes, {"x": [5000]}, outputs, {"left": large, "gone": large, "c": np.array(True)}, 17)
    loaded = session(proto)
    (given,) = loaded.run({"x": large}).values()
    np.testing.assert_array_equal(given, 2 * large if inside else large)
    assert {tensor.name for tensor in proto.graph.initializer} == {"left", "gone", "c"}


def test_pairs_are_computed_as_written() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 1, 4, 4] x) => (float[n, 1, 4, 4] y)
    <float s = {0.1}, int8 z = {0}, float[1, 1, 1, 1] w = {0.77}, float[1, 1, 1, 1] unit = {1.0}>
    {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        wq = QuantizeLinear(w, s, z)
        wd = DequantizeLinear(wq, s, z)
        c = Conv(d, wd)
        cq = QuantizeLinear(c, s, z)
        y = DequantizeLinear(cq, s, z)
    }"""
    network = Model.from_proto(onnx.parser.parse_model(text))
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    found = session(network, ["c"]).run({"x": x})["c"]
    expected = np.rint(x / np.float32(0.1)) * np.float32(0.1) * np.float32(8 * 0.1)
    assert found == pytest.approx(expected, rel=1e-5), "the convolution itself runs in float"


def test_float8_pairs_leave_the_relu_before_them() -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (float[n, 4] x) => (float[n, 4] y)
    <float s = {0.5}, float zero = {0.0}>
    {
        z = Cast <to = 17> (zero)
        r = Relu(x)
        q = QuantizeLinear(r, s, z)
        y = DequantizeLinear(q, s, z)
    }"""
    network = Model.from_proto(onnx.parser.parse_model(text))
    x = np.array([[-4, -0.5, 0, 2]], np.float32)
    assert session(network).run({"x": x})["y"].tolist() == [[0, 0, 0, 2]]


def test_what_a_session_refuses_is_named() -> None:
    network = chain()
    inner = session(network)
    with pytest.raises(DataError, match=r"no input 'xx', and input 'x' has no value. Did you mean 'x'"):
        inner.run({"xx": X})
    with pytest.raises(ModelError, match=r"input 'x' is \[1, 2, 4\], and the model takes only 3 in dimension 1"):
        inner.run({"x": X[:, :2]})
    with pytest.raises(
        DataError, match=r"'x' is float64, and the model takes float32. Convert it with astype\('float32'\)"
    ):
        inner.run({"x": X.astype(np.float64)})
    with pytest.raises(ModelError, match=r"'z' is not an output of this session"):
        inner.run({"x": X}, ["z"])
    with pytest.raises(ModelError, match=r"no tensor of the main graph is named 'keep'. Did you mean 'kept'"):
        session(network, ["keep"])
    with pytest.raises(ModelError, match=r"not an ONNX model|refuses the model"):
        session(b"nothing")
    doubles = build([node("Conv", ["x", "w"], ["y"])], {"x": [1, 1, 4]}, {"y": [1, 1, 4]}, {"w": np.ones((1, 1, 1))},
                    types={"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE})  # fmt: skip
    with pytest.raises(ModelError, match=r"NOT_IMPLEMENTED.*Conv.*export the model in float32"):
        session(doubles)
    with pytest.raises(ModelError, match=r"/nowhere\.onnx: no such model file"):
        session("/nowhere.onnx")


def test_a_kernel_that_refuses_a_type_when_it_runs_is_no_fault_of_the_model() -> None:
    nodes = [node("ScatterND", ["x", "where", "more"], ["y"], reduction="add")]
    more = {"where": np.int64([[0], [0]]), "more": np.ones((2, 4), np.float16)}
    kinds = {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}
    scatter = build(nodes, {"x": [3, 4]}, {"y": [3, 4]}, more, types=kinds, opset=18)
    with pytest.raises(ModelError, match="export the model in float32; qtool export --to onnxruntime does it for"):
        session(scatter).run({"x": np.zeros((3, 4), np.float16)})


@pytest.mark.parametrize("given", [False, True])
def test_a_transposed_product_with_a_vector_is_computed_as_written(given):
    x, v = np.arange(15, dtype=np.float32).reshape(5, 3), np.float32([1, 2, 4, 8, 16])
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[1, 0]),
        node("MatMul", ["t", "v"], ["y"]),
    ]
    inputs = {"x": [5, 3], **({"v": [5]} if given else {})}
    proto = build(nodes, inputs, {"y": [3]}, {} if given else {"v": v})
    assert session(proto).run({"x": x, **({"v": v} if given else {})})["y"].tolist() == (x.T @ v).tolist()


def test_a_scalar_stays_a_scalar():
    """Shape arithmetic of a dynamic batch hands scalars on; with a dimension more, the Concat after fails."""
    proto = build(
        [node("Unsqueeze", ["s", "axes"], ["u"]), node("Concat", ["u", "one"], ["y"], axis=0)],
        {"s": []}, {"y": [2]}, {"axes": np.array([0]), "one": np.array([1.0], np.float32)},
    )  # fmt: skip
    assert session(proto).run({"s": np.float32(3)})["y"].tolist() == [3, 1]
    assert session(proto, outputs=["u"]).run({"s": np.array(3, np.float32)})["u"].shape == (1,)


def test_what_onnxruntime_says_of_a_node_is_not_buried() -> None:
    """Of a decoder's many inputs the first are named, and of a failed check not the C++."""
    names = ["q", "k", "v", *(f"past.{number}" for number in range(3))]
    nodes = [node("Attention", ["q", "k", "v", "mask"], ["y"]), node("Sum", names[3:], ["z"])]
    shape = [1, 2, 4, 8]
    proto = build(nodes, dict.fromkeys(names, shape), {"y": shape, "z": shape}, {"mask": np.zeros((1, 1, 3, 4), np.float32)},
                  opset=23, ir_version=10)  # fmt: skip
    with pytest.raises(ModelError, match=r"on q .* and 2 more: ") as refused:
        session(proto).run(dict.fromkeys(names, np.zeros(shape, np.float32)))
    assert "q_sequence_length" in refused.value.what and "onnxruntime_src" not in refused.value.what


FUSED = """<ir_version: 8, opset_import: ["": 17]>
g (float[2, 8, 6, 6] x) => (float[2, 36, 4] y, float[2, 8, 6, 6] z) {
  conv = Conv<pads = [1, 1, 1, 1]>(x, kernel)
  norm = BatchNormalization(conv, eight, eight, eight, eight)
  scaled = Mul(norm, channels)
  relu = Relu(scaled)
  z = Clip(relu, zero, one)
  rows = Reshape(z, shape)
  turned = Transpose<perm = [0, 2, 1]>(rows)
  whole = QuantizeLinear(matrix, step, none)
  weight = DequantizeLinear(whole, step, none)
  product = MatMul(turned, weight)
  sum = Add(product, four)
  mean = ReduceMean<axes = [-1]>(sum)
  centred = Sub(sum, mean)
  square = Mul(centred, centred)
  variance = ReduceMean<axes = [-1]>(square)
  spread = Sqrt(variance)
  unit = Div(centred, spread)
  y = Mul(unit, four)
}"""


def test_with_constants_folded_alone_every_other_node_is_computed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.parser.parse_model(FUSED)
    values = {"kernel": normal(8, 8, 3, 3), "eight": np.abs(normal(8)) + 0.5, "channels": normal(1, 8, 1, 1),
              "zero": np.float32(0), "one": np.float32(1), "matrix": normal(8, 4), "four": normal(4),
              "step": np.float32(0.02), "none": np.int8(0), "shape": np.int64([2, 8, 36])}  # fmt: skip
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    feed, written = {"x": normal(2, 8, 6, 6)}, tmp_path / "rewritten.onnx"
    options = ort_session._options

    def telling(*given: Any) -> Any:
        made = options(*given)
        made.optimized_model_filepath = str(written)
        return made

    wanted = session(proto, optimise=False).run(feed)
    monkeypatch.setattr(ort_session, "_options", telling)
    found = session(proto, optimise="constants").run(feed)
    left = [node.op_type for node in proto.graph.node if "Linear" not in node.op_type]
    assert [node.op_type for node in onnx.load(written).graph.node] == left
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_run_that_fails_names_the_models_own_node() -> None:
    """onnxruntime makes one Gemm of MatMul and Add, under a name that is nowhere in the model."""
    weights = {"w": normal(7, 4), "b": normal(4)}
    nodes = [node("MatMul", ["x", "w"], ["c"], "/head/product"), node("Add", ["c", "b"], ["y"], "/head/bias")]
    network = Model.from_proto(build(nodes, {"x": ["n", "c"]}, {"y": ["n", "o"]}, weights))
    with pytest.raises(ModelError, match=r"onnxruntime cannot run the model on x \[2, 8\]") as caught:
        session(network).run({"x": normal(2, 8)})
    assert "MatMul node. Name:'/head/product'" in caught.value.what and "Fusion" not in caught.value.what
    assert isinstance(caught.value.__cause__, Exception)
