"""A model's own functions: whether they can be inlined, and how much that makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx
import onnx.inliner

from toolkit.base.errors import ModelError
from toolkit.graph.proto.nodes import all_nodes

Key = tuple[str, str, str]
_MOST_NODES = 300_000
_MOST_BYTES = 1 << 30
_DEEPEST = 100


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Check that functions differ, do not call themselves, and do not grow beyond all bounds when they are inlined.

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
    for key in _depths(calls, where):
        own = sum(1 for _ in all_nodes(bodies[key].node))
        nodes[key] = own + sum(times * nodes[other] for other, times in calls[key].items())
        sizes[key] = bodies[key].ByteSize() + sum(times * sizes[other] for other, times in calls[key].items())
    called = _called(proto.graph.node, bodies)
    count = sum(times * nodes[key] for key, times in called.items())
    size = sum(times * sizes[key] for key, times in called.items())
    if count > _MOST_NODES or size > _MOST_BYTES:
        raise ModelError(
            f"inlining the model's {len(bodies)} functions would make {count:,} nodes and {size / 1e6:,.0f} MB",
            where=where,
            remedy=f"export the model without nested functions; qtool inlines up to {_MOST_NODES:,} nodes",
        )


def inlined(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy of a model whose functions stand where they were called.

    ONNX's inliner leaves functions of another opset than the model's where they are; those whose operators mean the
    same in both are not of another one.

    Raises:
        ModelError: a function cannot be inlined; the message names it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    versions = {entry.domain: entry.version for entry in copy.opset_import}
    for function in copy.functions:
        for entry in function.opset_import:
            wanted = versions.get(entry.domain, entry.version)
            ops = {node.op_type for node in all_nodes(function.node) if node.domain == entry.domain}
            if wanted != entry.version and all(_same(op, entry.domain, entry.version, wanted) for op in ops):
                entry.version = wanted
    copy = _with_defaults(copy, where)
    called = _called(copy.graph.node, {(one.domain, one.name, one.overload): one for one in copy.functions})
    for left in (one for one in copy.functions if called[one.domain, one.name, one.overload]):
        raise ModelError(
            f"function '{left.domain}::{left.name}' cannot be inlined: it is written in {_opsets(left)}, and the model "
            f"in {_opsets(proto)}",
            where=where,
            remedy="export the model and its functions at one opset, or without functions",
        )
    # nothing calls what is left
    del copy.functions[:]
    return copy


def _with_defaults(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Inline functions, callers first, with the attributes that calls leave to defaults, which ONNX's inliner forgets.

    What an inner call leaves out is known only when its caller stands where it was called: an attribute that is the
    caller's own is left out with it.
    """
    bodies = {(one.domain, one.name, one.overload): one for one in proto.functions}
    if not any(one.attribute_proto for one in proto.functions):
        return onnx.inliner.inline_local_functions(proto)
    levels: dict[int, list[tuple[str, str]]] = {}
    for key, depth in _depths({key: _called(one.node, bodies) for key, one in bodies.items()}, where).items():
        levels.setdefault(depth, []).append(key[:2])
    for depth in sorted(levels, reverse=True):
        _say_defaults(proto)
        proto = onnx.inliner.inline_selected_functions(proto, levels[depth])
    return proto


def _say_defaults(proto: onnx.ModelProto) -> None:
    """Give every call in the graph the attributes that it leaves to its function's defaults."""
    defaults = {(one.domain, one.name, one.overload): one.attribute_proto for one in proto.functions}
    for node in all_nodes(proto.graph.node):
        given = {attribute.name for attribute in node.attribute}
        left = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(one for one in left if one.name not in given)


def _opsets(owner: onnx.ModelProto | onnx.FunctionProto) -> str:
    return ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in owner.opset_import)


def _same(op: str, domain: str, written: int, wanted: int) -> bool:
    """Whether an operator means in the model's opset what it does in the function's, as far as ONNX knows it.

    Another version of an operator often only takes more types, as Add does from opset 14 on. One with other attributes,
    defaults, inputs or outputs, or without a type of the written one, counts as another operator.
    """
    try:
        old, new = (onnx.defs.get_schema(op, version, domain) for version in (written, wanted))
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    types = {one.type_param_str: set(one.allowed_type_strs) for one in new.type_constraints}
    wider = all(set(one.allowed_type_strs) <= types.get(one.type_param_str, set()) for one in old.type_constraints)
    return wider and _signature(old) == _signature(new)


def _signature(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """What a version of an operator takes and gives, without the types."""
    attributes = {
        name: (one.type, one.required, one.default_value.SerializeToString())
        for name, one in schema.attributes.items()
    }
    formals = [[(one.name, one.type_str, one.option) for one in side] for side in (schema.inputs, schema.outputs)]
    return attributes, *formals


def _called(nodes: Iterable[onnx.NodeProto], bodies: dict[Key, onnx.FunctionProto]) -> Counter[Key]:
    keys = ((node.domain, node.op_type, getattr(node, "overload", "")) for node in all_nodes(nodes))
    return Counter(key for key in keys if key in bodies)


def _depths(calls: dict[Key, Counter[Key]], where: str) -> dict[Key, int]:
    """How deep each function calls others, 1 for one that calls none; each comes after those that it calls."""
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
    return depth
