"""A layer that is kept float after pairs were inserted leaves no pair that nothing uses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import MODELS, build, node, normal, run
from toolkit import CalibrationData, Calibrator, Context, Model, pairs_of, without_pairs
from toolkit.contract.findings import Code
from toolkit.contract.registry import find_pass
from toolkit.placement.codes import PlacementCode

LAYERS = [
    "/stem/conv/Conv", *(f"/block{block}/{place}/conv/Conv" for block in (1, 2, 3) for place in ("first", "second")),
    "/block2/downsample/conv/Conv", "/separable/depthwise/conv/Conv", "/separable/pointwise/conv/Conv", "/head/Gemm",
]  # fmt: skip
DATA = CalibrationData.open(MODELS / "digits_calibration.npz", Model.load(MODELS / "digits_cnn.onnx")).first(16)


def passed(model, *passes, data=DATA):
    context = Context(provider=Calibrator(data, method="minmax"))
    for name, settings in passes:
        find_pass(name, False)(**settings)(model, context)
    return model, context


def readers(model):
    """By tensor that has a pair the nodes that read it."""
    return {
        pair.tensor.name: sorted(reader.name for reader in pair.dequantize.outputs[0].outputs)
        for pair in pairs_of(model) if model.constant(pair.tensor) is None
    }  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_kept_float_after_pairs_is_as_if_it_had_been_excluded(layer):
    kept, context = passed(
        Model.load(MODELS / "digits_cnn.onnx"), ("insert_qdq", {}), ("keep_precision", {"nodes": [layer]})
    )
    excluded, _ = passed(Model.load(MODELS / "digits_cnn.onnx"), ("insert_qdq", {"exclude": [layer]}))
    # a pair that moves to the other branch of an Add is not inserted here
    moved = {"/block2/downsample/bn/BatchNormalization_output_0"} if "downsample" in layer else set()
    assert readers(kept) == {tensor: read for tensor, read in readers(excluded).items() if tensor not in moved}
    quantized = {name for name, ask in context.plan.items() if ask.precision.quantized}
    assert not quantized & {layer} and all(context.plan.get(name) is not None for name in (layer,))
    feeds = {"image": np.load(MODELS / "digits_test.npz")["image"][:8]}
    for found, wanted in zip(
        run(without_pairs(kept), feeds), run(Model.load(MODELS / "digits_cnn.onnx"), feeds), strict=True
    ):
        assert np.array_equal(found, wanted)


def test_the_journal_says_which_pair_went_and_why():
    _, context = passed(
        Model.load(MODELS / "digits_cnn.onnx"), ("insert_qdq", {}), ("keep_precision", {"nodes": ["/head/Gemm"]})
    )
    pool = "/avgpool/GlobalAveragePool"
    (said,) = (one for one in context.journal if one.node == pool and one.what.code is PlacementCode.UNPAIRED)
    assert said.why.code is Code.ONE_SIDED and said.what.values["tensors"] == ("/maxpool/MaxPool_output_0",)
    assert context.plan.get(pool) is None


def test_pairs_that_the_rules_would_not_place_stay():
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("MatMul", ["xd", "w"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        node("DequantizeLinear", ["hq", "s", "z"], ["hd"]), node("Softmax", ["hd"], ["y"], axis=-1),
    ]  # fmt: skip
    weights = {"w": normal(8, 4), "s": np.float32(0.1), "z": np.int8(0)}
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights))
    find_pass("keep_precision", False)(nodes=["h"])(model, Context())
    assert readers(model) == {"h": ["y"]}


def turned(both):
    """x @ Transpose(w), whose weight has a pair of the model's own; with ``both`` a second layer reads the Transpose."""
    second = [node("MatMul", ["z", "t"], ["n"], "second")] if both else []
    return Model.from_proto(build(
        [node("QuantizeLinear", ["w", "s", "zero"], ["q"], axis=0),
         node("DequantizeLinear", ["q", "s", "zero"], ["d"], axis=0), node("Transpose", ["d"], ["t"], "turn", perm=[1, 0]),
         node("MatMul", ["x", "t"], ["m"], "first"), *second],
        {"x": ["n", 8], "z": ["n", 8]}, {"m": ["n", 6], **({"n": ["n", 6]} if both else {})},
        {"w": normal(6, 8, seed=1), "s": np.full(6, 0.1, np.float32), "zero": np.zeros(6, np.int8)},
    ))  # fmt: skip


@pytest.mark.parametrize("both", [False, True])
def test_a_weight_behind_a_transpose_is_read_in_float_too(both):
    """As PyTorch exports a Linear after quantization-aware training: the pair was left, and the layer ran in INT8."""
    model, feeds = turned(both), {"x": normal(4, 8, seed=2), "z": normal(4, 8, seed=3)}
    before = run(model, feeds)
    kept, context = passed(model, ("keep_precision", {"nodes": ["first"], "precision": "fp32"}), data=None)
    found = run(kept, feeds)
    np.testing.assert_allclose(found[0], feeds["x"] @ normal(6, 8, seed=1).T, rtol=1e-5, atol=1e-6)
    assert not np.allclose(before[0], found[0], atol=1e-3)
    assert any(one.what.code is Code.REQUESTED and one.what.values["unquantized"] == ("w",) for one in context.journal)
    assert kept.node("turn") is not None and len(list(pairs_of(kept))) == both
    if both:
        assert np.array_equal(before[1], found[1])
    kept.check()
