"""Placement while groups switch between float and quantized: only decisions that a switch affects are made again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import onnx_graphsurgeon as gs

from toolkit.base.cells import Input, Network
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.pairs import Placement, Use
from toolkit.placement.place import Judge, PlacementRule, Placer


class Flips:
    """The decisions of a placement rule, kept up to date with the groups that stay in float.

    Args:
        placer: the rule that decides for all groups quantized.
        kept: for every group, whether it stays in float.
        refusal: returns why a tensor cannot have a pair, or None.

    Attributes:
        tensors: all activations that may get a pair.
    """

    def __init__(self, placer: Placer, kept: dict[str, Input[bool]], refusal: Callable[[str], Finding | None]) -> None:
        self._placer, self._kept, self._now = placer, kept, frozenset[str]()
        self.tensors = list(placer.activations)
        self._lacking = [tensor for tensor in self.tensors if refusal(tensor) is not None]

    @classmethod
    def of(
        cls,
        rule: PlacementRule,
        model: Model,
        facts: Facts,
        judge: Judge,
        groups: Collection[str],
        refusal: Callable[[str], Finding | None],
    ) -> Flips | None:
        """Flips for a rule; None if the rule is not ``place`` itself, whose dependencies are not known.

        Args:
            rule: says where pairs go.
            judge: returns why a node stays in float in any case, or None.
            groups: the layers that may be flipped.
            refusal: returns why a tensor cannot have a pair, or None.
        """
        kept = {name: Input(False) for name in groups}

        def judged(node: gs.Node) -> Finding | str | None:
            return Code.TRIAL() if node.name in kept and kept[node.name]() else judge(node)

        def all_float(node: gs.Node) -> Finding | str | None:
            return Code.TRIAL() if node.name in kept else judge(node)

        found = rule(model, facts, judged)
        if not isinstance(found.placer, Placer):
            return None
        flips = cls(found.placer, kept, refusal)
        ends: tuple[tuple[Collection[str], Judge], ...] = ((), judge), (groups, all_float)
        for state, plain in ends:
            flips.keep(state)
            if found.placer.placement() != rule(model, facts, plain):
                return None
        return flips

    @property
    def network(self) -> Network:
        """The network of decisions, to which values computed from them can be added."""
        return self._placer.network

    def keep(self, kept: Iterable[str]) -> bool:
        """Keep exactly these groups in float; returns whether every tensor that then needs a pair can have one."""
        now = frozenset(kept)
        for name in now ^ self._now:
            self._kept[name].set(name in now)
        self._now = now
        self.network.settle()
        return not any(self._placer.uses(tensor) for tensor in self._lacking)

    def placement(self, kept: Iterable[str]) -> Placement | None:
        """The placement with exactly these groups in float; None if a tensor that then needs a pair cannot have one."""
        if not self.keep(kept):
            return None
        found = self._placer.placement()
        found.placer = None
        return found

    def layer(self, name: str) -> bool:
        """Whether a node computes in the quantized type."""
        return self._placer.layer(name)

    def uses(self, tensor: str) -> set[Use]:
        """The node inputs that read the pair of an activation; empty if it has none."""
        return self._placer.uses(tensor)
