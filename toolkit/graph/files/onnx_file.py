"""Reading and writing ONNX files."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.files import atomic_path, write_parts
from toolkit.base.mapped import map_file, release_pages, was_read
from toolkit.base.reading import FileKind, open_regular, read_file, reading
from toolkit.base.text import shell_word
from toolkit.graph.files.external import LOCATION, read_external
from toolkit.graph.files.proto_check import check_proto
from toolkit.graph.files.scanned import without_values
from toolkit.graph.files.streamed import streamed
from toolkit.graph.files.value_check import check_values
from toolkit.graph.proto.light import LightModel, bytes_of, fits_message, place_at
from toolkit.graph.proto.stored import stored_tensors

DATA_NAME = r"\.[0-9a-f]{16}\.data"
"""Regular expression for the name of a large model's weight file, after the model file's name."""
ONNX = FileKind(
    "this is not a valid ONNX model",
    ModelError,
    "export the model again",
    limit=(1 << 31) - 1,
    smaller="export it again with its weights as external data, as onnx.save does with save_as_external_data=True",
)
_RECIPE = re.compile(rb"^[ \t]*(\[[ \t]*model[ \t]*\]|model[ \t]*[.=])", re.MULTILINE)
"""How a recipe names its model: as a table, or in a line ``model = ...``."""
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")
"""Bytes that do not occur in TOML but in every ONNX message."""
_HEAD = 1 << 16
_SCANNED = 32 << 20
"""File size in bytes from which the values of large initializers are mapped instead of read."""
_APART, _PAGE = 1024, 4096


def read(path: Path) -> LightModel:
    """Read an ONNX file with its external data; the data of large weights is memory-mapped.

    Raises:
        ModelError: the file is missing, empty or not ONNX, or its external data is broken.
        NotAllowedError: its external data is outside the model's folder.
    """
    proto, maps = _parsed(path)
    model = LightModel(proto, where=str(path))
    with reading(path, ONNX):
        check_proto(model.proto, str(path))
        read_external(model, path, maps)
        model.lighten()
        check_values(model)
    release_pages()
    return model


def parse(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file, without checks and without its external data.

    For files above 32 MB, large initializers are not read but marked as external data in the file itself.

    Raises:
        ModelError: the file is missing, empty, not a regular file, or not ONNX.
    """
    return _parsed(path)[0]


def refuse_recipe(path: Path) -> None:
    """Refuse a recipe in place of a model.

    Raises:
        ModelError: the file is a recipe; the message tells how to run it.
    """
    head = b""
    with suppress(OSError, ValueError, QtoolError), open_regular(path) as stream:
        head = stream.read(_HEAD)
    if _RECIPE.search(head) and not _NO_TEXT.search(head):
        misnamed = path.suffix.lower() == ".onnx"
        run = "give it a name that ends in .toml to run it" if misnamed else f"run it: qtool run {shell_word(path)}"
        raise ModelError(
            "this is a recipe, not an ONNX model",
            where=str(path),
            remedy=f"{run}; where a model is wanted, name the one that it has under [model] path",
        )


def may_name_files(path: Path) -> bool:
    """Whether an ONNX file may refer to external data: False if a small file does not contain the key for it.

    Raises:
        ModelError: the file is missing or not a regular file.
    """
    with reading(path, ONNX):
        return path.stat().st_size >= _SCANNED or LOCATION.encode() in read_file(path, ONNX)


def _parsed(path: Path) -> tuple[onnx.ModelProto, dict[Path, mmap.mmap]]:
    """The message, and the mapping of the model's own file if values were left in it."""
    if not path.exists():
        raise ModelError("no such model file", where=str(path), remedy="check the path")
    if path.is_dir():
        raise ModelError("the model is a folder, not a file", where=str(path), remedy="name the .onnx file inside it")
    content, maps = _scanned(path)
    if not content:
        raise ModelError("the model file is empty", where=str(path), remedy="export the model again")
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:
        refuse_recipe(path)
        raise ONNX.fault(path, "it cannot be parsed", "export the model again as ONNX") from error
    if not proto.graph.node:
        raise ModelError("the model has no nodes", where=str(path), remedy="export the model again")
    # training information is not needed, and may refer to files too
    proto.ClearField("training_info")
    return proto, maps


def _scanned(path: Path) -> tuple[bytes, dict[Path, mmap.mmap]]:
    """The bytes of the message; for a large file without its large weights, and with the mapped file."""
    with reading(path, ONNX), open_regular(path) as stream:
        if _SCANNED <= os.fstat(stream.fileno()).st_size <= ONNX.limit:
            file = path.resolve()
            # invalid messages and names are reported when the whole file is parsed
            with suppress(ValueError):
                mapped = map_file(stream, file)
                return without_values(memoryview(mapped), file.name), {file: mapped}
    return read_file(path, ONNX), {}


def write(model: LightModel, path: Path) -> Path:
    """Write a model atomically; if it exceeds protobuf's limit, its weights go to a separate file.

    The name of that file contains the hash of its content, ``<name>.<hash>.data``. A model file therefore always refers
    to the weights that it was written with, even if writing is interrupted, and other weights give a different model
    file. Data files of an earlier model at ``path`` are removed at the end.

    Args:
        model: the model; its message is changed.
        path: the model's file.
    """
    data: Path | None = None
    apart = _apart(model)
    if apart:
        digest = hashlib.sha256()
        for _, content in apart:
            digest.update(content)
            was_read(len(content))
        data = path.with_name(f"{path.name}.{digest.hexdigest()[:16]}.data")
        takes = sum(len(content) + _PAGE for _, content in apart)
        with atomic_path(data, takes) as temporary, open(temporary, "wb") as stream:
            for tensor, content in apart:
                # tensors must begin on a page for mapping
                stream.write(bytes(-stream.tell() % _PAGE))
                place_at(tensor, data.name, stream.tell(), len(content))
                stream.write(content)
                was_read(len(content))
            stream.flush()
            os.fsync(stream.fileno())
    inside = model if not apart else LightModel(model.proto)
    write_parts(path, _read_on(streamed(inside)), inside.proto.ByteSize() + inside.weight_bytes)
    own = re.compile(re.escape(path.name) + DATA_NAME)
    for other in path.parent.iterdir():
        if other != data and own.fullmatch(other.name):
            other.unlink(missing_ok=True)
    release_pages()
    return path


def _read_on(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for part in parts:
        yield part
        was_read(len(part))


def _apart(model: LightModel) -> list[tuple[TensorProto, memoryview | bytes]]:
    """The tensors that go to a separate file, with their values; empty if the model file can hold everything."""
    if model.fits_whole():
        return []
    left = model.message_bytes
    found: list[tuple[TensorProto, memoryview | bytes]] = []
    for tensor in model.proto.graph.initializer:
        if tensor.name in model.weights:
            found.append((tensor, bytes_of(model.weights[tensor.name])))
        elif len(tensor.raw_data) >= _APART:
            found.append((tensor, tensor.raw_data))
            left -= len(tensor.raw_data)
    # tensors in subgraphs and attributes stay in the message if possible, since not all readers expect external data
    # there
    main = len(model.proto.graph.initializer)
    for tensor in islice(stored_tensors(model.proto), main, None):
        if not fits_message(left) and len(tensor.raw_data) >= _APART:
            found.append((tensor, tensor.raw_data))
            left -= len(tensor.raw_data)
    return found
