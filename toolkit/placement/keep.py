"""Requesting a float precision for a node so that it takes effect: its Q/DQ pairs are removed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.base.errors import RecipeError
from toolkit.base.precision import FLOATS, Precision
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.placement.qdq import bypass


def keep_float(
    context: Context, node: gs.Node, precision: Precision | str, why: Finding | str, wider: bool = False
) -> list[str]:
    """Request a float precision, and connect the node to the float inputs of its Q/DQ pairs.

    ``context.plan.ask`` alone leaves the pairs in place, and a TensorRT engine then runs the node quantized. Call
    ``model.tidy()`` after all requests: it drops the pairs that are no longer read.

    Args:
        context: its plan gets the request, its journal an entry.
        precision: fp16, bf16 or fp32.
        why: the reason, for the report.
        wider: whether a search may request fp32 instead if ``precision`` breaks the result.

    Returns:
        Names of the float tensors that the node reads instead of its pairs.

    Raises:
        RecipeError: ``precision`` is not a float type.
    """
    asked = Precision.named(precision)
    if asked not in FLOATS:
        floats = ", ".join(map(str, FLOATS))
        raise RecipeError(
            f"keep_float was asked for {asked} for node '{node.name}'", remedy=f"one of {floats}", value=str(asked)
        )
    context.plan.ask(node.name, asked, why, wider=wider)
    freed = bypass(node, context.model)
    context.journal.changed(node.name, Code.REQUESTED(precision=asked, unquantized=freed), why)
    return freed
