"""How fast passes and lowering are on graphs of many nodes, their checks included; a line that is not level is a fault.

Run: python -m tests.benchmarks.bench_graph [NODES ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import onnx

from passes.equalize import Equalize
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Model, Pass
from toolkit.backends.lowering import lower

SIZES = (1_000, 5_000, 20_000)
_SHAPE = ["n", 4, 4, 4]


def chain(count: int) -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu, again and again."""
    weights = {"gain": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
    stored = {name: np.full(4, value, np.float32) for name, value in weights.items()}
    nodes, before = [], "x"
    for i in range(count // 3):
        stored[f"w{i}"] = normal(4, 4, 1, 1, seed=i, scale=0.3)
        nodes += [
            node("Conv", [before, f"w{i}"], [f"c{i}"]),
            node("BatchNormalization", [f"c{i}", "gain", "shift", "mean", "variance"], [f"b{i}"]),
            node("Relu", [f"b{i}"], [before := f"r{i}"]),
        ]
    nodes[-1].output[0] = "y"
    return build(nodes, {"x": _SHAPE}, {"y": _SHAPE}, stored)


def residual(count: int) -> onnx.ModelProto:
    """Conv and Add, again and again."""
    stored, nodes, before = {}, [], "x"
    for i in range(count // 2):
        stored[f"w{i}"] = normal(4, 4, 1, 1, seed=i, scale=0.05)
        nodes += [node("Conv", [before, f"w{i}"], [f"c{i}"]), node("Add", [f"c{i}", before], [f"a{i}"])]
        before = f"a{i}"
    nodes[-1].output[0] = "y"
    return build(nodes, {"x": _SHAPE}, {"y": _SHAPE}, stored)


def main(sizes: Sequence[int]) -> None:
    """Print nodes a second of CPU time for every step, shape and size."""
    steps: list[Pass] = [FoldConstants(), FoldBatchNorm(), Equalize(measure=False), InsertQDQ()]
    print(f"{'thousands of nodes a second':30}" + "".join(f"{size:>9,}" for size in sizes))
    for make in (chain, residual):
        speeds: dict[str, list[float]] = {}
        for size in sizes:
            proto, context = make(size), placeholder_context()
            start = time.process_time()
            model = Model.from_proto(proto)
            speeds.setdefault("read", []).append(size / (time.process_time() - start))
            for step in steps:
                start = time.process_time()
                step(model, context)
                speeds.setdefault(step.title(), []).append(size / (time.process_time() - start))
            start = time.process_time()
            lower(model, context.plan)
            speeds.setdefault("lowering", []).append(size / (time.process_time() - start))
        for name, found in speeds.items():
            print(f"{make.__name__ + ' ' + name:30}" + "".join(f"{speed / 1000:9.1f}" for speed in found))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or SIZES)
