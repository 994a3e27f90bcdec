"""Check of nodes against ONNX's operator schemas: number of inputs and outputs, and attributes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import onnx

from toolkit.base.errors import ModelError
from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, node_words

_OWN_TWINS = ("QuantizeLinear", "DequantizeLinear")
"""Operators of com.microsoft with the same name and inputs as in ONNX."""
_OF_ONE_PROCESSOR = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains of operators that onnxruntime's optimizer writes for one processor, with weights in its order."""


def check_nodes(proto: onnx.ModelProto, where: str) -> None:
    """Check every node whose operator is in ONNX; operators of other domains are not checked.

    Raises:
        ModelError: a node has too few or too many inputs or outputs, or an attribute is missing or has the wrong type,
            or the model was optimized for one processor.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    _check(proto.graph.node, versions, where)
    for function in proto.functions:
        own = {entry.domain: entry.version for entry in function.opset_import}
        _check(function.node, {**versions, **own}, where)


def _check(nodes: Iterable[onnx.NodeProto], versions: dict[str, int], where: str) -> None:
    version = versions.get("", versions.get("ai.onnx", 0))
    for node in all_nodes(nodes):
        if node.domain in _OF_ONE_PROCESSOR:
            raise ModelError(
                f"{node_words(node)} is of domain '{node.domain}': onnxruntime optimized the model for one processor",
                where=where,
                remedy="give the model as it was before, or save it with ORT_ENABLE_BASIC",
            )
        own = node.domain in ONNX_DOMAINS or (node.domain == "com.microsoft" and node.op_type in _OWN_TWINS)
        schema = _schema(node.op_type, version) if own else None
        fault = _fault(node, schema, version) if schema is not None else ""
        if fault:
            raise ModelError(f"{node_words(node)} {fault}", where=where, remedy="export the model again")


@lru_cache(maxsize=1024)
def _schema(op: str, version: int) -> Any:
    try:
        found = onnx.defs.get_schema(op, version, "")
    except Exception:
        return None
    return None if found.deprecated else found


def _fault(node: onnx.NodeProto, schema: Any, version: int) -> str:
    """Describe how a node violates its operator's schema; empty if it does not."""
    for side, names, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            asked = f"{least}" if least == most else f"{least} to {most}"
            return f"has {len(names)} {side}s, and in opset {version} ONNX has {asked}"
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for formal, name in zip(schema.inputs, node.input):
        if formal.option == single and not name:
            return f"has no input '{formal.name}'"
    for formal, name in zip(schema.outputs, node.output):
        if formal.option == single and not name:
            return f"does not name its output '{formal.name}'"
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, wanted in schema.attributes.items():
        attribute = given.get(name)
        if attribute is None and wanted.required:
            return f"has no attribute '{name}'"
        if attribute is not None and attribute.type != wanted.type.value:
            kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
            return f"has an attribute '{name}' of the type {kind}, and ONNX has {wanted.type.name}"
    return ""
