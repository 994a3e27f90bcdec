"""Calibration of a model in partitions: every partition runs on all samples, and the statistics are the whole model's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.large_models import residual_blocks
from toolkit.calibration import probes
from toolkit.calibration.collect import collect
from toolkit.data.dataset import CalibrationData
from toolkit.graph.large_models.memory import least_limit, memory_limit
from toolkit.graph.large_models.partitions import PartitionedSession
from toolkit.graph.model import Model

WIDTH, BLOCKS, SAMPLES, PARTITIONS = 64, 6, 11, 3
PACKED = 2 * 4 * WIDTH**2


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    model = Model.load(residual_blocks(tmp_path_factory.mktemp("blocks") / "blocks.onnx", WIDTH, BLOCKS))
    samples = np.random.default_rng(3).standard_normal((SAMPLES, WIDTH)).astype(np.float32)
    # infinities make the probes careful in the middle of a pass
    samples[7] *= 1e38
    return model, CalibrationData.open([{"x0": one[None]} for one in samples], model)


@pytest.fixture
def runs(monkeypatch):
    """How often each partition of each session was computed."""
    seen: list[int] = []
    opened = PartitionedSession._opened

    def told(self, number):
        seen.append(number)
        return opened(self, number)

    monkeypatch.setattr(PartitionedSession, "_opened", told)
    return seen


@pytest.mark.parametrize("small", [0, 4 * WIDTH])
@pytest.mark.parametrize("memory", [None, 9 * 7 * 4 * WIDTH])
def test_the_statistics_are_those_of_the_whole_model(subject, runs, memory, small, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "SMALL_BYTES", small)
    model, data = subject
    taps = [f"x{i}" for i in range(BLOCKS)] + [f"relu{i}" for i in range(BLOCKS)]
    scalars = [f"wide{i}" for i in range(BLOCKS)] + ["y"]

    def collected(**more):
        return collect(model, taps, data, scalars=scalars, memory=memory, threads=1, **more)

    whole = collected()
    assert not runs
    with memory_limit(least_limit(2 * 4 * PACKED)):
        cut = collected()
        began = list(runs)
        runs.clear()
        kept = collected(checkpoint=tmp_path / "part")
    for one, name in ((whole, "whole"), (cut, "cut"), (kept, "kept")):
        one.save(tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes() == (tmp_path / "kept").read_bytes()
    assert whole.infinite
    # a session looks at every partition when it is opened; then each runs for its own taps alone
    batches = 3 if memory is None else 11
    assert began == runs and began.count(0) <= 2 * PARTITIONS + batches + 1
    assert began.count(PARTITIONS - 1) <= 2 * PARTITIONS + batches + 1
