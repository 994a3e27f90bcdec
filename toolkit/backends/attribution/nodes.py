"""What every ONNX node runs in, and why that differs from what was asked."""

from __future__ import annotations

from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model


def attribute(model: Model, build: Build, plan: PrecisionPlan) -> dict[str, Actual]:
    """One Actual for every node of the graph, nodes inside subgraphs included.

    Args:
        model: the final graph, the one that was handed to the backend.
        build: what the backend made of it.
        plan: what was asked of each node; a node without a request is honoured in whatever it runs in.

    Returns:
        Node name to Actual. Where asked and actual differ there is always a reason.
    """
    if build.source == "network":
        from toolkit.backends.attribution.from_network import NetworkAttribution

        return NetworkAttribution(model, build, plan).all()
    if build.source == "inspector":
        from toolkit.backends.attribution.from_inspector import InspectorAttribution

        return InspectorAttribution(model, build, plan).all()
    reason = EngineCode.NOT_BUILT() if build.engine is None else EngineCode.LAYERS_NOT_KNOWN()
    return dict.fromkeys(model.node_names(), Actual(None, reason=reason))
