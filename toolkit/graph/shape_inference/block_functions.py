"""Functions in ONNX's own operators for operators that quantize in blocks, for shape inference and onnxruntime.

There are two sets. While passes change a graph, an activation's pair is a QuantizeLinear and a DequantizeLinear in a
domain of the type's own (``domain_of``). Their scale is that of the largest block, and the tensor between them has
float values that the type can represent. Lowering replaces them with TensorRT's own operators; see
``toolkit.backends.lowering.block_forms``. The arithmetic is bit for bit that of ``toolkit.base.block_scales``.
"""

from __future__ import annotations

from functools import lru_cache

import onnx
from onnx import TensorProto, helper

from toolkit.base.block_operators import FP4_QUANTIZE, MXFP8_DEQUANTIZE, MXFP8_QUANTIZE, QTOOL, TENSORRT, domain_of
from toolkit.base.precision import Precision
from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, opset_of
from toolkit.graph.proto.stored import constants_of

_QUANTIZE = "QuantizeLinear"

_SPLIT = """
    count = Div (last, block)
    split = Concat <axis = 0> (front, count, block, trailing)
    wide = Cast <to = 1> (x)
    magnitude = Abs (wide)
    blocks = Reshape <allowzero = 1> (magnitude, split)
    amax = ReduceMax <keepdims = 0> (blocks, axes)
    same = Equal (wide, wide)
    ones = Cast <to = 3> (same)
"""
"""The largest magnitude of each block of an axis, and ones in the shape of the input, which remains inferable."""
_LAST_AXIS = (
    """
    front = Shape <end = -1> (x)
    last = Shape <start = -1> (x)
    trailing = Constant <value_ints: ints = []> ()
    block = Constant <value_ints = [{block}]> ()
    axes = Constant <value_ints = [-1]> ()
"""
    + _SPLIT
)
_AN_AXIS = (
    """
    front = Shape <end: int = @axis> (x)
    rest = Shape <start: int = @axis> (x)
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    end = Shape (rest)
    last = Slice (rest, first, second)
    trailing = Slice (rest, second, end)
    size = Constant <value_int: int = @block_size> ()
    block = Reshape (size, second)
    before = Shape (front)
    axes = Add (before, second)
"""
    + _SPLIT
)
_ROUNDED = """
    steps = DequantizeLinear <{along}> (ones, scales)
    ratio = Div (wide, steps)
"""
_NVFP4 = (
    """
    most = Constant <value_float = 448.0> ()
    six = Constant <value_float = 6.0> ()
    least = Constant <value_float = 0.001953125> ()
    wanted = Div (amax, six)
    relative = Div (wanted, whole)
    bounded = Clip (relative, least, most)
    stored_scales = Cast <to = 17> (bounded)
    known_scales = Cast <to = 1> (stored_scales)
    scales = Mul (known_scales, whole)
"""
    + _ROUNDED
)
_E2M1 = """
    limit = Constant <value_float = 6.0> ()
    below = Neg (limit)
    kept = Clip (ratio, below, limit)
    length = Abs (kept)
    two = Constant <value_float = 2.0> ()
    four = Constant <value_float = 4.0> ()
    half = Constant <value_float = 0.5> ()
    one = Constant <value_float = 1.0> ()
    small = Less (length, two)
    middle = Less (length, four)
    upper = Where (middle, one, two)
    step = Where (small, half, upper)
    level = Div (kept, step)
    nearest = Round (level)
    values = Mul (nearest, step)
"""
_MXFP8 = (
    """
    zero = Constant <value_float = 0.0> ()
    one = Constant <value_float = 1.0> ()
    base = Constant <value_float = 2.0> ()
    nothing = Equal (amax, zero)
    counted = Where (nothing, one, amax)
    most = Constant <value_float = 448.0> ()
    relative = Div (counted, most)
    natural = Log (relative)
    log_two = Constant <value_float = 0.6931472> ()
    exponent = Div (natural, log_two)
    guess = Ceil (exponent)
    low = Constant <value_float = -126.0> ()
    high = Constant <value_float = 127.0> ()
    bounded = Clip (guess, low, high)
    up = Add (bounded, one)
    down = Sub (bounded, one)
    power = Pow (base, bounded)
    less = Pow (base, down)
    reach = Mul (power, most)
    reach_less = Mul (less, most)
    too_small = Less (reach, counted)
    too_large = GreaterOrEqual (reach_less, counted)
    smaller = Where (too_large, down, bounded)
    moved = Where (too_small, up, smaller)
    exact = Clip (moved, low, high)
    scales = Pow (base, exact)
"""
    + _ROUNDED
    + """
    below = Neg (most)
    kept = Clip (ratio, below, most)
    stored = Cast <to = 17> (kept)
"""
)
"""The logarithm is only an estimate: the exponent is corrected by comparing products with 448, which are exact."""


def _own(text: str, block: int) -> str:
    """A function body for blocks of the last axis."""
    return _LAST_AXIS.format(block=block) + text.format(along=f"axis = -1, block_size = {block}")


def _tensorrt(text: str) -> str:
    """A function body for blocks with the axis and size in the node's attributes."""
    return _AN_AXIS + text.format(along="axis: int = @axis, block_size: int = @block_size")


_BODIES: dict[tuple[str, str], str] = {
    (domain_of(Precision.NVFP4), _QUANTIZE): "(x, scale) => (y) {"
    "largest = Constant <value_float = 448.0> ()\n whole = Div (scale, largest)"
    + _own(_NVFP4, 16) + _E2M1 + "y = Mul (values, steps) }",
    (domain_of(Precision.MXFP8), _QUANTIZE): "(x, scale) => (y) {"
    + _own(_MXFP8, 32) + "values = Cast <to = 1> (stored)\n y = Mul (values, steps) }",
    (TENSORRT, FP4_QUANTIZE): "<axis: int = -1, block_size: int = 16> (x, whole) => (y, y_scale) {"
    + _tensorrt(_NVFP4) + _E2M1 + "y = Cast <to = 23> (values)\n y_scale = Identity (stored_scales) }",
    (TENSORRT, MXFP8_QUANTIZE): "<axis: int = -1, block_size: int = 32> (x) => (y, y_scale) {"
    + _tensorrt(_MXFP8) + "y = Identity (stored)\n bias = Constant <value_float = 127.0> ()\n"
    "biased = Add (exact, bias)\n y_scale = Cast <to = 2> (biased) }",
    (TENSORRT, MXFP8_DEQUANTIZE): "<axis: int = -1, block_size: int = 32, output_dtype: int = 1> (x, x_scale) => (y) {"
    "biased = Cast <to = 1> (x_scale)\n bias = Constant <value_float = 127.0> ()\n exponent = Sub (biased, bias)\n"
    "base = Constant <value_float = 2.0> ()\n scales = Pow (base, exponent)\n"
    "wide = DequantizeLinear <axis: int = @axis, block_size: int = @block_size> (x, scales)\n"
    "y = Cast <to: int = @output_dtype> (wide) }",
    (QTOOL, _QUANTIZE): "<axis, block_size> (x, scale) => (y) {"
    "same = Equal (x, x)\n ones = Cast <to = 3> (same)\n"
    "steps = DequantizeLinear <axis: int = @axis, block_size: int = @block_size> (ones, scale)\n"
    "exact = Div (x, steps)\n ratio = Cast <to = 1> (exact)"
    + _E2M1 + "y = Cast <to = 23> (values) }",
    **{
        (domain_of(precision), "DequantizeLinear"): "<output_dtype> (x, scale) => (y) {"
        "y = Cast <to: int = @output_dtype> (x) }"
        for precision in (Precision.NVFP4, Precision.MXFP8)
    },
}  # fmt: skip


def is_written_out(domain: str, op: str) -> bool:
    """Whether an operator has a function in this module."""
    return (domain, op) in _BODIES


def declare(proto: onnx.ModelProto, imports_all: bool = False) -> bool:
    """Add to a message the functions of the operators that it uses, in place.

    TensorRT would use these functions instead of its own operators, so files for TensorRT must not have them.

    Args:
        imports_all: whether it imports every domain that it uses; nodes are then searched only if such a domain is
            imported.

    Returns:
        Whether it uses any of the operators.
    """
    imported = {one.domain for one in proto.opset_import}
    if imports_all and not any(domain in imported for domain, _ in _BODIES):
        return False
    used = {(node.domain, node.op_type) for node in all_nodes(proto.graph.node)} & _BODIES.keys()
    known = {(one.domain, one.name) for one in proto.functions}
    version = opset_of(proto)
    for domain, op in sorted(used - known):
        proto.functions.append(_function(domain, op, version))
        if domain not in imported:
            imported.add(domain)
            proto.opset_import.append(helper.make_opsetid(domain, 1))
    return bool(used)


@lru_cache(maxsize=64)
def _function(domain: str, op: str, version: int) -> onnx.FunctionProto:
    text = f'<domain: "{domain}", opset_import: ["" : {version}]> {op} {_BODIES[domain, op]}'
    return onnx.parser.parse_function(text)


def round_by_function(proto: onnx.ModelProto) -> None:
    """Replace every QuantizeLinear to FLOAT4E2M1 by a function, in place: onnxruntime has no kernel for this type."""
    narrow = {name for name, tensor in constants_of(proto.graph) if tensor.data_type == TensorProto.FLOAT4E2M1}
    for node in all_nodes(proto.graph.node):
        if node.op_type != _QUANTIZE or node.domain not in ONNX_DOMAINS:
            continue
        given = {attribute.name: attribute.i for attribute in node.attribute}
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero not in narrow and given.get("output_dtype") != TensorProto.FLOAT4E2M1:
            continue
        node.domain = QTOOL
        del node.input[2:]
        del node.attribute[:]
        for name, default in (("axis", 1), ("block_size", 0)):
            node.attribute.append(helper.make_attribute(name, given.get(name, default)))
