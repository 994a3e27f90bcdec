"""Calibration on a GPU: a float32 TensorRT engine with tapped outputs, statistics computed where the values are.

Activations never leave the device: for each batch, four kernels compute extremes, the bins' range and the counts for
all tensors at once; only the counts are copied back, once, at the end. The histograms are those of the CPU collector,
with the same power-of-two ranges and the same lossless widening.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.attention_layers import make_decomposable
from toolkit.base.errors import BackendError
from toolkit.base.files import sha256_json
from toolkit.base.gpu_turns import GPU_TURN
from toolkit.base.progress import Progress
from toolkit.base.temporary import temporary_folder
from toolkit.base.text import literal_glob, on_one_line
from toolkit.base.version import __version__
from toolkit.calibration.collection import Collection, ProfileNames
from toolkit.calibration.gpu_kernels import INTEGER, LOWEST, POINTER, SPAN, Kernels
from toolkit.calibration.histogram import BINS, Histogram
from toolkit.calibration.probes import check_tensors
from toolkit.data.dataset import Batch, CalibrationData
from toolkit.graph.loop_conditions import add_loop_conditions
from toolkit.graph.model import Model

NO_VALUE = 0xFFFFFFFF


@dataclass
class Timing:
    """How long the device was busy over all batches, in seconds, and how many samples it saw."""

    seconds: float = 0.0
    samples: int = 0


def collect_on_gpu(
    model: Model,
    taps: Sequence[str],
    data: CalibrationData,
    *,
    batch: int = 32,
    statistics: bool = True,
    tactic_sources: Sequence[str] | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    timing: Timing | None = None,
) -> Collection:
    """Collect histograms of ``taps`` over all samples on the first CUDA device.

    Args:
        model: the float model; not changed.
        taps: float tensors of the main graph, or inputs.
        batch: the most samples, of equal shape, to run at once.
        statistics: False only runs the tapped engine, to measure the cost of statistics.
        tactic_sources: the kernel libraries that the engine may use; None for TensorRT's default.
        timing_cache: file of kernel timings, kept between builds.
        progress: called with the current task, the samples done, and their total.
        timing: filled in if given.

    Returns:
        What the CPU collector would return, apart from rounding in the engine's arithmetic.

    Raises:
        BackendError: no TensorRT, no GPU, no cuda-python, or the engine cannot be built.
        RangesError: a tensor does not exist.
        DataError: there are no samples.
    """
    taps = list(dict.fromkeys(taps))
    check_tensors(model, taps, model.facts(data.profiles))
    inputs = {t.name for t in model.graph.inputs}
    kernels = Kernels()
    runner = _TappedEngine(model, [t for t in taps if t not in inputs], data, batch, tactic_sources, timing_cache)
    groups: dict[ProfileNames, _Statistics] = {}
    collection = Collection()
    total, done = len(data), 0
    with runner:
        for part in data.batches(batch):
            with GPU_TURN:
                start = time.perf_counter()
                pointers = runner.run(part, taps)
                if statistics:
                    state = groups.setdefault(part.profiles, _Statistics(kernels, len(taps), BINS))
                    state.add(pointers)
                kernels.wait()
                seconds = time.perf_counter() - start
            if timing is not None:
                timing.seconds += seconds
                timing.samples += part.count
            collection.samples[part.profiles] = collection.samples.get(part.profiles, 0) + part.count
            collection.compare(part)
            done += part.count
            if progress is not None:
                progress("calibrating on the GPU", done, total)
        with GPU_TURN:
            for group, state in groups.items():
                collection.histograms[group] = dict(zip(taps, state.read()))
    if not done:
        raise data.no_samples_error()
    collection.made_from = {
        "model": model.fingerprint(),
        "tensors": sha256_json([sorted(taps), []]),
        "bins": BINS,
        "device": "gpu",
        "tool": __version__,
        "shards": [[1, 1]],
    }
    return collection


class _Statistics:
    """Running statistics of all taps on the device, for one group of profiles."""

    def __init__(self, kernels: Kernels, count: int, bins: int) -> None:
        self.kernels, self.count, self.bins = kernels, count, bins
        take = kernels.allocate
        self.low, self.high, self.all_low, self.all_high, self.exponent = (take(4 * count) for _ in range(5))
        self.counts, self.zeros, self.nonfinite = take(8 * count * bins), take(8 * count), take(8 * count)
        self.tensors, self.sizes = take(8 * count), take(8 * count)
        self.work, self.blocks, self.layout = 0, 0, np.zeros(0, np.int64)
        for address in (self.low, self.all_low):
            kernels.upload(address, np.full(count, NO_VALUE, np.uint32))
        kernels.upload(self.exponent, np.full(count, LOWEST, np.int32))

    def add(self, pointers: Sequence[tuple[int, int]]) -> None:
        """Add one batch: the address and number of elements of every tensor, float32."""
        kernels, count, bins = self.kernels, self.count, self.bins
        sizes = np.array([size for _, size in pointers], np.int64)
        if not np.array_equal(sizes, self.layout):
            self._plan(sizes)
        kernels.upload(self.tensors, np.array([address for address, _ in pointers], np.uint64))
        source = [(self.tensors, POINTER), (self.sizes, POINTER), (self.work, POINTER), (SPAN, INTEGER)]
        extremes = [*source, (self.low, POINTER), (self.high, POINTER), (self.nonfinite, POINTER)]
        kernels.launch("extremes", self.blocks, extremes)
        kernels.launch("widen", count, [(self.low, POINTER), (self.high, POINTER), (self.exponent, POINTER),
                                        (self.counts, POINTER), (bins, INTEGER), (LOWEST, INTEGER)])  # fmt: skip
        bars = [*source, (self.exponent, POINTER), (self.counts, POINTER), (self.zeros, POINTER), (bins, INTEGER)]
        kernels.launch("histogram", self.blocks, bars, shared=4 * bins)
        kernels.launch("keep", -(-count // 256), [(self.low, POINTER), (self.high, POINTER), (self.all_low, POINTER),
                                                  (self.all_high, POINTER), (count, INTEGER)])  # fmt: skip

    def _plan(self, sizes: np.ndarray[Any, Any]) -> None:
        """Split the tensors into spans, one per block."""
        spans = -(-sizes // SPAN)
        work = np.stack([np.repeat(np.arange(len(sizes)), spans), np.concatenate([np.arange(n) for n in spans])], 1)
        if self.work:
            self.kernels.free(self.work)
        self.work, self.blocks = self.kernels.allocate(8 * len(work)), len(work)
        self.kernels.upload(self.work, work.astype(np.int32))
        self.kernels.upload(self.sizes, sizes)
        self.layout = sizes

    def read(self) -> list[Histogram]:
        """The histograms of all taps."""
        self.kernels.wait()
        down = self.kernels.download
        counts = down(self.counts, np.zeros((self.count, self.bins), np.uint64)).astype(np.int64)
        zeros, nonfinite = (
            down(a, np.zeros(self.count, np.uint64)).astype(np.int64) for a in (self.zeros, self.nonfinite)
        )
        low, high = (down(a, np.zeros(self.count, np.uint32)) for a in (self.all_low, self.all_high))
        exponent = down(self.exponent, np.zeros(self.count, np.int32))
        found = []
        for row in range(self.count):
            one = Histogram(self.bins)
            one.counts, one.exponent = counts[row], int(exponent[row])
            one.zeros, one.nonfinite = int(zeros[row]), int(nonfinite[row])
            if high[row]:
                one.low, one.high = _float(low[row]) + 0.0, _float(high[row]) + 0.0
            found.append(one)
        return found


def _float(key: np.uint32) -> float:
    """The float that a sortable key encodes."""
    bits = int(key) & 0x7FFFFFFF if int(key) & 0x80000000 else ~int(key) & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


class _TappedEngine:
    """The tapped float32 engine."""

    def __init__(
        self,
        model: Model,
        outputs: Sequence[str],
        data: CalibrationData,
        batch: int,
        tactic_sources: Sequence[str] | None,
        timing_cache: Path | None,
    ) -> None:
        self.outputs = list(outputs)
        try:
            import tensorrt as trt
            from polygraphy.backend.trt import (
                CreateConfig,
                EngineFromNetwork,
                ModifyNetworkOutputs,
                NetworkFromOnnxPath,
                PostprocessNetwork,
                Profile,
                TrtRunner,
            )
        except ImportError as error:
            raise BackendError("TensorRT is not installed", remedy="run pip install 'qtool[tensorrt]'") from error
        lowest, largest = _extents(data, batch)
        profile = Profile()
        for name, shape in lowest.items():
            profile.add(literal_glob(name), shape, largest[name], largest[name])
        twin = model.copy()
        twin.source = None
        add_loop_conditions(twin)
        sources = None
        if tactic_sources is not None:
            sources = [getattr(trt.TacticSource, name.upper()) for name in tactic_sources]
        cache = str(timing_cache) if timing_cache is not None else None
        config = CreateConfig(profiles=[profile], tf32=False, tactic_sources=sources, load_timing_cache=cache)
        with temporary_folder("gpu") as folder:
            path = folder / "model.onnx"
            twin.save(path, ir_version=8)
            network = PostprocessNetwork(
                NetworkFromOnnxPath(str(path)), lambda network: make_decomposable(trt, network)
            )
            if self.outputs:
                network = ModifyNetworkOutputs(network, outputs=[literal_glob(name) for name in self.outputs])
            try:
                with GPU_TURN:
                    engine = EngineFromNetwork(network, config, save_timing_cache=cache)()
            except Exception as error:
                raise BackendError(
                    f"the calibration engine cannot be built: {on_one_line(str(error), 300)}",
                    remedy="calibrate on the CPU",
                ) from error
        self.runner = TrtRunner(engine)

    def __enter__(self) -> _TappedEngine:
        with GPU_TURN:
            self.runner.activate()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.deactivate()

    def run(self, part: Batch, taps: Sequence[str]) -> list[tuple[int, int]]:
        """Run a batch; returns the device address and number of elements of every tap."""
        held = {name: _on_device(value) for name, value in part.inputs.items()}
        self._held = held
        found = self.runner.infer(held, copy_outputs_to_host=False, check_inputs=False)
        pointers = []
        for name in taps:
            view = held[name] if name in held else found[name]
            pointers.append((int(view.ptr), int(np.prod(view.shape, dtype=np.int64))))
        return pointers


def _on_device(value: np.ndarray[Any, Any]) -> Any:
    from polygraphy.cuda import DeviceArray

    array = DeviceArray(shape=value.shape, dtype=value.dtype)
    return array.copy_from(np.ascontiguousarray(value))


def _extents(data: CalibrationData, batch: int) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The smallest and largest shape of every input over all batches."""
    lowest: dict[str, tuple[int, ...]] = {}
    largest: dict[str, tuple[int, ...]] = {}
    for part in data.batches(batch):
        for name, value in part.inputs.items():
            shape = tuple(int(size) for size in value.shape)
            low, high = lowest.get(name, shape), largest.get(name, shape)
            lowest[name] = tuple(map(min, low, shape))
            largest[name] = tuple(map(max, high, shape))
    return lowest, largest
