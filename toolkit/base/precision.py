"""The numeric types that a layer can run in: their names in ONNX and TensorRT, widths and limits."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from toolkit.base.errors import RecipeError, did_you_mean


class Precision(str, Enum):
    """The numeric type of a layer's computation. The value is its name in recipes and reports."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"

    @property
    def bits(self) -> int:
        """Bits per stored value."""
        return _TYPES[self].bits

    @property
    def onnx_type(self) -> int:
        """The element type in ONNX's ``TensorProto.DataType`` (FP8 is E4M3FN); block scales are not part of it."""
        return _TYPES[self].onnx

    @property
    def max(self) -> float:
        """Largest magnitude that can be stored, before scaling: 127 for INT8, 7 for INT4."""
        return _TYPES[self].max

    @property
    def min(self) -> float:
        """Smallest number used for weights, before scaling: -8 for INT4, which has few levels; else -max."""
        return -8.0 if self is Precision.INT4 else -self.max

    @property
    def tiny(self) -> float:
        """Smallest positive normal number of a float type; 1.0 for integer types."""
        return _TYPES[self].tiny

    @property
    def since(self) -> tuple[int, int]:
        """The lowest compute capability for which TensorRT supports the type; (0, 0) for all GPUs."""
        return _TYPES[self].since

    @property
    def opset(self) -> int:
        """The first operator set whose QuantizeLinear and DequantizeLinear support it; 0 for types without pairs."""
        return _TYPES[self].opset

    @property
    def quantized(self) -> bool:
        """Whether values of this type need a scale, and so a Q/DQ pair."""
        return bool(_TYPES[self].opset)

    @property
    def integer(self) -> bool:
        """Whether its values are evenly spaced."""
        return _TYPES[self].integer

    @property
    def block(self) -> int:
        """How many neighbours along the summed axis share a scale, for types that define it; else 0.

        For activations of such a type, block scales are computed at run time.
        """
        return _TYPES[self].block

    @property
    def ranged(self) -> bool:
        """Whether activations need a range: not in MXFP8 (block scales suffice), nor in INT4 (weights only)."""
        return self.quantized and not self.weights_only and self is not Precision.MXFP8

    @property
    def weights_only(self) -> bool:
        """Whether it only stores constant weights, with block scales, and layers compute in float."""
        return _TYPES[self].weights_only

    @property
    def in_attention(self) -> bool:
        """Whether TensorRT's fused attention supports it for MatMuls of two activations."""
        return _TYPES[self].in_attention

    @classmethod
    def from_onnx(cls, onnx_type: int, block: int = 0) -> Precision | None:
        """The precision of an ONNX element type; None if it is not supported (int64, bool, double).

        Args:
            onnx_type: the type's number.
            block: the block size of a pair's values; 0 without blocks. E2M1 is supported only with NVFP4's block size.
        """
        found = _FROM_ONNX.get(onnx_type)
        if found is cls.NVFP4 and block not in (0, found.block):
            return None
        return cls.MXFP8 if found is cls.FP8 and block == cls.MXFP8.block else found

    @classmethod
    def named(cls, name: Precision | str) -> Precision:
        """The precision of that name, as given in a pass's settings.

        Raises:
            RecipeError: there is no such precision; the message suggests the closest.
        """
        if isinstance(name, cls):
            return name
        names = [str(one) for one in cls]
        if str(name) not in names:
            raise RecipeError(f"'{name}' is not a precision", remedy=did_you_mean(str(name), names), value=str(name))
        return cls(str(name))

    # str's own methods: Enum's do a lookup each time, and a large report calls them a million times
    __str__ = str.__str__
    __hash__ = str.__hash__


class _Type(NamedTuple):
    """Properties of a type in TensorRT and ONNX; see those of ``Precision``."""

    bits: int
    onnx: int
    max: float
    tiny: float
    since: tuple[int, int] = (0, 0)
    opset: int = 0
    weights_only: bool = False
    in_attention: bool = False
    integer: bool = False
    block: int = 0


_TYPES = {
    Precision.FP32: _Type(32, 1, 3.4028234663852886e38, 2.0**-126),
    Precision.FP16: _Type(16, 10, 65504.0, 2.0**-14, (5, 3)),
    Precision.BF16: _Type(16, 16, 3.3895313892515355e38, 2.0**-126, (8, 0)),
    Precision.FP8: _Type(8, 17, 448.0, 2.0**-6, (8, 9), opset=19, in_attention=True),
    Precision.INT8: _Type(8, 3, 127.0, 1.0, (6, 1), opset=13, integer=True),
    Precision.INT4: _Type(4, 22, 7.0, 1.0, (8, 0), opset=21, weights_only=True, integer=True),
    Precision.MXFP8: _Type(8, 17, 448.0, 2.0**-6, (10, 0), opset=23, block=32),
    Precision.NVFP4: _Type(4, 23, 6.0, 1.0, (10, 0), opset=23, block=16),
}
"""Compute capabilities are from TensorRT's support matrix, "Hardware and Precision"; for INT4, TensorRT-RTX 1.7 was
seen to build on 8.0, not on 7.5. The block sizes of MXFP8 (OCP Microscaling Formats MX v1.0) and NVFP4 are those of
TensorRT's DynamicQuantize; from operator set 23 on, scales may be float32 if values are float16."""
_FROM_ONNX = {precision.onnx_type: precision for precision in reversed(Precision)}
FLOATS = (Precision.FP32, Precision.FP16, Precision.BF16)
