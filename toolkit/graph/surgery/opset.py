"""Opsets: conversion of a graph to a newer one, and operators that no version of ONNX has."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, lru_cache

import onnx
import onnx_graphsurgeon as gs

from toolkit.base.errors import ModelError
from toolkit.base.text import on_one_line
from toolkit.graph.proto.light import large_header, weights_as_inputs
from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, operators_of, opset_of
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.export import NodeMessages, export
from toolkit.graph.surgery.importing import import_light
from toolkit.graph.surgery.normalise import NEWEST_OPSET, normalise
from toolkit.graph.surgery.opset_semantics import keep_semantics
from toolkit.graph.surgery.tensors import onnx_type

_OWN_DOMAINS = ONNX_DOMAINS | {"ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training"}
_FOREIGN = "qtool.foreign"
_EARLY = frozenset({"LayerNormalization"})
"""Operators that onnxruntime computes in models of opsets before ONNX had them, with the same meaning: its optimizer
writes them into models of any opset."""
SAME_FROM = {
    "Cast": 13, "Constant": 13, "ConstantOfShape": 9, "Conv": 11, "DequantizeLinear": 13, "Equal": 13, "Flatten": 13,
    "Identity": 13, "If": 11, "Loop": 13, "Pad": 18, "QuantizeLinear": 13, "Reshape": 13, "Scan": 11,
    "ScatterElements": 16, "ScatterND": 16, "Shape": 13, "Size": 13, "Squeeze": 13, "Transpose": 13, "Unsqueeze": 13,
}  # fmt: skip
"""Operators whose later definitions, from that opset on, differ only in accepted types, and in attributes whose
defaults
keep the earlier meaning (ONNX's Changelog.md)."""
_PER_CHANNEL = 21
"""The opset from which GroupNormalization has another meaning (ONNX's Changelog.md, GroupNormalization-21)."""


def name_foreign(
    proto: onnx.ModelProto, withdrawn: bool = False, operators: Collection[tuple[str, str]] | None = None
) -> bool:
    """Move operators in ONNX's domains that no version of ONNX has, or none so early, to another domain, in place.

    TensorRT's plugins use ONNX's own domain, where checker and converter refuse unknown operators.

    Args:
        withdrawn: whether to include operators that ONNX deprecated in the model's opset, such as GroupNormalization in
            18 to 20, which runtimes still compute.
        operators: domain and name of all operators in the model, if known.

    Returns:
        Whether there were any.
    """
    version = opset_of(proto) or 1
    foreign = {
        (domain, op)
        for domain, op in (operators if operators is not None else operators_of(proto))
        if is_foreign(domain, op)
        or (domain in ONNX_DOMAINS and (_early(op, version) or (withdrawn and _withdrawn(op, version))))
    }
    if not foreign:
        return False
    for node in all_nodes(proto.graph.node):
        if (node.domain, node.op_type) in foreign:
            node.domain = _FOREIGN
    proto.opset_import.add(domain=_FOREIGN, version=1)
    return True


def is_foreign(domain: str, op: str) -> bool:
    """Whether an operator is in one of ONNX's own domains, but unknown to ONNX.

    Operators registered with ``onnx.defs.register_schema`` count as ONNX's while they are registered.
    """
    return domain in _OWN_DOMAINS and not onnx.defs.has(op, "" if domain in ONNX_DOMAINS else domain)


def known_operators(domain: str) -> frozenset[str]:
    """The names of all operators in one of ONNX's domains, of any version; empty for other domains."""
    domain = "" if domain in ONNX_DOMAINS else domain
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == domain)


def _restore_foreign(proto: onnx.ModelProto) -> None:
    """Undo ``name_foreign``, in place."""
    for node in all_nodes(proto.graph.node):
        node.domain = "" if node.domain == _FOREIGN else node.domain
    kept = [entry for entry in proto.opset_import if entry.domain != _FOREIGN]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


@lru_cache(maxsize=1024)
def _withdrawn(op: str, version: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(op, version, "").deprecated)
    except onnx.defs.SchemaError:
        return False


def _early(op: str, version: int) -> bool:
    """Whether an opset has no such operator yet, although models of that opset have it, see ``_EARLY``."""
    return op in _EARLY and not onnx.defs.has(op, version, "")


def convert_opset(model: gs.Graph, target: int, where: str, known: NodeMessages | None = None) -> gs.Graph:
    """Convert a graph to a newer opset with ONNX's version converter; large weights are not copied.

    ``known`` has cached messages of nodes.

    Raises:
        ModelError: the converter does not support one of the operators, or there is no such opset.
    """
    if target > NEWEST_OPSET:
        what = f"opset {target} is requested, and {NEWEST_OPSET} is the newest that qtool knows"
        raise ModelError(what, where=where, remedy="ask for an older one")
    light = export(model, where, known)
    own = [node for node in all_nodes(light.proto.graph.node) if node.domain in ONNX_DOMAINS]
    groups = [node.name for node in own if operator_of(node) == "GroupNormalization"]
    if groups and model.opset < _PER_CHANNEL <= target:
        raise ModelError(
            f"opset {model.opset} cannot be raised to {target}: node '{groups[0]}' (GroupNormalization) has a scale "
            f"per group, and from opset {_PER_CHANNEL} on one per channel, which ONNX's converter gets wrong",
            where=where,
            remedy=f"export the model at opset {_PER_CHANNEL} or later, or at 17",
        )
    light.proto.ir_version = max(model.ir_version or 0, 8)
    given = [value.name for value in light.proto.graph.input]
    proto = weights_as_inputs(light.proto, light.weights)
    foreign = name_foreign(proto)
    try:
        converted = onnx.version_converter.convert_version(proto, target)
    except Exception as error:
        raise ModelError(
            f"opset {model.opset} cannot be raised to {target}: {on_one_line(str(error), 300)}",
            where=where,
            remedy=f"export the model at opset {target} or later",
        ) from error
    if foreign:
        _restore_foreign(converted)
    keep_semantics(converted, model.opset, target)
    inputs = [value for value in converted.graph.input if value.name in given]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.graph.initializer.extend(
        large_header(name, onnx_type(values.dtype), tuple(values.shape)) for name, values in light.weights.items()
    )
    light.proto, _ = normalise(converted, where)
    return import_light(light.lighten())


def renumbered(graph: gs.Graph, target: int) -> bool:
    """Change only the opset's number, in place, if all operators of a graph mean the same in both opsets.

    Returns:
        Whether they do; otherwise nothing is changed.
    """
    ops = {node.op for node, _ in assemble.walk(graph) if node.domain in ONNX_DOMAINS and onnx.defs.has(node.op)}
    if graph.functions or any(_meaning(op, graph.opset) != _meaning(op, target) for op in ops):
        return False
    graph.import_domains = [
        onnx.helper.make_opsetid(one.domain, target if one.domain in ONNX_DOMAINS else one.version)
        for one in graph.import_domains or [onnx.helper.make_opsetid("", target)]
    ]
    for one in (graph, *assemble.subgraphs(graph)):
        one.opset = target
    return True


@cache
def _meaning(op: str, opset: int) -> int:
    """The opset that introduced an operator's meaning in this opset; 0 if it does not exist in this one."""
    try:
        since = int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0
    same = SAME_FROM.get(op, since)
    return same if since >= same else since
