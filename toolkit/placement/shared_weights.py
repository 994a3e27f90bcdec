"""Layers that share a weight, such as the branches of a siamese network, but are to run in different precisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.placement.codes import PlacementCode
from toolkit.placement.ops import TARGETS

_PASSING = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})


def shared_unlike(source: Model, final: Model, plan: PrecisionPlan, rest: Precision) -> Finding | None:
    """A finding if layers that share a weight are to run in different precisions; else None.

    This is legal: the engine stores the weight in each precision. But the branches then round differently, so that
    their errors do not cancel.

    Args:
        source: the model before the passes, which may have copied weights.
        final: the graph after them.
        rest: the type of all layers without a request.
    """
    there = {node.name for node, _ in final.walk()}
    layers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node, _ in source.walk():
        if node.op in TARGETS and node.name in there:
            for weight in dict.fromkeys(_weights(source, node)):
                layers[weight, node.op].append(node.name)
    found: list[tuple[str, list[str], list[Precision]]] = []
    for (weight, _), names in layers.items():
        asks = [plan.get(name) for name in names]
        precisions = [ask.precision if ask is not None else rest for ask in asks]
        if len(set(precisions)) > 1 and any(one.quantized for one in precisions):
            found.append((weight, names, precisions))
    if not found:
        return None
    weight, names, precisions = found[0]
    return PlacementCode.SHARED_UNLIKE(
        weights=[one[0] for one in found], nodes=names, precisions=[str(one) for one in precisions],
        layers=list(dict.fromkeys(name for one in found for name in one[1])),
    )  # fmt: skip


def _weights(model: Model, node: gs.Node) -> Iterator[str]:
    """Names of the constants with at least two dimensions that a layer reads, also through a Transpose."""
    for tensor in node.inputs:
        while model.constant(tensor) is None and (maker := model.producer(tensor)) is not None:
            if maker.op not in _PASSING:
                break
            tensor = maker.inputs[0]
        value = model.constant(tensor)
        if value is not None and value.ndim > 1:
            yield tensor.name
