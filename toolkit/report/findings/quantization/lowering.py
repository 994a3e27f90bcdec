"""Messages on types in the final graph and on changes by lowering."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import quoted


def _no_kernel(op: str, version: int) -> str:
    # the only known case; see NO_INT8_KERNEL in backends/lowering/weak.py
    return (
        f"TensorRT {version} has no usable INT8 {op}: 8.6.0 fails to build it (refitUtils.cpp, seen on an H200), and "
        "where it builds it is slower than FP16 (NVIDIA/TensorRT issue 1699)"
    )


def _readers(readers: Sequence[str]) -> str:
    return quoted(readers) if readers else "an output of the model"


LOWERING: Table = {
    Code.NOT_REQUESTED: "not requested; the rest runs in {rest}",
    Code.STAYS_FP32: "stays fp32: {why}",
    Code.FLOAT_RANGE: "stays fp32: {why}",
    Code.HOLDS_SUBGRAPH: "{op} contains a subgraph, which keeps its types",
    Code.FEEDS_SUBGRAPH: "a subgraph returns its result, and subgraphs run in fp32",
    Code.NOT_ONNX: lambda op, known=False, twin="": (
        f"{op} is an operator of ONNX's domain {op.rpartition('::')[0]}, none of which TensorRT supports"
        if known
        else f"{op} is not an ONNX operator, so its types are not known"
        + (f"; TensorRT's parser goes by the name and builds ONNX's {twin} in its place: rename it" if twin else "")
    ),
    Code.TYPE_UNKNOWN: "the type of its tensor '{tensor}' is not known",
    Code.BECOMES_INTEGER: "its result becomes an integer at '{cast}', which a 16-bit float would round",
    Code.BFLOAT16_OPSET: lambda newest, wanted, error="": (
        f"ONNX has bfloat16 convolutions, pools and recurrent layers from opset {wanted} on, and the "
        + (f"model stays at {newest}: {error.rstrip('.')}" if error else f"backend supports {newest} at most")
        + ". Such layers stay in float32."
    ),
    Code.NOT_IN_OPSET: "{op} is not in opset {opset}",
    Code.NO_SUCH_FORM: "ONNX has no {precision} form of {op} in opset {opset}",
    Code.BEYOND_TYPE: lambda tensor, value, precision, limit, constant: (
        f"its {'constant' if constant else 'tensor'} '{tensor}' {'reaches' if constant else 'reached'} {value:.6g}, "
        f"beyond the {precision} maximum of {limit:.6g}"
    ),
    Code.VANISHING_VALUES: "its tensor '{tensor}' stays below {value:.3g}, which fp16 rounds to a few steps or to 0",
    Code.INEXACT_INTEGERS: "its integers reached {value:.6g}; {precision} is exact only up to {exact:.0f}",
    Code.EPSILON_LOST: "its constant '{tensor}' is {value:.3g}, which fp16 cannot distinguish from 0",
    Code.FOLLOWS_EPSILON: "it follows '{node}', whose constant {value:.3g} fp16 cannot distinguish from 0",
    Code.SCALE_LOST: "the scale {scale:.3g} of its tensor '{tensor}' does not fit float16",
    Code.UNCHECKED: (
        "No values were observed, so only the weights were checked against the float16 range: add calibration data."
    ),
    Code.CAST_INSERTED: "Cast inserted",
    Code.CAST_REMOVED: "Cast removed",
    Code.IDLE_CAST: "it converts a type to itself",
    Code.BETWEEN_TYPES: "'{reader}' computes in {precision}, and '{tensor}' is computed in {made}",
    Code.OUTPUT_TYPE: lambda output, precision, requested: (
        f"[engine] io requests {precision} for '{output}'" if requested else f"output '{output}' keeps {precision}"
    ),
    Code.UNSQUEEZE_RESHAPED: "Unsqueeze rewritten as Reshape",
    Code.PARSED_WITHOUT_GPU: "TensorRT-RTX can parse that without a GPU",
    Code.BIAS_AS_ROW: "bias written as [1, channels]",
    Code.BIAS_REQUANTIZED: "by default onnxruntime quantizes biases of one dimension, which float16 cannot count",
    Code.QUANTIZES: lambda tensor, readers: f"quantizes '{tensor}' for {_readers(readers)}",
    Code.DEQUANTIZES: lambda tensor, readers: f"dequantizes '{tensor}' for {_readers(readers)}",
    Code.BLOCK_FORMS: lambda pairs: f"{count(pairs, 'pair')} with block scales written in TensorRT's own operators.",
    Code.SCALES_OF_BLOCKS: "computes the scales of the blocks that '{node}' dequantizes",
    Code.BLOCKS: "has a scale for every block, so its stored weights stay",
    Code.COMPUTED_ZERO_POINT: "its zero point is computed, so its stored weights stay",
    Code.KERNEL_SHAPE: lambda convolutions: (
        f"Attribute kernel_shape added to {count(convolutions, 'convolution')} that left it out."
    ),
    Code.KERNEL_SHAPE_UNKNOWN: "the shape of its weights is not known, so kernel_shape stays unset",
    Code.FLOAT_WEIGHTS: lambda weights: (
        f"{count(weights, 'stored INT8 weight')} converted to float32 with a Q/DQ pair, as weak typing needs."
    ),
    Code.CONVOLVED: "Gemm rewritten as a convolution of kernel 1 before the Flatten",
    Code.WRITES_OUTPUT: "TensorRT's quantized convolution writes floats itself, and its quantized Gemm needs a copy",
    Code.FLOAT_ATTENTION: (
        "next to quantized layers TensorRT runs attention in float32, and fuses none of it, unless {precision} is "
        "requested"
    ),
    Code.QUANTIZED_ATTENTION: lambda precision, nodes: (
        "All attention is quantized, and TensorRT fuses what lies between its products only where no type is "
        f"requested: the requests of {precision} for {quoted(nodes)} set no constraint."
    ),
    Code.IO_NOT_USED: lambda tensors: (
        f"[engine] io is not used: with weak typing {quoted(tensors)} {'keeps' if len(tensors) == 1 else 'keep'} the "
        "model's own type."
    ),
    Code.IMPLICIT: lambda pairs: (
        f"{count(pairs, 'Q/DQ pair')} removed: with implicit quantization TensorRT gets the ranges instead."
    ),
    Code.NO_KERNEL: _no_kernel,
}
