"""Latency from CUDA events over graph replays, and layer times from TensorRT's profiler, inside the child process."""

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
"""An idle GPU raises its clocks only under load: with ten warm-up runs, identical engines differed by 2 %."""
_LAYER_RUNS = 20
_SIZES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "FP8": 1, "UINT8": 1, "BOOL": 1, "INT32": 4, "INT64": 8}

_NO_CUDA_PYTHON = "cuda-python is not installed"

Times = dict[str, dict[str, float]]


class MeasuredEngine(NamedTuple):
    """The measurements of an engine.

    Attributes:
        layers: layer name to {profile: median milliseconds}, at the profile's opt shapes.
        latency: profile to {"min", "opt", "max": median milliseconds of one inference; and for each, such as "opt p05"
            and "opt p95", its 5th and 95th percentile}.
        lacks: per profile that could not be measured, the error.
    """

    layers: Times
    latency: Times
    lacks: dict[str, str]


def measure_engine(trt: Any, engine: Any, profiles: Sequence[Mapping[str, Any]], talk: Channel) -> MeasuredEngine:
    """Measure every profile; a profile that cannot be measured is left out, with a warning."""
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
    """Run the engine once in a context, on synthetic inputs; does nothing if cuda-python is missing.

    Raises:
        BackendError: the engine failed, or the size of a tensor is not known in advance.
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
    """Latency of one profile at min, opt and max, and time per layer at opt.

    The context exists only during this call: 8.6 allows a profile in only one context at a time.
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
        # The context keeps its stream: on 8.6 a context that outlives it crashes the next profile's context (observed).
        context = None
        runtime.cudaStreamDestroy(stream)


def latencies_in_turn(
    trt: Any, engines: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]], rounds: int, talk: Channel
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Latency of several engines at the opt shapes of every profile, with all engines measured in every round.

    Times of engines measured minutes apart differ because the GPU's clocks change meanwhile.

    Returns:
        {profile: {engine: [median milliseconds of one inference, per round]}}, and {profile: why it was not
        measured}.

    Raises:
        BackendError: cuda-python is missing.
    """
    runtime = cuda_runtime()
    if runtime is None:
        raise BackendError(_NO_CUDA_PYTHON, remedy="run pip install cuda-python")
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
                # each engine is first in some round
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
    """The results of a CUDA runtime call without its status.

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
    """Sets these shapes in the context and allocates device memory for its inputs and outputs."""
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
    """Milliseconds of single inferences between CUDA events, as replays of a CUDA graph if it can be captured."""
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
    """The enqueued work as an executable graph; None if the engine cannot be captured."""
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call(runtime.cudaStreamBeginCapture(stream, mode))
    ran = context.execute_async_v3(stream)
    status, graph = runtime.cudaStreamEndCapture(stream)
    if not ran or int(status) != 0:
        # A failed capture leaves an error that the next call would return as its own.
        runtime.cudaGetLastError()
        return None
    status, executable = runtime.cudaGraphInstantiate(graph, 0)
    runtime.cudaGraphDestroy(graph)
    return executable if int(status) == 0 else None


def _layer_times(trt: Any, runtime: Any, context: Any, stream: int) -> dict[str, float]:
    """Median milliseconds per layer; layers that differ only in the profile suffix of their names are summed."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[plain_name(layer_name)] += ms

    profiler = Profiler()
    context.profiler = profiler
    # the context keeps a raw pointer: the profiler must outlive every inference
    runs: dict[str, list[float]] = defaultdict(list)
    for run in range(_LAYER_RUNS + 3):
        profiler.times.clear()
        _enqueue(context, stream)
        call(runtime.cudaStreamSynchronize(stream))
        for name, milliseconds in profiler.times.items() if run >= 3 else ():
            runs[name].append(milliseconds)
    return {name: statistics.median(times) for name, times in runs.items()}
