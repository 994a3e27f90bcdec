"""A message written in parts has the bytes that protobuf writes of the whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.files.onnx_file import write
from toolkit.graph.files.streamed import streamed
from toolkit.graph.proto.light import LARGE, LightModel, is_detached


@pytest.mark.parametrize("size", [3, 127, 128, LARGE - 1, LARGE, 3 * LARGE])
def test_the_bytes_are_those_of_the_whole_message(size, tmp_path):
    first = numpy_helper.from_array(np.arange(size, dtype=np.float16), "first")
    first.doc_string = "behind the values"
    second = numpy_helper.from_array(np.arange(2 * LARGE, dtype=np.int8).reshape(2, -1), "second")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], "n")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [second, first, numpy_helper.from_array(np.zeros(2), "third")], doc_string="of the graph",
    )  # fmt: skip
    graph.metadata_props.add(key="of", value="the graph")
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="test")
    proto.metadata_props.add(key="a", value="b")
    wanted = proto.SerializeToString(deterministic=True)
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    light = LightModel.of(whole)
    assert len(light.weights) == 1 + (size >= LARGE)
    before = light.proto.SerializeToString()
    assert b"".join(streamed(light)) == wanted
    assert light.proto.SerializeToString() == before and is_detached(light.proto.graph.initializer[0])
    assert write(light, tmp_path / "m.onnx").read_bytes() == wanted
