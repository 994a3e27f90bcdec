"""The layers that a source model's own Q/DQ pairs quantize, as requests in the plan."""

from __future__ import annotations

from toolkit.backends.attribution.flow import Flow
from toolkit.backends.codes import EngineCode
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.placement.ops import DEQUANTIZERS, MOVERS, PAIR_OPERATORS

BY_PAIRS = "the model's Q/DQ pairs"
"""The ``by`` of a node that a pair of the source model quantizes."""


def expect_kept_pairs(model: Model, source: Model, plan: PrecisionPlan) -> None:
    """Add the nodes that the source's own pairs quantize, and that no pass requested anything for, to the plan.

    Args:
        model: the graph after all passes.
        source: the model before any pass.
        plan: gets expectations, which constrain no builder.
    """
    own = {node.name for node, _ in source.walk() if node.op in DEQUANTIZERS}
    if not own:
        return
    flow, before = Flow(model), plan.by
    plan.by = BY_PAIRS
    for node, _ in model.walk():
        if node.op in PAIR_OPERATORS | MOVERS or node.name in plan:
            continue
        sources = [pair for pair in map(flow.source, node.inputs) if pair is not None]
        found = flow.verdict(node) if any(pair.name in own for pair in sources) else None
        if found is not None and found.precision is not None:
            plan.ask(node, found.precision, EngineCode.PAIRS_KEPT(why=found.reason), free=True)
    plan.by = before
