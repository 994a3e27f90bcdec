"""A file of which the values of large weights are not read gives the model that is read whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import build, node, normal
from toolkit.base.errors import ModelError
from toolkit.base.mapped import place_of
from toolkit.graph.files import onnx_file
from toolkit.graph.files.header import model_files, read_header
from toolkit.graph.files.onnx_file import parse, read
from toolkit.graph.files.scanned import without_values
from toolkit.graph.proto.light import LARGE


def _model() -> onnx.ModelProto:
    few = numpy_helper.from_array(np.arange(3, dtype=np.float32), "few")
    listed = helper.make_tensor("listed", TensorProto.FLOAT, [LARGE], np.arange(LARGE, dtype=np.float32))
    packed = TensorProto(name="packed", data_type=TensorProto.INT4, dims=[2 * LARGE], raw_data=bytes(range(256)) * 16)
    whole = numpy_helper.from_array(np.arange(2 * LARGE, dtype=np.int8).reshape(2, -1), "whole")
    whole.doc_string = "before the values"
    wide = numpy_helper.from_array(np.arange(LARGE, dtype=np.float32), "wide")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], "n")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [whole, few, listed, packed, wide],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def scanned(monkeypatch):
    """Every file is taken for a large one."""
    monkeypatch.setattr(onnx_file, "_SCANNED", 0)


def test_the_weights_are_the_file_and_the_model_is_the_same(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(_model().SerializeToString())
    wanted = read(path).whole()
    monkeypatch.setattr(onnx_file, "_SCANNED", 0)
    model = read(path)
    assert model.whole() == wanted and model.weights.keys() == {"whole", "listed", "wide"}
    place = place_of(model.weights["whole"])
    assert place is not None and place.path == path.resolve()
    # protobuf puts values where they fall; whoever computes with them wants whole steps of four bytes
    assert model.weights["wide"].flags.aligned


def test_the_header_reads_no_values_and_names_no_other_file(tmp_path, scanned):
    path = tmp_path / "m.onnx"
    path.write_bytes(_model().SerializeToString())
    assert parse(path).ByteSize() < LARGE * 6
    header = read_header(path)
    assert header is not None and (header.inputs, header.external, header.ops["Identity"]) == (("x",), (), 1)
    link = tmp_path / "other" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    assert model_files(link) == [link] and read(link).weights.keys() == read(path).weights.keys()


def test_a_weight_of_the_wrong_size_is_refused_by_name(tmp_path, scanned):
    proto = _model()
    proto.graph.initializer[0].dims[1] += 1
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="whole"):
        read(path)


@given(st.data())
def test_what_is_cut_off_or_no_message_is_told_as_ever(data):
    content = _model().SerializeToString()
    at = data.draw(st.integers(0, 200) | st.integers(0, len(content) - 1))
    broken = data.draw(st.sampled_from([content[:at], content[:at] + b"\xff" + content[at + 1 :]]))
    try:
        parsed = onnx.load_model_from_string(without_values(memoryview(broken), "m.onnx"))
    except Exception:
        return
    # nothing was left out that protobuf itself would refuse
    whole = onnx.load_model_from_string(broken)
    assert [tensor.name for tensor in parsed.graph.initializer] == [one.name for one in whole.graph.initializer]


def test_the_files_of_a_model_that_cannot_be_parsed_are_its_own(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 20)
    assert model_files(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert model_files(tmp_path / "none.onnx") == [tmp_path / "none.onnx"]


@pytest.mark.parametrize("inside", [False, True])
def test_a_small_model_that_names_no_file_is_not_parsed_for_its_files(tmp_path, monkeypatch, inside):
    named = build([node("Relu", ["x"], ["location"]), node("Relu", ["location"], ["y"])], {"x": [2]}, {"y": [2]})
    onnx.save(named, tmp_path / "named.onnx")
    tensor = numpy_helper.from_array(normal(2), "w")
    outside = onnx.TensorProto(name="w", data_type=tensor.data_type, dims=[2], data_location=1)
    outside.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    nodes = [node("Constant", [], ["w"], value=tensor), node("Add", ["x", "w"], ["y"])]
    proto = build(nodes, {"x": [2]}, {"y": [2]})
    proto.graph.node[0].attribute[0].t.CopyFrom(tensor if inside else outside)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    parsed = []
    monkeypatch.setattr(onnx_file, "parse", lambda path: parsed.append(path.name) or parse(path))
    assert model_files(tmp_path / "m.onnx") == [tmp_path / name for name in ("m.onnx", "w.bin")[: 2 - inside]]
    assert model_files(tmp_path / "named.onnx") == [tmp_path / "named.onnx"]
    assert parsed == (["named.onnx"] if inside else ["m.onnx", "named.onnx"])


def test_a_file_that_protobuf_cannot_hold_is_told_what_helps(tmp_path):
    path = tmp_path / "whole.onnx"
    with path.open("wb") as stream:
        # of nothing: it takes no room on the disk
        stream.truncate(1 << 31)
    with pytest.raises(ModelError, match="2,147,483,648 bytes; the limit is 2,147,483,647") as refused:
        read(path)
    assert "external data" in str(refused.value.remedy)
