"""The precision that every ONNX node runs in, and why it differs from the requested one."""

from __future__ import annotations

from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model


def attribute(model: Model, build: Build, plan: PrecisionPlan) -> dict[str, Actual]:
    """One Actual for every node of the graph, including nodes in subgraphs.

    Args:
        model: the final graph, which was passed to the backend.
        build: the result of the backend's build.
        plan: the requested precisions; a node without a request is honoured whatever it runs in.

    Returns:
        Actual by node name. If requested and actual precision differ, there is always a reason.
    """
    if build.source == "network":
        from toolkit.backends.attribution.from_network import NetworkAttribution

        return NetworkAttribution(model, build, plan).all()
    if build.source == "inspector":
        from toolkit.backends.attribution.from_inspector import InspectorAttribution

        return InspectorAttribution(model, build, plan).all()
    reason = EngineCode.NOT_BUILT() if build.engine is None else EngineCode.LAYERS_NOT_KNOWN()
    return dict.fromkeys(model.node_names(), Actual(None, reason=reason))
