"""Checksums of external data: ONNX's ``checksum`` entry holds the SHA-1 of the whole data file (onnx.proto)."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

from toolkit.base.files import file_state

_CHUNK = 1 << 20
_DIGESTS: dict[tuple[int, ...], str] = {}
"""Digests by state of the file: all tensors in a file share its checksum."""


def sha1_of(stream: BinaryIO) -> str:
    """SHA-1 of an open file's content, in hex; it is computed once for an unchanged file. The position is lost."""
    state = file_state(os.fstat(stream.fileno()))
    if state not in _DIGESTS:
        digest = hashlib.sha1(usedforsecurity=False)
        stream.seek(0)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
        _DIGESTS[state] = digest.hexdigest()
    return _DIGESTS[state]
