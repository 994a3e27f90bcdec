"""Why a node does not run in what was asked, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from toolkit.backends.flow import Flow
from toolkit.base.precision import Precision


@dataclass(frozen=True)
class NodeRequest:
    """A node and the precision asked for it, None where nobody asked."""

    node: gs.Node
    precision: Precision | None


def compare(
    asked: NodeRequest, actual: Precision | None, note: str, flow: Flow, word: Callable[[gs.Tensor], str]
) -> tuple[str, str]:
    """Status and reason of a node that the engine runs.

    Args:
        asked: what was asked.
        actual: what it computes in; None for what computes no floats.
        note: what is known of how the node runs.
        flow: the Q/DQ pairs of the graph.
        word: the type that a tensor has in the engine.

    Returns:
        ``honoured`` or ``overridden``, and a reason: never empty where asked and actual differ.
    """
    wanted, node = asked.precision, asked.node
    if wanted is None or wanted is actual:
        return "honoured", note
    if actual is None:
        return "honoured", f"{note or 'it computes no floats'}, so {wanted} does not apply"
    if wanted.quantized:
        why = f"its inputs are quantized to {actual}" if actual.quantized else flow.verdict(node).reason
        return "overridden", f"runs in {actual}: {why}"
    if actual.quantized:
        return "overridden", f"runs in {actual}: {note or 'all its inputs are quantized'}"
    if note:
        return "overridden", note
    if node.op == "Cast":
        return "overridden", f"the model's Cast is to {actual}"
    inputs = [t.name for t in node.inputs if word(t) == actual]
    if inputs:
        return "overridden", f"runs in {actual}: its input '{inputs[0]}' is {actual} in the final graph"
    return "overridden", f"runs in {actual}: that is the type of its output in the final graph"
