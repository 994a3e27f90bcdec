"""A model as a message without its large weights, which are arrays beside it.

protobuf holds no message above 2 GB, and every message that is made of another copies it. The arrays are shared by all
that is made of a model: other forms of its graph, onnxruntime's sessions, the file that is written. Where they come
from external data they are that file, mapped into memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.base.types import Array
from toolkit.graph.proto.nodes import reads_of
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.proto.stored import BITS, byte_count, stored_tensors

PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of a message that can be written and read everywhere; protobuf itself ends at 2 GiB."""
LARGE = 4096
"""Values from which on a constant is large."""
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
APART = frozenset(kind for kind, bits in BITS.items() if bits % 8 == 0 and kind not in _COMPLEX)
"""Element types whose values can be beside a message: each takes whole bytes, and numpy has the type."""
_IN_MEMORY = "qtool-in-memory"
_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass
class LightModel:
    """A model without its large weights, and these.

    Attributes:
        proto: the message; a large initializer of the main graph has name, type and shape in it, and no values.
        weights: those values, by the initializer's name. They may be read-only.
        where: the file or the like, for errors.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array] = field(default_factory=dict)
    where: str = "the model"

    @classmethod
    def of(cls, proto: onnx.ModelProto, where: str = "the model") -> LightModel:
        """Take the large weights out of a message, which is changed."""
        return cls(proto, {}, where).lighten()

    def lighten(self) -> LightModel:
        """Take out large weights that have come into the message; returns itself."""
        for tensor in self.proto.graph.initializer:
            if tensor.name not in self.weights and is_large(tensor) and tensor.data_location != TensorProto.EXTERNAL:
                self.weights[tensor.name] = spilled(onnx.numpy_helper.to_array(tensor))
                detach_values(tensor)
        return self

    def drop_unread(self) -> LightModel:
        """Leave out weights that nothing reads: onnxruntime refuses to be given one; returns itself."""
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
        """The same model with its own message; the weights' arrays are shared."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return LightModel(proto, dict(self.weights), self.where)

    def whole(self) -> onnx.ModelProto:
        """The message with all weights in it: a copy of them. Its size may be beyond what protobuf writes."""
        whole = self.copy().proto
        for tensor in whole.graph.initializer:
            if tensor.name in self.weights:
                attach_values(tensor, self.weights[tensor.name])
        return whole

    @property
    def message_bytes(self) -> int:
        """Bytes of the constants that are in the message."""
        stored = (one for one in stored_tensors(self.proto) if one.data_type in BITS and not is_detached(one))
        return sum(map(byte_count, stored))

    def holds_at_most(self, limit: int) -> bool:
        """Whether the constants that are in the message take no more bytes than ``limit``."""
        # a small integer takes one byte of the message, and eight as a value: small messages need no count
        return 8 * self.proto.ByteSize() <= limit or self.message_bytes <= limit

    def fits_whole(self) -> bool:
        """Whether one message holds the model with all its weights."""
        return self.holds_at_most(PROTOBUF_LIMIT - self.weight_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights beside the message."""
        return sum(value.nbytes for value in self.weights.values())

    @property
    def shares(self) -> bool:
        """Whether the weights are too many for a second copy in memory: sessions then read these."""
        # what is stored as integers is computed with in float32
        return not fits_message(8 * sum(value.size for value in self.weights.values()))


@dataclass(frozen=True)
class SerializedModel:
    """A model without its large weights as it is serialized: a tenth of its message's memory, for later."""

    content: bytes
    weights: Mapping[str, Array]
    where: str

    @classmethod
    def of(cls, model: LightModel) -> SerializedModel:
        """Serialize a model, which may be changed afterwards."""
        return cls(model.proto.SerializeToString(), dict(model.weights), model.where)

    def light(self) -> LightModel:
        """The model with its own message; the weights' arrays are shared."""
        return LightModel(onnx.ModelProto.FromString(self.content), dict(self.weights), self.where)


@dataclass
class Skeleton:
    """A graph's skeleton, serialized, the large weights that are not in it, and its fingerprint once asked for."""

    content: bytes
    weights: Mapping[str, Array]
    fingerprint: str = ""


def fits_message(size: int) -> bool:
    """Whether constants of so many bytes fit into one message."""
    return size <= PROTOBUF_LIMIT


def is_large(tensor: TensorProto) -> bool:
    """Whether a constant's values belong beside the message: there are many, and each takes whole bytes."""
    return tensor.data_type in APART and math.prod(tensor.dims) >= LARGE


def large_header(name: str, kind: int, shape: tuple[int, ...]) -> TensorProto:
    """An initializer whose values are beside the message."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape)
    detach_values(tensor)
    return tensor


def detach_values(tensor: TensorProto) -> None:
    """Drop a tensor's values from the message, and mark it as stored beside it."""
    _external(tensor, location=_IN_MEMORY)


def place_at(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Say in which file a tensor's values are, and where in it in bytes; they leave the message."""
    _external(tensor, location=location, offset=offset, length=length)


def _external(tensor: TensorProto, **entries: object) -> None:
    for name in _FIELDS:
        tensor.ClearField(name)
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = TensorProto.EXTERNAL


def is_detached(tensor: TensorProto) -> bool:
    """Whether a tensor's values are beside the message."""
    return tensor.data_location == TensorProto.EXTERNAL and any(e.value == _IN_MEMORY for e in tensor.external_data)


def attach_values(tensor: TensorProto, values: Array) -> None:
    """Store a tensor's values in the message again."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = values.tobytes()


def bytes_of(values: Array) -> memoryview:
    """The memory of an array, as it is stored in an ONNX file."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def weights_as_inputs(proto: onnx.ModelProto, weights: Mapping[str, object]) -> onnx.ModelProto:
    """The message with the initializers in ``weights`` as graph inputs, for code that must not see values; in place."""
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
