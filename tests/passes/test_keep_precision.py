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
