"""Names of the operators that quantize in blocks: TensorRT's own, and qtool's in graphs being processed."""

from __future__ import annotations

from toolkit.base.precision import Precision

TENSORRT = "trt"
FP4_QUANTIZE, MXFP8_QUANTIZE = "TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize"
MXFP8_DEQUANTIZE = "TRT_MXFP8DequantizeLinear"
QTOOL = "qtool"


def domain_of(precision: Precision) -> str:
    """The domain of Q/DQ pairs of a type that computes the block scales of activations at run time."""
    return f"{QTOOL}.{precision}"
