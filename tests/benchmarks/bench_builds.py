"""What a lower builder optimization level saves in build time and costs in latency, and what two builds at once do.

On the GPU host, with the models of tests/benchmarks/carry.py: python3.10 tests/benchmarks/bench_builds.py FOLDER MODEL [LEVEL,...]
Each level of LEVELS, or of those named, builds the float engine and the one with all of insert_qdq's pairs, with a timing cache of its own; then both are
built at level 3 at the same time, and once more at level 2 and at the same level with the cache that the highest left. All engines are measured in
turn at the end.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.benchmarks.bench_placement import profiles_of
from toolkit import CalibrationData, Calibrator, Context, EngineBench, Model
from toolkit.backends.backend import EngineSettings
from toolkit.backends.choose import choose

LEVELS = (0, 1, 2, 3, 5)


def main() -> None:
    """Build, measure and print."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    levels = tuple(int(level) for level in sys.argv[3].split(",")) if len(sys.argv) > 3 else LEVELS
    plain = Model.load(folder / f"{name}.onnx")
    profiles = profiles_of(plain)
    data = CalibrationData.open(str(folder / f"{name}.npz"), plain)
    context = Context(profiles=profiles, provider=Calibrator(data, "minmax"))
    FoldConstants()(plain, context)
    FoldBatchNorm()(plain, context)
    quantized = plain.copy()
    InsertQDQ()(quantized, context)
    sources = {"fp16": (plain, Context().plan), "int8": (quantized, context.plan)}
    backend, files = choose("tensorrt")[0], {}

    def build(label: str, kind: str, level: int, at: Path, cache: Path | None = None) -> None:
        settings = EngineSettings(
            tactic_sources=(), optimization_level=level, timing_cache=cache or at / "own.timing", measure=False
        )
        bench = EngineBench(backend, settings, profiles, folder=at)
        model, plan = bench.lowered(*sources[kind], None)
        started = time.time()
        made = bench.build(model, plan, None, at / f"{kind}.onnx")
        files[f"{kind} {label}"] = at / f"{kind}_{label}.engine"
        files[f"{kind} {label}"].write_bytes(made.engine)
        print(f"{name} {kind} {label}: built in {made.seconds:.1f} s, {time.time() - started:.1f} s in all")
        for line in made.log:
            if "timing cache" in line.lower() or "myelin" in line.lower():
                print(f"   {line[:200]}")

    with tempfile.TemporaryDirectory() as made:
        for level in levels:
            at = Path(made) / str(level)
            at.mkdir()
            for kind in sources:
                build(f"level{level}", kind, level, at)
        for kind in sources:
            build("level2_warm", kind, 2, Path(made), Path(made) / str(max(levels)) / "own.timing")
            build("again", kind, max(levels), Path(made), Path(made) / str(max(levels)) / "own.timing")
        started = time.time()
        threads = []
        for kind in sources:
            at = Path(made) / f"beside_{kind}"
            at.mkdir()
            threads.append(threading.Thread(target=build, args=("beside", kind, 3, at)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        print(f"{name}: two builds at once took {time.time() - started:.1f} s")
        found = backend.in_turn(files, profiles)
    for profile, turns in found.turns.items():
        print(profile, {engine: round(statistics.median(times), 4) for engine, times in turns.items()})


if __name__ == "__main__":
    main()
