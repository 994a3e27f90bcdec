"""Properties of operators in TensorRT that placement depends on."""

from __future__ import annotations

from toolkit.base.block_operators import FP4_QUANTIZE, MXFP8_DEQUANTIZE, MXFP8_QUANTIZE
from toolkit.base.precision import Precision

TARGETS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose inputs are quantized: they have INT8 and FP8 kernels."""

NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
"""Between the products of a transformer."""

MOVERS = frozenset(
    [
        "Identity",
        "Dropout",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "Expand",
        "Tile",
        "Pad",
        "DepthToSpace",
        "SpaceToDepth",
        "MaxPool",
    ]
)
"""Operators that commute with Q and DQ: they only move values or choose among them."""

POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
"""Pools that do not commute: INT8 in needs INT8 out."""

ADDS = frozenset({"Add", "Sum"})

ACTIVATIONS = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Elu",
        "Selu",
        "Softplus",
        "Mish",
        "Swish",
        "Gelu",
        "Erf",
        "ThresholdedRelu",
        "Celu",
        "Softsign",
    ]
)

FOLDED = frozenset({"BatchNormalization"})
"""Operators that fuse into a preceding convolution: a constant factor and offset per channel."""
AFFINE = FOLDED | {"InstanceNormalization"}

REGION = MOVERS | POOLS | ADDS | ACTIVATIONS | AFFINE | {"Mul", "Concat", "Resize", "Upsample", "QuantizeLinear",
                                                         "DequantizeLinear"}  # fmt: skip
"""Operators whose output still counts as coming from the preceding quantized layers."""

QUANTIZE, DEQUANTIZE, CAST = "QuantizeLinear", "DequantizeLinear", "Cast"
BLOCK_OPERATORS = {
    FP4_QUANTIZE: Precision.NVFP4, MXFP8_QUANTIZE: Precision.MXFP8, MXFP8_DEQUANTIZE: Precision.MXFP8,
}  # fmt: skip
"""TensorRT's own operators, which lowering uses for pairs with block scales."""
QUANTIZERS = frozenset({QUANTIZE, FP4_QUANTIZE, MXFP8_QUANTIZE})
DEQUANTIZERS = frozenset({DEQUANTIZE, MXFP8_DEQUANTIZE})
PAIR_OPERATORS = QUANTIZERS | DEQUANTIZERS
"""The operators of pairs in a lowered graph."""


def weight_axis(op: str, weight_index: int, rank: int, attrs: dict[str, object]) -> int | None:
    """The output-channel axis of a weight, or None for one scale for the whole tensor.

    Conv: 0. ConvTranspose: 1, or one scale with groups, since axis 1 then counts channels within a group. Gemm: by
    transB. MatMul: the last axis of the right operand; a constant left operand has no output channels.
    """
    if op == "Conv":
        return 0
    if op == "ConvTranspose":
        return 1 if int(attrs.get("group", 1)) == 1 else None  # type: ignore[call-overload]
    if weight_index != 1 or rank < 2:
        return None
    if op == "Gemm":
        return 0 if attrs.get("transB", 0) else 1
    return rank - 1 if rank == 2 else None
