"""External data of tensors, read only from the model's own folder, and no more than a tensor needs.

Large weights are not read but memory-mapped: the system loads pages on access and drops them if memory is short.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError, NotAllowedError, QtoolError, shortened, system_fault
from toolkit.base.mapped import map_file
from toolkit.base.reading import FileKind, foreign, open_regular, reading, require_regular
from toolkit.base.types import Array
from toolkit.graph.files.checksums import sha1_of
from toolkit.graph.files.hoisted_weights import hoist_weights
from toolkit.graph.proto.light import LightModel, detach_values, is_large
from toolkit.graph.proto.on_disk import spilled_as
from toolkit.graph.proto.stored import byte_count, stored_tensors

LOCATION = "location"
"""The key of a tensor's external data entry with the file name."""
_WHOLE = re.compile(r"[0-9]{1,18}")
_COPY = "copy the complete data file into the model's folder"


def read_external(model: LightModel, path: Path, maps: dict[Path, mmap.mmap]) -> None:
    """Load or map the external data of every tensor of a model.

    Args:
        model: the model. Afterwards large weights are in ``model.weights``, those of Constant nodes and of bodies as
            initializers of the main graph; the data of other tensors is in the message.
        path: the model's file. Data must be in its folder or below.
        maps: files that are already mapped.

    Raises:
        ModelError: data is missing or cut short, or its description is invalid.
        NotAllowedError: data is outside the model's folder.
    """
    hoist_weights(model.proto)
    outside = [tensor for tensor in stored_tensors(model.proto) if tensor.data_location == TensorProto.EXTERNAL]
    # initializers of the main graph come first
    own = sum(tensor.data_location == TensorProto.EXTERNAL for tensor in model.proto.graph.initializer)
    for index, tensor in enumerate(outside):
        if index < own and is_large(tensor):
            model.weights[tensor.name] = _mapped(tensor, path, maps)
            continue
        tensor.raw_data = _content(tensor, path)
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The existing files with external data in the model's folder, except the model's own file.

    Files outside are refused when they are read.
    """
    names = {
        entry.value
        for tensor in stored_tensors(proto)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        # protobuf accepts bytes that are not UTF-8 in string fields
        if entry.key == LOCATION and isinstance(entry.value, str)
    }
    own = path.resolve()
    folder, found = own.parent, []
    for name in sorted(names - {own.name}):
        try:
            if name and folder in (folder / name).resolve().parents and (folder / name).is_file():
                # keep the form of the caller's path, relative or absolute
                found.append((folder if path.is_symlink() else path.parent) / name)
        except (OSError, ValueError, RuntimeError):
            # also raised by cyclic links
            continue
    return found


def _mapped(tensor: TensorProto, path: Path, maps: dict[Path, mmap.mmap]) -> Array:
    """Map the values of a large tensor and remove its data from the message."""
    with reading(path, _kind(tensor)):
        place = _Place(tensor, path)
        with open_regular(place.file) as stream:
            place.require(os.fstat(stream.fileno()).st_size)
            place.verify(stream)
            if place.file not in maps:
                maps[place.file] = map_file(stream, place.file)
        mapped = maps[place.file]
        place.require(len(mapped))
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        values = np.frombuffer(mapped, np.uint8, place.needed, place.offset).view(dtype).reshape(tuple(tensor.dims))
        # kernels may require alignment to the element size
        values = values if place.offset % dtype.itemsize == 0 else spilled_as(values, dtype)
        detach_values(tensor)
        return values


def _content(tensor: TensorProto, path: Path) -> bytes:
    with reading(path, _kind(tensor)):
        place = _Place(tensor, path)
        with open_regular(place.file) as stream:
            place.require(os.fstat(stream.fileno()).st_size)
            place.verify(stream)
            stream.seek(place.offset)
            return stream.read(place.needed)


def _kind(tensor: TensorProto) -> FileKind:
    return FileKind(f"the external data of tensor '{tensor.name}' cannot be read", ModelError, _COPY)


class _Place:
    """The position of a tensor's external data.

    Raises:
        ModelError: the position is invalid, or its length does not match the tensor.
        NotAllowedError: it is outside the model's folder.
    """

    def __init__(self, tensor: TensorProto, path: Path) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        self.name, self.path = tensor.name, path
        self.location = entries.get(LOCATION, "")
        self.needed = byte_count(tensor)
        self.offset = _number(entries, "offset", tensor, path) or 0
        length = _number(entries, "length", tensor, path)
        self.asked = self.needed if length is None else length
        self.checksum = entries.get("checksum", "").strip().lower()
        self.file = _place(tensor, self.location, path)

    def require(self, size: int) -> None:
        """Refuse a position beyond the end of a file of ``size`` bytes, or a length that does not match the tensor."""
        if self.offset + self.asked > size:
            what, remedy = foreign(self.file) or ("the data file is cut short", "copy it again")
            raise ModelError(
                f"tensor '{self.name}' needs bytes {self.offset} to {self.offset + self.asked} of '{self.location}', "
                f"which has {size}: {what}",
                where=str(self.path),
                remedy=remedy,
            )
        if self.asked != self.needed:
            raise ModelError(
                f"tensor '{self.name}' has {self.needed} bytes by its type and shape, and {self.asked} of data",
                where=str(self.path),
                remedy="export the model again",
            )

    def verify(self, stream: BinaryIO) -> None:
        """Refuse a data file whose SHA-1 is not the checksum in the model, where there is one."""
        if self.checksum and sha1_of(stream) != self.checksum:
            raise ModelError(
                f"tensor '{self.name}' has the checksum '{shortened(self.checksum, 60)}' of its data file "
                f"'{self.location}', whose SHA-1 is {sha1_of(stream)}",
                where=str(self.path),
                remedy="copy the data file again, or export the model again",
            )


def _place(tensor: TensorProto, location: str, path: Path) -> Path:
    folder = path.resolve().parent
    said = shortened(location)
    if not location or "\0" in location:
        raise ModelError(
            f"tensor '{tensor.name}' has the invalid data file name {location!r}",
            where=str(path),
            remedy="export the model again",
        )
    try:
        target = (folder / location).resolve()
        exists = target.exists()
    except (OSError, RuntimeError) as error:
        fault = system_fault(error)
        why = fault.what if fault is not None else str(error)
        raise ModelError(
            f"tensor '{tensor.name}' has its data in '{said}': {why}", where=str(path), remedy=_COPY
        ) from error
    if Path(location).is_absolute() or folder not in target.parents:
        how = "an absolute path" if folder in target.parents else "outside the model's folder"
        raise NotAllowedError(
            f"tensor '{tensor.name}' has its data in '{said}', {how}",
            where=str(path),
            remedy="put the data file into the model's folder and refer to it by a relative path",
        )
    if not exists:
        raise ModelError(
            f"tensor '{tensor.name}' has its data in '{said}', which does not exist",
            where=str(path),
            remedy="copy the data file into the model's folder",
        )
    try:
        require_regular(target)
    except QtoolError as error:
        raise ModelError(
            f"tensor '{tensor.name}' has its data in '{said}': {error.what}", where=str(path), remedy=_COPY
        ) from error
    return target


def _number(entries: dict[str, str], key: str, tensor: TensorProto, path: Path) -> int | None:
    """The entry ``offset`` or ``length``; None if it is missing, or empty as some exporters write it."""
    text = entries.get(key, "")
    if text and not _WHOLE.fullmatch(text):
        raise ModelError(
            f"tensor '{tensor.name}' has the {key} '{shortened(text, 40)}' of external data",
            where=str(path),
            remedy=f"export the model again: {key} is a number of bytes",
        )
    return int(text) if text else None
