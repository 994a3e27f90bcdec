"""Placement when some activations have no range: nodes that would need one stay in float."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.pairs import Placement
from toolkit.placement.place import Judge, PlacementRule


def place_ranged(
    placer: PlacementRule, model: Model, facts: Facts, judge: Judge, refusal: Callable[[str], Finding | None]
) -> tuple[Placement, dict[str, Finding]]:
    """Place pairs so that every activation that gets one has a range.

    Args:
        placer: the rule that decides where pairs go.
        model: the graph; not changed.
        judge: returns why a node stays in float in any case, or None.
        refusal: returns why a tensor cannot have a pair, or None.

    Returns:
        The placement, and the nodes that stay in float for lack of a range, each with the reason.
    """
    lacking: dict[str, Finding] = {}

    def allowed(node: gs.Node) -> Finding | str | None:
        return judge(node) or lacking.get(node.name)

    while True:
        placement, before = placer(model, facts, allowed), len(lacking)
        for pair in placement.pairs.values():
            why = refusal(pair.tensor) if placement.needs_range(pair) else None
            if why is not None:
                lacking.update(dict.fromkeys((use.node for use in pair.uses), why))
        if len(lacking) == before:
            return placement, lacking
