"""Whether a node runs in the requested precision, and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from toolkit.backends.attribution.flow import Flow
from toolkit.backends.codes import EngineCode
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding


@dataclass(frozen=True)
class NodeRequest:
    """A node and the precision requested for it; None without a request."""

    node: gs.Node
    precision: Precision | None


def compare(
    asked: NodeRequest, actual: Precision | None, note: Finding | None, flow: Flow, word: Callable[[gs.Tensor], str]
) -> tuple[str, Finding | None]:
    """Status and reason of a node that the engine runs.

    Args:
        actual: the precision that the node computes in; None if it computes no floats.
        note: what is known about how the node runs.
        flow: the Q/DQ pairs of the graph.
        word: returns the type of a tensor in the engine.

    Returns:
        ``honoured`` or ``overridden``, and a reason, which is never None if requested and actual precision differ.
    """
    wanted, node = asked.precision, asked.node
    if wanted is None or wanted is actual:
        return "honoured", note
    if actual is None:
        return "honoured", EngineCode.PRECISION_NOT_APPLICABLE(
            asked=wanted, why=note or EngineCode.COMPUTES_NO_FLOATS()
        )
    if wanted.quantized:
        why = EngineCode.INPUTS_QUANTIZED_TO(precision=actual) if actual.quantized else flow.verdict(node).reason
    elif actual.quantized:
        why = note or EngineCode.INPUTS_QUANTIZED(by=())
    elif note:
        return "overridden", note
    elif node.op == "Cast":
        return "overridden", EngineCode.CAST_TO(precision=actual)
    else:
        inputs = [t.name for t in node.inputs if word(t) == actual]
        why = (
            EngineCode.INPUT_IS(input=inputs[0], precision=actual) if inputs else EngineCode.OUTPUT_IS(precision=actual)
        )
    return "overridden", EngineCode.RUNS_IN(precision=actual, why=why)
