"""Calibration on the GPU beside engines that are measured, with stand-ins for all that needs a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import normal
from toolkit.backends.processes import children
from toolkit.base.gpu_turns import GPU_TURN
from toolkit.calibration import gpu
from toolkit.data.dataset import CalibrationData


class Engine:
    """Gives the tensors that it was asked for nothing to count."""

    def __init__(self, model, outputs, data, batch, tactics, cache):
        self.ran = []
        Engine.made = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, part, taps):
        assert GPU_TURN.locked()
        self.ran.append(part.count)
        return [(0, 0) for _ in taps]


class Statistics:
    def __init__(self, kernels, count, bins):
        self.count = count

    def add(self, pointers):
        assert GPU_TURN.locked()

    def read(self):
        assert GPU_TURN.locked()
        return [None] * self.count


def waits():
    assert GPU_TURN.locked()


def test_a_batch_is_computed_while_nothing_is_measured_and_measurements_come_between(monkeypatch, residual):
    monkeypatch.setattr(gpu, "Kernels", lambda: SimpleNamespace(wait=waits))
    monkeypatch.setattr(gpu, "_TappedEngine", Engine)
    monkeypatch.setattr(gpu, "_Statistics", Statistics)
    data = CalibrationData.open([{"x": normal(1, 3, 8, 8, seed=one)} for one in range(6)], residual)
    measured = []

    def progress(what, done, total):
        # whoever asks now measures alone, and the next batch waits until that is over
        with children.exclusive_measurement():
            assert GPU_TURN.locked()
            measured.append(done)

    gpu.collect_on_gpu(residual, ["x"], data, batch=2, progress=progress)
    assert measured == [2, 4, 6] == list(np.cumsum(Engine.made.ran)) and not GPU_TURN.locked()


def test_a_calibration_that_fails_leaves_the_gpu_to_others(monkeypatch, residual):
    def broken():
        raise RuntimeError("lost")

    monkeypatch.setattr(gpu, "Kernels", lambda: SimpleNamespace(wait=broken))
    monkeypatch.setattr(gpu, "_TappedEngine", Engine)
    monkeypatch.setattr(gpu, "_Statistics", Statistics)
    data = CalibrationData.open([{"x": normal(1, 3, 8, 8)}], residual)
    with pytest.raises(RuntimeError, match="lost"):
        gpu.collect_on_gpu(residual, ["x"], data)
    with children.exclusive_measurement():
        assert GPU_TURN.locked()
