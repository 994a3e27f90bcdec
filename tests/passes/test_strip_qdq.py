from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal, ops, placeholder_context, run
from toolkit import Context, Model


def quantized_conv(kind, zero, per_channel, stored):
    """A Conv between pairs of the given type; the weight quantized on the fly or stored as integers."""
    weight = normal(4, 3, 1, 1, seed=1)
    scale = (
        (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32) if per_channel else np.float32(0.02).reshape(())
    )
    zeros = np.full(scale.shape, zero, kind)
    spread = scale.reshape(-1, 1, 1, 1) if per_channel else scale
    limits = np.iinfo(kind)
    integers = np.clip(np.rint(weight / spread) + zero, limits.min, limits.max).astype(kind)
    attrs = {"axis": 0} if per_channel else {}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], **attrs), node("Conv", ["xd", "wd"], ["y"]),
    ]  # fmt: skip
    weights = {"xs": np.float32(0.05).reshape(()), "xz": np.array(zero, kind), "ws": scale, "wz": zeros}
    if stored:
        weights["wq"] = integers
    else:
        nodes.insert(2, node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], **attrs))
        weights["w"] = weight
    return build(nodes, {"x": [1, 3, 5, 5]}, {"y": [1, 4, 5, 5]}, weights), weight, integers, spread


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_strips_pairs_of_any_kind(kind, per_channel, stored):
    zero = 128 if kind is np.uint8 else 0
    proto, weight, integers, spread = quantized_conv(kind, zero, per_channel, stored)
    model = Model.from_proto(proto)
    StripQDQ()(model)
    assert ops(model) == {"Conv": 1}
    expected = (integers.astype(np.float32) - zero) * spread if stored else weight
    assert np.allclose(model.constant(model.node("y").inputs[1]), expected, atol=1e-7)
    run(model, {"x": normal(1, 3, 5, 5)})


def test_keeps_scales_as_ranges_for_insert():
    model = Model.from_proto(quantized_conv(np.uint8, 100, False, True)[0])
    context = Context()
    StripQDQ(keep_ranges=True)(model, context)
    assert context.known_ranges.amax("x") == pytest.approx(155 * 0.05)
    InsertQDQ()(model, context)
    scale = model.constant(model.node("y").inputs[0].inputs[0].inputs[1])
    assert float(scale) == pytest.approx(155 * 0.05 / 127, rel=1e-3)


def test_an_output_that_comes_from_a_pair_keeps_its_name():
    model = Model.from_proto(build(
        [node("Relu", ["x"], ["r"]), node("QuantizeLinear", ["r", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"x": [4]}, {"y": [4]}, {"s": np.float32(0.1).reshape(()), "z": np.array(0, np.int8)},
    ))  # fmt: skip
    StripQDQ()(model)
    assert ops(model) == {"Relu": 1, "Identity": 1}
    x = normal(4)
    assert np.array_equal(run(model, {"x": x})[0], np.maximum(x, 0))


def test_an_int32_bias_after_a_dequantizer_becomes_float():
    proto, *_ = quantized_conv(np.int8, 0, False, True)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3, 4], np.int32), "bq"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "bs"))
    proto.graph.node.insert(0, node("DequantizeLinear", ["bq", "bs"], ["bd"]))
    proto.graph.node[-1].input.append("bd")
    model = Model.from_proto(proto)
    StripQDQ()(model)
    assert np.array_equal(model.constant(model.node("y").inputs[2]), np.array([0.5, 1, 1.5, 2], np.float32))


def test_a_pair_that_casts_leaves_a_cast_behind():
    model = Model.from_proto(build(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "h", "z"], ["d"]), node("Relu", ["d"], ["y"])],
        {"x": [4]}, {"y": [4]}, {"s": np.float32(0.1), "h": np.float16(0.1), "z": np.int8(0)},
        opset=19, types={"y": TensorProto.FLOAT16},
    ))  # fmt: skip
    context = Context()
    StripQDQ()(model, context)
    assert ops(model) == {"Cast": 1, "Relu": 1}
    assert "cast-restored" in [event.rule for event in context.journal]
    x = normal(4)
    (found,) = run(model, {"x": x})
    assert found.dtype == np.float16 and np.array_equal(found, np.maximum(x, 0).astype(np.float16))


def test_half_a_pair_is_declined_not_lost():
    model = Model.from_proto(build(
        [node("DequantizeLinear", ["x", "s", "z"], ["y"])], {"x": [4]}, {"y": [4]},
        {"s": np.float32(0.1).reshape(()), "z": np.array(0, np.int8)}, types={"x": TensorProto.INT8},
    ))  # fmt: skip
    context = Context()
    StripQDQ()(model, context)
    assert ops(model) == {"DequantizeLinear": 1}
    assert [e.rule for e in context.journal.of("declined")] == ["no-pair"]


def test_only_the_pairs_that_named_nodes_read(residual):
    InsertQDQ()(residual, placeholder_context())
    count = ops(residual)["DequantizeLinear"]
    StripQDQ(nodes=["y"])(residual)
    assert count > ops(residual)["DequantizeLinear"] > 0
    assert residual.node("y").inputs[1].name == "w3"


def test_a_pair_that_stood_in_for_a_relu_leaves_one_behind():
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    float_model = build(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "w2"], ["y"])],
        {"x": [1, 3, 6, 6]}, {"y": [1, 4, 6, 6]}, {"w": normal(4, 3, 1, 1), "w2": normal(4, 4, 1, 1, seed=1)},
    )  # fmt: skip

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.samples = iter([{"x": normal(1, 3, 6, 6, seed=i)} for i in range(8)])

        def get_next(self):
            return next(self.samples, None)

    import tempfile
    from pathlib import Path

    import onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(float_model, f"{folder}/f.onnx")
        quantize_static(
            f"{folder}/f.onnx",
            f"{folder}/q.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
        )
        model = Model.load(Path(folder) / "q.onnx")
    assert "Relu" not in ops(model)
    StripQDQ()(model)
    assert ops(model)["Relu"] == 1
    x = normal(1, 3, 6, 6, seed=3)
    assert np.abs(run(model, {"x": x})[0] - run(float_model, {"x": x})[0]).max() < 0.2


def clipping(kind, zero=0, axis=None):
    """A MatMul whose weight [16, 8] has a pair: (the model, the weight as the pair clips it, without rounding)."""
    weight = normal(16, 8, seed=1, scale=0.5)
    weight[3, 5], weight[0, 1] = 9.0, -8.0
    ends = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.FLOAT8E4M3FN: (-448, 448)}[kind]
    scale = np.full([8] if axis is not None else [], 5.0 / (ends[1] - ends[0]), np.float32)
    low, high = ((end - zero) * scale for end in ends)
    attrs = {} if axis is None else {"axis": axis}
    proto = build(
        [node("QuantizeLinear", ["w", "s", "z"], ["wq"], "quantize", **attrs),
         node("DequantizeLinear", ["wq", "s", "z"], ["wd"], **attrs), node("MatMul", ["x", "wd"], ["y"], "layer")],
        {"x": [1, 16]}, {"y": [1, 8]},
        {"w": weight, "s": scale, "z": np.full(scale.shape, zero, helper.tensor_dtype_to_np_dtype(kind))},
        opset=19, ir_version=10,
    )  # fmt: skip
    return Model.from_proto(proto), np.clip(weight, low, high)


KINDS = [(TensorProto.INT8, 0, None), (TensorProto.INT8, 0, -1), (TensorProto.UINT8, 128, 1),
         (TensorProto.FLOAT8E4M3FN, 0, None)]  # fmt: skip


@pytest.mark.parametrize(("kind", "zero", "axis"), KINDS)
def test_a_weight_that_its_pair_clips_is_clamped_and_not_rounded(kind, zero, axis):
    """After training with quantization the values beyond a range are what training left there, and never used."""
    model, wanted = clipping(kind, zero, axis)
    context = Context()
    StripQDQ()(model, context)
    assert ops(model) == {"MatMul": 1}
    assert np.allclose(model.constant(model.node("layer").inputs[1]), wanted, rtol=1e-6)
    (note,) = [e for e in context.journal.of("noted") if e.rule == "weight-clamped"]
    assert note.node == "quantize" and note.why.values == {"weight": "w", "share": 2 / 128}
    x = {"x": normal(1, 16)}
    assert np.allclose(run(model, x)[0], x["x"] @ wanted, atol=1e-5)


@pytest.mark.parametrize(("kind", "zero", "axis"), KINDS)
def test_a_layer_of_the_source_that_is_kept_float_reads_the_clamped_weight(kind, zero, axis):
    model, wanted = clipping(kind, zero, axis)
    KeepPrecision(nodes=["layer"])(model, Context(source=model.copy()))
    assert ops(model) == {"MatMul": 1}
    assert np.allclose(model.constant(model.node("layer").inputs[1]), wanted, rtol=1e-6)


def test_a_weight_that_is_rounded_more_than_clipped_stays():
    """A range of the least error clips too; without its pair the weight is the one that was quantized."""
    weight = normal(4096, 1, seed=3)
    weight[7] = 1.02 * np.abs(weight).max()
    scale = np.float32(np.abs(weight).max() / 127 * 0.985)
    proto = build(
        [node("QuantizeLinear", ["w", "s", "z"], ["wq"]), node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
         node("MatMul", ["x", "wd"], ["y"], "layer")],
        {"x": [1, 4096]}, {"y": [1, 1]}, {"w": weight, "s": scale, "z": np.int8(0)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    StripQDQ()(model)
    assert np.array_equal(model.constant(model.node("layer").inputs[1]), weight)


def least_error_scale(weight):
    """The INT4 scale of least squared error for each row of [rows, values], of 200 up to the largest magnitude's."""
    tried = np.abs(weight).max(axis=1) * np.linspace(0.005, 1, 200)[:, None] / 7
    scales = tried[..., None].astype(np.float32)
    errors = [np.square(np.clip(np.rint(weight / s), -8, 7) * s - weight).sum(axis=1) for s in scales]
    return tried[np.argmin(errors, axis=0), np.arange(len(weight))].astype(np.float32)


@pytest.mark.parametrize("block", [0, 64])
def test_a_range_of_the_least_error_keeps_the_weights_however_few_its_levels(block):
    """In INT4 the least error clips a long channel's outlier by more power than it rounds the rest: 961 to 125 here."""
    weight = normal(4608, 16, seed=1)
    weight[17] = 35
    rows = weight.T.reshape(-1, block or 4608)
    scale = least_error_scale(rows)
    scale = scale.reshape(16, -1).T.copy() if block else scale
    zero = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(TensorProto.INT4))
    attrs = {"axis": 0, "block_size": block} if block else {"axis": 1}
    model = Model.from_proto(build(
        [node("QuantizeLinear", ["w", "s", "z"], ["q"], **attrs),
         node("DequantizeLinear", ["q", "s", "z"], ["d"], **attrs), node("MatMul", ["x", "d"], ["y"], "layer")],
        {"x": [1, 4608]}, {"y": [1, 16]}, {"w": weight, "s": scale, "z": zero}, opset=21, ir_version=10,
    ))  # fmt: skip
    StripQDQ()(model)
    assert np.array_equal(model.constant(model.node("layer").inputs[1]), weight)
