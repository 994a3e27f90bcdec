"""Conversion between onnxruntime's values and numpy arrays without copying."""

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
"""onnxruntime's names of tensor types, with the element type's number in ONNX's ``TensorProto.DataType``."""


def to_ort(value: Array, wanted: str = "") -> Any:
    """A value that shares an array's memory; bfloat16 is converted to float32 if that is ``wanted``."""
    import onnxruntime as ort

    value = np.asarray(value, order="C")  # ascontiguousarray would give a scalar a dimension
    if value.dtype.name == "bfloat16" and wanted == "tensor(float)":
        value = value.astype(np.float32)
    if value.dtype.kind == "V":
        number = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value, number)
    return ort.OrtValue.ortvalue_from_numpy(value)


def as_array(value: Any) -> Array:
    """An array that shares the value's memory and keeps it alive; bfloat16 has the ml_dtypes type.

    Raises:
        ModelError: the value is a sequence or a map.
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
    """The bytes of a value in numpy's array interface; keeps the value alive.

    Not a ctypes array, which would create a class for every size.
    """

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, owner: Any, size: int) -> None:
        self._owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (owner.data_ptr(), False)}
