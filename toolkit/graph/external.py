"""External data of tensors: read from the model's own folder and nowhere else, and no more than the tensor needs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError, NotAllowedError, shortened
from toolkit.base.reading import FileKind, open_regular, reading
from toolkit.graph.stored import byte_count, stored_tensors

_WHOLE = re.compile(r"[0-9]{1,18}")
_COPY = "copy the data file beside the model, whole"


def read_external(proto: onnx.ModelProto, path: Path) -> None:
    """Read the external data of every tensor of a model into it.

    Args:
        proto: the model; its tensors hold their values afterwards.
        path: the model's file. Data lies in its folder, or below.

    Raises:
        ModelError: data is missing, cut short, or described by what is no place in a file.
        NotAllowedError: data lies outside the model's folder.
    """
    for tensor in stored_tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = _content(tensor, path)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The files with external data that lie in the model's folder and exist; others are refused when they are read."""
    names = {
        entry.value
        for tensor in stored_tensors(proto)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.resolve().parent
    found = []
    for name in sorted(names):
        file = folder / name
        try:
            if name and folder in file.resolve().parents and file.is_file():
                found.append(file)
        except (OSError, ValueError):
            continue
    return found


def _content(tensor: TensorProto, path: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    kind = FileKind(f"the external data of tensor '{tensor.name}' cannot be read", ModelError, _COPY)
    with reading(path, kind):
        needed = byte_count(tensor)
        offset = _number(entries, "offset", tensor, path) or 0
        length = _number(entries, "length", tensor, path)
        target = _place(tensor, location, path)
        with open_regular(target) as stream:
            size = os.fstat(stream.fileno()).st_size
            asked = needed if length is None else length
            if offset + asked > size:
                raise ModelError(
                    f"tensor '{tensor.name}' needs bytes {offset} to {offset + asked} of '{location}', "
                    f"which has {size}",
                    where=str(path),
                    remedy="the data file is cut short: copy it again",
                )
            if asked != needed:
                raise ModelError(
                    f"tensor '{tensor.name}' has {needed} bytes by its type and shape, and {asked} of external data",
                    where=str(path),
                    remedy="export the model again",
                )
            stream.seek(offset)
            return stream.read(needed)


def _place(tensor: TensorProto, location: str, path: Path) -> Path:
    folder = path.resolve().parent
    said = shortened(location)
    if not location or "\0" in location:
        raise ModelError(
            f"tensor '{tensor.name}' names {location!r} as the file of its data",
            where=str(path),
            remedy="export the model again",
        )
    try:
        target = (folder / location).resolve()
        exists = target.exists()
    except OSError as error:
        raise ModelError(
            f"tensor '{tensor.name}' has its data in '{said}': {error.strerror}", where=str(path), remedy=_COPY
        ) from error
    if Path(location).is_absolute() or folder not in target.parents:
        raise NotAllowedError(
            f"tensor '{tensor.name}' has its data in '{said}', outside the model's folder",
            where=str(path),
            remedy="put the data file beside the model and name it by a relative path",
        )
    if not exists:
        raise ModelError(
            f"tensor '{tensor.name}' has its data in '{said}', which does not exist",
            where=str(path),
            remedy="copy the data file beside the model",
        )
    return target


def _number(entries: dict[str, str], key: str, tensor: TensorProto, path: Path) -> int | None:
    """``offset`` or ``length``; exporters write an empty text for none."""
    text = entries.get(key, "")
    if text and not _WHOLE.fullmatch(text):
        raise ModelError(
            f"tensor '{tensor.name}' has the {key} '{shortened(text, 40)}' of external data",
            where=str(path),
            remedy=f"export the model again: {key} is a number of bytes",
        )
    return int(text) if text else None
