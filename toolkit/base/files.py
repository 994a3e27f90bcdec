"""Writing files atomically, and fingerprints of their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from toolkit.base.errors import WriteError, system_remedy
from toolkit.base.text import bytes_words

_CHUNK, _AT_ONCE = 1 << 22, 1_000
"""Bytes of a file to read at once, and parts of JSON text to write at once."""
PART = ".qtool-part"
"""Suffix of temporary files. No other files have it, so a run may remove those that a killed run left."""
_SHOWN = 50
"""Letters of a file's name that its temporary file's name begins with."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path, size: int | None = None, written: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Report an operating system error in the block, which writes ``path``, as a WriteError with its path.

    Args:
        path: a file or folder.
        size: number of bytes that the block writes; None if unknown.
        written: returns the number of bytes on disk when writing fails.

    Raises:
        WriteError: the disk is full, the file system is read-only, a folder is a file, and similar.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            why = _in_the_way(path)
        remedy = system_remedy(error)
        if error.errno in _FULL:
            remedy = _with_room(remedy, path, size, written())
        raise WriteError(f"it cannot be written: {why}", where=str(path), remedy=remedy) from error


def _in_the_way(path: Path) -> str:
    """What stands where a folder of a path is to be made: a link that leads nowhere, or a file."""
    broken = next((one for one in (path, *path.parents) if one.is_symlink() and not one.exists()), None)
    if broken is None:
        return "a folder of its path is a file"
    return f"the link {broken} leads to {broken.readlink()}, which is not there"


def _with_room(remedy: str, path: Path, size: int | None, written: int) -> str:
    """The remedy, extended by the bytes needed, the bytes free, and TMPDIR if the file is a temporary one."""
    needs = f"it takes {bytes_words(size)}" if size is not None else f"it takes more than {bytes_words(written)}"
    folder = next((one for one in path.absolute().parents if one.is_dir()), Path(os.sep))
    with suppress(OSError):
        needs += f", and {bytes_words(shutil.disk_usage(folder).free)} are free in {folder}"
    if folder.is_relative_to(Path(tempfile.gettempdir()).absolute()):
        remedy += " (set TMPDIR)"
    return f"{remedy}: {needs}"


def refuse_file(folder: Path) -> None:
    """Refuse a file where a command is to write a folder.

    Raises:
        WriteError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise WriteError("this is a file", where=str(folder), remedy="give --out the name of a folder")


def make_folder(folder: Path) -> None:
    """Make a folder for what a command writes, and those above it.

    Raises:
        WriteError: it cannot be made, as where a folder of its path is a file.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_path(path: Path, size: int | None = None) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it if the block ends without an error.

    Args:
        size: number of bytes it will have; None if unknown.

    Raises:
        WriteError: see ``writing`` and ``require_place``.
    """
    written = 0
    with writing(path, size, lambda: written):
        require_place(path)
        temporary = _new_beside(path)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                written = temporary.stat().st_size
            temporary.unlink(missing_ok=True)
            raise


def _new_beside(path: Path) -> Path:
    """Create an empty temporary file beside ``path``, and its folder if that is missing."""
    made = False
    while True:
        # a name may have 255 bytes, and a letter up to four
        temporary = path.with_name(f".{path.name[:_SHOWN]}.{os.urandom(4).hex()}{PART}")
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileNotFoundError:
            # no file can be made in /proc, or in a working directory that was removed, though both exist
            if made:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            made = True
        except FileExistsError:
            # another process took this name
            continue
        else:
            return temporary


def require_place(path: Path) -> None:
    """Refuse to replace a device or a link to one, or to write to the system's own folders.

    Raises:
        WriteError: ``path`` is one of these; nothing was written.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    folder = os.path.realpath(path.parent) + os.sep
    # if standard output is redirected to a file, the link to it looks like a regular file
    system = folder == "/dev/" or folder.startswith(("/proc/", "/sys/"))
    if system or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise WriteError("this is a device, and writing here would destroy it", where=str(path), remedy="name a file")


def file_state(found: os.stat_result) -> tuple[int, ...]:
    """Values that identify a file and change whenever it is written."""
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically."""
    write_parts(path, [content], len(content) if isinstance(content, bytes) else content.nbytes)


def write_parts(path: Path, parts: Iterable[bytes | memoryview], size: int | None = None) -> None:
    """Write a file from consecutive parts, atomically; ``size`` is their total number of bytes."""
    with atomic_path(path, size) as temporary, open(temporary, "wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content to ``path`` atomically."""
    with atomic_path(path, source.stat().st_size) as temporary:
        shutil.copyfile(source, temporary)


def write_text(path: Path, content: str) -> None:
    """Write a text file (UTF-8) atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically, one line per entry, while it is produced; see ``json_parts``."""
    parts = chain(json_parts(content), ["\n"])
    write_parts(Path(path), (some.encode("utf-8") for some in iter(lambda: "".join(islice(parts, _AT_ONCE)), "")))


def json_parts(content: Any) -> Iterator[str]:
    """The text of JSON with one line per entry of the outer two levels, such as a layer, a range or a request.

    Python writes deeper indentation thirty times slower, and a large model has a million such lines.

    Args:
        content: the value. Iterators in the outer two levels are written as lists, entry by entry.

    Raises:
        ValueError: it contains NaN or an infinity.
    """
    return _indented(content, json_encoder(), "\n", 2)


def json_encoder() -> Callable[[Any], str]:
    """A function that writes a value as strict JSON, like ``json.dumps``; raises ValueError for NaN and infinities.

    ``JSONEncoder.encode`` recreates its C encoder for every value, which takes half of the time for short values.
    """
    plain = json.JSONEncoder(allow_nan=False)
    made = getattr(json.encoder, "c_make_encoder", None)
    if made is None:
        return plain.encode
    ends = plain.key_separator, plain.item_separator
    parts = made({}, plain.default, json.encoder.encode_basestring_ascii, None, *ends, False, False, False)
    return lambda value: "".join(parts(value, 0))


def _indented(content: Any, encode: Callable[[Any], str], line: str, levels: int) -> Iterator[str]:
    if not isinstance(content, (dict, list, tuple, Iterator)):
        yield encode(content)
        return
    ends = "{}" if isinstance(content, dict) else "[]"
    inner, before = line + " ", ""
    for entry in content:
        before = f",{inner}" if before else ends[0] + inner
        begin, value = before, entry
        if isinstance(content, dict):
            begin, value = before + _key(entry, encode), content[entry]
        if levels > 1:
            yield begin
            yield from _indented(value, encode, inner, levels - 1)
        else:
            yield begin + encode(value)
    yield line + ends[1] if before else ends


def _key(key: Any, encode: Callable[[Any], str]) -> str:
    """A key and its colon; the encoder converts keys that are not text."""
    return f"{encode(key)}: " if isinstance(key, str) else encode({key: 0})[1:-2]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        # an error while reading, unlike one while opening, does not name the file
        error.filename = error.filename or str(path)
        raise
    return digest.hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
