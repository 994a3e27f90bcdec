"""Calibration and sensitivity here, and on Ray clusters of one and two workers: wall and processor seconds.

    python tests/benchmarks/bench_cluster.py [--model models/strip_reader.onnx] [--data models/strip_calibration.npz]

The processor seconds are those of the work in all processes; what Ray itself needs beside it, to start, is the first
row's. Every row must give the same numbers, which is checked. The load of the machine is printed with each row.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import MODELS
from toolkit import CalibrationData, Calibrator, Context, Model
from toolkit.base.cluster import Cluster, cluster
from toolkit.base.places import SharedWork, Workers, working_at
from toolkit.search.sensitivity.measure import exact
from toolkit.simulation.simulation import Settings, Simulation
from toolkit.simulation.switches import wanted_tensors


@dataclass(frozen=True)
class Timed:
    """A work whose answers come with the processor seconds that they took, opening among them."""

    work: Any

    def open(self) -> Callable[[Any], Any]:
        begun = [time.process_time()]
        answer = self.work.open()

        def timed(item: Any) -> Any:
            before = begun.pop() if begun else time.process_time()
            found = answer(item)
            return found, time.process_time() - before

        return timed


@dataclass
class Meter:
    """A place that adds up the processor seconds of its workers."""

    place: Cluster
    seconds: float = 0.0
    unlike: tuple[str, ...] = ()

    @contextmanager
    def workers(self, work: SharedWork[Any, Any]) -> Iterator[Workers[Any, Any]]:
        with self.place.workers(Timed(work)) as workers:
            yield _Metered(self, workers)  # type: ignore[misc]


@dataclass
class _Metered:
    meter: Meter
    workers: Any

    @property
    def window(self) -> int:
        return int(self.workers.window)

    def submit(self, item: Any) -> _MeteredAnswer:
        return _MeteredAnswer(self.meter, self.workers.submit(item))


@dataclass
class _MeteredAnswer:
    meter: Meter
    pending: Any
    counted: bool = False

    def result(self) -> Any:
        found, seconds = self.pending.result()
        self.meter.seconds += 0.0 if self.counted else seconds
        self.counted = True
        return found


def work(model: Model, source: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Calibrate, then measure every layer alone and left out: what was found, and seconds of each."""
    begin = time.perf_counter()
    data = CalibrationData.open(str(source), model)
    ranges = Context(provider=Calibrator(data)).ranges(model, wanted_tensors(model, model.facts()))
    middle = time.perf_counter()
    found = exact(Simulation(model, ranges, data, settings=Settings(batch=8)))
    seconds = {"calibration": middle - begin, "sensitivity": time.perf_counter() - middle}
    return {"ranges": ranges.tensors, "groups": found.groups, "full": found.full}, seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODELS / "strip_reader.onnx")
    parser.add_argument("--data", type=Path, default=MODELS / "strip_calibration.npz")
    given = parser.parse_args()
    print(f"{'where':<14} {'start':>6} {'calibration':>12} {'sensitivity':>12} {'CPU s':>7}  load")
    first: Any = None
    for count in (0, 1, 2):
        begin, meter = time.perf_counter(), None
        if count:
            import ray

            ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        start = time.perf_counter() - begin
        with cluster() if count else nullcontext() as place:
            meter = Meter(place) if place is not None else None
            with working_at(meter):
                before = time.process_time()
                found, seconds = work(Model.load(given.model), given.data)
                spent = time.process_time() - before + (meter.seconds if meter is not None else 0.0)
        if count:
            ray.shutdown()
        first = first or found
        assert found == first, "the numbers differ"
        where = f"Ray, {count} worker{'s' * (count > 1)}" if count else "here"
        print(f"{where:<14} {start:>6.1f} {seconds['calibration']:>12.1f} {seconds['sensitivity']:>12.1f} {spent:>7.1f}"
              f"  {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
