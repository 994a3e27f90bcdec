"""Models without their large weights: mapped, shared, written apart, and whole again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal, run
from tests.control_flow import subgraph, switch
from tests.large_models import hold_to_limit, residual_blocks
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.session import session

WIDTH = 64


@pytest.fixture
def place(tmp_path, monkeypatch):
    residual_blocks(tmp_path / "big.onnx", WIDTH, 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_external_data_is_mapped_and_never_changed(place):
    before = (place / "big.bin").read_bytes()
    model = Model.load("big.onnx")
    tensor = model.graph.tensors()["w0a"]
    assert not model.constant(tensor).flags.writeable and model.constant(tensor).base is not None
    assert model.to_light().weights["w0a"] is model.constant(tensor) is model.copy().to_light().weights["w0a"]
    print_before = model.fingerprint()
    tensor.values[0, 0] += 1
    assert model.fingerprint() != print_before == Model.load("big.onnx").fingerprint()
    assert (place / "big.bin").read_bytes() == before


def test_data_at_an_odd_offset_is_read(place):
    proto = onnx.load("big.onnx", load_external_data=False)
    x = normal(2, WIDTH)
    (expected,) = run(Model.load("big.onnx"), {"x0": x})
    (place / "odd.bin").write_bytes(b"?" + (place / "big.bin").read_bytes())
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 1)
            elif entry.key == "location":
                entry.value = "odd.bin"
    onnx.save(proto, "odd.onnx")
    model = Model.load("odd.onnx")
    assert model.constant(model.graph.tensors()["w0a"]).flags.aligned
    assert np.array_equal(run(model, {"x0": x})[0], expected)


def both_ways(weights):
    """An If with a MatMul in either branch, whose weights are the branches' own."""

    def branch(word):
        out = helper.make_tensor_value_info(word, TensorProto.FLOAT, ["n", WIDTH])
        held = [onnx.numpy_helper.from_array(values, name) for name, values in weights[word].items()]
        return helper.make_graph([node("MatMul", ["x", next(iter(weights[word]))], [word])], word, [], [out], held)

    return build(
        [
            node("ReduceMax", ["x"], ["top"], keepdims=0),
            node("Greater", ["top", "zero"], ["on"]),
            node("If", ["on"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
        ],
        {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]}, {"zero": np.float32(0).reshape(())},
    )  # fmt: skip


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")], ids=["names of their own", "one name"])
def test_weights_of_branches(tmp_path, monkeypatch, names):
    weights = {
        word: {name: normal(WIDTH, WIDTH, seed=seed)} for seed, (word, name) in enumerate(zip(("then", "else"), names))
    }
    model = Model.from_proto(both_ways(weights))
    hold_to_limit(monkeypatch, 30_000)
    path = model.save(tmp_path / "m.onnx")
    assert path.stat().st_size < 30_000
    for x in (normal(2, WIDTH), -np.abs(normal(2, WIDTH))):
        word = "then" if x.max() > 0 else "else"
        expected = x @ next(iter(weights[word].values()))
        for source in (model, Model.load(path), path):
            assert session(source).run({"x": x})["y"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert len({model.fingerprint(), model.copy().fingerprint(), Model.load(path).fingerprint()}) == 1
    model.check()


def test_a_light_model_is_whole_again():
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 64]}, {"y": [1, 64]}, {"w": normal(64, 64)})
    before = proto.SerializeToString()
    light = LightModel.of(proto)
    assert list(light.weights) == ["w"] and light.proto.ByteSize() < 1000 and light.weight_bytes == 4 * 64 * 64
    assert light.whole().SerializeToString() == before


def test_weights_of_bodies_and_constant_nodes_are_counted_once():
    stored = numpy_helper.from_array(normal(4, 4), "value")
    inner = [
        node("Constant", [], ["k"], value=stored),
        node("MatMul", ["x", "k"], ["a"]),
        node("MatMul", ["a", "w"], ["b"]),
    ]
    other = [node("MatMul", ["x", "own"], ["c"]), node("MatMul", ["c", "w"], ["d"])]
    proto = build(
        [switch("if", "flag", ["y"], subgraph(inner, {"b": None}), subgraph(other, {"d": None}, weights={"own": normal(4, 4)})),
         node("MatMul", ["y", "w"], ["z"])],
        {"x": ["n", 4], "flag": []}, {"z": ["n", 4]}, {"w": normal(4, 4)}, types={"flag": TensorProto.BOOL},
    )  # fmt: skip
    assert Model.from_proto(proto).weight_bytes() == 3 * 64
