"""What the runner hands to TensorRT, and takes from it, with stand-ins for engine and Polygraphy's runner."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from toolkit.backends.execution.runner import EngineRunner
from toolkit.base.errors import BackendError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile

PROFILES = Profiles(
    (ShapeProfile("small", {"x": Extent((1, 2), (1, 2), (4, 2))}), ShapeProfile("large", {"x": Extent((2, 2), (4, 2), (8, 2))}))
)  # fmt: skip


class Engine:
    """An engine with these tensors: name to (mode, type)."""

    def __init__(self, tensors):
        self._tensors, self._names, self.num_io_tensors = tensors, list(tensors), len(tensors)

    def get_tensor_name(self, position):
        return self._names[position]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name=self._tensors[name][0])

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self._tensors[name][1])


class Inner:
    """Keeps what it was given and gives what it was told to."""

    def __init__(self, outputs):
        self.outputs, self.given, self.settings = outputs, {}, {}

    def infer(self, feed_dict, **settings):
        self.given, self.settings = feed_dict, settings
        return self.outputs

    def deactivate(self):
        pass


def made(tensors, outputs, profiles=None):
    profiles = profiles or Profiles()
    runner = EngineRunner(b"", "tensorrt", profiles)
    runner._engine = Engine(tensors)
    inner = [Inner(outputs) for _ in range(max(len(profiles), 1))]
    runner._runners = dict(enumerate(inner))
    return runner, inner


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("HALF", np.array([[1.5, 2]], np.float32), np.float16),
        ("INT32", np.array([[1, 2]], np.int64), np.int32),
        ("INT32", np.array(7, np.int64), np.int32),
        ("FLOAT", np.array([[1, 2]], np.float16), np.float32),
        ("BOOL", np.array([True]), np.bool_),
    ],
)
def test_inputs_are_cast_to_the_engines_types(kind, values, dtype):
    runner, (inner,) = made({"x": ("INPUT", kind), "y": ("OUTPUT", "FLOAT")}, {"y": np.zeros(2, np.float32)})
    outputs = runner.run({"x": values, "not an input": values})
    assert list(inner.given) == ["x"] and inner.given["x"].dtype == dtype and inner.given["x"].shape == values.shape
    assert np.array_equal(inner.given["x"], values.astype(dtype)) and not inner.settings
    assert outputs["y"] is not inner.outputs["y"] and not np.shares_memory(outputs["y"], inner.outputs["y"])


def test_bfloat16_travels_as_bytes_both_ways():
    from polygraphy.common import FormattedArray

    values = np.array([[1.5, -2.25]], np.float32)
    raw = values.astype(ml_dtypes.bfloat16).view(np.uint8).reshape(-1)
    runner, (inner,) = made({"x": ("INPUT", "BF16"), "y": ("OUTPUT", "BF16"), "n": ("OUTPUT", "INT32")},
                            {"y": FormattedArray(raw, shape=(1, 2)), "n": FormattedArray(np.array([3, 0, 0, 0], np.uint8), shape=())})  # fmt: skip
    outputs = runner.run({"x": values})
    assert np.array_equal(inner.given["x"].array, raw) and tuple(inner.given["x"].shape) == (1, 2)
    assert inner.settings == {"check_inputs": False, "return_raw_buffers": True}
    assert outputs["y"].dtype == ml_dtypes.bfloat16 and np.array_equal(outputs["y"].astype(np.float32), values)
    assert outputs["n"].shape == () and outputs["n"] == 3


def test_the_profile_named_runs_it():
    runner, (small, large) = made(
        {"x": ("INPUT", "FLOAT"), "y": ("OUTPUT", "FLOAT")}, {"y": np.zeros(1, np.float32)}, PROFILES
    )
    four = {"x": np.zeros((4, 2), np.float32)}
    runner.run(four, "large")
    assert large.given and not small.given
    runner.run(four)
    assert small.given
    with pytest.raises(BackendError, match=r"profile 'small' does not hold inputs of shapes \{'x': \[8, 2\]\}"):
        runner.run({"x": np.zeros((8, 2), np.float32)}, "small")


@pytest.mark.parametrize(
    ("tensors", "feeds", "words"),
    [
        ({"x": ("INPUT", "INT32")}, {"x": np.array([2**40])}, "input 'x' holds 1099511627776, and the engine takes int32"),
        ({"x": ("INPUT", "FLOAT")}, {"xs": np.zeros(1)}, "input 'x' has no value"),
        ({"x": ("INPUT", "FP4")}, {"x": np.zeros(1)}, "'x' has the type FP4"),
    ],
)  # fmt: skip
def test_what_cannot_be_fed_is_refused(tensors, feeds, words):
    runner, _ = made(tensors, {})
    with pytest.raises(BackendError, match=words):
        runner.run(feeds)


def test_a_context_that_cannot_be_made_says_which_profile_and_what_to_do(monkeypatch):
    trt = pytest.importorskip("polygraphy.backend.trt")

    class Full:
        def __init__(self, engine, optimization_profile):
            pass

        def activate(self):
            raise RuntimeError("out of memory")

    monkeypatch.setattr(trt, "TrtRunner", Full)
    runner, _ = made({"x": ("INPUT", "FLOAT"), "y": ("OUTPUT", "FLOAT")}, {}, PROFILES)
    runner._runners = {}
    with pytest.raises(BackendError, match=r"profile 'large': .*execution context: out of memory") as caught:
        runner.run({"x": np.zeros((8, 2), np.float32)}, "large")
    assert "smaller profile maxima" in caught.value.remedy and not runner._runners
