"""Loops that may never end: detection in a model, and a limit while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from toolkit.base.collection import resident
from toolkit.base.errors import ModelError
from toolkit.graph.proto.nodes import MOST_TRIPS
from toolkit.graph.proto.stored import constants_of
from toolkit.graph.proto.strangers import operator_of

_SECONDS, _COMPUTED_SECONDS = 30.0, 300.0
_BYTES, _TIMES_WEIGHTS = 512 << 20, 4
_INTERVAL = 0.1


@dataclass(frozen=True)
class LoopLimits:
    """The limits of a run of a model with a Loop that may never end.

    Attributes:
        node: the Loop.
        seconds: limit of the duration of one run.
        memory: bytes by which the process may grow in one run.
    """

    node: str
    seconds: float
    memory: int


class EndlessLoopError(ModelError):
    """A run of a model was stopped because a Loop may never end; it must not be retried.

    Args:
        node: the Loop.
        why: when it was stopped, in words.
        where: the model.
    """

    def __init__(self, node: str, why: str, where: str) -> None:
        self.node = node
        super().__init__(
            f"Loop '{node}' was stopped {why}: nothing bounds how often it runs",
            where=where,
            remedy="export it with a maximum trip count, or fix the condition that ends it",
        )


def loop_limits(proto: onnx.ModelProto, operators: Collection[tuple[str, str]], weight_bytes: int) -> LoopLimits | None:
    """The limits for a model with a Loop without trip count, or with one that may be large; None for other models.

    A trip count that the graph computes is usually a length of the input, so these loops may take longer. ``operators``
    are those of the model, by domain and name.
    """
    if all(op != "Loop" for _, op in operators):
        return None
    constants = dict(constants_of(proto.graph))
    found = list(_long_loops(proto.graph, constants, 1))
    if not found:
        return None
    name, computed = min(found, key=lambda one: one[1])
    return LoopLimits(name, _COMPUTED_SECONDS if computed else _SECONDS, _BYTES + _TIMES_WEIGHTS * weight_bytes)


def _long_loops(graph: onnx.GraphProto, constants: Mapping[str, TensorProto], trips: int) -> Iterator[tuple[str, bool]]:
    """Loops with a large or unknown number of trips, each with whether its trip count is computed."""
    for node in graph.node:
        inside = trips
        if operator_of(node) == "Loop":
            name = node.input[0] if node.input else ""
            count = _count(constants.get(name))
            inside = trips * max(1, count) if count is not None else MOST_TRIPS + 1
            if inside > MOST_TRIPS:
                yield node.name, bool(name) and count is None
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs):
                yield from _long_loops(sub, constants, inside)


def _count(tensor: TensorProto | None) -> int | None:
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    values = onnx.numpy_helper.to_array(tensor).reshape(-1)
    return int(values[0]) if values.size == 1 and values.dtype.kind == "i" else None


@contextmanager
def limited(limits: LoopLimits, options: Any, where: str) -> Iterator[None]:
    """Run a model within the block with onnxruntime's ``options`` (RunOptions), and stop it if it exceeds the limits.

    Raises:
        EndlessLoopError: the run was stopped.
    """
    over = threading.Event()
    why: list[str] = []
    watch = threading.Thread(target=_watch, args=(limits, options, over, why), daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        if not why:
            raise
        raise EndlessLoopError(limits.node, why[0], where) from error
    finally:
        over.set()
        watch.join()


def _watch(limits: LoopLimits, options: Any, over: threading.Event, why: list[str]) -> None:
    started, before = time.monotonic(), resident()
    while not over.wait(_INTERVAL):
        seconds, grown = time.monotonic() - started, resident() - before
        if seconds > limits.seconds or grown > limits.memory:
            why.append(
                f"after {seconds:.0f} s" if grown <= limits.memory else f"when it had taken {grown / 1e9:.1f} GB"
            )
            options.terminate = True
            return
