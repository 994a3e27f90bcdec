"""Outputs that hand a decoder's past on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal, run
from tests.control_flow import conv_in_loop
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observe import observe
from toolkit.graph.interface.pasts import continued_inputs, reached, renewed
from toolkit.graph.interface.used_inputs import used_inputs, varying_tensors


def decoder(grows="Concat"):
    """Keys are computed, joined with those of the past, and looked up by queries; the logits are a label a position."""
    keys = [node("Reshape", ["m", "heads"], ["r"]), node("Transpose", ["r"], ["k"], perm=[0, 2, 1, 3])]
    join = {
        "Concat": [node("Concat", ["past", "k"], ["joined"], axis=2), node("Identity", ["joined"], ["present"])],
        "Attention": [node("Attention", ["k", "k", "k", "", "past", "past"], ["y4", "present", "joined"])],
        "features": [node("Concat", ["k", "k"], ["present"], axis=2), node("Identity", ["past"], ["joined"])],
    }[grows]
    nodes = [node("Gather", ["words", "ids"], ["e"]), node("MatMul", ["e", "w"], ["m"]), *keys, *join,
             node("MatMul", ["m", "head"], ["logits"])]  # fmt: skip
    weights = {"words": normal(20, 16), "w": normal(16, 64, seed=1), "head": normal(64, 40, seed=2),
               "heads": np.array([0, 0, 2, 32])}  # fmt: skip
    outputs = {"logits": ["n", "l", 40], "present": ["n", 2, "t", 32]}
    inputs, types = {"ids": ["n", "l"], "past": ["n", 2, "p", 32]}, {"ids": 7}
    proto = build(nodes, inputs, outputs, weights, opset=23, ir_version=10, types=types)
    return Model.from_proto(proto)


@pytest.mark.parametrize(
    ("grows", "found"), [("Concat", {"present": "past"}), ("Attention", {"present": "past"}), ("features", {})]
)
def test_an_output_continues_the_input_that_it_grows_from(grows, found):
    assert continued_inputs(decoder(grows)) == found


def test_channels_that_an_input_is_joined_with_are_no_past():
    nodes = [node("Relu", ["x"], ["r"]), node("Concat", ["x", "r"], ["y"], axis=1)]
    assert continued_inputs(Model.from_proto(build(nodes, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 6, "h", "w"]}))) == {}


def test_a_past_tells_a_decoder_and_is_neither_a_picture_nor_an_answer():
    model = decoder()
    batch = {"ids": np.zeros((1, 64), np.int64), "past": normal(1, 2, 32, 32)}
    outputs = {"logits": normal(1, 64, 40, seed=3), "present": normal(1, 2, 96, 32, seed=4)}
    seen = observe(model, [(batch, outputs, 1)])
    assert seen.pasts == {"past"} and not seen.images and [one.name for one in seen.outputs] == ["logits"]
    found = guess(seen)
    assert found.task == "generation" and found.sure and [part.task for part in found.parts] == ["generation"]


@pytest.mark.parametrize(("width", "found"), [(2, set()), (3, {("cache", "y")})])
def test_a_part_of_what_an_input_is_joined_with_is_its_state_in_its_shape_alone(width, found):
    nodes = [node("Concat", ["cache", "x"], ["j"], axis=1), node("Slice", ["j", "from", "to", "axis"], ["y"])]
    ends = {"from": np.array([4 - width]), "to": np.array([4]), "axis": np.array([1])}
    proto = build(nodes, {"cache": [4, 3, 8], "x": [4, 1, 8]}, {"y": [4, width, 8]}, ends)

    assert renewed(Model.from_proto(proto)) == found


def test_what_two_nodes_leave_out_does_not_join_them():
    nodes = [node("LSTM", ["s", "w", "r"], ["", "h"], hidden_size=8), node("Clip", ["x", "", "most"], ["y"])]
    weights = {"w": normal(1, 32, 8), "r": normal(1, 32, 8, seed=1), "most": np.float32(1)}
    proto = build(nodes, {"s": [3, 2, 8], "x": [2, 8]}, {"h": [1, 2, 8], "y": [2, 8]}, weights)

    assert reached(Model.from_proto(proto), ["y"]) == {"y": {"y", "x", "most"}}


@pytest.mark.parametrize("read", ["Gather", "Squeeze", "Reshape"])
def test_the_state_of_a_layer_is_found_after_what_gives_it_another_shape(read):
    """One layer's state is taken from those of all, and put back among them."""
    taken = {
        "Gather": [node("Gather", ["state", "one"], ["h"], axis=0)],
        "Squeeze": [node("Slice", ["state", "one", "two", "zero"], ["part"]), node("Squeeze", ["part", "zero"], ["h"])],
        "Reshape": [
            node("Slice", ["state", "one", "two", "zero"], ["part"]),
            node("Reshape", ["part", "layer"], ["h"]),
        ],
    }[read]
    begin = [node("Unsqueeze", ["h", "zero"], ["b"])] if read == "Squeeze" else [node("Identity", ["h"], ["b"])]
    shape = [2, 2, 8] if read != "Reshape" else [2, 1, 2, 8]
    nodes = [*taken, *begin, node("GRU", ["x", "w", "r", "", "", "b"], ["y", "yh"], hidden_size=8),
             node("Slice", ["state", "zero", "one", "zero"], ["other"]), node("Reshape", ["yh", "back"], ["new"]),
             node("Concat", ["other", "new"], ["next"], axis=0)]  # fmt: skip
    weights = {"w": normal(1, 24, 8), "r": normal(1, 24, 8, seed=1), "zero": np.array([0]), "one": np.array([1]),
               "two": np.array([2]), "layer": np.array([1, 2, 8]), "back": np.array([1, *shape[1:]])}  # fmt: skip
    proto = build(nodes, {"state": shape, "x": [3, 2, 8]}, {"next": shape, "y": [3, 1, 2, 8]}, weights)
    assert renewed(Model.from_proto(proto)) == {("state", "next")}


def policy():
    """Scores of an observation, beside a state that goes through and spreads that only as many rows are made of."""
    nodes = [node("MatMul", ["obs", "w"], ["scores"]), node("Identity", ["state"], ["kept"]),
             node("Identity", ["kept"], ["state_out"]), node("Shape", ["obs"], ["dims"]),
             node("Slice", ["dims", "zero", "one"], ["rows"]), node("Concat", ["rows", "three"], ["grid"], axis=0),
             node("Expand", ["spread", "grid"], ["spreads"])]  # fmt: skip
    weights = {
        "w": normal(6, 3),
        "spread": normal(3),
        "zero": np.array([0]),
        "one": np.array([1]),
        "three": np.array([3]),
    }
    inputs = {"obs": ["n", 6], "state": ["n", 4], "idle": ["n", 1]}
    return Model.from_proto(build(nodes, inputs, {"scores": None, "state_out": None, "spreads": None}, weights))


def test_an_output_that_depends_on_the_number_of_samples_alone_is_not_judged():
    model, given = policy(), np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    assert "obs" in reached(model, ["spreads"])["spreads"] and "spreads" not in varying_tensors(model)
    fed = {"obs": given, "state": given[:, :4], "idle": given[:, :1]}
    values = dict(zip(("scores", "state_out", "spreads"), run(model, fed), strict=True))
    assert [one.name for one in observe(model, [(fed, values, 40)]).outputs] == ["scores", "state_out"]


def test_an_input_is_used_where_a_node_computes_with_its_values():
    assert used_inputs(policy()) == {"obs"}
    # a body that reads it counts
    assert used_inputs(Model.from_proto(conv_in_loop())) >= {"x"}


def test_what_an_inputs_values_reach_does_not_depend_on_the_order_of_the_nodes():
    """ONNX wants every node behind what it reads, and not every exporter does so."""
    nodes = [node("Identity", ["x"], ["passed"]), node("Relu", ["passed"], ["y"])]
    proto = build(nodes, {"x": ["n", 3]}, {"y": ["n", 3]})
    proto.graph.node.reverse()
    model = Model.from_proto(proto)
    assert [one.op for one in model.nodes] == ["Relu", "Identity"]
    assert used_inputs(model) == {"x"} and varying_tensors(model) == {"x", "passed", "y"}
