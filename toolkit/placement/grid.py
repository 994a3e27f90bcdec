"""The values that a Q/DQ pair can represent: (q - zero point) * scale for every q of its type; and rounding to them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.base.block_operators import domain_of
from toolkit.base.block_scales import to_e2m1
from toolkit.base.mapped import looked_at
from toolkit.base.parts import along, parts_of
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.graph.layers.constants import constant_value
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import np_dtype, onnx_type
from toolkit.placement.ops import QUANTIZE

_LIMITS: dict[int, tuple[float, float]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT32: (-(2.0**31), 2.0**31 - 1),
    TensorProto.FLOAT8E4M3FN: (-448, 448),
    TensorProto.FLOAT8E4M3FNUZ: (-240, 240),
    TensorProto.FLOAT8E5M2: (-57344, 57344),
    TensorProto.FLOAT8E5M2FNUZ: (-57344, 57344),
    TensorProto.FLOAT4E2M1: (-6, 6),
    25: (0, 3),
    26: (-2, 1),
}
"""Smallest and largest q by ONNX's element type (ONNX's QuantizeLinear-25, table of saturation); 25 and 26 are UINT2
and INT2, which older onnx packages have no names for."""
_FLOATS = frozenset(
    {
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
        TensorProto.FLOAT4E2M1,
    }
)
_SAME = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}
"""Relative difference of two scales that are equal except that one was rounded to a narrow type."""


_BLOCK_TYPES = {domain_of(precision): precision for precision in Precision if precision.block}


@dataclass(frozen=True, eq=False)
class Grid:
    """The parameters of a QuantizeLinear or DequantizeLinear.

    Attributes:
        kind: the ONNX element type of the quantized values; 0 if it is not given.
        scale: float64, shape [], [channels] or [.., blocks, ..]; None if it is computed from activations.
        zero: float64, of the scale's shape or []; 0 if the node has none; None if it is computed.
        axis: the channel axis as given by the node, if there is more than one scale.
        block: how many values along ``axis`` share a scale; 0 without blocks. If block scales are computed at run time,
            ``scale`` is the largest.
        tensors: the node's scale and, if it has one, zero point.
        float_kind: the ONNX element type of the scale and of the float values; 0 if it is not known.
        limits: the smallest and largest q, if a Clip in the pair restricts them; else None.
    """

    kind: int
    scale: Array | None
    zero: Array | None
    axis: int | None
    block: int
    tensors: tuple[gs.Tensor, ...]
    float_kind: int = 0
    limits: tuple[float, float] | None = None

    @property
    def _ends(self) -> tuple[float, float]:
        return self.limits or _LIMITS[self.kind]

    @property
    def precision(self) -> Precision | None:
        """The supported quantized type; None if the type is another or not known."""
        return Precision.from_onnx(self.kind, self.block)

    @property
    def range_type(self) -> str:
        """The type that a range taken from the pair is for: the name of a float type, ``int8`` for all integers."""
        found = self.precision
        return "int8" if found is None or not found.quantized or found.integer else str(found)

    @property
    def kind_name(self) -> str:
        """ONNX's name of the element type, such as ``uint8``; empty if it is not known."""
        return TensorProto.DataType.Name(self.kind).lower() if self.kind in TensorProto.DataType.values() else ""

    @property
    def reach(self) -> tuple[Array, Array] | None:
        """The smallest and largest value, (qmin - zero) * scale and (qmax - zero) * scale, in the scale's shape."""
        if self.scale is None or self.zero is None or self.kind not in _LIMITS:
            return None
        low, high = self._ends
        return (low - self.zero) * self.scale, (high - self.zero) * self.scale

    @property
    def amax(self) -> float | None:
        """The largest magnitude that is represented, over all channels.

        For a signed type with zero point 0 that of the largest value, as in symmetric quantization: the smallest
        (-128) is one step further out.
        """
        reach = self.reach
        if reach is None or self.zero is None:
            return None
        sides = reach[1:] if self._ends[0] < 0 and not self.zero.any() else reach
        return float(max(np.abs(side).max() for side in sides))

    @property
    def centred(self) -> bool:
        """Whether 0 is in the middle: such a pair cannot have replaced a one-sided clamp."""
        if self.zero is None or self.kind not in _LIMITS:
            return True
        low, high = self._ends
        # the middle q, the upper of the two middle ones if even: 0 for -128 to 127, and for -127 to 127
        return bool(np.all(self.zero == (0 if self.kind in _FLOATS else (low + high + 1) // 2)))

    @property
    def steps(self) -> bool:
        """Whether the values are evenly spaced: integers are, the narrow float types are not."""
        return self.kind in _LIMITS and self.kind not in _FLOATS

    @property
    def key(self) -> Hashable:
        """A key that is equal for grids with equal values."""
        return (
            self.kind, self.axis, self.block, self.limits,
            id(self.tensors[0]) if self.scale is None else (self.scale.shape, self.scale.tobytes()),
            id(self.tensors[-1]) if self.zero is None else self.zero.tobytes(),
        )  # fmt: skip

    def dequantize(self, stored: Array, axis: int | None = None) -> Array:
        """(stored - zero) * scale, float32, as onnxruntime computes it.

        Args:
            stored: the quantized values.
            axis: the channel axis of ``stored``, if it differs from the node's.

        Raises:
            ValueError: scale or zero point is computed.
        """
        if self.scale is None or self.zero is None:
            raise ValueError("scale or zero point is computed")
        own = self.axis if axis is None else axis
        zero, scale = (spread(part, stored, own, self.block) for part in (self.zero, self.scale))
        made = np.empty(stored.shape, np.float32)
        for part in parts_of(stored):
            steps = (stored[part].astype(np.float64) - along(part, zero, stored)).astype(np.float32)
            made[part] = steps * along(part, scale, stored).astype(np.float32)
        return made

    def agrees(self, other: Grid) -> bool:
        """Whether both have the same values up to rounding to a narrower float type; the channel axes may differ."""
        if self is other:
            return True
        if self.scale is None or other.scale is None:
            same_scale = self.tensors[0] is other.tensors[0]
        else:
            slack = max(_SAME.get(one.float_kind, 1e-6) for one in (self, other))
            same_scale = self.scale.shape == other.scale.shape and bool(
                np.all(np.abs(self.scale - other.scale) <= slack * np.abs(other.scale))
            )
        if self.zero is None or other.zero is None:
            same_zero = self.tensors[-1] is other.tensors[-1]
        else:
            same_zero = bool(np.all(self.zero == other.zero))
        return same_scale and same_zero and self.block == other.block


def spread(part: Array, like: Array, axis: int | None, block: int = 0) -> Array:
    """Scales or zero points in a shape that broadcasts to the values that they apply to.

    Args:
        part: one element, shape [channels], or, with ``block``, the rank of the values.
        like: the values.
        axis: the axis of the channels or blocks; None for one element.
        block: how many values along ``axis`` share an element; the last block may be smaller. 0: one per channel.
    """
    if part.size == 1 or axis is None:
        return part.reshape(-1)[:1].reshape(())
    if block:
        return np.take(np.repeat(part, block, axis=axis), range(like.shape[axis]), axis=axis)
    shape = [1] * like.ndim
    shape[axis] = -1
    return part.reshape(shape)


def quantized(
    values: Array, scale: Array, zero: Array, precision: Precision, axis: int | None, block: int = 0
) -> Array:
    """Constant values as QuantizeLinear quantizes them: in the quantized type, in the same shape.

    Args:
        values: of any float type.
        scale: one element, shape [channels], or, with ``block``, the rank of the values.
        zero: the zero points, likewise.
        precision: the quantized type; see ``on_grid``.
        axis: the axis of the channels or blocks.
        block: how many values along ``axis`` share a scale; 0: one scale per channel.
    """
    steps, offset = (spread(part.astype(np.float32), values, axis, block) for part in (scale, zero))
    made = np.empty(values.shape, np_dtype(precision.onnx_type))
    for part in parts_of(values):
        ratio = looked_at(values[part]).astype(np.float32) / along(part, steps, values)
        made[part] = on_grid(ratio, precision, along(part, offset, values)).astype(made.dtype)
    return made


def limits_of(precision: Precision) -> tuple[float, float]:
    """The smallest and largest value of a quantized type, before scaling."""
    return _LIMITS[precision.onnx_type]


def integer(kind: int) -> bool:
    """Whether an ONNX element type is one of the integers of QuantizeLinear and DequantizeLinear."""
    return kind in _LIMITS and kind not in _FLOATS


def holds(wide: int, narrow: int) -> bool:
    """Whether an integer type holds all values of another, both ONNX element types; False for other types."""
    if not integer(wide) or not integer(narrow):
        return False
    return _LIMITS[wide][0] <= _LIMITS[narrow][0] and _LIMITS[narrow][1] <= _LIMITS[wide][1]


def fits(values: Array, kind: int) -> bool:
    """Whether an integer type, an ONNX element type, holds all of these values."""
    low, high = _LIMITS[kind]
    wide = values.astype(np.float64)
    return not wide.size or bool(low <= wide.min() and wide.max() <= high)


def on_grid(ratio: Array, precision: Precision, zero: Array | None = None) -> Array:
    """The nearest values that a quantized type can represent, ties to even, saturating, in the type of ``ratio``.

    As QuantizeLinear and TensorRT round: INT8 at -128 and 127, INT4 at -8 and 7, E4M3 (FP8, MXFP8) at -448 and 448,
    E2M1 (NVFP4) at -6 and 6.

    Args:
        ratio: float values divided by their scale; NaN stays NaN in the float types.
        zero: the zero points of an integer type, in a shape that broadcasts to ``ratio``; None for 0.
    """
    low, high = limits_of(precision)
    if precision.integer:
        # the overhead of np.clip is larger than rounding a small layer
        steps = np.asarray(np.rint(ratio)) if zero is None else np.asarray(np.rint(ratio) + zero)
        np.maximum(steps, low, out=steps)
        return np.minimum(steps, high, out=steps)
    if precision is Precision.NVFP4:
        return to_e2m1(ratio)
    import ml_dtypes

    kept = np.clip(ratio, low, high)
    return np.asarray(kept.astype(ml_dtypes.float8_e4m3fn).astype(ratio.dtype))


def block_type(node: gs.Node) -> Precision | None:
    """The type of a pair whose block scales are computed at run time; None for any other node."""
    return _BLOCK_TYPES.get(node.domain or "")


def grid_of(model: Model, node: gs.Node, kind: int = 0) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear, of ONNX or of com.microsoft.

    Args:
        kind: the element type, if the node itself does not give it.
    """
    tensors = tuple(t for t in node.inputs[1:3] if not t.is_empty())
    scale = constant_value(model, tensors[0])
    blocks = block_type(node)
    if blocks is not None:
        # without a range the scale is not known either
        known = np.asarray(scale.astype(np.float64)).reshape(()) if scale is not None and blocks.ranged else None
        none = np.zeros((), np.float64)
        return Grid(blocks.onnx_type, known, none, None, blocks.block, tensors, TensorProto.FLOAT)
    zero, said = _zero_point(model, node, tensors)
    float_kind = onnx_type(tensors[0].dtype if scale is None else scale.dtype)
    scale = None if scale is None else _scalar_if_one(scale)
    scalar = scale.size <= 1 if scale is not None else tensors[0].shape is not None and len(tensors[0].shape) == 0
    axis = None if scalar else int(node.attrs.get("axis", 1))
    limits, block = _own_limits(model, node, said or kind), int(node.attrs.get("block_size", 0) or 0)
    return Grid(said or kind, scale, zero, axis, block, tensors, float_kind, limits)


def _zero_point(model: Model, node: gs.Node, tensors: Sequence[gs.Tensor]) -> tuple[Array | None, int]:
    """The zero point in float64, None if it is computed; and the element type given by the node, 0 for none."""
    if len(tensors) < 2:
        # without a zero point a QuantizeLinear returns its output_dtype, or uint8
        said = int(node.attrs.get("output_dtype", 0) or TensorProto.UINT8) if node.op == QUANTIZE else 0
        return np.zeros((), np.float64), said
    known = constant_value(model, tensors[1])
    if known is None:
        return None, onnx_type(tensors[1].dtype)
    return _scalar_if_one(known), onnx_type(known.dtype)


def _scalar_if_one(values: Array) -> Array:
    """The values in float64; a single one, of any rank, becomes a scalar for the whole tensor."""
    values = np.asarray(values.astype(np.float64))
    return values.reshape(()) if values.size == 1 else values


def limiter(node: gs.Node) -> gs.Node | None:
    """The Clip next to one half of a pair, between both halves; None if there is none."""
    beside = node.outputs[0].outputs if node.op == QUANTIZE else node.inputs[0].inputs
    return beside[0] if len(beside) == 1 and beside[0].op == "Clip" and len(beside[0].inputs) > 2 else None


def _own_limits(model: Model, node: gs.Node, kind: int) -> tuple[float, float] | None:
    """The limits of a quantizer that uses only part of its type's range, which exporters write as a Clip.

    As in PyTorch's fake quantization to 0..127 in uint8 (torch/onnx/symbolic_opset13.py,
    fake_quantize_per_tensor_affine), which reduce_range on x86 requires. A Clip with other limits is an activation.
    """
    clip = limiter(node)
    if clip is None or kind not in _LIMITS or kind in _FLOATS:
        return None
    found = []
    for tensor, most in zip(clip.inputs[1:3], _LIMITS[kind]):
        # a limit that is not given is the type's
        value = np.array(most) if tensor.is_empty() else constant_value(model, tensor)
        if value is None or value.size != 1:
            return None
        found.append(int(value.reshape(())))
    low, high = found
    bits = (high + 1).bit_length() - 1
    unsigned = _LIMITS[kind][0] == 0
    fits = high == 2**bits - 1 and high > 0 and low in ((0,) if unsigned else (-high, -high - 1))
    return (low, high) if fits else None
