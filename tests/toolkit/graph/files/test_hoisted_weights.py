"""Large weights in Constant nodes and in bodies are beside the message, and mean what they meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node
from toolkit.graph.files.hoisted_weights import hoist_weights
from toolkit.graph.files.onnx_file import read
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LARGE
from toolkit.graph.sessions.session import session

WIDTH = int(LARGE**0.5)
FLOAT = TensorProto.FLOAT


class Data:
    """A file with external data, each tensor at an odd offset."""

    def __init__(self, folder: Path) -> None:
        self.path, self.random, self.values = folder / "w.bin", np.random.default_rng(4), {}
        self.path.write_bytes(b"")

    def tensor(self, name: str) -> TensorProto:
        """A weight of its own."""
        values = (self.random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        content = self.path.read_bytes() + b"\x01"
        self.path.write_bytes(content + values.tobytes())
        made = TensorProto(name=name, data_type=FLOAT, dims=values.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "w.bin"), ("offset", len(content)), ("length", values.nbytes)):
            made.external_data.add(key=key, value=str(value))
        return made


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, ["n", WIDTH])


def _model(folder: Path, ir_version: int = 8) -> Path:
    """A Constant, branches whose weights have one name, one of them in a Constant and read in a body within."""
    data = Data(folder)
    innermost = helper.make_graph([node("MatMul", ["t", "w"], ["deep"])], "deep", [], [_value("deep")])
    flat = helper.make_graph([node("Identity", ["t"], ["plain"])], "flat", [], [_value("plain")])
    then = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w"], "w in then", value=data.tensor("")),
            node("MatMul", ["h", "w"], ["t"]),
            helper.make_node("If", ["c"], ["u"], "within", then_branch=innermost, else_branch=flat),
        ],
        "then", [], [_value("u")],
    )  # fmt: skip
    other = helper.make_graph(
        [node("MatMul", ["h", "w"], ["a"]), node("MatMul", ["a", "only"], ["e"])],
        "else", [], [_value("e")], [data.tensor("w"), data.tensor("only")],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["first"], "const", value=data.tensor("")),
            node("MatMul", ["x", "first"], ["h"]),
            helper.make_node("If", ["c"], ["y"], "if", then_branch=then, else_branch=other),
        ],
        "g", [_value("x"), helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [_value("y")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_weights_of_constants_and_bodies_are_beside_the_message(tmp_path: Path) -> None:
    path = _model(tmp_path)
    light = read(path)
    assert len(light.weights) == 4 and {"first", "only"} < light.weights.keys()
    assert not {"w"} & light.weights.keys() and light.message_bytes == 0
    x = np.random.default_rng(5).standard_normal((2, WIDTH)).astype(np.float32)
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    saved = Model.load(path).save(tmp_path / "again.onnx")
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        (wanted,) = whole.run(None, feed)
        for source in (path, Model.load(path), saved):
            np.testing.assert_allclose(session(source).run(feed)["y"], wanted, rtol=1e-5, atol=1e-6)


def test_an_output_of_its_own_graph_stays_where_it_is(tmp_path: Path) -> None:
    data = Data(tmp_path)
    value = helper.make_tensor_value_info("w", FLOAT, [WIDTH, WIDTH])
    constant = helper.make_node("Constant", [], ["w"], "const", value=data.tensor(""))
    stored = helper.make_graph([], "stored", [], [value], [data.tensor("w")])
    made = helper.make_graph([constant], "made", [], [value])
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["y"], "if", then_branch=stored, else_branch=made),
            helper.make_node("Constant", [], ["z"], "z", value=data.tensor("")),
        ],
        "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, FLOAT, [WIDTH, WIDTH]) for name in "yz"],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = proto.SerializeToString()
    assert hoist_weights(proto) == 0 and proto.SerializeToString() == before


@pytest.mark.parametrize(("ir_version", "moved"), [(3, 0), (8, 4)])
def test_initializers_of_old_files_had_to_be_inputs(tmp_path: Path, ir_version: int, moved: int) -> None:
    proto = onnx.load_model(str(_model(tmp_path, ir_version)), load_external_data=False)
    assert hoist_weights(proto) == moved and len(proto.graph.initializer) == moved


def test_small_and_stored_tensors_stay(tmp_path: Path) -> None:
    small = numpy_helper.from_array(np.ones(3, np.float32), "")
    large = numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "")
    nodes = [helper.make_node("Constant", [], [name], name, value=one) for name, one in (("a", small), ("b", large))]
    nodes.append(node("Add", ["a", "x"], ["y"]))
    value = [helper.make_tensor_value_info(name, FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert hoist_weights(proto) == 0 and len(proto.graph.node) == 3
