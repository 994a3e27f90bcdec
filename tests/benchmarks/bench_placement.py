"""Latency on a GPU of FP16, implicit INT8, ModelOpt's Q/DQ and qtool's Q/DQ, at batch 1, 8 and 32, in one run.

On the GPU host, with the models of tests/benchmarks/carry.py in /tmp/models and TensorRT 8.6:
python3.10 tests/benchmarks/bench_placement.py /tmp/models OUT.json [model ...]
KINDS names the rows; ``faster`` is insert_qdq(only_if_faster = true).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from toolkit import CalibrationData, Calibrator, Context, Extent, Model, Profiles, ShapeProfile
from toolkit.backends.attribution import attribute
from toolkit.backends.base import EngineSettings, Extras
from toolkit.backends.choose import choose
from toolkit.backends.weak import lower_weak
from toolkit.journal import Journal

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


def main() -> None:
    """Measure and print a table."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    backend, reason = choose("tensorrt")
    print(reason)
    results: dict[str, object] = {}
    for name in sys.argv[3:] or ["resnet50", "mobilenet_v2", "unet", "bert"]:
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
        common: dict[str, object] = {"tactic_sources": ()}
        if "TIMING_CACHE" in os.environ:
            common["timing_cache"] = folder / "timing.cache"
        for kind in os.environ.get("KINDS", "fp16 implicit modelopt qtool").split():
            settings = EngineSettings(quantization="implicit" if kind == "implicit" else "explicit", **common)
            own = kind in ("implicit", "qtool")
            source = quantized if own else folded
            if kind == "modelopt":
                source = Model.load(folder / f"{name}_modelopt.onnx")
            plan = context.plan if own else Context().plan
            final, plan = lower_weak(source, plan, settings, backend, journal)
            target = folder / f"{name}_{kind}.onnx"
            final.source = None
            final.save(target, ir_version=8)
            started = time.time()
            extras = Extras(plan=plan if own else None, rest="fp16", ranges=context.known_ranges)
            try:
                build = backend.build(target, profiles, settings, extras=extras)
            except Exception as error:
                print(name, kind, "FAILED", error)
                continue
            rows[kind] = {profile: times["opt"] for profile, times in build.latency.items()}
            actuals = attribute(final, build, plan)
            print(f"{name:14} {kind:9} {rows[kind]} built in {time.time() - started:.0f} s;",
                  dict(Counter(a.status for a in actuals.values())), dict(Counter(str(a.precision) for a in actuals.values())))  # fmt: skip
            (out.parent / f"layers_{name}_{kind}.json").write_text(json.dumps(build.raw)[:4_000_000])
            results[name] = rows
            out.write_text(json.dumps(results, indent=1))
        for profile in rows.get("qtool", {}):
            best = min(times[profile] for kind, times in rows.items() if kind != "qtool")
            print(f"   {name} {profile}: qtool over best of the others {rows['qtool'][profile] / best:.3f}")


if __name__ == "__main__":
    main()
