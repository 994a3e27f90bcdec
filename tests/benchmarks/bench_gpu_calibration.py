"""Calibration on a GPU: throughput with and without statistics, agreement with the CPU and with TensorRT's calibrators.

On the GPU host, with the models of tests/benchmarks/carry.py in /tmp/models and TensorRT 8.6 (gpu-host/env.sh):
python3.10 tests/benchmarks/bench_gpu_calibration.py /tmp/models
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from toolkit import CalibrationData, Calibrator, Model
from toolkit.calibration.collect import collect
from toolkit.calibration.gpu import Timing, collect_on_gpu
from toolkit.calibration.methods import make_ranges

ROOT = Path(__file__).resolve().parents[2]


def ratios(first: dict[str, float], second: dict[str, float]) -> dict[str, object]:
    """How the amax of tensors in both compare."""
    shared = sorted(name for name in first if name in second and first[name] > 0 and second[name] > 0)
    found = np.array([second[n] / first[n] for n in shared])
    worst = sorted(zip(np.abs(np.log(found)), shared, found), reverse=True)[:6]
    return {
        "tensors": len(shared),
        "median": round(float(np.median(found)), 5),
        "within 0.5%": int((np.abs(found - 1) <= 0.005).sum()),
        "within 1%": int((np.abs(found - 1) <= 0.01).sum()),
        "within 5%": int((np.abs(found - 1) <= 0.05).sum()),
        "worst": [(name, round(float(r), 4)) for _, name, r in worst],
    }


def throughput(folder: Path) -> None:
    """ResNet-50 at batch 32: samples a second with statistics over samples a second without."""
    model = Model.load(folder / "resnet50.onnx")
    data = CalibrationData.open(str(folder / "resnet50.npz"), model)
    taps, _ = Calibrator(data).taps(model)
    found = {}
    for statistics in (False, True):
        best = 0.0
        for _ in range(3):
            timing = Timing()
            started = time.time()
            made = collect_on_gpu(
                model, taps, data, batch=32, statistics=statistics, tactic_sources=[], timing=timing,
                timing_cache=folder / "calibration.cache",
            )  # fmt: skip
            best = max(best, timing.samples / timing.seconds)
            print(
                f"statistics {statistics}: {timing.samples / timing.seconds:.0f} samples/s, whole {time.time() - started:.1f} s"
            )
        found[statistics] = best
    print(f"RATIO with over without statistics: {found[True] / found[False]:.3f} ({len(taps)} tensors)")
    started = time.time()
    cpu = collect(model, taps, data, batch=8)
    print(f"the CPU took {time.time() - started:.1f} s")
    for method in ("minmax", "entropy", "percentile", "mse"):
        a = {n: r.amax for n, r in make_ranges(cpu, method=method).tensors.items()}
        b = {n: r.amax for n, r in make_ranges(made, method=method).tensors.items()}
        print(f"GPU over CPU, {method}:", json.dumps(ratios(a, b)))


def calibrators(name: str, path: Path, data_path: Path, batch: int, count: int, folder: Path) -> None:
    """TensorRT's IInt8EntropyCalibrator2 and IInt8MinMaxCalibrator against our methods, on the same batches."""
    import tensorrt as trt
    from polygraphy.backend.trt import Calibrator as TrtCalibrator
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile

    from toolkit.calibration.interchange import read_ranges

    model = Model.load(path)
    data = CalibrationData.open(str(data_path), model)
    batches = [b.inputs for b in data.batches(batch)][: count // batch]
    kept = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    np.savez(folder / f"{name}_same.npz", **kept)
    same = CalibrationData.open(str(folder / f"{name}_same.npz"), model)
    taps = [t.name for t in model.graph.inputs]
    facts = model.facts()
    taps += [t.name for n in model.nodes if n.op != "Constant" for t in n.outputs if facts.is_float(t.name)]
    ours = collect(model, taps, same, batch=batch)
    for kind, method in (("IInt8MinMaxCalibrator", "minmax"), ("IInt8EntropyCalibrator2", "entropy")):
        cache = folder / f"{name}_{kind}.cache"
        cache.unlink(missing_ok=True)
        profile = Profile()
        for key, value in batches[0].items():
            profile.add(key, value.shape, value.shape, value.shape)
        calibrator = TrtCalibrator(
            iter([dict(b) for b in batches]), cache=str(cache), BaseClass=getattr(trt, kind), batch_size=batch
        )
        config = CreateConfig(
            profiles=[profile], int8=True, fp16=False, calibrator=calibrator, tactic_sources=[], tf32=False
        )
        EngineBytesFromNetwork(NetworkFromOnnxPath(str(path)), config)()
        theirs = {n: r.amax for n, r in read_ranges(cache).tensors.items()}
        mine = {n: r.amax for n, r in make_ranges(ours, method=method).tensors.items()}
        print(f"{name} {kind}: ours over TensorRT's:", json.dumps(ratios(theirs, mine)))
        missing = sorted(n for n in mine if n not in theirs)
        print(f"   {len(theirs)} tensors in the cache, {len(missing)} of ours are not in it, such as {missing[:3]}")


def main() -> None:
    """Everything, or what is named after the folder."""
    folder = Path(sys.argv[1])
    wanted = sys.argv[2:] or ["throughput", "calibrators"]
    if "throughput" in wanted:
        throughput(folder)
    if "calibrators" in wanted:
        calibrators(
            "digits_cnn", ROOT / "models/digits_cnn.onnx", ROOT / "models/digits_calibration.npz", 10, 100, folder
        )
        calibrators("resnet50", folder / "resnet50.onnx", folder / "resnet50.npz", 16, 64, folder)


if __name__ == "__main__":
    main()
