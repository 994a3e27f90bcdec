"""What passes, lowering and whole runs cost on graphs of many nodes: time, memory, whole-graph copies and exports.

Time and memory that are not in proportion to the nodes are a fault: the column ``times`` sets the time a node beside
that in the smallest graph of the same shape. Passes include their checks. Every graph has a process of its own, so that its peak of memory is its
own.

Run: python -m tests.benchmarks.bench_graph [--run] [--shape NAME] [NODES ...]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from passes.equalize import Equalize
from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from toolkit import Model, Recipe, run, session
from toolkit.backends.lowering.strong import lower
from toolkit.graph import model
from toolkit.graph.surgery import assemble, opset
from toolkit.report.schema.report import StepInfo

SIZES = (1_000, 5_000, 20_000, 50_000)
_SHAPE = ["n", 4, 4, 4]
_WIDTH = 32
_IFS = 200
_SAMPLES = 10


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
    """Conv and Add, again and again; what the blocks add up to is as large however many they are."""
    stored, nodes, before = {}, [], "x"
    for i in range(count // 2):
        stored[f"w{i}"] = normal(4, 4, 1, 1, seed=i, scale=0.5 / count**0.5)
        nodes += [node("Conv", [before, f"w{i}"], [f"c{i}"]), node("Add", [f"c{i}", before], [f"a{i}"])]
        before = f"a{i}"
    nodes[-1].output[0] = "y"
    return build(nodes, {"x": _SHAPE}, {"y": _SHAPE}, stored)


def concats(count: int) -> onnx.ModelProto:
    """A Concat of 32 convolutions of one tensor, and one that makes four channels of them again."""
    stored, nodes, before = {}, [], "x"
    for i in range(count // (_WIDTH + 2)):
        parts = [f"p{i}_{j}" for j in range(_WIDTH)]
        for j, part in enumerate(parts):
            stored[f"w{i}_{j}"] = normal(4, 4, 1, 1, seed=j, scale=0.3)
            nodes.append(node("Conv", [before, f"w{i}_{j}"], [part]))
        stored[f"v{i}"] = normal(4, 4 * _WIDTH, 1, 1, seed=i, scale=0.05)
        nodes += [node("Concat", parts, [f"c{i}"], axis=1), node("Conv", [f"c{i}", f"v{i}"], [before := f"t{i}"])]
    nodes[-1].output[0] = "y"
    return build(nodes, {"x": _SHAPE}, {"y": _SHAPE}, stored)


def transformer(count: int) -> onnx.ModelProto:
    """Attention of two heads and a feed-forward network, each with its residual and its normalization."""
    stored: dict[str, Any] = {"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)}
    stored |= {"split": np.array([0, -1, 2, 4]), "join": np.array([0, -1, 8]), "half": np.float32(0.5)}
    nodes, x = [], "x"
    for i in range(max(1, count // 23)):
        for name, shape in (("q", (8, 8)), ("k", (8, 8)), ("v", (8, 8)), ("o", (8, 8)), ("f", (8, 16)), ("g", (16, 8))):
            stored[f"{name}{i}"] = normal(*shape, seed=i, scale=0.2)
        n = f"b{i}_"
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            nodes += [
                node("MatMul", [x, f"{name}{i}"], [f"{n}{name}m"]),
                node("Reshape", [f"{n}{name}m", "split"], [f"{n}{name}r"]),
                node("Transpose", [f"{n}{name}r"], [f"{n}{name}"], perm=order),
            ]
        nodes += [
            node("MatMul", [n + "q", n + "k"], [n + "s"]), node("Mul", [n + "s", "half"], [n + "h"]),
            node("Softmax", [n + "h"], [n + "p"], axis=-1), node("MatMul", [n + "p", n + "v"], [n + "c"]),
            node("Transpose", [n + "c"], [n + "ct"], perm=[0, 2, 1, 3]), node("Reshape", [n + "ct", "join"], [n + "j"]),
            node("MatMul", [n + "j", f"o{i}"], [n + "o"]), node("Add", [n + "o", x], [n + "a"]),
            node("LayerNormalization", [n + "a", "one", "zero"], [n + "l"]), node("MatMul", [n + "l", f"f{i}"], [n + "f"]),
            node("Relu", [n + "f"], [n + "fr"]), node("MatMul", [n + "fr", f"g{i}"], [n + "g"]),
            node("Add", [n + "g", n + "l"], [n + "e"]), node("LayerNormalization", [n + "e", "one", "zero"], [x := n + "y"]),
        ]  # fmt: skip
    nodes[-1].output[0] = "y"
    return build(nodes, {"x": ["n", 6, 8]}, {"y": ["n", 6, 8]}, stored)


def biased(count: int) -> onnx.ModelProto:
    """Transformer blocks whose products have a bias after them, as exporters write Linear."""
    proto = transformer(round(count * 23 / 29))
    graph, nodes = proto.graph, []
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for one in graph.node:
        nodes.append(one)
        if one.op_type == "MatMul" and one.input[1] in stored:
            weight, made = one.input[1], one.output[0]
            one.output[0] = f"{made}_product"
            nodes.append(node("Add", [one.output[0], f"{weight}_bias"], [made]))
            graph.initializer.append(numpy_helper.from_array(normal(stored[weight].dims[1]), f"{weight}_bias"))
    for place, one in enumerate(nodes):
        one.name = f"n{place}"
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def ifs(count: int) -> onnx.ModelProto:
    """200 Ifs one after another, with a convolution after each and the other nodes in their two branches."""
    stored, nodes, before = {"w": normal(4, 4, 1, 1, scale=0.3)}, [], "x"
    deep = max(1, count // _IFS // 2 - 1)

    def branch(word: str, i: int, source: str, op: str) -> onnx.GraphProto:
        names = [source, *(f"{word}{i}_{j}" for j in range(deep))]
        inner = [node(op, [names[j]], [names[j + 1]]) for j in range(deep)]
        return helper.make_graph(inner, word, [], [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)])

    for i in range(_IFS):
        sides = {f"{word}_branch": branch(word, i, before, op) for word, op in (("then", "Relu"), ("else", "Tanh"))}
        nodes += [node("If", ["yes"], [f"i{i}"], **sides), node("Conv", [f"i{i}", "w"], [before := f"t{i}"])]
    nodes[-1].output[0] = "y"
    types = {"yes": TensorProto.BOOL}
    return build(nodes, {"x": _SHAPE, "yes": []}, {"y": _SHAPE}, stored, types=types)


SHAPES: dict[str, Callable[[int], onnx.ModelProto]] = {
    one.__name__: one for one in (chain, residual, concats, transformer, biased, ifs)
}


class Counts(Counter[str]):
    """How often a whole graph was copied and exported."""

    def __init__(self) -> None:
        super().__init__()
        for owner, name, word in (
            (assemble, "copied", "copies"), (model, "export", "exports"), (opset, "export", "exports"),
        ):  # fmt: skip
            setattr(owner, name, self._counting(getattr(owner, name), word))

    def _counting(self, whole: Callable[..., Any], word: str) -> Callable[..., Any]:
        def counting(*given: Any, **more: Any) -> Any:
            self[word] += 1
            return whole(*given, **more)

        return counting


@dataclass
class Table:
    """The lines of one graph.

    Attributes:
        shape: what graph it is.
        size: its nodes.
        smallest: microseconds a node by step, of the smallest graph of this shape; empty for that itself.
        found: the same of this one.
        whole: copies and exports so far.
    """

    shape: str
    size: int
    smallest: dict[str, float]
    counts: Counts = field(default_factory=Counts)
    found: dict[str, float] = field(default_factory=dict)
    whole: Counter[str] = field(default_factory=Counter)

    def line(self, what: str, seconds: float) -> None:
        """Print what a step took, and begin to count anew."""
        self.whole.update(self.counts)
        self._print(what, seconds, self.counts)
        self.counts.clear()

    def total(self, what: str, seconds: float) -> None:
        """Print what all steps took together."""
        self._print(what, seconds, self.whole)

    def _print(self, what: str, seconds: float, counts: Counter[str]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        each = self.found[what] = 1e6 * seconds / self.size
        times = f"{each / self.smallest[what]:8.2f}" if self.smallest.get(what) else f"{'':8}"
        print(
            f"{self.shape:12}{self.size:8,} {what:16}{seconds:9.2f} s{each:10.1f}{1e6 / each:11,.0f}{times}{peak:9.0f} MB"
            f"{counts['copies']:5}{counts['exports']:5}",
            flush=True,
        )


def passes(table: Table) -> None:
    """Every pass with its checks, lowering, and the same graph in onnxruntime."""
    proto, context = SHAPES[table.shape](table.size), placeholder_context()

    def timed(what: str, done: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = done()
        table.line(what, time.process_time() - start)
        return result

    graph = timed("read", lambda: Model.from_proto(proto))
    timed("copy", graph.copy)
    timed("facts", graph.facts)
    timed("check", graph.check)
    for step in (FoldConstants(), FoldBatchNorm(), Equalize(measure=False), InsertQDQ()):
        timed(step.title(), lambda step=step: step(graph, context))
    timed("lowering", lambda: lower(graph, context.plan))
    timed("onnxruntime", lambda: session(proto))


def whole(table: Table) -> None:
    """A run with backend none."""
    with tempfile.TemporaryDirectory() as folder:
        proto = SHAPES[table.shape](table.size)
        onnx.save(proto, f"{folder}/model.onnx")
        shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
        data = [
            {name: normal(*dims, seed=i) if dims else np.array(i % 2 == 0) for name, dims in shapes.items()}
            for i in range(_SAMPLES)
        ]
        recipe = Recipe.build(
            "bench", model={"path": f"{folder}/model.onnx"}, calibration={"data": data, "method": "minmax"},
            passes=[FoldConstants(), FoldBatchNorm(), InsertQDQ()], engine={"backend": "none"},
        )  # fmt: skip
        start = last = time.process_time()

        def told(info: StepInfo) -> None:
            nonlocal last
            now = time.process_time()
            table.line(f"run: {info.name}", now - last)
            last = now

        run(recipe, Path(folder) / "out", on_step=told)
        table.total("run", time.process_time() - start)


def measure(work: Callable[[Table], None], table: tuple[str, int, dict[str, float]], sender: Connection) -> None:
    """Measure one graph, and send what its steps took."""
    made = Table(*table)
    work(made)
    sender.send(made.found)


def main() -> None:
    """Print a table; the arguments choose what is in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--run", action="store_true", help="whole runs")
    parser.add_argument("--shape", choices=SHAPES, action="append")
    given = parser.parse_args()
    print(
        f"{'shape':12}{'nodes':>8} {'step':16}{'CPU':>11}{'us/node':>10}{'nodes/s':>11}{'times':>8}{'peak':>12}"
        f"{'cop.':>5}{'exp.':>5}"
    )
    spawn = multiprocessing.get_context("spawn")
    for shape in given.shape or SHAPES:
        smallest: dict[str, float] = {}
        for size in sorted(given.sizes):
            receiver, sender = spawn.Pipe(duplex=False)
            work = spawn.Process(target=measure, args=(whole if given.run else passes, (shape, size, smallest), sender))
            work.start()
            sender.close()
            # nothing comes of one that failed, which said why
            with contextlib.suppress(EOFError):
                smallest = smallest or receiver.recv()
            work.join()


if __name__ == "__main__":
    main()
