"""Work in several processes of this machine, which map large arrays from the same files."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import QtoolError
from toolkit.base.files import writing
from toolkit.base.mapped import FilePlace, file_number, map_same, place_of
from toolkit.base.places import AnswerT, ItemT, SharedWork, Workers, answered, taken_in
from toolkit.base.reads import Reads, following
from toolkit.base.temporary import temporary_folder

_PAGE = 4096


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, each of which opens the work; see ``Workplace``.

    With more than one process, the main module must be importable, as for Python's ``spawn``.

    Attributes:
        count: number of processes.
        unlike: always empty; see ``Workplace``.
    """

    count: int
    unlike: Collection[str] = ()

    @contextmanager
    def workers(self, work: SharedWork[ItemT, AnswerT]) -> Iterator[Workers[ItemT, AnswerT]]:
        """See ``Workplace``.

        Raises:
            QtoolError: the work cannot be pickled.
        """
        with temporary_folder("work") as folder:
            path = folder / "work.pickle"
            _store(work, path)
            # fork would copy onnxruntime's threads and locks in an undefined state
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(self.count, mp_context=spawn, initializer=_start, initargs=(str(path),))
            try:
                yield _Pool(pool, 2 * self.count)
            finally:
                # a caller that stops early does not wait for answers it no longer needs
                pool.shutdown(cancel_futures=True)

    def gpu_workers(self, work: SharedWork[Any, Any]) -> AbstractContextManager[None]:
        """See ``Workplace``: there are no GPUs besides this process's own."""
        return nullcontext()


@dataclass(frozen=True)
class _Pool:
    pool: ProcessPoolExecutor
    window: int

    def submit(self, item: Any) -> _PoolAnswer:
        with _told_where_ended():
            return _PoolAnswer(self.pool.submit(_run, item))


@dataclass(frozen=True)
class _PoolAnswer:
    future: Future[tuple[Any, Any]]

    def result(self) -> Any:
        with _told_where_ended():
            return taken_in(self.future.result())

    def give_up(self) -> None:
        self.future.cancel()


@contextmanager
def _told_where_ended() -> Iterator[None]:
    """Report the loss of a process of the pool, whether it is noticed on submitting work or on waiting for it."""
    try:
        yield
    except BrokenProcessPool as error:
        raise QtoolError(
            "one of the processes that share the work was ended from outside",
            remedy="the machine may be out of memory: use fewer processes, or smaller batches",
        ) from error


def _store(work: SharedWork[Any, Any], path: Path) -> None:
    """Write a work and the locations of its arrays: in the files they are mapped from, else in one file beside it."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(work, protocol=5, buffer_callback=buffers.append)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise QtoolError(
            f"the work cannot be sent to other processes: {error}",
            remedy="define the class of your own metric at the top of a module, or use one process",
        ) from error
    places: list[tuple[FilePlace, int]] = []
    arrays, takes = path.with_suffix(".arrays"), sum(buffer.raw().nbytes + _PAGE for buffer in buffers)
    with writing(arrays, takes), arrays.open("wb") as stream:
        own, number = Path(stream.name).resolve(), file_number(os.fstat(stream.fileno()))
        for buffer in buffers:
            raw = buffer.raw()
            place = place_of(np.frombuffer(raw, np.uint8))
            if place is None:
                stream.write(bytes(-stream.tell() % _PAGE))
                place = FilePlace(own, stream.tell(), number)
                stream.write(raw)
            places.append((place, raw.nbytes))
        # an empty file cannot be mapped
        stream.write(b"\0")
    with writing(path, len(content)):
        path.write_bytes(pickle.dumps((places, content)))


def _stored(path: Path) -> SharedWork[Any, Any]:
    """Read a work written by ``_store``; its arrays are read-only and mapped from their files."""
    places, content = pickle.loads(path.read_bytes())
    files = {place.path: place for place, _ in places}
    maps = {path: memoryview(map_same(place)) for path, place in files.items()}
    arrays = [maps[place.path][place.offset : place.offset + size] for place, size in places]
    work: SharedWork[Any, Any] = pickle.loads(content, buffers=arrays)
    return work


_answer: Callable[[Any], Any] | None = None


def _start(path: str) -> None:
    global _answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # active until the process ends: a user's metric may read files here
    following(Reads()).__enter__()
    try:
        _answer = _stored(Path(path)).open()
    except Exception as error:
        # raised here, it would end the process without a message
        _answer = partial(_fail, error)


def _fail(error: Exception, _item: Any) -> Any:
    raise error


def _end_with_parent() -> None:
    """End this process when its parent is gone: processes of a pool would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(item: Any) -> tuple[Any, Any]:
    assert _answer is not None
    return answered(_answer, item)
