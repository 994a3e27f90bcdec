"""Latency on a GPU of FP16, implicit INT8, ModelOpt's Q/DQ and qtool, at batch 1, 8 and 32, in one run.

On the GPU host, with the models of tests/benchmarks/carry.py in /tmp/models and TensorRT 8.6:
python3.10 tests/benchmarks/bench_placement.py /tmp/models OUT.json [model ...]
KINDS names the rows; ``new`` is the engine of `qtool run` on the recipe that `qtool new` writes for a GPU, ``qtool`` all of
insert_qdq's pairs, ``faster`` insert_qdq(only_if_faster = true). LEVEL is the builder's optimization level, AVERAGE the runs
of which it takes a kernel's mean time.
When all engines of a model are built they are measured in turn, five times over, and the medians count: engines that were
measured minutes apart differ by up to 2 % where their kernels are the same.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.benchmarks.carry import NAMES
from toolkit import (
    CalibrationData,
    Calibrator,
    Code,
    Context,
    Extent,
    Model,
    Profiles,
    Recipe,
    ShapeProfile,
    run,
    sentence,
)
from toolkit.backends.attribution import attribute
from toolkit.backends.base import EngineSettings, Extras
from toolkit.backends.bench import EngineBench
from toolkit.backends.choose import choose
from toolkit.backends.measure import latencies_in_turn
from toolkit.backends.rtx import profiles_to_json
from toolkit.backends.weak import lower_weak
from toolkit.backends.worker import Talk
from toolkit.contract.journal import Journal
from toolkit.run.new import recipe_for
from toolkit.run.recipe import tomllib

OWN = ("qtool", "new", "faster")
BATCHES = (1, 8, 32)


def profiles_of(model: Model, name: str) -> Profiles:
    """One fixed-shape profile a batch size."""
    found = []
    for batch in BATCHES:
        shapes = {}
        for tensor, declared in model.input_shapes().items():
            rest = [d if isinstance(d, int) else 128 for d in declared[1:]]
            shape = (batch, *rest)
            shapes[tensor] = Extent(shape, shape, shape)
        found.append(ShapeProfile(f"b{batch}", shapes))
    return Profiles(tuple(found))


def in_turn(engines: dict[str, bytes], profiles: Profiles, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Median over rounds of each engine's median latency in milliseconds, by row and profile; all engines each round."""
    import tensorrt as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    loaded = {kind: runtime.deserialize_cuda_engine(made) for kind, made in engines.items()}
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        found, _ = latencies_in_turn(trt, loaded, profiles_to_json(profiles), rounds, Talk(nowhere))
    return {kind: {p: round(statistics.median(times[kind]), 5) for p, times in found.items()} for kind in engines}


def as_new(path: Path, profiles: Profiles, settings: EngineSettings, out: Path) -> bytes:
    """The engine of a run of the recipe that `qtool new` writes, with these profiles and settings of the builder.

    The budget is a lax one: what networks of random weights answer hangs on the last digits.
    """
    data = path.with_suffix(".npz")
    tables = tomllib.loads(recipe_for(path, Path("recipe.toml"), data, None, None).text)
    tables["profile"] = [
        {
            "name": one.name,
            "shapes": {
                tensor: {"min": list(e.min), "opt": list(e.opt), "max": list(e.max)} for tensor, e in one.shapes.items()
            },
        }
        for one in profiles
    ]
    own = settings.model_dump(
        mode="json", include={"tactic_sources", "timing_cache", "optimization_level", "avg_timing_iterations"}
    )
    tables["engine"] |= {key: value for key, value in own.items() if value is not None}
    tables["evaluation"] |= {"samples": 8, "layer_samples": 2, "budget": {"min_sqnr_db": 10}}
    recipe = Recipe.build(path.stem, passes=tables.pop("pass"), **tables)
    result = run(recipe, out, device_check=False)
    report = result.report
    print(f"{path.stem:14} new: {report.summary.headline}")
    print(f"{path.stem:14} new: " + ", ".join(f"{step.name} {step.seconds:.0f} s" for step in report.steps))
    return (out / "model.engine").read_bytes()


def main() -> None:
    """Measure and print a table."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    backend, reason = choose("tensorrt")
    print(sentence(reason))
    results: dict[str, object] = {}
    for name in sys.argv[3:] or NAMES:
        path = folder / f"{name}.onnx"
        plain = Model.load(path)
        profiles = profiles_of(plain, name)
        data = CalibrationData.open(str(folder / f"{name}.npz"), plain)
        folded = plain.copy()
        journal = Journal()
        context = Context(journal=journal, profiles=profiles, provider=Calibrator(data, "entropy"))
        FoldConstants()(folded, context)
        FoldBatchNorm()(folded, context)
        quantized = folded.copy()
        InsertQDQ()(quantized, context)
        rows: dict[str, dict[str, float]] = {}
        engines: dict[str, bytes] = {}
        # one cache a model: the rows then differ by what is built, not by which of two even kernels won a timing
        cache = folder / f"{name}{os.environ.get('LEVEL', '')}_{os.environ.get('AVERAGE', '')}.timing"
        for kind in os.environ.get("KINDS", "fp16 modelopt new implicit").split():
            started = time.time()
            settings = EngineSettings(
                quantization="implicit" if kind == "implicit" else "explicit", tactic_sources=(), timing_cache=cache,
                optimization_level=int(os.environ["LEVEL"]) if "LEVEL" in os.environ else None,
                avg_timing_iterations=int(os.environ["AVERAGE"]) if "AVERAGE" in os.environ else None,
            )  # fmt: skip
            if kind == "new":
                engines[kind] = as_new(path, profiles, settings, folder / f"{name}_new")
                print(f"{name:14} {kind:9} in {time.time() - started:.0f} s")
                continue
            own = kind in ("implicit", "qtool", "faster")
            source, plan, known = (
                (quantized, context.plan, context.known_ranges) if own else (folded, Context().plan, None)
            )
            if kind == "modelopt":
                proto = onnx.load(str(folder / f"{name}_modelopt.onnx"))
                # it writes opset 19 by default and uses nothing of it; 8.6 takes 17
                proto.opset_import[0].version = min(proto.opset_import[0].version, backend.max_opset())
                source = Model.from_proto(proto)
            elif kind == "faster":
                source = folded.copy()
                bench = EngineBench(backend, settings, profiles, folder=folder)
                apart = Context(
                    journal=journal, profiles=profiles, provider=Calibrator(data, "entropy"), bench=bench, folder=folder
                )
                InsertQDQ(only_if_faster=True, builds=int(os.environ.get("BUILDS", "8")))(source, apart)
                plan, known = apart.plan, apart.known_ranges
                print(name, [sentence(e.why) for e in journal.events if e.why.code is Code.ONLY_IF_FASTER])
            made = lower_weak(source, plan, settings, backend, journal)
            final, plan = made.model, made.plan
            target = folder / f"{name}_{kind}_built.onnx"
            final.source = None
            final.save(target, ir_version=8)
            extras = Extras(plan=plan if own else None, rest="fp16", ranges=known)
            build = None
            for given in (settings, settings.model_copy(update={"timing_cache": None})):
                try:
                    build = backend.build(target, profiles, given, extras=extras)
                    break
                except Exception as error:
                    print(name, kind, "FAILED", "with" if given.timing_cache else "without", "a timing cache:", error)
            if build is None:
                continue
            rows[kind] = {profile: times["opt"] for profile, times in build.latency.items()}
            engines[kind] = build.engine
            actuals = attribute(final, build, plan)
            print(f"{name:14} {kind:9} {rows[kind]} in {time.time() - started:.0f} s, built in {build.seconds:.0f} s;",
                  dict(Counter(a.status for a in actuals.values())), dict(Counter(str(a.precision) for a in actuals.values())))  # fmt: skip
            slow = sorted(((t.get("b32", 0.0), n) for n, t in build.time_ms.items()), reverse=True)[:400]
            (out.parent / f"layers_{name}_{kind}.json").write_text(json.dumps({"times": slow, "raw": build.raw}))
            results[name] = rows
            out.write_text(json.dumps(results, indent=1))
        rows = results[name] = in_turn(engines, profiles)
        out.write_text(json.dumps(results, indent=1))
        for kind, times in rows.items():
            print(f"{name:14} {kind:9} {times} in turn")
        for kind in [one for one in OWN if one in rows and len(rows) > 1]:
            for profile, milliseconds in rows[kind].items():
                best = min(times[profile] for other, times in rows.items() if other not in OWN)
                print(f"   {name} {profile}: {kind} over best of the others {milliseconds / best:.3f}")


if __name__ == "__main__":
    main()
