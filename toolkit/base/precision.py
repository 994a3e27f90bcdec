"""The numeric types a layer can run in: their names in ONNX and TensorRT, their width and their limits."""

from __future__ import annotations

from enum import Enum

from toolkit.base.errors import RecipeError, did_you_mean


class Precision(str, Enum):
    """A numeric type of a layer's computation. The value is the word that recipes and reports use."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits of one stored value."""
        return _BITS[self]

    @property
    def onnx_type(self) -> int:
        """The number of this type in ONNX's ``TensorProto.DataType`` (FP8 is E4M3FN)."""
        return _ONNX[self]

    @property
    def tensorrt_name(self) -> str:
        """The name of this type in TensorRT's ``DataType``."""
        return _TENSORRT[self]

    @property
    def max(self) -> float:
        """Largest magnitude that can be stored. INT8 and INT4 are symmetric here: 127 and 7."""
        return _MAX[self]

    @property
    def tiny(self) -> float:
        """Smallest positive normal number of a float type; 1.0 for the integer types."""
        return _TINY[self]

    @property
    def quantized(self) -> bool:
        """Whether values of this type need a scale, hence a Q/DQ pair."""
        return self in _QUANTIZED

    @classmethod
    def from_onnx(cls, onnx_type: int) -> Precision | None:
        """The precision of an ONNX element type, or None where it is not one of ours (int64, bool, double)."""
        return _FROM_ONNX.get(onnx_type)

    @classmethod
    def named(cls, name: Precision | str) -> Precision:
        """The precision of that name, as a pass's setting may say it.

        Raises:
            RecipeError: there is no such precision; the message names the nearest.
        """
        names = [str(one) for one in cls]
        if str(name) not in names:
            raise RecipeError(f"'{name}' is no precision", remedy=did_you_mean(str(name), names), value=str(name))
        return cls(str(name))

    def __str__(self) -> str:
        return self.value


_P = Precision
_BITS = {_P.FP32: 32, _P.FP16: 16, _P.BF16: 16, _P.FP8: 8, _P.INT8: 8, _P.INT4: 4}
_ONNX = {_P.FP32: 1, _P.FP16: 10, _P.BF16: 16, _P.FP8: 17, _P.INT8: 3, _P.INT4: 22}
_FROM_ONNX = {number: precision for precision, number in _ONNX.items()}
_TENSORRT = {_P.FP32: "FLOAT", _P.FP16: "HALF", _P.BF16: "BF16", _P.FP8: "FP8", _P.INT8: "INT8", _P.INT4: "INT4"}
_MAX = {
    _P.FP32: 3.4028234663852886e38,
    _P.FP16: 65504.0,
    _P.BF16: 3.3895313892515355e38,
    _P.FP8: 448.0,
    _P.INT8: 127.0,
    _P.INT4: 7.0,
}
_TINY = {_P.FP32: 2.0**-126, _P.FP16: 2.0**-14, _P.BF16: 2.0**-126, _P.FP8: 2.0**-6, _P.INT8: 1.0, _P.INT4: 1.0}
_QUANTIZED = frozenset({_P.FP8, _P.INT8, _P.INT4})
FLOATS = (Precision.FP32, Precision.FP16, Precision.BF16)
