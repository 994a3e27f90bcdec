"""States of one simulation run by several processes, each with sessions of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from toolkit.evaluation.outcome import Outcome
from toolkit.simulation.runner import Runner
from toolkit.simulation.simulation import SimulationJob
from toolkit.simulation.switches import Config


def run_all(job: SimulationJob, configs: Sequence[Config], processes: int) -> Iterator[tuple[int, Outcome]]:
    """The outcome of every state as it comes in: (its place in ``configs``, outcome).

    The numbers are those of one process: every session has one thread, and batches are added in order.
    """
    with tempfile.TemporaryDirectory(prefix="qtool-job-") as folder:
        path = Path(folder) / "job.pickle"
        path.write_bytes(pickle.dumps(job))
        # fork would copy onnxruntime's threads and locks in an unknown state
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(str(path),)) as pool:
            jobs = {pool.submit(_run, config): index for index, config in enumerate(configs)}
            for done in as_completed(jobs):
                yield jobs[done], done.result()


_runner: Runner | None = None


def _start(path: str) -> None:
    global _runner
    job: SimulationJob = pickle.loads(Path(path).read_bytes())
    _runner = job.runner(threads=1)


def _run(config: Config) -> Outcome:
    assert _runner is not None
    return _runner.run(config)
