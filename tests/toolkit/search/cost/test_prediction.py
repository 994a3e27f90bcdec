"""The time of a whole graph, predicted from a datasheet: by bounds, and only where every node counts."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from toolkit.base.precision import Precision
from toolkit.graph.model import Model
from toolkit.search.cost.cost_model import LAUNCH
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.cost.prediction import predict

L4 = gpu_spec("L4")
HALF, INT8 = Precision.FP16, Precision.INT8


def predicted(nodes, inputs, outputs, weights, computes=None, **rest):
    model = Model.from_proto(build(nodes, inputs, outputs, weights))
    return predict(model, model.facts(), L4, computes or {}, HALF, **rest)


def test_a_layer_takes_its_arithmetic_or_its_traffic_and_its_launch():
    nodes = [node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1] * 4), node("Relu", ["c"], ["y"], name="relu")]
    weights = {"w": normal(16, 8, 3, 3), "b": normal(16)}
    (kernel,) = predicted(nodes, {"x": [2, 8, 32, 32]}, {"y": [2, 16, 32, 32]}, weights).kernels
    assert (kernel.node, kernel.fused, kernel.precision) == ("conv", ["relu"], HALF)
    macs = 2 * 16 * 32 * 32 * 8 * 9
    assert kernel.arithmetic == pytest.approx(2 * macs / L4.rate(HALF))
    elements = 2 * 8 * 32 * 32 + 16 * 8 * 9 + 16 + 2 * 16 * 32 * 32
    assert kernel.memory == pytest.approx(2 * elements / L4.bandwidth)
    assert kernel.launch == LAUNCH and kernel.seconds == max(kernel.arithmetic, kernel.memory) + LAUNCH
    assert kernel.bound == "launches"


def test_pairs_halve_what_they_quantize_and_cost_where_floats_are_read_too():
    pair = {"s": np.float32(0.1), "z": np.int8(0), "w8": np.ones((8, 8, 1, 1), np.int8), "w": normal(8, 8, 1, 1)}
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="one"),
        node("QuantizeLinear", ["a", "s", "z"], ["q"], name="q"), node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        node("DequantizeLinear", ["w8", "s", "z"], ["dw"], name="dw"), node("Conv", ["d", "dw"], ["y"], name="two"),
    ]  # fmt: skip
    shape, size = [1, 8, 16, 16], 8 * 16 * 16
    found = predicted(nodes, {"x": shape}, {"y": shape}, pair, {"two": INT8})
    one, two = found.kernels
    # the first layer writes eight bits, the second reads them and its weights in eight bits
    assert one.memory == pytest.approx((2 * size + 2 * 64 + size) / L4.bandwidth) and one.fused == ["q", "d"]
    assert two.memory == pytest.approx((size + 64 + 2 * size) / L4.bandwidth) and two.precision is INT8
    plain = predicted(nodes, {"x": shape}, {"y": shape}, pair, {"two": INT8}, pairs=False)
    assert plain.kernels[1].precision is HALF and plain.kernels[1].memory > two.memory
    read_twice = predicted(nodes, {"x": shape}, {"y": shape, "a": shape}, pair, {"two": INT8})
    assert read_twice.kernels[0].memory > one.memory


def test_without_pairs_the_casts_of_inputs_and_outputs_stay_and_a_pair_in_front_is_gone():
    numbers = {"s": np.float32(0.1), "z": np.int8(0), "w": normal(8, 8, 1, 1)}
    casts = [
        node("Cast", ["x"], ["h"], name="x_to_fp16", to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["a"], name="conv"), node("Neg", ["a"], ["b"], name="neg"),
        node("Cast", ["a"], ["y"], name="y_to_fp32", to=TensorProto.FLOAT),
    ]  # fmt: skip
    shapes = {"x": [1, 8, 16, 16]}, {"y": [1, 8, 16, 16], "b": [1, 8, 16, 16]}
    own = [[one.node for one in predicted(casts, *shapes, numbers, pairs=pairs).kernels] for pairs in (True, False)]
    assert own == [["x_to_fp16", "conv", "neg", "y_to_fp32"]] * 2
    pair = [node("QuantizeLinear", ["h", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"])]
    in_front = [casts[0], *pair, node("Conv", ["d", "w"], ["a"], name="conv"), *casts[2:]]
    assert predicted(in_front, *shapes, numbers, pairs=False).seconds == predicted(casts, *shapes, numbers).seconds


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_without_pairs_an_input_that_a_pair_reads_has_one_cast_to_the_rest(kind, readers):
    """Float32 is cast to float16 before the layers; float16 is what they read."""
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    numbers = {"s": np.array(0.1, dtype), "z": np.int8(0), "w": normal(8, 8, 1, 1).astype(dtype)}
    each, shape = range(readers), [1, 8, 16, 16]
    outputs = {f"y{i}": shape for i in each}

    def kernels(front, read, **how):
        layers = [node("Conv", [read.format(i), "w"], [f"y{i}"], name=f"conv{i}") for i in each]
        given = numbers if any(one.op_type == "QuantizeLinear" for one in front) else {"w": numbers["w"]}
        proto = build([*front, *layers], {"x": shape}, outputs, given, types=dict.fromkeys(["x", *outputs], kind))
        model = Model.from_proto(proto)
        return predict(model, model.facts(), L4, {}, HALF, **how)

    pairs = [node("QuantizeLinear", ["x", "s", "z"], [f"q{i}"], name=f"q{i}") for i in each]
    pairs += [node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]) for i in each]
    cast = [node("Cast", ["x"], ["h"], name="cast", to=TensorProto.FLOAT16)] if kind == TensorProto.FLOAT else []
    found, plain = kernels(pairs, "d{}", pairs=False), kernels(cast, "h" if cast else "x")
    assert len(found.kernels) == len(plain.kernels) == readers + len(cast)
    assert found.seconds == pytest.approx(plain.seconds)


def test_a_long_chain_of_views_is_seen_through():
    views = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    nodes = [node("Conv", ["x", "w"], ["v0"], name="conv"), *views, node("Relu", ["v3000"], ["y"])]
    found = predicted(nodes, {"x": [1, 8, 4, 4]}, {"y": [1, 8, 4, 4]}, {"w": normal(8, 8, 1, 1)})
    size = 8 * 4 * 4
    assert found.kernels[0].memory == pytest.approx(2 * (size + 64 + size) / L4.bandwidth)


def test_a_recurrent_layer_counts_with_a_launch_a_step_and_direction():
    weights = {"w": normal(2, 16, 5), "r": normal(2, 16, 4)}
    nodes = [node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=4, direction="bidirectional")]
    (kernel,) = predicted(nodes, {"x": [7, 3, 5]}, {"y": [7, 2, 3, 4]}, weights).kernels
    assert kernel.launch == pytest.approx(14 * LAUNCH)
    assert kernel.arithmetic == pytest.approx(2 * 7 * 3 * (2 * 16 * 5 + 2 * 16 * 4) / L4.rate(HALF))


def test_where_one_node_cannot_be_counted_nothing_is_predicted():
    nodes = [node("Relu", ["x"], ["h"], name="relu"), node("Softmax", ["h"], ["y"], name="soft")]
    assert len(predicted(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {}).kernels) == 2
    found = predicted(nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, {})
    assert found.kernels == [] and "soft" in found.uncounted
