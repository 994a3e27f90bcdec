"""Layers between convolutions computed in their layout: bit by bit the same, with less reordering."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.ort_forms.blocked_layout import keep_blocked_layout
from toolkit.graph.sessions import unordered_outputs
from toolkit.graph.sessions.session import session

SCALARS = {"three": 3.0, "zero": 0.0, "six": 6.0, "scale": 0.05}


def conv(name: str, read: str, made: str, **attributes) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, f"w {name}"], [made], name, pads=[1, 1, 1, 1], **attributes)


def pair(read: str, made: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [read, "scale", "int zero"], [f"{made} q"]),
        helper.make_node("DequantizeLinear", [f"{made} q", "scale", "int zero"], [made]),
    ]


def hard_swish(read: str, made: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", [read, "three"], [f"{made} raised"]),
        helper.make_node("Clip", [f"{made} raised", "zero", "six"], [f"{made} clipped"]),
        helper.make_node("Mul", [read, f"{made} clipped"], [f"{made} product"]),
        helper.make_node("Div", [f"{made} product", "six"], [made]),
    ]


def network(
    nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]], outputs: dict[str, list]
) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    held = [numpy_helper.from_array(np.float32(value), name) for name, value in SCALARS.items()]
    held.append(numpy_helper.from_array(np.int8(0), "int zero"))
    held += [
        numpy_helper.from_array(random.standard_normal(shape, np.float32) / 8, f"w {name}")
        for name, shape in shapes.items()
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 9, 9])]
    graph = helper.make_graph(nodes, "g", given, values, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def reorders(monkeypatch):
    """How many nodes reorder before and after, of each session."""
    found: list[tuple[Counter, Counter]] = []

    def watched(proto, any_order):
        before = Counter(node.op_type for node in proto.graph.node)
        changed = keep_blocked_layout(proto, any_order)
        found.append((before, Counter(node.op_type for node in proto.graph.node)))
        return changed

    monkeypatch.setattr(unordered_outputs, "keep_blocked_layout", watched)
    return found


def compared(proto: onnx.ModelProto, reorders: list[tuple[Counter, Counter]]) -> tuple[Counter, Counter]:
    """The nodes that reorder before and after, of a model whose outputs are the same bit by bit."""
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32) * 3}
    usual, often = session(proto, threads=1).run(x), session(proto, threads=1, often=True).run(x)
    assert usual.keys() == often.keys()
    for name, value in usual.items():
        assert value.shape == often[name].shape and value.tobytes() == often[name].tobytes()
    before, after = reorders.pop()
    if not before["ReorderOutput"]:
        pytest.skip("onnxruntime does not compute in blocks of channels on this processor")
    kinds = ("ReorderOutput", "ReorderInput")
    # every other node is there as often
    assert not Counter({name: n for name, n in (before - after).items() if name not in kinds})
    return tuple(Counter({name: count[name] for name in kinds if count[name]}) for count in (before, after))


def test_pairs_and_the_parts_of_a_hard_swish_are_computed_between_convolutions(reorders):
    nodes = [
        conv("first", "x", "a"), *hard_swish("a", "b"), *pair("b", "c"), conv("second", "c", "d"), *pair("d", "e"),
        conv("third", "e", "f"), helper.make_node("Softmax", ["f"], ["y"], axis=1),
    ]  # fmt: skip
    shapes = {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3), "third": (32, 32, 3, 3)}
    before, after = compared(network(nodes, shapes, {"y": ["n", 32, 9, 9]}), reorders)
    assert before == {"ReorderOutput": 3, "ReorderInput": 2}
    # what Softmax reads
    assert after == {"ReorderOutput": 1}


def test_what_others_read_too_is_reordered_once_behind_the_layers(reorders):
    nodes = [
        conv("first", "x", "a"), *hard_swish("a", "b"), *pair("b", "c"), conv("second", "c", "d"),
        conv("third", "c", "e"), helper.make_node("Softmax", ["c"], ["y"], axis=1),
        helper.make_node("Add", ["d", "e"], ["z"]),
    ]  # fmt: skip
    shapes = {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3), "third": (32, 32, 3, 3)}
    outputs = {"y": ["n", 32, 9, 9], "z": ["n", 32, 9, 9]}
    before, after = compared(network(nodes, shapes, outputs), reorders)
    assert after.total() < before.total() and not after["ReorderInput"]


@pytest.mark.parametrize("channels", [20, 32])
def test_blocks_that_are_not_full_stay_as_they_are(reorders, channels):
    """A block's padding is zero only as long as nothing is added to it."""
    nodes = [conv("first", "x", "a"), *hard_swish("a", "b"), conv("second", "b", "y")]
    shapes = {"first": (channels, 3, 3, 3), "second": (32, channels, 3, 3)}
    before, after = compared(network(nodes, shapes, {"y": ["n", 32, 9, 9]}), reorders)
    assert (before == after) == (channels == 20)


def test_factors_of_channels_are_not_taken_for_values_in_the_same_order(reorders):
    """As in squeeze and excitation: [n, channels, 1, 1] times [n, channels, height, width]."""
    nodes = [
        conv("first", "x", "a"), *pair("a", "b"), helper.make_node("GlobalAveragePool", ["b"], ["mean"]),
        helper.make_node("Conv", ["mean", "w squeeze"], ["s"]), helper.make_node("Clip", ["s", "zero", "six"], ["t"]),
        helper.make_node("Mul", ["b", "t"], ["c"]), *pair("c", "d"), conv("second", "d", "y"),
    ]  # fmt: skip
    shapes = {"first": (32, 3, 3, 3), "squeeze": (32, 32, 1, 1), "second": (32, 32, 3, 3)}
    compared(network(nodes, shapes, {"y": ["n", 32, 9, 9]}), reorders)


def test_integers_that_are_an_output_keep_their_layout(reorders):
    nodes = [conv("first", "x", "a"), *pair("a", "b"), conv("second", "b", "y")]
    proto = network(nodes, {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3)}, {"y": ["n", 32, 9, 9]})
    proto.graph.output.append(helper.make_tensor_value_info("b q", TensorProto.INT8, ["n", 32, 9, 9]))
    before, after = compared(proto, reorders)
    assert before == after


def test_halves_between_casts_and_a_scale_for_each_channel(reorders):
    nodes = [
        conv("first", "x", "a"), helper.make_node("Cast", ["a"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["b"], to=TensorProto.FLOAT), conv("second", "b", "c"),
        helper.make_node("QuantizeLinear", ["c", "w scales", "w zeros"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "w scales", "w zeros"], ["d"], axis=1), conv("third", "d", "y"),
    ]  # fmt: skip
    shapes = {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3), "third": (32, 32, 3, 3)}
    proto = network(nodes, shapes, {"y": ["n", 32, 9, 9]})
    scales = np.linspace(0.01, 0.1, 32, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(scales, "w scales"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.int8), "w zeros"))
    before, after = compared(proto, reorders)
    # a channel's scale belongs to the channel's place
    assert before - after == {"ReorderOutput": 1, "ReorderInput": 1}


def test_outputs_in_any_order_come_from_where_they_are_computed(reorders):
    nodes = [
        conv("first", "x", "a"),
        *hard_swish("a", "b"),
        *pair("b", "c"),
        conv("second", "c", "d"),
        *hard_swish("d", "y"),
    ]
    proto = network(nodes, {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3)}, {"y": ["n", 32, 9, 9]})
    wanted = ["a", "b", "c", "d", "y"]
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32)}
    usual, found = session(proto, wanted, threads=1).run(x), session(proto, wanted, threads=1, any_order=True).run(x)
    for name in wanted:
        assert found[name].shape == usual[name].shape
        assert np.sort(found[name], axis=None).tobytes() == np.sort(usual[name], axis=None).tobytes()
    before, after = reorders.pop()
    if before["ReorderOutput"]:
        # only as outputs, which are taken as they are then
        assert not after["ReorderInput"]
        assert all(not np.array_equal(found[name], usual[name]) for name in wanted)


def test_a_number_with_five_axes_takes_its_sum_out_of_the_layout(reorders):
    nodes = [
        conv("first", "x", "a"), *pair("a", "b"), conv("second", "b", "d"),
        helper.make_node("Add", ["a", "deep"], ["e"]), helper.make_node("Softmax", ["e"], ["y"], axis=-1),
    ]  # fmt: skip
    shapes = {"first": (32, 3, 3, 3), "second": (32, 32, 3, 3)}
    proto = network(nodes, shapes, {"y": [1, "n", 32, 9, 9], "d": ["n", 32, 9, 9]})
    proto.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1, 1, 1), 2.5, np.float32), "deep"))
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32)}
    wanted = ["d", "e", "y"]
    usual, found = session(proto, wanted, threads=1).run(x), session(proto, wanted, threads=1, any_order=True).run(x)
    for name in wanted:
        assert found[name].shape == usual[name].shape
        assert np.sort(found[name], axis=None).tobytes() == np.sort(usual[name], axis=None).tobytes()
