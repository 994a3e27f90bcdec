"""A model's own functions: whether they can be inlined, and the size of the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

import onnx
import onnx.inliner

from toolkit.base.errors import ModelError
from toolkit.graph.proto.nodes import all_nodes

Key = tuple[str, str, str]
_MOST_NODES = 300_000
_MOST_BYTES = 1 << 30
_DEEPEST = 100
_POOLING = ("ceil_mode", "dilations")
_KEEPS_MEANING = {
    "ArgMax": ("select_last_index",), "ArgMin": ("select_last_index",), "AveragePool": (*_POOLING, "count_include_pad"),
    "BatchNormalization": ("training_mode",), "Cast": ("saturate", "round_mode"),
    "CastLike": ("saturate", "round_mode"),
    "Constant": ("sparse_value", *(f"value_{kind}{many}" for kind in ("float", "int", "string") for many in ("", "s"))),
    "DepthToSpace": ("mode",), "DequantizeLinear": ("axis", "block_size", "output_dtype"), "GatherND": ("batch_dims",),
    "GRU": ("layout",), "LpPool": _POOLING, "LSTM": ("layout",), "MaxPool": (*_POOLING, "storage_order"),
    "QuantizeLinear": ("axis", "saturate", "block_size", "output_dtype", "precision"), "Reshape": ("allowzero",),
    "Resize": ("antialias", "axes", "keep_aspect_ratio_policy"), "RNN": ("layout",), "ScatterElements": ("reduction",),
    "ScatterND": ("reduction",), "Shape": ("start", "end"), "TopK": ("largest", "sorted"),
}  # fmt: skip
"""For each operator, attributes that later versions add with a default that keeps the earlier meaning (ONNX's
Changelog.md). RoiAlign's coordinate_transformation_mode of opset 16 is not one of them, nor are attributes that were
added
with a change of meaning, such as GroupNormalization's stash_type of opset 21."""


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Check that functions are unique, not recursive, and not excessively large when inlined.

    Raises:
        ModelError: a check fails; the message names the function.
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
    """A copy of a model with all functions inlined.

    ONNX's inliner skips functions with another opset than the model's. Functions whose operators mean the same in both
    opsets are therefore declared in the model's opset first.

    Raises:
        ModelError: a function cannot be inlined; the message names it.
    """
    copy = deepcopy(proto)
    versions = {entry.domain: entry.version for entry in copy.opset_import}
    for function in copy.functions:
        other = {
            node.domain for node, written, wanted in _written(function, versions) if not _same(node, written, wanted)
        }
        for entry in function.opset_import:
            if entry.domain not in other:
                entry.version = versions.get(entry.domain, entry.version)
    copy = _with_defaults(copy, where)
    called = _called(copy.graph.node, {(one.domain, one.name, one.overload): one for one in copy.functions})
    for left in (one for one in copy.functions if called[one.domain, one.name, one.overload]):
        op = next(
            (node.op_type for node, written, wanted in _written(left, versions) if not _same(node, written, wanted)), ""
        )
        raise ModelError(
            f"function '{left.domain}::{left.name}' cannot be inlined: it is written in {_opsets(left)}, and the model "
            f"in {_opsets(proto)}{f', where {op} may have another meaning' if op else ''}",
            where=where,
            remedy="export the model and its functions at one opset, or without functions",
        )
    # the remaining functions are not called
    del copy.functions[:]
    return copy


def _with_defaults(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Inline functions, callers first, with default attributes filled in, which ONNX's inliner does not do.

    Whether an inner call has an attribute is known only after its caller is inlined, since the attribute may refer to
    one of the caller's that is missing itself.
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
    """Add to every call in the graph the missing attributes with a default in its function."""
    defaults = {(one.domain, one.name, one.overload): one.attribute_proto for one in proto.functions}
    for node in all_nodes(proto.graph.node):
        given = {attribute.name for attribute in node.attribute}
        left = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(one for one in left if one.name not in given)


def _opsets(owner: onnx.ModelProto | onnx.FunctionProto) -> str:
    return ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in owner.opset_import)


def _written(function: onnx.FunctionProto, versions: Mapping[str, int]) -> Iterator[tuple[onnx.NodeProto, int, int]]:
    """The nodes of a function with another opset than the model's, with the function's and the model's version."""
    own = {entry.domain: entry.version for entry in function.opset_import}
    for node in all_nodes(function.node):
        if node.domain in own and versions.get(node.domain, own[node.domain]) != own[node.domain]:
            yield node, own[node.domain], versions[node.domain]


def _same(node: onnx.NodeProto, written: int, wanted: int) -> bool:
    """Whether a node means the same in the model's opset as in the function's, if ONNX knows its operator.

    New versions of an operator often only accept more types, such as Add from opset 14 on, or add an attribute whose
    default keeps the meaning. A version counts as a different operator if defaults differ, if inputs, outputs or
    attributes that the node uses differ, or if it does not accept a type of the old version.
    """
    try:
        old, new = (onnx.defs.get_schema(node.op_type, version, node.domain) for version in (written, wanted))
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    formals = (old.inputs, new.inputs, len(node.input)), (old.outputs, new.outputs, len(node.output))
    return _same_attributes(node, old, new) and all(_same_formals(*one) for one in formals)


def _same_attributes(node: onnx.NodeProto, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    given = {one.name for one in node.attribute}
    if given - new.attributes.keys():
        return False
    for name in old.attributes.keys() & new.attributes.keys():
        first, second = old.attributes[name], new.attributes[name]
        if (first.type, first.default_value) != (second.type, second.default_value):
            return False
        if first.required != second.required and name not in given:
            return False
    gained = old.attributes.keys() ^ new.attributes.keys()
    return gained <= {*given, *_KEEPS_MEANING.get(node.op_type, ())} and not gained & given


def _same_formals(
    old: Sequence[onnx.defs.OpSchema.FormalParameter], new: Sequence[onnx.defs.OpSchema.FormalParameter], used: int
) -> bool:
    """Whether the inputs or outputs that a node uses are the same in both versions, and no others are required."""
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    if any(one.option is variadic for one in (*old, *new)):
        return [(one.name, one.option) for one in old] == [(one.name, one.option) for one in new] and all(
            set(one.types) <= set(other.types) for one, other in zip(old, new)
        )
    if any(one.option is onnx.defs.OpSchema.FormalParameterOption.Single for one in new[used:]):
        return False
    # later versions may have longer names, such as input_mean instead of mean
    pairs = list(zip(old[:used], new[:used]))
    return len(pairs) == used and all(b.name.endswith(a.name) and set(a.types) <= set(b.types) for a, b in pairs)


def _called(nodes: Iterable[onnx.NodeProto], bodies: dict[Key, onnx.FunctionProto]) -> Counter[Key]:
    keys = ((node.domain, node.op_type, getattr(node, "overload", "")) for node in all_nodes(nodes))
    return Counter(key for key in keys if key in bodies)


def _depths(calls: dict[Key, Counter[Key]], where: str) -> dict[Key, int]:
    """The call depth of each function, 1 for one that calls none; functions come after those that they call."""
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
