"""Batches run two at a time: in order, with the results of one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from tests.large_models import block_samples, residual_blocks
from tests.toolkit.search.planted import chain
from toolkit.base.errors import DataError
from toolkit.graph.large_models.memory import least_limit, memory_limit
from toolkit.graph.model import Model
from toolkit.graph.sessions import session as sessions
from toolkit.graph.sessions import side_by_side
from toolkit.graph.sessions.session import session
from toolkit.graph.sessions.side_by_side import run_side_by_side


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_each_batch_comes_with_its_own_tensors_in_order(monkeypatch, cores):
    model, asked = chain(3), []
    load = side_by_side.session
    monkeypatch.setattr(side_by_side, "session_threads", lambda: cores)
    monkeypatch.setattr(side_by_side, "session", lambda *given, **more: (asked.append(more), load(*given, **more))[1])
    name, width = model.graph.inputs[0].name, model.graph.inputs[0].shape[1]
    feeds = [{name: np.random.default_rng(n).standard_normal((n, width), np.float32)} for n in range(1, 8)]
    inner = model.node("layer1").outputs[0].name
    alone = session(model, [inner])
    found = list(run_side_by_side(model, [inner], enumerate(feeds), lambda item: item[1]))
    assert [number for (number, _), _ in found] == list(range(7))
    assert all(np.array_equal(values[inner], alone.run(feed)[inner]) for (_, feed), values in found)
    # two at a time share the cores
    assert asked == [{"threads": max(1, cores // 2)}]
    with pytest.raises(DataError, match=name):
        list(run_side_by_side(model, [inner], [{}], lambda item: item))


def test_a_model_in_partitions_is_run_one_batch_after_the_other(tmp_path, monkeypatch):
    path = residual_blocks(tmp_path / "blocks.onnx", 64, 6)
    model, x = Model.load(path), np.load(block_samples(tmp_path / "x.npz", 64))["x0"]
    run, under_way, most = sessions.Session.run, [], []

    def watched(self, inputs, outputs=None):
        under_way.append(1)
        most.append(len(under_way))
        try:
            return run(self, inputs, outputs)
        finally:
            under_way.pop()

    wanted = session(model, ["x2"]).run({"x0": x})["x2"]
    with memory_limit(least_limit(12 * 4 * 64**2)):
        assert session(model, ["x2"]).is_partitioned
        monkeypatch.setattr(side_by_side, "session_threads", lambda: 2)
        monkeypatch.setattr(sessions.Session, "run", watched)
        found = list(run_side_by_side(model, ["x2"], [{"x0": x}] * 5, dict))
    assert most == [1] * 5 and all(np.array_equal(values["x2"], wanted) for _, values in found)
