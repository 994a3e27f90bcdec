"""Temporary folders, and the removal of those that killed processes left behind.

The owner of a folder holds a lock on a file in it for as long as it lives. The system gives the lock back however the
owner ends, so that whoever can take it knows that the owner is gone: no process numbers, which are used again, and no
times.
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
    """A new folder in the system's place for temporary files, gone after the block.

    Args:
        purpose: a word for its name.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{purpose}-") as name:
        handle = _claim(Path(name))
        try:
            yield Path(name)
        finally:
            if handle is not None:
                os.close(handle)


def _claim(folder: Path) -> int | None:
    """A locked file in the folder, which has its name only once it is locked; None where the system has no locks."""
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
        # a file system without locks: a folder left there stays, since its owner may live
        os.close(handle)
        return None
    return handle


def clear_left_folders() -> list[Path]:
    """Remove the temporary folders of this user's qtool processes that are gone; returns what was removed.

    A folder that is not surely one, or whose owner may be at work, stays.
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
    """The lock file of one of our folders, opened; None where the folder is not ours."""
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
