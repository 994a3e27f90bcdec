"""onnx-graphsurgeon's tensors and nodes: element types, values, creation and rerouting."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from toolkit.base.mapped import looked_at
from toolkit.base.parts import parts_of
from toolkit.graph.proto.light import bytes_of
from toolkit.graph.proto.on_disk import spilled_as
from toolkit.graph.proto.stored import BITS
from toolkit.graph.surgery import assemble

SHORT_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_WHOLE_BYTES = frozenset("biufc")
"""Kinds of numpy types whose values have the same size in a file as in memory."""
FLOAT_TYPES = SHORT_FLOATS | {TensorProto.FLOAT}


def onnx_type(dtype: Any) -> int:
    """The ONNX number of an element type, from a numpy dtype, an ONNX number or None (0)."""
    if dtype is None:
        return 0
    return int(dtype) if isinstance(dtype, int) else _onnx_type(dtype)


@lru_cache(maxsize=256)
def _onnx_type(dtype: Any) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class StoredValues(LazyValues):
    """Values of a constant that all copies of a model share, in memory or memory-mapped.

    ``Constant.values`` of onnx-graphsurgeon is a copy, which a pass may change; ``values_of`` returns the shared
    values.

    Args:
        array: the values; they must not be changed.
        kind: their ONNX element type.
    """

    def __init__(self, array: np.ndarray[Any, Any], kind: int) -> None:
        self.array = array
        self._describe(TensorProto(data_type=kind, dims=array.shape), whole=False)

    @classmethod
    def of(cls, message: TensorProto) -> StoredValues:
        """The values in a message, which must not change afterwards; they are decoded on first access."""
        made = cls.__new__(cls)
        made._describe(message, whole=True)
        return made

    def _describe(self, header: TensorProto, whole: bool) -> None:
        self._header, self._whole = header, whole
        self.shape = header.dims
        self.dtype, size = _gs_dtype(header.data_type)
        self.nbytes = math.prod(header.dims) * size

    @cached_property
    def array(self) -> np.ndarray[Any, Any]:
        """The values; read-only, since all copies of a model share them."""
        header, dtype = self._header, np_dtype(self._header.data_type)
        if dtype.isbuiltin == 1 and sys.byteorder == "little" and header.HasField("raw_data"):
            # the fast path of ``to_array``, for nearly all small constants
            return np.frombuffer(header.raw_data, dtype).reshape(tuple(header.dims))
        found = np.asarray(onnx.numpy_helper.to_array(header))
        found.flags.writeable = False
        return found

    @property
    def tensor(self) -> TensorProto:
        """The values as a message: the original one, or a copy, for writing into another message."""
        if self._whole:
            return self._header
        made = TensorProto()
        made.CopyFrom(self._header)
        made.raw_data = looked_at(self.array).tobytes()
        return made

    def load(self) -> np.ndarray[Any, Any]:
        """A copy of the values."""
        return np.array(looked_at(self.array))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the values, in hex."""
        return content_digest(looked_at(self.array))

    @cached_property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return _finite(looked_at(self.array))


@lru_cache(maxsize=64)
def np_dtype(kind: int) -> np.dtype[Any]:
    """The numpy type of an ONNX element type, from ml_dtypes if numpy has none; object for strings."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


@lru_cache(maxsize=64)
def _gs_dtype(kind: int) -> tuple[Any, int]:
    """onnx-graphsurgeon's representation of an element type, numpy's type or ONNX's number, and its size in bytes."""
    like = LazyValues(TensorProto(data_type=kind, dims=[1]))
    return like.dtype, like.nbytes


def is_finite(tensor: gs.Tensor, values: np.ndarray[Any, Any]) -> bool:
    """Whether no value of a constant is NaN or infinite; cached for all copies of a model that share it."""
    held = getattr(tensor, "_values", None)
    return held.finite if isinstance(held, StoredValues) else _finite(values)


def _finite(values: np.ndarray[Any, Any]) -> bool:
    return values.dtype.kind != "f" or all(bool(np.isfinite(values[part]).all()) for part in parts_of(values))


def upstream(tensor: gs.Tensor, ops: Container[str]) -> gs.Tensor:
    """The first tensor upstream that is not produced by one of these operators, following first inputs."""
    while tensor.inputs and tensor.inputs[0].op in ops:
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def content_digest(values: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's bytes, in hex."""
    return hashlib.sha256(bytes_of(values)).hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256 of arrays with their names, types and shapes, in hex."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {values.shape};".encode())
        # strings are objects: the array's own bytes are pointers to them
        digest.update(repr(values.tolist()).encode() if values.dtype.hasobject else bytes_of(values))
    return digest.hexdigest()


def values_of(tensor: gs.Constant) -> np.ndarray[Any, Any]:
    """The values of a constant; bfloat16 and float8 are ml_dtypes arrays."""
    held = tensor._values
    if isinstance(held, StoredValues):
        # decoded values are in memory
        return held.array if held._whole else looked_at(held.array)
    if isinstance(held, LazyValues) and isinstance(held.tensor, onnx.TensorProto):
        return np.asarray(onnx.numpy_helper.to_array(held.tensor))
    return np.asarray(tensor.values)


def make_constant(name: str, values: np.ndarray[Any, Any], element_type: int | None = None) -> gs.Constant:
    """Create a constant of any ONNX element type, including types narrower than a byte.

    Args:
        name: an unused name, see ``Model.unique_tensor``.
        values: values of that type or a wider one, such as float32 for FP8; a scalar stays a scalar.
        element_type: an ``onnx.TensorProto.DataType``; None for the type of the values.
    """
    values = np.asarray(values)
    wanted = element_type if element_type is not None else onnx_type(values.dtype)
    held: LazyValues | np.ndarray[Any, Any] = spilled_as(values, np_dtype(wanted))
    if wanted in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN) or not held.flags.writeable:
        held = StoredValues(held, wanted)
    elif wanted in (TensorProto.INT4, TensorProto.FLOAT4E2M1):
        held = StoredValues.of(onnx.numpy_helper.from_array(held, name))
    else:
        # ascontiguousarray would turn a scalar into a vector of length 1
        held = np.asarray(held, order="C")
    return assemble.constant(name, held)


def stored_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the constants among tensors as stored in a file, with narrow types packed; each counts once."""
    constants = {id(one): one for one in tensors if isinstance(one, gs.Constant)}
    return sum(map(_stored_bytes, constants.values()))


def _stored_bytes(constant: gs.Constant) -> int:
    held = constant._values
    if isinstance(held.dtype, np.dtype) and held.dtype.isbuiltin == 1 and held.dtype.kind in _WHOLE_BYTES:
        return int(held.nbytes)
    return -(-math.prod(constant.shape) * BITS.get(onnx_type(constant.dtype), 32) // 8)


def reroute(old: gs.Tensor, new: gs.Tensor) -> list[gs.Node]:
    """Replace one tensor by another in all its readers; returns the readers, without duplicates."""
    readers = list({id(reader): reader for reader in old.outputs}.values())
    for reader in readers:
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new
    return readers


def make_node(op: str, name: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor], **attrs: Any) -> gs.Node:
    """Create a node of ONNX's own opset, not yet in a graph: append it to ``model.graph.nodes``.

    Args:
        name: an unused name, see ``Model.unique_node``.
        inputs: its inputs, in the operator's order.
        outputs: new tensors for its outputs.
        attrs: its attributes.
    """
    return assemble.node(op, name, attrs, inputs, outputs)
