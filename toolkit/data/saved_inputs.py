"""Inputs saved by Polygraphy (``polygraphy run --save-inputs``), read without Polygraphy.

Polygraphy's reader would pass untrusted content to torch, and allocate as much memory as an array's header claims.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.reading import FileKind, read_json, reading
from toolkit.base.schema import value_words
from toolkit.base.types import Array
from toolkit.data.arrays import layout_of, native

_KIND = FileKind(
    "these are no inputs saved by Polygraphy",
    DataError,
    "write them with polygraphy run --save-inputs",
    limit=1 << 30,
)
_ZIP = b"PK"
_UNPACKED = 1 << 28
_DEEPEST = 8


def read_saved_inputs(path: Path) -> list[dict[str, Array]]:
    """The feeds in a file of saved inputs; each has one array per input.

    An array is stored as Polygraphy writes it, an object with an .npy file in base64 under ``array``, or as lists of
    numbers.

    Raises:
        DataError: the file is not of this kind or holds no feeds; the message names the sample and the input.
    """
    content = read_json(path, _KIND)
    if not isinstance(content, list):
        raise _KIND.fault(path, "not a list of feeds")
    if not content:
        raise DataError("there are no samples", where=str(path), remedy="give at least one sample")
    return [_feed(feed, f"{path}, sample {number}") for number, feed in enumerate(content)]


def _feed(feed: Any, where: str) -> dict[str, Array]:
    if not isinstance(feed, Mapping):
        raise _KIND.fault(where, f"a feed is {value_words(feed)}")
    return {name: _array(value, f"{where}, '{name}'") for name, value in feed.items()}


def _array(value: Any, where: str, depth: int = 0) -> Array:
    with reading(where, _KIND):
        if isinstance(value, Mapping):
            if isinstance(value.get("array"), str):
                return _decoded(value["array"], where)
            if "values" in value and depth < _DEEPEST:
                return _array(value["values"], where, depth + 1)
            raise ValueError(f"this is not an array: {value_words(value)}")
        found = np.asarray(value)
        if found.dtype.kind not in "biuf":
            raise ValueError(f"this is not an array: {value_words(value)}")
        return found


def _decoded(text: str, where: str) -> Array:
    """An .npy file in base64; older releases wrote its bytes as Latin-1 text, the oldest ones a zip archive of it."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        content = text.encode("latin-1")
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = archive.infolist()[0]
            if info.file_size > _UNPACKED:
                raise ValueError(f"it claims {info.file_size:,} bytes")
            content = archive.read(info)
    stream = io.BytesIO(content)
    layout_of(stream, len(content), where)
    stream.seek(0)
    return native(np.asarray(np.lib.format.read_array(stream, allow_pickle=False)))
