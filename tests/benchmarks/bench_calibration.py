"""Time and memory of calibration against plain inference and onnxruntime's quantize_static, on the same data.

    python tests/benchmarks/bench_calibration.py [--only resnet50 bert densenet121] [--modelopt PYTHON]

Every figure is taken in a process of its own: seconds of the work (imports and loading the model are left out; making
onnxruntime's session counts for everybody), the best of ``--repeat`` runs, and the process's peak of resident memory.
Plain inference opens its session and goes through the files once in batches of 8, like the others; a second pass over
inputs that are in memory already is printed beside it and not counted.

The row "interleaved" is the ratio to quote: one process runs plain inference and calibration by turns, after a first
round that is not counted, and compares the sums of the processor's seconds. It does the same with three times as many
samples: what these take more is the cost of a further sample, without sessions, compiling and the first touch of
memory, which both sides pay once. onnxruntime's threads wait busily in plain inference, so that other programs make it
look dearer: nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(tempfile.gettempdir()) / "qtool-bench"
COUNTS = 32, 64
"""Images, and texts."""


def images(count: int, path: Path) -> Path:
    """Random images as one .npz file."""
    if not path.exists():
        np.savez(path, image=np.random.default_rng(0).standard_normal((count, 3, 224, 224), np.float32))
    return path


def texts(count: int, path: Path, low: int = 16, high: int = 512) -> Path:
    """Random token ids of mixed lengths as one ragged .npz file."""
    if not path.exists():
        rng = np.random.default_rng(0)
        arrays = {}
        for i in range(count):
            length = int(rng.integers(low, high + 1))
            arrays[f"ids/{i:05d}"] = rng.integers(0, 30522, (1, length))
            arrays[f"mask/{i:05d}"] = np.ones((1, length), np.int64)
        np.savez(path, **arrays)
    return path


def profiles(name: str) -> Any:
    from toolkit.base.profiles import Extent, Profiles, ShapeProfile

    if name == "bert":
        extent = Extent((1, 16), (8, 128), (8, 512))
        return Profiles((ShapeProfile("all", {"ids": extent, "mask": extent}),))
    extent = Extent((1, 3, 224, 224), (8, 3, 224, 224), (8, 3, 224, 224))
    return Profiles((ShapeProfile("all", {"image": extent}),))


def opened(name: str, data: Path) -> tuple[Any, Any]:
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model

    model = Model.load(FOLDER / f"{name}.onnx")
    return model, CalibrationData.open(data, model, profiles(name))


def plain(name: str, data: Path, once: bool = False) -> Callable[[], object]:
    import onnxruntime as ort

    from toolkit.base.cpu import session_threads

    _, samples = opened(name, data)
    options = ort.SessionOptions()
    # its own default counts the machine's cores, not those that this process may use
    options.intra_op_num_threads = session_threads()

    def work() -> str:
        start = time.perf_counter()
        inner = ort.InferenceSession(str(FOLDER / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        middle = time.perf_counter()
        for batch in samples.batches(8):
            inner.run(None, batch.inputs)
        cold = time.perf_counter()
        if once:
            return ""
        held = [batch.inputs for batch in samples.batches(8)]
        warm = time.perf_counter()
        for inputs in held:
            inner.run(None, inputs)
        end = time.perf_counter()
        detail = f"session {middle - start:.2f}, pass {cold - middle:.2f}, from memory {end - warm:.2f}"
        return f"{detail}; left out {end - cold:.4f}"

    return work


def qtool(name: str, data: Path, method: str = "entropy") -> Callable[[], object]:
    from toolkit.calibration.collect import collect
    from toolkit.calibration.histogram import Histogram
    from toolkit.calibration.methods import make_ranges
    from toolkit.calibration.provider import Calibrator

    model, samples = opened(name, data)
    taps, _ = Calibrator(samples).taps(model)
    # compile once: later processes find the kernels on disk
    warm = Histogram()
    for size in (100, 100_000):
        warm.add(np.ones(size, np.float32))

    def work() -> str:
        start = time.perf_counter()
        collection = collect(model, taps, samples)
        middle = time.perf_counter()
        make_ranges(collection, method)
        return f"{len(taps)} taps, collect {middle - start:.2f}, ranges {time.perf_counter() - middle:.2f}"

    return work


def interleaved(name: str, data: Path, method: str = "entropy", rounds: int = 3) -> Callable[[], object]:
    """Plain inference and calibration by turns; what the plain pass from memory takes is left out."""
    more = data.with_name(f"more-{data.name}")
    (texts if name == "bert" else images)(3 * COUNTS[name == "bert"], more)
    works = [
        make(name, source)
        for source in (data, more)
        for make in (partial(plain, once=True), partial(qtool, method=method))
    ]

    def work() -> str:
        seconds = [[_timed(one) for one in works] for _ in range(rounds + 1)][1:]
        inference, calibration, many, calibrated = (sum(column) for column in zip(*seconds))
        return (
            f"{calibration / inference:.2f} of plain inference, CPU {inference:.1f} and {calibration:.1f} s; a further "
            f"sample {(calibrated - calibration) / (many - inference):.2f}"
        )

    return work


def _timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ort_static(name: str, data: Path, method: str) -> Callable[[], object]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    _, samples = opened(name, data)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Any] = samples.batches(8)

        def get_next(self) -> Any:
            batch = next(self._batches, None)
            return None if batch is None else batch.inputs

    kind = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}[method]

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            quantize_static(
                FOLDER / f"{name}.onnx",
                Path(folder) / "out.onnx",
                Reader(),
                quant_format=QuantFormat.QDQ,
                calibrate_method=kind,
                per_channel=True,
            )

    return work


def child(kind: str, name: str, data: Path) -> None:
    make: dict[str, Callable[[], Callable[[], object]]] = {
        "plain": lambda: plain(name, data),
        "interleaved": lambda: interleaved(name, data),
        "interleaved minmax": lambda: interleaved(name, data, "minmax"),
        "qtool minmax": lambda: qtool(name, data, "minmax"),
        "qtool entropy": lambda: qtool(name, data, "entropy"),
        "ort minmax": lambda: ort_static(name, data, "minmax"),
        "ort entropy": lambda: ort_static(name, data, "entropy"),
    }
    work = make[kind]()
    start = time.perf_counter()
    detail = work()
    seconds = time.perf_counter() - start
    if kind == "plain":
        seconds -= float(str(detail).rpartition(" ")[2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "detail": detail if isinstance(detail, str) else ""}))


def measure(kind: str, name: str, data: Path, repeat: int) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, __file__, "--child", kind, name, str(data)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:90]}
        found = json.loads(done.stdout.strip().splitlines()[-1])
        if not best or found["seconds"] < best["seconds"]:
            best = {**found, "peak_mb": max(found["peak_mb"], best.get("peak_mb", 0.0))}
    return best


def modelopt(python: str, name: str, data: Path) -> dict[str, Any]:
    """ModelOpt's own time for entropy, in its own environment: it wants all samples in one array."""
    script = (
        "import sys,time,json,resource,shutil,tempfile,os,numpy as np\n"
        "from modelopt.onnx.quantization import quantize\n"
        "x=dict(np.load(sys.argv[2])); d=tempfile.mkdtemp(); p=os.path.join(d,'m.onnx'); shutil.copy(sys.argv[1],p)\n"
        "t=time.perf_counter()\n"
        "quantize(p,quantize_mode='int8',calibration_data=x,calibration_method='entropy',calibration_eps=['cpu'],"
        "output_path=os.path.join(d,'q.onnx'))\n"
        "print(json.dumps({'seconds':time.perf_counter()-t,"
        "'peak_mb':resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024}))\n"
    )
    done = subprocess.run(
        [python, "-c", script, str(FOLDER / f"{name}.onnx"), str(data)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:90]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["resnet50", "densenet121", "bert"])
    parser.add_argument(
        "--kinds",
        nargs="*",
        default=[
            "plain",
            "interleaved",
            "interleaved minmax",
            "qtool minmax",
            "qtool entropy",
            "ort minmax",
            "ort entropy",
        ],
    )
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--many", action="store_true", help="also 320 images through ResNet-50, for the memory")
    parser.add_argument("--modelopt", help="the python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], given.child[1], Path(given.child[2]))
        return
    # in a process of its own: a child's peak starts at its parent's size, and torch is large
    subprocess.run([sys.executable, str(Path(__file__).with_name("models.py")), str(FOLDER), *given.only], check=True)
    few = images(COUNTS[0], FOLDER / "images32.npz")
    words = texts(COUNTS[1], FOLDER / "texts64.npz")
    print(f"{'model':<14}{'what':<20}{'seconds':>9}{'ratio':>8}{'peak MB':>10}")
    for name in given.only:
        data = words if name == "bert" else few
        base = 0.0
        rows = [(kind, data) for kind in given.kinds]
        if name == "resnet50" and given.many:
            rows.append(("qtool entropy", images(320, FOLDER / "images320.npz")))
        for kind, source in rows:
            found = measure(kind, name, source, given.repeat if source is data else 1)
            base = found.get("seconds", 0.0) if kind == "plain" else base
            show(name, kind if source is data else f"{kind} x10", found, base if source is data else 10 * base)
        if given.modelopt and name != "bert":
            show(name, "modelopt entropy", modelopt(given.modelopt, name, data), base)


def show(name: str, kind: str, found: dict[str, Any], base: float) -> None:
    if "failed" in found:
        print(f"{name:<14}{kind:<20} failed: {found['failed']}", flush=True)
        return
    ratio = f"{found['seconds'] / base:8.2f}" if base else " " * 8
    detail = found.get("detail", "")
    print(f"{name:<14}{kind:<20}{found['seconds']:>9.2f}{ratio}{found['peak_mb']:>10.0f}  {detail}", flush=True)


if __name__ == "__main__":
    main()
