"""Measuring with a CUDA runtime and an engine made of stand-ins: what is freed, what is reported, what may fail."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.backends.execution import measure
from toolkit.base.errors import BackendError

PROFILES = [
    {"name": n, "shapes": {"x": {"min": [1, 4], "opt": [b, 4], "max": [2 * b, 4]}}} for n, b in (("a", 2), ("b", 8))
]


class Runtime:
    """Counts what is alive; every launch takes a millisecond."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, capture=True, memory=100):
        self.alive, self.capture, self.memory, self.launched = set(), capture, memory, 0
        self.next = 0

    def make(self):
        self.next += 1
        self.alive.add(self.next)
        return 0, self.next

    def drop(self, handle):
        self.alive.remove(handle)
        return (0,)

    cudaStreamCreate = cudaEventCreate = make
    cudaStreamDestroy = cudaEventDestroy = cudaFree = cudaGraphExecDestroy = drop

    def cudaMalloc(self, size):
        return self.make() if size <= self.memory else (2, None)

    def cudaStreamEndCapture(self, stream):
        return (0, 99) if self.capture else (900, None)

    def cudaGraphInstantiate(self, graph, flags):
        return self.make()

    def cudaGraphLaunch(self, graph, stream):
        self.launched += 1
        return (0,)

    def cudaEventElapsedTime(self, start, end):
        return 0, 30.0

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *given: (0,)


class Context:
    living = 0

    def __init__(self, engine):
        Context.living += 1
        assert Context.living == 1, "8.6 gives a profile to one context at a time"
        self.engine, self.profiler, self.shape, self.profile = engine, None, None, 0

    def __del__(self):
        Context.living -= 1

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        self.shape = shape
        return shape != (16, 4) or not self.engine.refuses

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        assert address

    def execute_async_v3(self, stream):
        if self.profiler is not None:
            suffix = f" [profile {self.profile}]" if self.profile else ""
            self.profiler.report_layer_time(f"conv{suffix}", 0.25 + self.profile)
            self.profiler.report_layer_time(f"soft{suffix}", 0.5)
        return True


class Engine:
    num_io_tensors = 2
    refuses = False

    def create_execution_context(self):
        return Context(self)

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_mode(self, name):
        return "input" if name == "x" else "output"

    def is_shape_inference_io(self, name):
        return False


class IProfiler:
    pass


TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="input"), IProfiler=IProfiler)


@pytest.fixture
def talk():
    said = []
    return SimpleNamespace(log=said.append, progress=lambda *event: None, said=said)


@pytest.mark.parametrize("capture", [True, False])
def test_every_profile_is_measured_and_all_is_freed(monkeypatch, talk, capture):
    runtime = Runtime(capture, memory=10_000)
    monkeypatch.setattr(measure, "cuda_runtime", lambda: runtime)
    layers, latency, lacks = measure.measure_engine(TRT, Engine(), PROFILES, talk)
    assert set(latency) == {"a", "b"} and lacks == {} and latency["a"]["opt"] == latency["a"]["opt p95"] == 30.0
    assert layers == {"conv": {"a": 0.25, "b": 1.25}, "soft": {"a": 0.5, "b": 0.5}}
    assert not runtime.alive and Context.living == 0 and not talk.said
    assert (runtime.launched > 0) == capture


def test_a_profile_that_does_not_fit_the_memory_is_left_out_with_a_warning(monkeypatch, talk):
    runtime = Runtime(memory=16 * 4 * 4 - 1)
    monkeypatch.setattr(measure, "cuda_runtime", lambda: runtime)
    _, latency, lacks = measure.measure_engine(TRT, Engine(), PROFILES, talk)
    assert set(latency) == {"a"} and not runtime.alive and Context.living == 0
    assert set(lacks) == {"b"} and "CUDA call failed" in lacks["b"] and lacks["b"] in talk.said[0]


def test_a_shape_that_the_engine_refuses(monkeypatch, talk):
    engine = Engine()
    engine.refuses = True
    monkeypatch.setattr(measure, "cuda_runtime", lambda: Runtime(memory=10_000))
    _, latency, lacks = measure.measure_engine(TRT, engine, PROFILES, talk)
    assert set(latency) == {"a"} and "refused shape [16, 4]" in lacks["b"]


def test_without_cuda_python_nothing_is_measured(monkeypatch, talk):
    monkeypatch.setattr(measure, "cuda_runtime", lambda: None)
    layers, latency, lacks = measure.measure_engine(TRT, Engine(), PROFILES, talk)
    assert (
        (layers, latency) == ({}, {})
        and set(lacks) == {"a", "b"}
        and all("cuda-python" in why for why in lacks.values())
    )


def test_a_static_model_is_measured_as_the_default_profile(monkeypatch, talk):
    monkeypatch.setattr(measure, "cuda_runtime", lambda: Runtime(memory=10_000))
    monkeypatch.setattr(Context, "get_tensor_shape", lambda self, name: (2, 4))
    _, latency, _ = measure.measure_engine(TRT, Engine(), [], talk)
    assert set(latency) == {"default"}


def test_failed_calls_say_the_status():
    with pytest.raises(BackendError, match="a CUDA call failed: 700"):
        measure.call((700, None))
    assert measure.call((0,)) == () and measure.call((0, 5)) == 5 and measure.call((0, 1, 2)) == (1, 2)
