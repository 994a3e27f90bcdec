"""States of one simulation run by several processes, each with sessions of its own."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from toolkit.base.errors import QtoolError
from toolkit.base.needs import Needs
from toolkit.base.reads import Reads, current, following, needs_now
from toolkit.base.temporary import temporary_folder
from toolkit.evaluation.outcome import Outcome
from toolkit.simulation.runner import Runner
from toolkit.simulation.simulation import SimulationJob
from toolkit.simulation.switches import Config

_PAGE = 4096


def run_all(job: SimulationJob, configs: Sequence[Config], processes: int) -> Iterator[tuple[int, Outcome]]:
    """The outcome of every state as it comes in: (its place in ``configs``, outcome).

    The numbers are those of one process: every session has one thread, and batches are added in order.
    """
    with temporary_folder("job") as folder:
        path = folder / "job.pickle"
        _store(job, path)
        # fork would copy onnxruntime's threads and locks in an unknown state
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(str(path),))
        try:
            jobs = {pool.submit(_run, config): index for index, config in enumerate(configs)}
            for done in as_completed(jobs):
                outcome, needs = done.result()
                if needs is not None and (reads := current()) is not None:
                    reads.add(needs)
                yield jobs[done], outcome
        finally:
            # whoever stops early does not wait for states that nobody asks for any more
            pool.shutdown(cancel_futures=True)


def _store(job: SimulationJob, path: Path) -> None:
    """Write a job, and its arrays into a file beside it that all processes map: they share the weights."""
    arrays: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(job, protocol=5, buffer_callback=arrays.append)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise QtoolError(
            f"the metric cannot be sent to other processes: {error}",
            remedy="define its class at the top of a module, or use one process",
        ) from error
    places: list[tuple[int, int]] = []
    with _arrays(path).open("wb") as stream:
        for array in arrays:
            stream.write(bytes(-stream.tell() % _PAGE))
            places.append((stream.tell(), array.raw().nbytes))
            stream.write(array.raw())
        # a file without a byte cannot be mapped
        stream.write(b"\0")
    path.write_bytes(pickle.dumps((places, content)))


def _stored(path: Path) -> SimulationJob:
    """The job that was written there; its arrays are read-only."""
    places, content = pickle.loads(path.read_bytes())
    with _arrays(path).open("rb") as stream:
        mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    job: SimulationJob = pickle.loads(content, buffers=[mapped[start : start + size] for start, size in places])
    return job


def _arrays(path: Path) -> Path:
    return path.with_suffix(".arrays")


_runner: Runner | None = None


def _start(path: str) -> None:
    global _runner
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # for as long as this process lives: a metric of the user's may read files here
    following(Reads()).__enter__()
    _runner = _stored(Path(path)).runner(threads=1)


def _end_with_parent() -> None:
    """Nobody takes a result once the parent is gone, and a pool's processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(config: Config) -> tuple[Outcome, Needs | None]:
    assert _runner is not None
    return _runner.run(config), needs_now()
