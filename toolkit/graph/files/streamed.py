"""The bytes of a model's message including its large weights, without building a message that holds them.

They are the same as protobuf's own output: the fields of a message with their numbers, each field that is a message or
bytes preceded by number and length (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto

from toolkit.base.types import Array
from toolkit.graph.proto.light import LightModel, bytes_of, detach_values

GRAPH = ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER
VALUES = TensorProto.RAW_DATA_FIELD_NUMBER
OF_BYTES = 2
"""The wire type of fields with a length prefix."""


def streamed(model: LightModel) -> Iterator[bytes | memoryview]:
    """The message in parts, with the values of weights that its initializers mark as stored separately."""
    away = [tensor for tensor in model.proto.graph.initializer if tensor.name in model.weights]
    for tensor in away:
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    before, after = _around(model.proto.graph, INITIALIZER)
    parts = [before, *_initializers(model.proto.graph, model.weights), after]
    begin, end = _around(model.proto, GRAPH)
    for tensor in away:
        detach_values(tensor)
    yield begin + head(GRAPH, sum(map(len, parts)))
    yield from parts
    yield end


def _initializers(graph: GraphProto, weights: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    for tensor in graph.initializer:
        if tensor.name not in weights:
            content = tensor.SerializeToString(deterministic=True)
            yield head(INITIALIZER, len(content)) + content
            continue
        before, after = _around(tensor, VALUES)
        values = bytes_of(weights[tensor.name])
        before += head(VALUES, len(values))
        yield head(INITIALIZER, len(before) + len(values) + len(after)) + before
        yield values
        yield after


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The serialized fields of a message before one of its fields, and those after it."""
    found = []
    for side in (-1, 1):
        part = type(message)()
        for one, value in message.ListFields():
            if (one.number - number) * side <= 0:
                continue
            if one.is_repeated if hasattr(one, "is_repeated") else one.label == one.LABEL_REPEATED:
                getattr(part, one.name).extend(value)
            elif one.message_type is not None:
                getattr(part, one.name).CopyFrom(value)
            else:
                setattr(part, one.name, value)
        found.append(part.SerializeToString(deterministic=True))
    return found[0], found[1]


def head(number: int, size: int) -> bytes:
    """The key and length that precede a field of ``size`` bytes."""
    return _varint(number << 3 | OF_BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
