"""Requesting a float precision for a node so that it takes effect: its Q/DQ pairs are removed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.base.errors import RecipeError
from toolkit.base.precision import FLOATS, Precision
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.placement.clipped_weights import clamp_weights
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.ops import QUANTIZE
from toolkit.placement.qdq import bypass


def keep_float(
    context: Context, node: gs.Node, precision: Precision | str, why: Finding | str, wider: bool = False
) -> list[str]:
    """Request a float precision, and connect the node to the float inputs of its Q/DQ pairs.

    ``context.plan.ask`` alone leaves the pairs in place, and a TensorRT engine then runs the node quantized. Call
    ``model.tidy()`` after all requests: it drops the pairs that are no longer read. A weight that a pair of the source
    model clips is clamped to that pair's range, see ``clamp_weights``.

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
    if context.model is not None and context.source is not None:
        clamp_weights(context.model, _of_source(node, context.source), context.journal)
    freed = bypass(node, context.model)
    context.journal.changed(node.name, Code.REQUESTED(precision=asked, unquantized=freed), why)
    return freed


def _of_source(node: gs.Node, source: Model) -> list[gs.Node]:
    """The QuantizeLinears that a node reads through their DequantizeLinear and that the source model has too."""
    own = source.once("quantizers", lambda: {one.name for one, _ in source.walk() if one.op == QUANTIZE})
    backs = [back for tensor in node.inputs if (back := dequantizer(tensor)) is not None]
    quantizers = [back.inputs[0].inputs[0] for back in backs if back.inputs[0].inputs]
    return [one for one in quantizers if one.op == QUANTIZE and one.name in own]
