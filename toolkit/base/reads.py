"""Tracks what user code reads while it runs, with an audit hook (PEP 578) that checks whose code is on the stack.

Python reports every file that is opened from Python to the hook, including by numpy, PIL and pandas. A read counts if
it is made, directly or indirectly, by a user function that qtool called. Existence checks, which no hook reports, are
observed by replacing ``os.stat``, which os.path uses, as does pathlib from Python 3.11 on. Reads of a thread are
attributed to the code that started it. Reads that Python does not observe (libraries that open files themselves, other
processes, the network) are recorded as unknown, unless the code declares what it reads.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from toolkit.base.modules import sources_of
from toolkit.base.needs import Needs, digest_of, kind_of
from toolkit.base.owners import is_users, owner_of_frame
from toolkit.base.source_needs import source_needs

_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
_FOLDERS = ("os.listdir", "os.scandir")
_WATCHED = frozenset({"open", "sqlite3.connect", "os.mkdir", *_PROCESSES, *_NETWORK, *_FOLDERS})
_SYSTEM = re.compile(r"/(proc|sys|dev(?!/shm/))/")
_IMPORTING, _CHANGED = "<frozen importlib", "changed"
_STAT, _START = os.stat, threading.Thread.start


class Reads:
    """What user code has read since this object was created.

    Args:
        folder: the run's own folder; files in it are not recorded.
        modules: names of the user's modules that qtool will call.
        base: a folder that relative paths may refer to, besides the working directory and the modules' folders.

    Attributes:
        declared: whether the code itself declares what it reads, which is then relied on.
    """

    def __init__(self, folder: Path | None = None, modules: Iterable[str] = (), base: Path | None = None) -> None:
        self._folder = str(folder.resolve()) + os.sep if folder is not None else None
        self._modules, self._base = tuple(modules), base if base is not None else Path.cwd()
        self._called = frozenset(str(file) for name in self._modules for file in sources_of(name).files.values())
        self._stated: dict[frozenset[str], Needs] = {}
        self.declared = False
        self._made: set[str] = set()
        self._loaded: set[str] = set()
        self._lock = threading.Lock()
        self._needs = Needs()

    def needs(self) -> Needs:
        """What was read so far, what the sources mention, and the source of every user module in this process."""
        loaded = frozenset(self._loaded)
        if loaded not in self._stated:
            with aside():
                self._stated[loaded] = source_needs(self._modules, loaded, self._base)
        with self._lock:
            found = self._needs.merged([self._stated[loaded], _HOOK.modules(self._called | loaded)])
        if self.declared:
            found.unknown = []
        # files that the code writes itself are not dependencies
        found.files = {
            path: digest
            for path, digest in found.files.items()
            if path in self._needs.files or not (self._ours(path) or self._in_made(path))
        }
        found.asked = {path: kind for path, kind in found.asked.items() if not self._in_made(path)}
        return found

    def add(self, other: Needs) -> None:
        """Add what another process has read on behalf of this one."""
        with self._lock:
            self._needs = self._needs.merged([other])

    def unknown(self, why: str) -> None:
        """Record a reason why the reads cannot be known."""
        with self._lock:
            if why not in self._needs.unknown:
                self._needs.unknown.append(why)

    def was_loaded(self, source: str) -> None:
        """Record the source file of a user module that was loaded."""
        self._loaded.add(source)

    def opened(self, path: str, flags: int) -> None:
        """Record that user code opened a file; ``flags`` are those of ``os.open``."""
        if self._ours(path) or self._in_made(path):
            return
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        fresh = flags & (os.O_TRUNC | os.O_EXCL)
        if path in self._made or path in self._needs.files:
            return
        if fresh or flags & os.O_WRONLY:
            # a file that the code creates is not an input, however often it is read later
            self._made.add(path)
            return
        digest = digest_of(path)
        with self._lock:
            self._needs.files.setdefault(path, digest)
        if writes:
            self._made.add(path)

    def listed(self, path: str) -> None:
        """Record that user code listed a folder."""
        if not self._ours(path + os.sep) and not self._in_made(path):
            digest = digest_of(path)
            with self._lock:
                self._needs.files.setdefault(path, digest)

    def asked(self, path: str, kind: str) -> None:
        """Record that user code checked what is at a path."""
        if not self._ours(path + os.sep):
            with self._lock:
                self._needs.asked.setdefault(path, kind)

    def made(self, folder: str) -> None:
        """Record that user code created a folder, whose content is then not an input."""
        self._made.add(folder)

    def _in_made(self, path: str) -> bool:
        return any(str(parent) in self._made for parent in (Path(path), *Path(path).parents))

    def _ours(self, path: str) -> bool:
        """Whether a path belongs to the run, to a package with a version, or is not a real file."""
        temporary = os.path.join(tempfile.gettempdir(), "qtool-")  # noqa: PTH118
        own = (temporary,) if self._folder is None else (self._folder, temporary)
        return path.startswith(own) or bool(_SYSTEM.match(path)) or not is_users(path) or path.endswith(".pyc")


class _Hook:
    """The process's only audit hook. Hooks cannot be removed, so it is installed when first needed."""

    def __init__(self) -> None:
        self.active: Reads | None = None
        self._installed = False
        self._local = threading.local()
        self._sources: dict[str, str] = {}
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._start = _process_start()

    def install(self) -> None:
        """Install the hook, and record the modules loaded before."""
        if self._installed:
            return
        self._installed = True
        self.modules()
        sys.addaudithook(self._hear)
        for can in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            # shutil checks by membership in these sets what os.stat supports
            if _STAT in can:
                can.add(self.stat)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Ignore what this thread reads in the block."""
        before = getattr(self._local, "aside", False)
        self._local.aside = True
        try:
            yield
        finally:
            self._local.aside = before

    def modules(self, called: Collection[str] = ()) -> Needs:
        """The source files of all user modules in this process, as they were loaded.

        Args:
            called: source files of the code that qtool calls: if it is unknown which version of one runs, needs are
                unknown.
        """
        found = Needs()
        for path in self._users_modules():
            if path not in self._sources:
                # it was loaded unobserved: if the file has changed since the process started, its running code is
                # unknown
                changed = os.stat(path).st_mtime >= self._start  # noqa: PTH116
                self._sources[path] = _CHANGED if changed else digest_of(path)
            if self._sources[path] != _CHANGED:
                found.files[path] = self._sources[path]
            elif path in called:
                found.unknown.append(f"{Path(path).name} was changed while this process ran")
        return found

    def _users_modules(self) -> list[str]:
        modules = [module for name, module in list(sys.modules.items()) if name != "__main__"]
        files = {getattr(module, "__file__", None) for module in modules}
        sources = {os.path.realpath(file) for file in files if isinstance(file, str) and is_users(file)}
        return sorted(path for path in sources if path.endswith(".py") and os.path.isfile(path))  # noqa: PTH113

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED or getattr(self._local, "busy", False):
            return
        self._local.busy = True
        try:
            self._take(event, arguments)
        except Exception as error:
            # an error raised here would appear in the user's code
            if self.active is not None:
                self.active.unknown(f"following it failed: {type(error).__name__}: {error}")
        finally:
            self._local.busy = False

    def _take(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Process an audit event: user code opens or lists something, or starts a process or connection."""
        path = None if event in (*_PROCESSES, *_NETWORK) else _path(arguments)
        frame = sys._getframe(2)
        if frame.f_code.co_filename.startswith(_IMPORTING):
            if event == "open" and path is not None:
                self._load(path)
            return
        active = self.active
        if active is None or getattr(self._local, "aside", False) or not _users_ask(frame):
            return
        if event in _PROCESSES:
            active.unknown("it starts another process")
        elif event in _NETWORK:
            active.unknown("it uses the network")
        elif path is None:
            return
        elif event in _FOLDERS:
            active.listed(path)
        elif event == "os.mkdir":
            active.made(path)
        elif event == "sqlite3.connect":
            active.opened(path, os.O_RDWR)
        else:
            flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else os.O_RDONLY
            active.opened(path, flags)

    def stat(self, path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        """``os.stat``, recorded if user code calls it."""
        active, busy = self.active, getattr(self._local, "busy", False) or getattr(self._local, "aside", False)
        if active is not None and not busy and isinstance(path, (str, bytes, os.PathLike)):
            self._local.busy = True
            try:
                frame = sys._getframe(1)
                place = _path((path,)) if not keywords.get("dir_fd") and _users_ask(frame) else None
                if place is not None:
                    active.asked(place, kind_of(place))
            finally:
                self._local.busy = False
        return _STAT(path, *arguments, **keywords)

    def begin(self, thread: threading.Thread) -> None:
        """Record a thread that user code is about to start, whose reads are attributed to that code."""
        if self.active is not None and not getattr(self._local, "aside", False) and _users_ask(sys._getframe(2)):
            self.threads.add(thread)

    def _load(self, path: str) -> None:
        """Record the digest of a source file whose code, possibly compiled, is being loaded."""
        if path.endswith(".pyc"):
            try:
                path = importlib.util.source_from_cache(path)
            except ValueError:
                return
        path = os.path.realpath(path)
        if path.endswith(".py") and is_users(path) and os.path.isfile(path):  # noqa: PTH113
            self._sources[path] = digest_of(path)
            if self.active is not None and not getattr(self._local, "aside", False):
                self.active.was_loaded(path)


def _process_start() -> float:
    """Start of this process in seconds since the epoch; if the system does not report it, the time of import."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - (up - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()


def _path(arguments: tuple[Any, ...]) -> str | None:
    """The absolute path that an event concerns; None for an open file descriptor."""
    given = arguments[0] if arguments else None
    if given is None:
        return os.getcwd()  # noqa: PTH109
    if isinstance(given, (str, bytes, os.PathLike)):
        text = os.fsdecode(given)
        return os.path.abspath(text) if text and text != ":memory:" else None  # noqa: PTH100
    return None


def _users_ask(frame: FrameType | None) -> bool:
    """Whether a user function that qtool called is on the stack, or started this thread."""
    asked = False
    while frame is not None:
        kind = owner_of_frame(frame)
        if kind == "compiler" and not asked:
            return False
        if kind in ("user", "installed"):
            asked = True
        elif kind == "own" and asked:
            return True
        frame = frame.f_back
    return asked and threading.current_thread() in _HOOK.threads


_HOOK = _Hook()


@contextmanager
def following(reads: Reads) -> Iterator[Reads]:
    """Track what user code called in the block reads."""
    _HOOK.install()
    before, _HOOK.active = _HOOK.active, reads
    stat, os.stat = os.stat, _HOOK.stat
    start, threading.Thread.start = threading.Thread.start, _start  # type: ignore[method-assign, assignment]
    try:
        yield reads
    finally:
        _HOOK.active, os.stat = before, stat
        threading.Thread.start = start  # type: ignore[method-assign]


def _start(thread: threading.Thread) -> None:
    """``Thread.start``, recorded if user code calls it."""
    _HOOK.begin(thread)
    _START(thread)


def current() -> Reads | None:
    """The ``Reads`` that are being recorded; None if there are none."""
    return _HOOK.active


def needs_now() -> Needs | None:
    """What user code has read so far according to ``current``; None if nothing is being recorded."""
    return _HOOK.active.needs() if _HOOK.active is not None else None


aside = _HOOK.aside
"""Ignores what this thread reads in the block: qtool's own work on the user's behalf."""
