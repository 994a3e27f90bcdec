"""Passes look at the whole graph a fixed number of times, however many nodes it has."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from passes.correct_bias import CorrectBias
from passes.equalize import Equalize
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from passes.smooth import Smooth
from passes.strip_qdq import StripQDQ
from tests.conftest import build, node, normal
from toolkit import CalibrationData, Calibrator, Context, Model, Pass
from toolkit.backends.lowering.strong import lower


def blocks(count):
    """Conv, BatchNormalization and Relu, again and again, with an outlier channel for each Conv."""
    weights = {
        name: np.full(4, value, np.float32)
        for name, value in (("gain", 1), ("shift", 0.1), ("mean", 0), ("variance", 1))
    }
    nodes, before = [], "x"
    for i in range(count):
        weights[f"w{i}"] = normal(4, 4, 1, 1, seed=i) * np.float32([[1], [9], [1], [1]]).reshape(1, 4, 1, 1)
        nodes += [
            node("Conv", [before, f"w{i}"], [f"c{i}"]),
            node("BatchNormalization", [f"c{i}", "gain", "shift", "mean", "variance"], [f"b{i}"]),
            node("Relu", [f"b{i}"], [after := "y" if i == count - 1 else f"r{i}"]),
        ]
        before = after
    return Model.from_proto(build(nodes, {"x": ["n", 4, 4, 4]}, {"y": ["n", 4, 4, 4]}, weights))


def context_of(model):
    data = CalibrationData.open([{"x": normal(1, 4, 4, 4, seed=i)} for i in range(3)], model)
    return Context(provider=Calibrator(data, method="minmax"))


class Lowered(Pass):
    """Lowering, which is held to the same."""

    def apply(self, model, context):
        lower(model, context.plan)


@pytest.fixture
def looks(monkeypatch):
    counts = Counter()
    for name in ("walk", "subgraph_tensors", "node_names", "tensor_names", "tidy", "copy", "to_light", "facts"):
        whole = getattr(Model, name)

        def counting(self, *given, _whole=whole, _name=name, **more):
            counts[_name] += 1
            return _whole(self, *given, **more)

        monkeypatch.setattr(Model, name, counting)
    return counts


@pytest.mark.parametrize(("step", "before"), [
    (FoldConstants(), []), (FoldBatchNorm(), []), (Equalize(measure=False), [FoldBatchNorm()]),
    (Smooth(measure=False, least=1), [FoldBatchNorm()]), (InsertQDQ(), [FoldBatchNorm()]),
    (CorrectBias(measure=False), [InsertQDQ()]), (StripQDQ(), [InsertQDQ()]), (Lowered(), [FoldBatchNorm(), InsertQDQ()]),
], ids=lambda p: p.title() if isinstance(p, Pass) else "")  # fmt: skip
def test_a_pass_does_not_look_at_the_whole_graph_for_each_node(looks, step, before):
    found = []
    for count in (3, 12):
        model = blocks(count)
        context = context_of(model)
        for one in before:
            one(model, context)
        looks.clear()
        step(model, context)
        found.append(dict(looks))
    assert found[0] == found[1]
