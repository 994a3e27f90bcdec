"""The message of an ONNX file without its large weights, which stay in the file: it is never read into memory whole.

The counterpart of ``streamed``: fields are identified by their numbers and lengths
(https://protobuf.dev/programming-guides/encoding/), and values that are left out of a tensor become external data in
the model's own file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from onnx import TensorProto

from toolkit.graph.files.streamed import GRAPH, INITIALIZER, OF_BYTES, VALUES, head
from toolkit.graph.proto.light import LARGE, place_at

_FIXED = {1: 8, 5: 4}
"""Size in bytes of wire types with values of fixed size."""
_OWN_PLACE = (TensorProto.EXTERNAL_DATA_FIELD_NUMBER, TensorProto.DATA_LOCATION_FIELD_NUMBER)


class _Field(NamedTuple):
    """A field of a message, with the positions of its key, its value, and its end."""

    number: int
    wire: int
    begin: int
    value: int
    end: int


def without_values(content: memoryview, location: str) -> bytes:
    """A model's message in which large raw initializers of the main graph are replaced by external data.

    Args:
        content: the message, as it is in the file.
        location: the file's name, as the location of the external data.

    Raises:
        ValueError: the content is not a valid message, or does not end where the file does.
    """
    return b"".join(_model(content, location))


def _model(content: memoryview, location: str) -> Iterator[bytes | memoryview]:
    for field in _fields(content, 0, len(content)):
        if (field.number, field.wire) == (GRAPH, OF_BYTES):
            parts = list(_graph(content, field, location))
            yield head(GRAPH, sum(map(len, parts)))
            yield from parts
        else:
            yield content[field.begin : field.end]


def _graph(content: memoryview, graph: _Field, location: str) -> Iterator[bytes | memoryview]:
    kept = graph.value
    for field in _fields(content, graph.value, graph.end):
        if (field.number, field.wire) != (INITIALIZER, OF_BYTES) or field.end - field.value < LARGE:
            continue
        tensor = _tensor(content, field, location)
        if tensor is not None:
            yield content[kept : field.begin]
            yield head(INITIALIZER, len(tensor)) + tensor
            kept = field.end
    yield content[kept : graph.end]


def _tensor(content: memoryview, tensor: _Field, location: str) -> bytes | None:
    """The tensor without its values; None if they are small, not raw, or already external."""
    fields = list(_fields(content, tensor.value, tensor.end))
    raw = [one for one in fields if (one.number, one.wire) == (VALUES, OF_BYTES)]
    if len(raw) != 1 or raw[0].end - raw[0].value < LARGE or any(one.number in _OWN_PLACE for one in fields):
        return None
    place = TensorProto()
    place_at(place, location, raw[0].value, raw[0].end - raw[0].value)
    return b"".join((content[tensor.value : raw[0].begin], content[raw[0].end : tensor.end], place.SerializeToString()))


def _fields(content: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """The fields of a serialized protobuf message between two byte positions.

    Raises:
        ValueError: the content is not a valid message.
    """
    while begin < end:
        key, place = _varint(content, begin, end)
        wire = key & 7
        if wire == OF_BYTES:
            size, place = _varint(content, place, end)
            after = place + size
        elif wire in _FIXED:
            after = place + _FIXED[wire]
        elif wire == 0:
            after = _varint(content, place, end)[1]
        else:
            raise ValueError(f"wire type {wire} in byte {begin}")
        if after > end:
            raise ValueError(f"the field in byte {begin} ends after its message")
        yield _Field(key >> 3, wire, begin, place, after)
        begin = after


def _varint(content: memoryview, place: int, end: int) -> tuple[int, int]:
    """Decode a varint (7 bits per byte); returns its value and end position."""
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError(f"no number ends in byte {place}")
