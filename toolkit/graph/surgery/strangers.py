"""Operators of a graph's nodes as a message names them; see ``toolkit.graph.proto.strangers``."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.graph.proto.strangers import APART, called


def op_type(node: gs.Node) -> str:
    """A node's operator as a message names it, without its domain."""
    name = node.op.removeprefix(f"{node.domain}{APART}") if node.domain else node.op
    return str(name if called(node.domain, name) == node.op else node.op)
