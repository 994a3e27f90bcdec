"""Temporary folders, and removal of those that killed processes left behind.

The owner of a folder holds a lock on a file in it while it lives. The system releases the lock however the owner ends,
so whoever can acquire it knows that the owner is gone. Neither process ids, which are reused, nor times are needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "qtool-"
_OWNER = ".qtool-owner"
_WORDS = b"a temporary folder of qtool's, to be removed when nobody holds a lock on this file\n"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A new folder in the system's temporary directory, removed after the block.

    Args:
        purpose: a word for the folder's name.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{purpose}-") as name:
        handle = _claim(Path(name))
        try:
            yield Path(name)
        finally:
            if handle is not None:
                os.close(handle)


def _claim(folder: Path) -> int | None:
    """Create a locked file in the folder, renamed to its final name when locked; None if the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    nameless = folder / f"{_OWNER}.new"
    handle = os.open(nameless, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.write(handle, _WORDS)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(nameless, folder / _OWNER)
    except OSError:
        # a file system without locks: the folder is never removed by others, since its owner may be alive
        os.close(handle)
        return None
    return handle


def clear_left_folders() -> list[Path]:
    """Remove the temporary folders left by this user's qtool processes that ended; returns the folders removed.

    Folders that are not certain to be such, or whose owner may be running, are kept.
    """
    try:
        import fcntl
    except ImportError:
        return []
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        handle = _opened(folder)
        if handle is None:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        finally:
            os.close(handle)
    return removed


def _opened(folder: Path) -> int | None:
    """An open descriptor of the lock file in one of qtool's folders; None if the folder is not qtool's."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return None
        handle = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(handle).st_mode) and os.pread(handle, len(_WORDS) + 1, 0) == _WORDS:
                return handle
        os.close(handle)
    return None
