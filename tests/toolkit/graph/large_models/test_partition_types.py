"""A float16 model in partitions has the values of the whole, whatever is handed on where it is cut."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.large_models.cutting import Partition
from toolkit.graph.large_models.memory import least_limit, memory_limit
from toolkit.graph.large_models.partition_types import widen_between_partitions
from toolkit.graph.large_models.partitions import PartitionedSession
from toolkit.graph.proto.light import LARGE, LightModel
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions.session import session

WIDTH = int(LARGE**0.5)
WIDENED = 4 * WIDTH**2
X = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float16)


def _model(typed: bool, blocks: int = 5, gain: float = 1.0, norm: str = "LayerNormalization") -> onnx.ModelProto:
    """Blocks of ``x + tanh(norm(x) W1) W2`` in float16; the first makes ``gain`` times as much, the last undoes it."""
    random = np.random.default_rng(2)
    stored = {"one": np.ones(WIDTH, np.float16), "gain": np.float16(gain), "less": np.float16(1 / gain)}
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["loud"], "loud"),
        helper.make_node("Mul", ["loud", "gain"], ["b0"]),
    ]
    for block in range(blocks):
        before, after = f"b{block}", f"b{block + 1}"
        for name in ("u", "v"):
            stored[f"{name}{block}"] = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float16)
        nodes += [
            helper.make_node(norm, [before, "one"], [f"norm{block}"], f"norm{block}"),
            helper.make_node("MatMul", [f"norm{block}", f"u{block}"], [f"up{block}"], f"up{block}"),
            helper.make_node("Tanh", [f"up{block}"], [f"tanh{block}"], f"tanh{block}"),
            helper.make_node("MatMul", [f"tanh{block}", f"v{block}"], [f"down{block}"], f"down{block}"),
            helper.make_node("Add", [before, f"down{block}"], [after], after),
        ]
    nodes += [
        helper.make_node("Mul", [f"b{blocks}", "less"], ["near"]),
        helper.make_node("Mul", ["near", "less"], ["y"]),
    ]
    for index, node in enumerate(nodes):
        node.name = f"node{index}"
    graph = helper.make_graph(
        nodes, "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", WIDTH])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto) if typed else proto


def _cut(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(sessions, "_WIDENED_BYTES", most * WIDENED)


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("most", [1, 3])
def test_values_are_those_of_the_whole_model(monkeypatch, typed, most, norm):
    proto, wanted = _model(typed, norm=norm), ["y", "b2", "tanh1", "norm2", "down3", "b5"]
    whole = session(proto, wanted, threads=1, packed=False).run({"x": X})
    _cut(monkeypatch, most)
    opened = session(proto, wanted, threads=1, packed=False)
    assert isinstance(opened._inner, PartitionedSession) and opened._inner._wide
    assert opened.outputs == tuple(wanted)
    for found in (opened.run({"x": X}), *opened.run_each([{"x": X}] * 2)):
        assert {name: values.dtype for name, values in found.items()} == dict.fromkeys(wanted, np.float16)
        assert all(found[name].tobytes() == whole[name].tobytes() for name in wanted)
    # rounded where it is cut, it would be another
    monkeypatch.setattr("toolkit.graph.large_models.partitions.widen_between_partitions", lambda *given: {})
    assert session(proto, threads=1, packed=False).run({"x": X})["y"].tobytes() != whole["y"].tobytes()


def test_they_are_under_a_limit_and_of_many_nodes(monkeypatch):
    proto = _model(typed=True)
    packed = session(proto, ["y", "b3"], threads=1).run({"x": X})
    with memory_limit(least_limit(4 * 2 * WIDENED)):
        opened = session(proto, ["y", "b3"], threads=1)
        assert isinstance(opened._inner, PartitionedSession)
        found = opened.run({"x": X})
    assert all(found[name].tobytes() == packed[name].tobytes() for name in packed)
    monkeypatch.setattr(sessions, "MOST_NODES", 9)
    monkeypatch.setattr(sessions, "_PARTITION_NODES", 9)
    opened = session(proto, ["y", "b3"], threads=1)
    assert isinstance(opened._inner, PartitionedSession)
    found = opened.run({"x": X})
    assert all(found[name].tobytes() == packed[name].tobytes() for name in packed)


def test_what_float16_cannot_hold_is_handed_on_and_given_as_infinite(monkeypatch):
    proto = _model(typed=True, gain=400.0)
    whole = session(proto, ["y", "b2"], threads=1, packed=False).run({"x": X})
    _cut(monkeypatch, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = session(proto, ["y", "b2"], threads=1, packed=False).run({"x": X})
    assert np.isfinite(whole["y"]).all() and np.isinf(whole["b2"]).any()
    assert all(found[name].tobytes() == whole[name].tobytes() for name in whole)


def test_a_rounding_that_the_model_asks_for_stays(monkeypatch):
    proto = _model(typed=False)
    graph = proto.graph
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    # stored in less: what is cut by
    nodes = []
    for name in [one.name for one in graph.initializer if one.name[0] in "uv"]:
        tensor = next(one for one in graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name} half"))
        nodes.append(helper.make_node("Cast", [f"{name} half"], [name], f"{name} wide", to=TensorProto.FLOAT))
    for node in graph.node:
        made = node.output[0]
        node.output[0] = f"{made} exact"
        nodes += [
            node,
            helper.make_node("Cast", [f"{made} exact"], [f"{made} half"], f"{made} round", to=TensorProto.FLOAT16),
            helper.make_node("Cast", [f"{made} half"], [made], f"{made} widen", to=TensorProto.FLOAT),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    x = {"x": X.astype(np.float32)}
    whole = session(LightModel.of(onnx.ModelProto.FromString(proto.SerializeToString())), threads=1, packed=False).run(
        x
    )
    _cut(monkeypatch, 1)
    # what is handed on is float32 by what makes it: no shapes are inferred to find that out
    monkeypatch.setattr("toolkit.graph.large_models.partition_types.Inferred", None)
    opened = session(proto, threads=1, packed=False)
    assert isinstance(opened._inner, PartitionedSession)
    found = opened.run(x)
    assert found["y"].tobytes() == whole["y"].tobytes()
    assert np.array_equal(found["y"], found["y"].astype(np.float16).astype(np.float32))


def test_a_sparse_constant_makes_tensors_float16_too():
    values = numpy_helper.from_array(np.array([1.0], np.float16), "s")
    indices = numpy_helper.from_array(np.array([0], np.int64), "i")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["s"], "c", sparse_value=helper.make_sparse_tensor(values, indices, [2])),
            helper.make_node("CastLike", ["x", "s"], ["half"], "cast"),
            helper.make_node("Add", ["half", "half"], ["y"], "add"),
        ],
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2])],
    )
    model = LightModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))
    first = Partition([0, 1], [], ["x"], ["half"])
    second = Partition([2], [], ["half"], ["y"])
    assert set(widen_between_partitions(model, [first, second])) == {"half"}
