"""Latency by CUDA events over graph replays, and time per layer by TensorRT's profiler, inside the child process."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from toolkit.backends.execution.inspection import context_at, set_shapes, shapes_at
from toolkit.backends.layers.inspector import plain_name
from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.profiles import Shapes

_WARM_UP, _LEAST_RUNS, _MOST_RUNS, _TARGET_MS = 10, 20, 500, 400.0
_WARM_UP_S = 0.15
"""A GPU that was idle raises its clocks only under load: identical engines differed by 2 % with ten runs to warm up."""
_LAYER_RUNS = 20
_SIZES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "FP8": 1, "UINT8": 1, "BOOL": 1, "INT32": 4, "INT64": 8}

_NO_CUDA_PYTHON = "cuda-python is not installed"

Times = dict[str, dict[str, float]]


class MeasuredEngine(NamedTuple):
    """What was measured of an engine.

    Attributes:
        layers: layer name to {profile: median milliseconds}, at the profile's opt shapes.
        latency: profile to {"min", "opt", "max": median milliseconds of one inference, and "opt p05", "opt p95": its
            spread}.
        lacks: profile to the error that kept it from being measured.
    """

    layers: Times
    latency: Times
    lacks: dict[str, str]


def measure_engine(trt: Any, engine: Any, profiles: Sequence[Mapping[str, Any]], talk: Channel) -> MeasuredEngine:
    """Measure every profile; one that cannot be measured is left out, with a warning."""
    runtime = cuda_runtime()
    names = [profile["name"] for profile in profiles] or ["default"]
    if runtime is None:
        talk.log(f"WARNING: nothing was measured: {_NO_CUDA_PYTHON}")
        return MeasuredEngine({}, {}, dict.fromkeys(names, _NO_CUDA_PYTHON))
    layers: Times = defaultdict(dict)
    latency: Times = {}
    lacks: dict[str, str] = {}
    for index, name in enumerate(names):
        corners = {which: shapes_at(profiles, index, which) for which in ("min", "opt", "max")}
        try:
            latency[name], times = _measure_profile(trt, runtime, engine, index, corners, name, talk)
        except QtoolError as error:
            talk.log(f"WARNING: profile '{name}' was not measured: {error}")
            lacks[name] = str(error)
            continue
        for layer, milliseconds in times.items():
            layers[layer][name] = milliseconds
    return MeasuredEngine(dict(layers), latency, lacks)


def run_once(trt: Any, engine: Any, context: Any, shapes: Shapes) -> None:
    """Run the engine once in a context, on made-up inputs; does nothing where cuda-python is missing.

    Raises:
        BackendError: the engine failed, or a tensor's size is not known beforehand.
    """
    runtime = cuda_runtime()
    if runtime is None:
        return
    # on the default stream: a context must not outlive a stream that it ran on (see _measure_profile)
    with _bound(trt, runtime, engine, context, 0, shapes):
        _enqueue(context, 0)
        call(runtime.cudaDeviceSynchronize())


def _measure_profile(
    trt: Any, runtime: Any, engine: Any, index: int, corners: Mapping[str, Shapes], name: str, talk: Channel
) -> tuple[dict[str, float], dict[str, float]]:
    """Latency at every corner and time per layer at opt, of one profile.

    The context lives no longer than this call: 8.6 allows a profile in only one context at a time.
    """
    stream = call(runtime.cudaStreamCreate())
    context = None
    try:
        context = context_at(engine, index, {}, int(stream))
        found: dict[str, float] = {}
        for step, (which, shapes) in enumerate(corners.items()):
            talk.progress(f"measuring profile '{name}'", step, len(corners) + 1)
            with _bound(trt, runtime, engine, context, stream, shapes):
                times = _latency(runtime, context, int(stream))
            low, median, high = (float(np.percentile(times, p)) for p in (5, 50, 95))
            found |= {which: median, f"{which} p05": low, f"{which} p95": high}
        with _bound(trt, runtime, engine, context, stream, corners["opt"]):
            layers = _layer_times(trt, runtime, context, int(stream))
        talk.progress(f"measuring profile '{name}'", len(corners) + 1, len(corners) + 1)
        return found, layers
    finally:
        # The context holds on to its stream: on 8.6 a context outliving it crashes the next profile's context (seen).
        context = None
        runtime.cudaStreamDestroy(stream)


def latencies_in_turn(
    trt: Any, engines: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]], rounds: int, talk: Channel
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Latency of several engines at every profile's opt shapes, all of them measured in every round.

    Engines that were measured minutes apart differ by what the GPU's clocks did in between.

    Returns:
        {profile: {engine: [median milliseconds of one inference, for each round]}}, and {profile: why it was not
        measured}.

    Raises:
        BackendError: cuda-python is missing.
    """
    runtime = cuda_runtime()
    if runtime is None:
        raise BackendError(_NO_CUDA_PYTHON, remedy="pip install cuda-python")
    found: dict[str, dict[str, list[float]]] = {}
    lacks: dict[str, str] = {}
    names = [profile["name"] for profile in profiles] or ["default"]
    for index, name in enumerate(names):
        talk.progress("measuring engines in turn", index, len(names))
        shapes = shapes_at(profiles, index, "opt")
        times: dict[str, list[float]] = {one: [] for one in engines}
        try:
            for turn in range(rounds):
                order = list(engines)
                # each engine is the first in some round
                for one in order[turn % len(order) :] + order[: turn % len(order)]:
                    times[one].append(_median_at(trt, runtime, engines[one], index, shapes))
        except QtoolError as error:
            lacks[name] = str(error)
            continue
        found[name] = times
    talk.progress("measuring engines in turn", len(names), len(names))
    return found, lacks


def _median_at(trt: Any, runtime: Any, engine: Any, index: int, shapes: Shapes) -> float:
    stream = call(runtime.cudaStreamCreate())
    context = None
    try:
        context = context_at(engine, index, {}, int(stream))
        with _bound(trt, runtime, engine, context, stream, shapes):
            return statistics.median(_latency(runtime, context, int(stream)))
    finally:
        # as in _measure_profile: the context must not outlive its stream
        context = None
        runtime.cudaStreamDestroy(stream)


def cuda_runtime() -> Any:
    """cuda-python's runtime module under its new or its old name, or None."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            return None
    return runtime


def call(answer: Any) -> Any:
    """What a CUDA runtime call returned besides its status.

    Raises:
        BackendError: the status is not success.
    """
    status, *rest = answer if isinstance(answer, tuple) else (answer,)
    if int(status) != 0:
        raise BackendError(
            f"a CUDA call failed: {status}", remedy="close other programs on the GPU, or check it with nvidia-smi"
        )
    return rest[0] if len(rest) == 1 else tuple(rest)


@contextmanager
def _bound(trt: Any, runtime: Any, engine: Any, context: Any, stream: Any, shapes: Shapes) -> Iterator[None]:
    """The context at these shapes, with device memory for its inputs and outputs."""
    held: list[int] = []
    try:
        set_shapes(context, shapes)
        random = np.random.default_rng(0)
        for position in range(engine.num_io_tensors):
            name = engine.get_tensor_name(position)
            kind = engine.get_tensor_dtype(name).name
            shape = tuple(context.get_tensor_shape(name))
            if engine.is_shape_inference_io(name) or -1 in shape or kind not in _SIZES:
                raise BackendError(
                    f"the size of '{name}' ({kind}, {list(shape)}) is not known in advance",
                    remedy="nothing is wrong with the engine: measure it in your application",
                )
            count = int(np.prod(shape, dtype=np.int64))
            size = max(count * _SIZES[kind], 1)
            held.append(int(call(runtime.cudaMalloc(size))))
            call(runtime.cudaMemset(held[-1], 0, size))
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and kind in ("FLOAT", "HALF"):
                values = random.standard_normal(count, dtype=np.float32)
                values = np.ascontiguousarray(values.astype(np.float16) if kind == "HALF" else values)
                upload = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
                call(runtime.cudaMemcpy(held[-1], values.ctypes.data, values.nbytes, upload))
            context.set_tensor_address(name, held[-1])
        # Uploads run on the default stream, which other streams may not wait for.
        call(runtime.cudaDeviceSynchronize())
        yield
    finally:
        runtime.cudaStreamSynchronize(stream)
        for address in held:
            runtime.cudaFree(address)


def _enqueue(context: Any, stream: int) -> None:
    if not context.execute_async_v3(stream):
        raise BackendError("TensorRT could not run the engine", remedy="see TensorRT's messages in the run's log")


def _latency(runtime: Any, context: Any, stream: int) -> list[float]:
    """Milliseconds of single inferences, each between two CUDA events, replayed as a CUDA graph where one captures."""
    until = time.monotonic() + _WARM_UP_S
    while time.monotonic() < until:
        for _ in range(_WARM_UP):
            _enqueue(context, stream)
        call(runtime.cudaStreamSynchronize(stream))
    graph = _captured(runtime, context, stream)
    start, end = call(runtime.cudaEventCreate()), call(runtime.cudaEventCreate())
    times: list[float] = []
    try:
        while len(times) < _LEAST_RUNS or (sum(times) < _TARGET_MS and len(times) < _MOST_RUNS):
            call(runtime.cudaEventRecord(start, stream))
            if graph is not None:
                call(runtime.cudaGraphLaunch(graph, stream))
            else:
                _enqueue(context, stream)
            call(runtime.cudaEventRecord(end, stream))
            call(runtime.cudaEventSynchronize(end))
            times.append(float(call(runtime.cudaEventElapsedTime(start, end))))
    finally:
        if graph is not None:
            runtime.cudaGraphExecDestroy(graph)
        runtime.cudaEventDestroy(start)
        runtime.cudaEventDestroy(end)
    return times


def _captured(runtime: Any, context: Any, stream: int) -> Any:
    """The enqueued work as an executable graph, or None where the engine cannot be captured."""
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call(runtime.cudaStreamBeginCapture(stream, mode))
    ran = context.execute_async_v3(stream)
    status, graph = runtime.cudaStreamEndCapture(stream)
    if not ran or int(status) != 0:
        # A failed capture leaves an error that the next call would report as its own.
        runtime.cudaGetLastError()
        return None
    status, executable = runtime.cudaGraphInstantiate(graph, 0)
    runtime.cudaGraphDestroy(graph)
    return executable if int(status) == 0 else None


def _layer_times(trt: Any, runtime: Any, context: Any, stream: int) -> dict[str, float]:
    """Median milliseconds of each layer. Layers of the same name count together; profile suffixes are left out."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[plain_name(layer_name)] += ms

    profiler = Profiler()
    context.profiler = profiler
    # the context keeps a bare pointer: the profiler must outlive every inference
    runs: dict[str, list[float]] = defaultdict(list)
    for run in range(_LAYER_RUNS + 3):
        profiler.times.clear()
        _enqueue(context, stream)
        call(runtime.cudaStreamSynchronize(stream))
        for name, milliseconds in profiler.times.items() if run >= 3 else ():
            runs[name].append(milliseconds)
    return {name: statistics.median(times) for name, times in runs.items()}
