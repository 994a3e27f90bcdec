"""Which helper passes can work on a layer: found by trying them on a copy, not by a second copy of their rules."""

from __future__ import annotations

from functools import cached_property

from toolkit.base.errors import QtoolError
from toolkit.contract.passes import Context, configure, find
from toolkit.graph.model import Model


class Helpers:
    """What equalize and smooth can do for the layers of one model.

    Args:
        model: the float model; not changed.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def passes(self, name: str) -> list[str]:
        """The helper passes that can work on the tensor that a layer reads."""
        return (["equalize"] if self.equalizes(name) else []) + (["smooth"] if self.smooths(name) else [])

    def equalizes(self, name: str) -> bool:
        """Whether equalize can change the channels that a layer reads."""
        return name in self._equalized

    def smooths(self, name: str) -> bool:
        """Whether smooth can move a layer's channels into its weights: a constant weight of its own."""
        node = self.model.node(name)
        if node.op not in ("MatMul", "Gemm", "Conv") or node.attrs.get("transA", 0) or len(node.inputs) < 2:
            return False
        weight = self.model.constant(node.inputs[1])
        computed = self.model.constant(node.inputs[0]) is None
        return weight is not None and computed and len(node.inputs[1].outputs) == 1 and weight.ndim >= 2

    @cached_property
    def _equalized(self) -> set[str]:
        """Layers whose input channels equalize scales: those that come second in one of its pairs."""
        trial, context = self.model.copy(), Context()
        before = {node.name: node.inputs[1].name for node in trial.nodes if len(node.inputs) > 1}
        try:
            configure(find("equalize"), {"measure": False, "rounds": 1})(trial, context)
        except QtoolError:
            return set()
        first = {event.node for event in context.journal.of("changed")}
        changed = {n.name for n in trial.nodes if len(n.inputs) > 1 and before.get(n.name) != n.inputs[1].name}
        return {name for name in changed if name not in first or self._behind(name, first)}

    def _behind(self, name: str, first: set[str]) -> bool:
        """Whether the way up from a layer's input meets the first layer of a pair before anything branches."""
        tensor = self.model.node(name).inputs[0]
        while tensor.inputs:
            node = tensor.inputs[0]
            if node.name in first:
                return True
            if len(node.outputs[0].outputs) != 1 or not node.inputs:
                return False
            tensor = node.inputs[0]
        return False
