"""A Loop or Scan inside an If with a scan output that nothing reads, on which TensorRT-RTX fails during the build."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.backends.lowering.conditionals import refuse_conditionals
from toolkit.base.errors import BackendError
from toolkit.base.profiles import Profiles, ShapeProfile

ROW, ROWS = [2, 4], [3, 2, 4]
PROFILES = Profiles([ShapeProfile("default")])


def value(name, shape=(2, 4), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def scan():
    nodes = [helper.make_node("Add", ["h", "s"], ["h1"]), helper.make_node("Identity", ["h1"], ["o"])]
    body = helper.make_graph(nodes, "body", [value("h"), value("s")], [value("h1"), value("o")])
    return helper.make_node("Scan", ["x", "xt"], ["last", "all"], name="inner", num_scan_inputs=1, body=body)


def loop():
    nodes = [helper.make_node("Neg", ["h"], ["h1"]), helper.make_node("Identity", ["h1"], ["o"]),
             helper.make_node("Identity", ["on"], ["on1"])]  # fmt: skip
    given = [value("i", (), TensorProto.INT64), value("on", (), TensorProto.BOOL), value("h")]
    body = helper.make_graph(nodes, "body", given, [value("on1", (), TensorProto.BOOL), value("h1"), value("o")])
    return helper.make_node("Loop", ["trip", "true", "x"], ["last", "all"], name="inner", body=body)


def saved(path, inner, read, branch=True):
    """The model's file; ``read``: which of the inner node's outputs ``last`` and ``all`` are read."""
    nodes = [inner]
    if "all" in read:
        nodes.append(helper.make_node("ReduceSum", ["all", "axis"], ["sum"], keepdims=0))
    parts = ["last"] * ("last" in read) + ["sum"] * ("all" in read)
    nodes.append(helper.make_node("Sum", parts, ["t"]))
    other = helper.make_graph([helper.make_node("Tanh", ["x"], ["e"])], "else", [], [value("e")])
    if branch:
        then = helper.make_graph(nodes, "then", [], [value("t")])
        nodes = [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)]
    else:
        nodes.append(helper.make_node("If", ["c"], ["e2"], name="choice", then_branch=other, else_branch=other))
        nodes.append(helper.make_node("Add", ["e2", "t"], ["y"]))
    constants = {"trip": np.int64(3), "true": np.bool_(True), "axis": np.array([0], np.int64)}
    graph = helper.make_graph(
        nodes, "g", [value("x"), value("xt", ROWS), value("c", (), TensorProto.BOOL)], [value("y")],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("inner", [scan, loop])
def test_a_scan_output_that_nothing_reads_is_refused_inside_an_if(tmp_path, inner):
    path = saved(tmp_path / "m.onnx", inner(), {"last"})
    with pytest.raises(BackendError, match="scan output that nothing reads, such as 'all' of 'inner' in 'choice'"):
        refuse_conditionals(path, PROFILES, "TensorRT-RTX", recurrent=True)
    refuse_conditionals(path, PROFILES, "TensorRT-RTX", recurrent=False)


@pytest.mark.parametrize("inner", [scan, loop])
@pytest.mark.parametrize(("read", "branch"), [({"all"}, True), ({"last", "all"}, True), ({"last"}, False)])
def test_what_builds_is_not_refused(tmp_path, inner, read, branch):
    refuse_conditionals(saved(tmp_path / "m.onnx", inner(), read, branch), PROFILES, "TensorRT-RTX", recurrent=True)
