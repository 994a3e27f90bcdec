"""Operators of other domains that have the name of one of ONNX's, such as ``com.me::Conv``, and what they are called.

Rules tell operators by a node's ``op`` alone. In a graph, such an operator is therefore called by its domain and name,
so that it is taken for ONNX's nowhere; in a message it has both apart.
"""

from __future__ import annotations

from functools import cache

import onnx.defs
import onnx_graphsurgeon as gs

from toolkit.base.block_operators import QTOOL, TENSORRT
from toolkit.graph.proto.nodes import ONNX_DOMAINS

_KNOWN = ONNX_DOMAINS | {TENSORRT, "com.microsoft"}
"""Domains whose operators the rules know; onnxruntime's and TensorRT's have ONNX's operators too, for other types."""
_FAMILIES = ("com.microsoft.", "com.ms.", f"{QTOOL}.")
"""First words of domains that are known, with all within them."""
_APART = "::"


def called(domain: str | None, op: str) -> str:
    """What a graph calls an operator: its name, with the domain if that is unknown and ONNX has one of that name.

    Args:
        domain: the operator's domain; empty or None for ONNX's own.
        op: the operator's name in a message.
    """
    if not domain or domain in _KNOWN or f"{domain}.".startswith(_FAMILIES):
        return op
    # a message may have the domain in the name too
    domains = _domains_of().get(op.rpartition(_APART)[2], ())
    return f"{domain}{_APART}{op}" if domains and domain not in domains else op


def op_type(node: gs.Node) -> str:
    """A node's operator as a message names it, without its domain."""
    name = node.op.removeprefix(f"{node.domain}{_APART}") if node.domain else node.op
    return str(name if called(node.domain, name) == node.op else node.op)


@cache
def _domains_of() -> dict[str, set[str]]:
    """For the name of each operator in ONNX's domains, of any version, the domains that have it."""
    found: dict[str, set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault(schema.name, set()).add(schema.domain)
    return found
