"""Tensors and nodes of onnx-graphsurgeon: element types, values, and making and rerouting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def onnx_type(dtype: Any) -> int:
    """An element type as ONNX's number, from a numpy dtype, an ONNX number or None (0)."""
    if dtype is None:
        return 0
    return int(dtype) if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def raw_bytes(tensor: gs.Constant) -> bytes:
    """The bytes of a constant, without decoding what is stored raw."""
    held = tensor._values
    if isinstance(held, LazyValues) and not isinstance(held.tensor, onnx.SparseTensorProto):
        return held.tensor.raw_data or bytes(held.tensor.SerializeToString(deterministic=True))
    return np.ascontiguousarray(tensor.values).tobytes()


def values_of(tensor: gs.Constant) -> np.ndarray[Any, Any]:
    """The values of a constant; bfloat16 and float8 come as ml_dtypes arrays."""
    held = tensor._values
    if isinstance(held, LazyValues) and isinstance(held.tensor, onnx.TensorProto):
        return np.asarray(onnx.numpy_helper.to_array(held.tensor))
    return np.asarray(tensor.values)


def make_constant(name: str, values: np.ndarray[Any, Any], element_type: int | None = None) -> gs.Constant:
    """A constant of any ONNX element type, float8, bfloat16 and int4 included, from values of that or a wider type."""
    values = np.asarray(values)
    wanted = element_type if element_type is not None else onnx_type(values.dtype)
    if wanted in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
        cast = values.astype(onnx.helper.tensor_dtype_to_np_dtype(wanted))
        return gs.Constant(name, LazyValues(onnx.numpy_helper.from_array(cast, name)))
    # ascontiguousarray would make a scalar a vector of one
    return gs.Constant(name, np.asarray(values.astype(onnx.helper.tensor_dtype_to_np_dtype(wanted)), order="C"))


def reroute(old: gs.Tensor, new: gs.Tensor) -> list[gs.Node]:
    """Let every reader of one tensor read another; the readers, each once."""
    readers = list({id(reader): reader for reader in old.outputs}.values())
    for reader in readers:
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new
    return readers


def make_node(op: str, name: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor], **attrs: Any) -> gs.Node:
    """A node of ONNX's own operator set."""
    return gs.Node(op=op, name=name, attrs=attrs, inputs=list(inputs), outputs=list(outputs))
