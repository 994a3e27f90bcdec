"""Pairs that are useless once a neighbouring layer is float: those of pools, Adds and Concats between layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_graphsurgeon as gs

from toolkit.base.cells import Input
from toolkit.base.errors import ModelError
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import node_name
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.codes import PlacementCode
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.obstacles import Obstacles
from toolkit.placement.ops import TARGETS
from toolkit.placement.pairs import Placement, Use, release_placer
from toolkit.placement.place import Placer
from toolkit.placement.qdq import bypass, without_pairs


def free_neighbours(context: Context, kept: Collection[str | gs.Node]) -> list[str]:
    """Remove pairs that were useful only next to layers that are now in float.

    A pool between two quantized layers, or the Add after them, has pairs that keep it in the quantized type; once one
    of the layers is float, these only cost time. Pairs that the placement rules never request, such as those of a
    source model, stay. Call it after ``keep_float``, and ``model.tidy()`` after it.

    Args:
        context: its model is changed; its plan loses the requests for these nodes, its journal gets an entry for each.
        kept: the nodes whose pairs ``keep_float`` removed, or their names.

    Returns:
        The nodes' names.
    """
    model = context.model
    if model is None:
        raise ModelError("free_neighbours was called outside a pass: the context has no model")
    facts = model.facts(context.profiles)
    freed = []
    for node, inputs, why in _left_alone(model, facts, [node_name(node) for node in kept]):
        tensors = bypass(node, model, inputs)
        if all(dequantizer(tensor) is None for tensor in node.inputs):
            context.plan.withdraw(node.name)
        context.journal.changed(node.name, PlacementCode.UNPAIRED(tensors=tensors), why)
        freed.append(node.name)
    return freed


def _left_alone(model: Model, facts: Facts, kept: Collection[str]) -> Iterator[tuple[gs.Node, list[int], Finding]]:
    """Nodes with pairs that are needed only if the kept nodes are quantized too: at which inputs, and why."""
    paired = {node.name for node in model.nodes if any(dequantizer(tensor) is not None for tensor in node.inputs)}
    others = paired - set(kept)
    lost, why = _lost(without_pairs(model), facts, others, kept)
    for node in model.nodes:
        read = [index for index, tensor in enumerate(node.inputs) if dequantizer(tensor) is not None]
        inputs = [index for index in read if Use(node.name, index) in lost]
        if inputs and node.name in others and node.op not in TARGETS:
            yield node, inputs, why.get(node.name, PlacementCode.BESIDE_FLOAT())


def _lost(
    plain: Model, facts: Facts, quantized: Collection[str], kept: Collection[str]
) -> tuple[set[Use], dict[str, Finding]]:
    """The pairs that are needed with the kept nodes quantized too, but not without them; and why, by node.

    Placement runs once: keeping nodes in float repeats only the decisions that depend on them.
    """
    states = {name: Input(True) for name in kept}

    def judge(node: gs.Node) -> Finding | None:
        state = states.get(node.name)
        pairs = state() if state is not None else node.name in quantized
        return None if pairs else Code.NOT_INCLUDED()

    placer = Placer(plain, facts, judge, Obstacles(plain, facts, True, None))
    before = _uses(placer.placement())
    for state in states.values():
        state.set(False)
    placer.network.settle()
    after = placer.placement()
    release_placer(after)
    return before - _uses(after), {refusal.node: refusal.why for refusal in after.refusals}


def _uses(placement: Placement) -> set[Use]:
    return {use for pair in placement.pairs.values() for use in pair.uses}
