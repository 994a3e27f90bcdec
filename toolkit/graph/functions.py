"""A model's own functions: whether they can be inlined, and how much that makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

from toolkit.base.errors import ModelError
from toolkit.graph.nodes import all_nodes

Key = tuple[str, str, str]
_MOST_NODES = 300_000
_MOST_BYTES = 1 << 30
_DEEPEST = 100


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Check that functions differ, do not call themselves, and do not grow out of all measure where they are inlined.

    Raises:
        ModelError: they do not; the message names the function.
    """
    if not proto.functions:
        return
    bodies: dict[Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (function.domain, function.name, getattr(function, "overload", ""))
        if key in bodies:
            raise ModelError(
                f"there are two functions '{function.domain}::{function.name}'",
                where=where,
                remedy="export the model again",
            )
        bodies[key] = function
    calls = {key: _called(function.node, bodies) for key, function in bodies.items()}
    nodes: dict[Key, int] = {}
    sizes: dict[Key, int] = {}
    for key in _callees_first(calls, where):
        own = sum(1 for _ in all_nodes(bodies[key].node))
        nodes[key] = own + sum(times * nodes[other] for other, times in calls[key].items())
        sizes[key] = bodies[key].ByteSize() + sum(times * sizes[other] for other, times in calls[key].items())
    called = _called(proto.graph.node, bodies)
    count = sum(times * nodes[key] for key, times in called.items())
    size = sum(times * sizes[key] for key, times in called.items())
    if count > _MOST_NODES or size > _MOST_BYTES:
        raise ModelError(
            f"inlined, the model's {len(bodies)} functions make {count:,} nodes and {size / 1e6:,.0f} MB",
            where=where,
            remedy=f"export the model without nested functions; qtool inlines up to {_MOST_NODES:,} nodes",
        )


def _called(nodes: Iterable[onnx.NodeProto], bodies: dict[Key, onnx.FunctionProto]) -> Counter[Key]:
    keys = ((node.domain, node.op_type, getattr(node, "overload", "")) for node in all_nodes(nodes))
    return Counter(key for key in keys if key in bodies)


def _callees_first(calls: dict[Key, Counter[Key]], where: str) -> list[Key]:
    """The functions, each behind those that it calls."""
    depth: dict[Key, int] = {}
    waiting = dict(calls)
    while waiting:
        ready = [key for key, called in waiting.items() if all(other in depth for other in called)]
        if not ready:
            _, name, _ = next(iter(waiting))
            raise ModelError(
                f"function '{name}' calls itself, directly or through others",
                where=where,
                remedy="export the model without functions",
            )
        for key in ready:
            depth[key] = 1 + max((depth[other] for other in waiting.pop(key)), default=0)
        if max(depth[key] for key in ready) > _DEEPEST:
            raise ModelError(
                f"functions call each other {_DEEPEST} deep", where=where, remedy="export the model without functions"
            )
    return list(depth)
