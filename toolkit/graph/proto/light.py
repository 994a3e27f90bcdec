"""A model as a message without its large weights, which are separate arrays.

A protobuf message cannot exceed 2 GB, and every derived message copies its content. The arrays are shared by everything
derived from a model: other forms of its graph, onnxruntime's sessions, and the written file. For external data, they
are the memory-mapped file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.base.types import Array
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.proto.stored import BITS, byte_count, stored_tensors

PROTOBUF_LIMIT = 1_900_000_000
"""Largest message in bytes that can be written and read reliably; protobuf's own limit is 2 GiB."""
LARGE = 4096
"""Number of values from which a constant is large."""
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
APART = frozenset(kind for kind, bits in BITS.items() if bits % 8 == 0 and kind not in _COMPLEX)
"""Element types whose values can be separate: they have whole bytes, and numpy has the type."""
_IN_MEMORY = "qtool-in-memory"
_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass
class LightModel:
    """A model without its large weights, and these weights.

    Attributes:
        proto: the message, in which a large initializer of the main graph has name, type and shape but no values.
        weights: those values, by name of the initializer. They may be read-only.
        where: the file or another description, for errors.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array] = field(default_factory=dict)
    where: str = "the model"

    @classmethod
    def of(cls, proto: onnx.ModelProto, where: str = "the model") -> LightModel:
        """Remove the large weights from a message, which is changed."""
        return cls(proto, {}, where).lighten()

    def lighten(self) -> LightModel:
        """Remove large weights that were added to the message; returns itself."""
        for tensor in self.proto.graph.initializer:
            if tensor.name not in self.weights and is_large(tensor) and tensor.data_location != TensorProto.EXTERNAL:
                self.weights[tensor.name] = spilled(onnx.numpy_helper.to_array(tensor))
                detach_values(tensor)
        return self

    def drop_unread(self) -> LightModel:
        """Remove unused weights, which onnxruntime refuses as external initializers; returns itself."""
        if not self.weights:
            return self
        graph = self.proto.graph
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        if not self.weights.keys() <= read:
            read |= {name for node in graph.node if len(node.attribute) for name in reads_of(node)}
        unread = self.weights.keys() - read
        if unread:
            stay = [tensor for tensor in graph.initializer if tensor.name not in unread]
            kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in stay]
            del graph.initializer[:]
            graph.initializer.extend(kept)
            for name in unread:
                del self.weights[name]
        return self

    def copy(self) -> LightModel:
        """The same model with its own message; the weight arrays are shared."""
        proto = deepcopy(self.proto)
        return LightModel(proto, dict(self.weights), self.where)

    def whole(self) -> onnx.ModelProto:
        """The message with a copy of all weights. It may be larger than protobuf can serialize."""
        whole = self.copy().proto
        for tensor in whole.graph.initializer:
            if tensor.name in self.weights:
                attach_values(tensor, self.weights[tensor.name])
        return whole

    @property
    def message_bytes(self) -> int:
        """Bytes of the constants in the message."""
        stored = (one for one in stored_tensors(self.proto) if one.data_type in BITS and not is_detached(one))
        return sum(map(byte_count, stored))

    def holds_at_most(self, limit: int) -> bool:
        """Whether the constants in the message have at most ``limit`` bytes."""
        # a value of up to 8 bytes may take one byte of the message: for small messages no count is needed
        return 8 * self.proto.ByteSize() <= limit or self.message_bytes <= limit

    def fits_whole(self) -> bool:
        """Whether the model with all its weights fits into one message."""
        return self.holds_at_most(PROTOBUF_LIMIT - self.weight_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the separate weights."""
        return sum(value.nbytes for value in self.weights.values())

    @property
    def shares(self) -> bool:
        """Whether the weights are too large for a second copy in memory, so that sessions must share these arrays."""
        # integers are widened to float32 in computation
        return not fits_message(8 * sum(value.size for value in self.weights.values()))


@dataclass(frozen=True)
class SerializedModel:
    """A serialized model without its large weights; needs a tenth of the memory of its message."""

    content: bytes
    weights: Mapping[str, Array]
    where: str

    @classmethod
    def of(cls, model: LightModel) -> SerializedModel:
        """Serialize a model, which may be changed afterwards."""
        return cls(model.proto.SerializeToString(), dict(model.weights), model.where)

    def light(self) -> LightModel:
        """The model with its own message; the weight arrays are shared."""
        return LightModel(onnx.ModelProto.FromString(self.content), dict(self.weights), self.where)


@dataclass
class Skeleton:
    """A serialized graph without its large weights, these weights, and its fingerprint once computed."""

    content: bytes
    weights: Mapping[str, Array]
    fingerprint: str = ""


def fits_message(size: int) -> bool:
    """Whether constants of ``size`` bytes fit into one message."""
    return size <= PROTOBUF_LIMIT


def is_large(tensor: TensorProto) -> bool:
    """Whether a constant should be stored separately: it has many values, and each takes whole bytes."""
    return tensor.data_type in APART and math.prod(tensor.dims) >= LARGE


def large_header(name: str, kind: int, shape: tuple[int, ...]) -> TensorProto:
    """An initializer whose values are stored separately."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape)
    detach_values(tensor)
    return tensor


def detach_values(tensor: TensorProto) -> None:
    """Remove a tensor's values from the message, and mark it as stored separately."""
    _external(tensor, location=_IN_MEMORY)


def place_at(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Refer to a tensor's values by file, offset and length in bytes; they are removed from the message."""
    _external(tensor, location=location, offset=offset, length=length)


def _external(tensor: TensorProto, **entries: object) -> None:
    for name in _FIELDS:
        tensor.ClearField(name)
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = TensorProto.EXTERNAL


def is_detached(tensor: TensorProto) -> bool:
    """Whether a tensor's values are stored separately."""
    return tensor.data_location == TensorProto.EXTERNAL and any(e.value == _IN_MEMORY for e in tensor.external_data)


def attach_values(tensor: TensorProto, values: Array) -> None:
    """Store a tensor's values in the message again."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = values.tobytes()


def bytes_of(values: Array) -> memoryview:
    """The memory of an array in the layout of an ONNX file."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def weights_as_inputs(proto: onnx.ModelProto, weights: Mapping[str, object]) -> onnx.ModelProto:
    """Turn the initializers in ``weights`` into graph inputs, in place, for code that must not read their values."""
    graph = proto.graph
    gone = [tensor for tensor in graph.initializer if tensor.name in weights]
    if gone:
        kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
        graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in gone
        )
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return proto
