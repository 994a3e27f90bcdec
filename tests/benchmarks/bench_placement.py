"""Latency on a GPU of FP16, implicit INT8, ModelOpt's Q/DQ and qtool, at batch 1, 8 and 32.

On the GPU host, with the models of tests/benchmarks/carry.py in /tmp/models and TensorRT 8.6:
python3.10 tests/benchmarks/bench_placement.py /tmp/models OUT.json [model ...]
Every row is one build for one batch size, batch by batch, so that a run which is cut off leaves whole tables of fewer
batches; what is measured is written at once. When all engines of a batch are built they are measured in turn, five times
over, and the medians count: engines that were measured minutes apart differ by up to 2 % where their kernels are the same.

KINDS names the rows. ``new`` is the recipe that `qtool new` writes for a GPU, where all of INT8 is within its budget: then
the search ends with the pairs of insert_qdq, here without helpers, which change values, and only where they gain much
layers. Its guard against engines slower than FP16 needs no builds, for both engines are in the table: ``taken`` says which
one a run ends with. If that is the float one, and the recipe asks for types besides, it is built and measured too:
``bare``. Rows like ``new+attention`` place the pairs otherwise (see FORMS). With KERNELS=1 the kernels of every engine
are written too, where CUPTI is there (tests/benchmarks/kernels.py); with BARE=0 that row is left out. LEVEL is the builder's optimization level (TensorRT's own is 3, and that of `qtool new`), AVERAGE the runs of which
it takes a kernel's mean time, BATCHES the batch sizes. BUILDS is how often each row is built, once where not given, each
time on a timing cache of its own that the rows share: two builds of one network differ by 2 to 10 %. All are measured in
turn, and a row's fastest engine counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.carry import NAMES
from toolkit import (
    CalibrationData,
    Calibrator,
    Context,
    Extent,
    Model,
    Pass,
    Precision,
    PrecisionPlan,
    Profiles,
    Ranges,
    Recipe,
    Role,
    ShapeProfile,
    sentence,
)
from toolkit.backends.attribution.nodes import attribute
from toolkit.backends.backend import Backend, EngineSettings, Extras
from toolkit.backends.choose import choose
from toolkit.backends.execution.measure import latencies_in_turn
from toolkit.backends.layers.layer import Build
from toolkit.backends.lowering.weak import lower_weak
from toolkit.backends.processes.channel import Channel
from toolkit.backends.processes.exchange import profiles_to_json
from toolkit.contract.bench import ratio_in_turn
from toolkit.contract.journal import Journal
from toolkit.contract.registry import pass_name
from toolkit.run.new.new_recipe import recipe_for
from toolkit.run.recipe.passes import passes_of

ROWS, BATCHES = "fp16 new implicit modelopt", "8 32 1"
FORMS = ("attention", "unscaled", "nosums", "unsettled", "gemm", "patches")
"""Other forms: pairs on the products of attention, and these with the scale after the scores; no pairs on what products
add to a stream; the types asked for in attention as the plan has them; a Gemm after a pool as it is; pairs on a
convolution that cuts patches."""
SAMPLES = 4
"""Samples for ranges, on which no latency hangs."""


def profiles_of(model: Model, batches: tuple[int, ...] = (1, 8, 32)) -> Profiles:
    """One fixed-shape profile a batch size."""
    found = []
    for batch in batches:
        shapes = {}
        for tensor, declared in model.input_shapes().items():
            rest = [d if isinstance(d, int) else 128 for d in declared[1:]]
            shapes[tensor] = Extent(*[(batch, *rest)] * 3)
        found.append(ShapeProfile(f"b{batch}", shapes))
    return Profiles(tuple(found))


def turns(engines: dict[str, bytes], profiles: Profiles, rounds: int = 5) -> dict[str, dict[str, list[float]]]:
    """{profile: {row: each round's median latency in milliseconds}}; all engines are measured in every round."""
    import tensorrt as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    loaded = {kind: runtime.deserialize_cuda_engine(made) for kind, made in engines.items()}
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        return latencies_in_turn(trt, loaded, profiles_to_json(profiles), rounds, Channel(nowhere))[0]


def in_turn(engines: dict[str, bytes], profiles: Profiles, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Median over rounds of each engine's median latency in milliseconds, by row and profile."""
    found = turns(engines, profiles, rounds)
    return {kind: {p: round(statistics.median(times[kind]), 5) for p, times in found.items()} for kind in engines}


@dataclass
class Source:
    """What a row is built from."""

    model: Model
    plan: PrecisionPlan | None = None
    ranges: Ranges | None = None


def applied(model: Model, passes: list[Pass], data: CalibrationData) -> Source:
    """A copy of the model after these passes, with the plan and the ranges that they leave."""
    made = model.copy()
    context = Context(profiles=profiles_of(model), provider=Calibrator(data, "minmax"))
    for one in passes:
        one(made, context)
    return Source(made, context.plan, context.known_ranges)


@contextmanager
def form(kind: str) -> Iterator[dict[str, Any]]:
    """What a row's name asks of placement; gives the settings of the pass that quantizes."""
    asked = set(kind.split("+")[1:])
    assert asked <= set(FORMS), f"{kind}: the forms are {FORMS}"
    changes = {
        "unscaled": ("toolkit.search.quantizer.quantizer.scale_queries", lambda model, layers: {}),
        "nosums": ("toolkit.placement.sums.Sums._after_products", lambda self, node, branches: None),
        "unsettled": ("toolkit.backends.lowering.weak._settle_attention", lambda model, plan, rest, journal: None),
        "gemm": ("toolkit.backends.lowering.weak.convolve_pooled", lambda model, journal: 0),
        "patches": ("toolkit.placement.obstacles._FEW_CHANNELS", 0),
    }
    patches = [mock.patch(*changes[one]) for one in asked & set(changes)]
    for patch in patches:
        patch.start()
    try:
        yield {"activation_matmul": True} if "attention" in asked else {}
    finally:
        for patch in patches:
            patch.stop()


def new_passes(path: Path, pairs: bool, settings: dict[str, Any]) -> list[Pass]:
    """The passes of `qtool new` for a model, with the search replaced by what it ends with: all ``pairs``, or none."""
    target = path.with_name(f"{path.stem}.toml")
    target.write_text(recipe_for(path, target, path.with_suffix(".npz"), None, None).text, encoding="utf-8")
    search, quantize = pass_name(Role.SEARCH), [{"use": pass_name(Role.QUANTIZE), **settings}] if pairs else []
    passes = [own for entry in Recipe.load(target).passes for own in (quantize if entry["use"] == search else [entry])]
    return made_of(path, passes)


def made_of(path: Path, passes: list[Any]) -> list[Pass]:
    """Passes by their entries in a recipe."""
    return passes_of(Recipe.build(path.stem, model={"path": str(path)}, passes=passes), False)


def sources(path: Path, kinds: list[str], newest: int) -> dict[str, Source]:
    """By row the model to build; ``newest`` is the newest opset that the parser takes."""
    plain = Model.load(path)
    with np.load(path.with_suffix(".npz")) as file:
        samples = [{key: values[i : i + 1] for key, values in file.items()} for i in range(SAMPLES)]
    data = CalibrationData.open(samples, plain)
    fold, quantize = made_of(path, ["fold_constants", "fold_batchnorm"]), made_of(path, ["insert_qdq"])
    found = {}
    for kind in kinds:
        if kind == "modelopt":
            proto = onnx.load(str(path.with_name(f"{path.stem}_modelopt.onnx")))
            # it writes opset 19 by default and uses nothing of it; 8.6 takes 17
            proto.opset_import[0].version = min(proto.opset_import[0].version, newest)
            found[kind] = Source(Model.from_proto(proto))
        elif kind == "fp16":
            found[kind] = Source(applied(plain, fold, data).model)
        else:
            with form(kind) as changed:
                own = kind.split("+")[0]
                pairs = new_passes(path, own == "new", changed) if own in ("new", "bare") else [*fold, *quantize]
                found[kind] = applied(plain, pairs, data)
    return found


def built(
    backend: Backend, source: Source, settings: EngineSettings, profiles: Profiles, target: Path
) -> tuple[Build, Counter[str]]:
    """The engine of a row, and how many nodes run in which precision."""
    made = lower_weak(source.model, source.plan or PrecisionPlan(), settings, backend, Journal(), rest=Precision.FP16)
    made.model.source = None
    made.model.save(target, ir_version=8)
    extras = Extras(plan=made.plan if source.plan is not None else None, rest="fp16", ranges=source.ranges)
    build = backend.build(target, profiles, settings, extras=extras)
    return build, Counter(str(one.precision) for one in attribute(made.model, build, made.plan).values())


@dataclass
class Table:
    """The rows of one model: built, measured, printed and written as soon as they are known."""

    name: str
    backend: Backend
    settings: EngineSettings
    folder: Path
    out: Path
    results: dict[str, Any]
    builds: int = 1

    def batch(self, size: int, kinds: list[str], rows: dict[str, Source]) -> None:
        """The rows of one batch size, and what a run with the guard ends with."""
        profiles = profiles_of(rows[kinds[0]].model, (size,))
        engines: dict[str, bytes] = {}
        for number in range(1, 1 + self.builds):
            for kind in kinds:
                self.row(kind, rows[kind], profiles, engines, number)
            taken = self.in_turn(profiles, engines) if engines else ""
        if taken == "fp16" and "bare" in rows and list(rows["bare"].plan or ()):
            for number in range(1, 1 + self.builds):
                self.row("bare", rows["bare"], profiles, engines, number)
            self.in_turn(profiles, engines)

    def row(self, kind: str, source: Source, profiles: Profiles, engines: dict[str, bytes], number: int) -> None:
        """Build one engine into ``engines``, with its latency alone and its layers; one that fails is said to."""
        started, (profile,) = time.time(), profiles.names
        cache = self.settings.timing_cache
        assert cache is not None
        settings = self.settings.model_copy(
            update={
                "quantization": "implicit" if kind == "implicit" else "explicit",
                "timing_cache": cache.with_stem(f"{cache.stem}_{number}"),
            }
        )
        target = self.folder / f"{self.name}_{kind}_{profile}_built.onnx"
        try:
            # what others place is built as they wrote it
            with form(kind if kind != "modelopt" else "modelopt+gemm+unsettled"):
                build, precisions = built(self.backend, source, settings, profiles, target)
        except Exception as error:
            print(self.name, profile, kind, "FAILED", error)
            return
        assert build.engine is not None
        engines[f"{kind} #{number}"] = build.engine
        alone = round(build.latency[profile]["opt"], 5)
        print(f"{self.name:14} {profile:4} {kind:24} {alone} alone; built in {build.seconds:.0f} s,"
              f" {time.time() - started:.0f} s in all; {dict(precisions)}")  # fmt: skip
        layers = sorted(((times.get(profile, 0.0), n) for n, times in build.time_ms.items()), reverse=True)
        file = self.out.parent / f"layers_{self.name}_{kind}_{profile}.json"
        file.write_text(json.dumps({"times": layers, "raw": build.raw}))
        self.write(profile, f"{kind} alone", alone)
        if os.environ.get("KERNELS"):
            engine = target.with_suffix(".engine")
            engine.write_bytes(build.engine)
            kernels = self.out.parent / f"kernels_{self.name}_{kind}_{profile}.json"
            # in a process of its own, so that nothing of it is in what is measured
            subprocess.run([sys.executable, "-m", "tests.benchmarks.kernels", str(engine), str(kernels)], timeout=120)
            engine.unlink()

    def in_turn(self, profiles: Profiles, engines: dict[str, bytes]) -> str:
        """Measure the engines in turn, each row by its fastest; returns the row that a run takes, empty if unknown."""
        (profile,) = profiles.names
        found = turns(engines, profiles)[profile]
        medians = {engine: round(statistics.median(times), 5) for engine, times in found.items()}
        print(f"{self.name:14} {profile:4} {medians} in turn")
        fastest: dict[str, str] = {}
        for engine in sorted(medians, key=medians.__getitem__):
            fastest.setdefault(engine.split(" #")[0], engine)
        rows = {kind: medians[engine] for kind, engine in fastest.items()}
        for kind, milliseconds in rows.items():
            self.write(profile, kind, milliseconds)
        others = {kind: ms for kind, ms in rows.items() if kind.split("+")[0] not in ("new", "bare")}
        for kind in rows if others else ():
            if kind not in others:
                print(
                    f"   {self.name} {profile}: {kind} over the best of the others {rows[kind] / min(others.values()):.3f}"
                )
        if "new" not in rows or "fp16" not in rows:
            return ""
        ratio, noise = ratio_in_turn(found[fastest["new"]], found[fastest["fp16"]])
        taken = "new" if ratio <= 1 + noise else "bare" if "bare" in rows else "fp16"
        print(f"   {self.name} {profile}: over FP16 {ratio:.3f} +- {noise:.3f}, a run takes {taken}")
        self.write(profile, "taken", taken)
        return taken

    def write(self, profile: str, what: str, value: float | str) -> None:
        """Add one value to the file of results."""
        self.results.setdefault(self.name, {}).setdefault(profile, {})[what] = value
        self.out.write_text(json.dumps(self.results, indent=1))


def main() -> None:
    """Measure and print a table."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    level, average = (int(os.environ[key]) if key in os.environ else None for key in ("LEVEL", "AVERAGE"))
    kinds = os.environ.get("KINDS", ROWS).split()
    backend, reason = choose("tensorrt")
    print(sentence(reason))
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name in sys.argv[3:] or NAMES:
        started = time.time()
        bare = ["bare"] if "new" in kinds and os.environ.get("BARE", "1") == "1" else []
        rows = sources(folder / f"{name}.onnx", [*kinds, *bare], backend.max_opset())
        print(f"{name:14} {len(rows)} models made in {time.time() - started:.0f} s")
        # one cache a model: the rows then differ by what is built, not by which of two even kernels won a timing
        settings = EngineSettings(
            tactic_sources=(), timing_cache=folder / f"{name}{level or ''}_{average or ''}.timing",
            optimization_level=level, avg_timing_iterations=average,
        )  # fmt: skip
        table = Table(name, backend, settings, folder, out, results, int(os.environ.get("BUILDS", "1")))
        for size in map(int, os.environ.get("BATCHES", BATCHES).split()):
            table.batch(size, kinds, rows)


if __name__ == "__main__":
    main()
