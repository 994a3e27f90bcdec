"""onnxruntime's values and arrays: the same memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.surgery.tensors import np_dtype

ORT_TYPES = {f"tensor({word})": number for word, number in (
    ("float", TensorProto.FLOAT), ("double", TensorProto.DOUBLE),
    *((name.lower(), number) for name, number in TensorProto.DataType.items() if name not in ("FLOAT", "DOUBLE")),
)}  # fmt: skip
"""onnxruntime's words for tensors, with the element's number in ONNX's ``TensorProto.DataType``."""


def to_ort(value: Array, wanted: str = "") -> Any:
    """An array as a value that shares its memory; bfloat16 as float32 where that is ``wanted``."""
    import onnxruntime as ort

    value = np.asarray(value, order="C")  # ascontiguousarray would give a scalar a dimension
    if value.dtype.name == "bfloat16" and wanted == "tensor(float)":
        value = value.astype(np.float32)
    if value.dtype.kind == "V":
        number = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value, number)
    return ort.OrtValue.ortvalue_from_numpy(value)


def as_array(value: Any) -> Array:
    """The value's memory as an array that keeps the value alive. bfloat16 comes as ml_dtypes.

    Raises:
        ModelError: it is a sequence or a map.
    """
    if not value.is_tensor():
        raise ModelError("an output is a sequence or a map, not a tensor", remedy="leave it out of the outputs")
    dtype, shape = np_dtype(value.element_type()), tuple(value.shape())
    size = math.prod(shape)
    if dtype.hasobject:
        return np.asarray(value.numpy())
    if size == 0:
        return np.zeros(shape, dtype)
    return np.asarray(_Memory(value, size * dtype.itemsize)).view(dtype).reshape(shape)


class _Memory:
    """Bytes of a value as numpy's array interface describes memory; it keeps the value alive.

    An array of ctypes takes a class for every size.
    """

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, owner: Any, size: int) -> None:
        self._owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (owner.data_ptr(), False)}
