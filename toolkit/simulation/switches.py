"""The active pairs and their scales for any set of layers kept in float: exactly those that placement would insert."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.errors import PassError, did_you_mean
from toolkit.base.parts import along, parts_of
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration.weights import weight_amax
from toolkit.contract.findings import Code, Finding
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.dequantized import source
from toolkit.placement.flips import Flips
from toolkit.placement.grid import on_grid, spread
from toolkit.placement.ops import ADDS, TARGETS
from toolkit.placement.pairs import Placement
from toolkit.placement.place import Judge, PlacementRule, place
from toolkit.placement.qdq import storable_scale
from toolkit.placement.ranged import place_ranged
from toolkit.placement.scales import share_amax

_CANDIDATE = Code.TRIAL()
_PLACEMENTS = 256
"""The most placements to keep: each takes a kilobyte per layer, and sensitivity alone needs two per layer."""
_FROM_SCRATCH = 4
"""Placements to make from scratch before following flips, whose preparation takes about as long."""


@dataclass(frozen=True)
class Config:
    """One state of the simulation.

    Attributes:
        on: switches that are on: names of quantized layers, and ``node#index`` of other inputs that read a pair.
        scales: scale by activation tensor, for the tensors that an active switch reads.
    """

    on: frozenset[str] = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A quantizable layer with the tensors whose pairs it needs.

    Attributes:
        name: the layer's node name.
        op: its operator.
        tensors: the tensors whose pairs it reads or requires.
    """

    name: str
    op: str
    tensors: tuple[str, ...]


class Switches:
    """The quantizable groups of a model, and the pairs of any subset of them.

    Args:
        model: the float graph, at an opset with the required Q/DQ operators.
        facts: types and shapes of the graph.
        amax: by activation tensor; readers of a tensor without amax stay in float.
        judge: decides which nodes stay in float in any case, by user's settings and the plan.
        placer: decides where to insert pairs.
    """

    def __init__(
        self,
        model: Model,
        facts: Facts,
        amax: Mapping[str, float],
        precision: Precision = Precision.INT8,
        judge: Judge | None = None,
        placer: PlacementRule = place,
    ) -> None:
        self.model, self.facts, self.precision = model, facts, precision
        self.amax = dict(amax)
        self._judge, self._placer = judge, placer
        self._placements: dict[frozenset[str], Placement] = {}
        self._only: dict[frozenset[str], Config] = {}
        self._seen: dict[str, list[int]] = {}
        self.tensors = model.graph.tensors()
        self.nodes = {node.name: node for node in model.nodes}
        self.full = self._place(frozenset())
        wanted = {use.node for pair in self.full.pairs.values() for use in pair.uses}
        self.groups = [
            Group(name, self.nodes[name].op, tuple(dict.fromkeys(tensors)))
            for name, tensors in self.full.groups.items()
            if name in wanted and self.nodes[name].op in TARGETS
        ]
        self.names = [group.name for group in self.groups]
        self._known = frozenset(self.names)
        self._see(self.full)

    def with_amax(self, amax: Mapping[str, float]) -> Switches:
        """The same switches with other ranges of some tensors."""
        twin = copy.copy(self)
        twin.amax, twin._only = {**self.amax, **amax}, {}
        return twin

    def placement(self, kept: Iterable[str]) -> Placement:
        """The placement of pairs with these groups in float.

        Raises:
            PassError: a name is not a group of this model.
        """
        key = frozenset(kept)
        for name in sorted(key - self._known):
            raise PassError(f"'{name}' is not a quantizable layer", remedy=did_you_mean(name, self.names))
        if key not in self._placements:
            if len(self._placements) >= _PLACEMENTS:
                del self._placements[next(iter(self._placements))]
            self._placements[key] = self._followed(key) or self._place(key)
            self._see(self._placements[key])
        return self._placements[key]

    def config(self, kept: Iterable[str], amax: Mapping[str, float] | None = None) -> Config:
        """The state with all groups but ``kept`` quantized; ``amax`` replaces the ranges of single tensors."""
        placement = self.placement(kept)
        return self._config(placement, amax or {})

    def alone(self, group: str, amax: Mapping[str, float] | None = None) -> Config:
        """The state with only this group quantized."""
        return self.only([group], amax)

    def only(self, groups: Collection[str], amax: Mapping[str, float] | None = None) -> Config:
        """The state with only these groups quantized."""
        if amax:
            return self.config(self._known.difference(groups), amax)
        # a placement is large and takes long, while the states of single layers are small and asked for repeatedly
        if (key := frozenset(groups)) not in self._only:
            self._only[key] = self.config(self._known - key)
        return self._only[key]

    @property
    def uses(self) -> dict[str, list[int]]:
        """Inputs outside the groups that any state so far quantizes: indices by node."""
        return {node: list(indices) for node, indices in self._seen.items()}

    @cached_property
    def flips(self) -> Flips | None:
        """Incremental placement from that of the last subset requested; None if the rule does not support it."""
        judge = self._judge or (lambda node: None)
        return Flips.of(self._placer, self.model, self.facts, judge, self.names, self._refusal)

    def _see(self, placement: Placement) -> None:
        for pair in placement.pairs.values():
            for use in pair.uses:
                if use.node not in self._known and use.index not in self._seen.setdefault(use.node, []):
                    self._seen[use.node].append(use.index)

    def _followed(self, kept: frozenset[str]) -> Placement | None:
        """The placement that follows from the last one by flips; None if it has to be made from scratch."""
        flips = self.flips if len(self._placements) >= _FROM_SCRATCH else None
        return flips.placement(kept) if flips is not None else None

    def _place(self, kept: frozenset[str]) -> Placement:
        def judge(node: gs.Node) -> Finding | str | None:
            if node.name in kept:
                return _CANDIDATE
            return self._judge(node) if self._judge is not None else None

        # either branch of a residual Add may need a pair, and given ranges need not include both
        found = place_ranged(self._placer, self.model, self.facts, judge, self._refusal)[0]
        # hundreds of placements are kept, and their placers are not needed again
        found.placer = None
        return found

    def _refusal(self, tensor: str) -> Finding | None:
        return None if tensor in self.amax else Code.NO_RANGE(tensor=tensor)

    def _config(self, placement: Placement, replaced: Mapping[str, float]) -> Config:
        amax = {name: float(replaced.get(name, self.amax[name])) for name in placement.activations}
        share_amax(self.model, placement, amax, self.precision)
        on: set[str] = set()
        scales: dict[str, float] = {}
        for pair in placement.pairs.values():
            others = [use for use in pair.uses if use.node not in self._known]
            on |= {use.node for use in pair.uses if use.node in self._known}
            on |= {f"{use.node}#{use.index}" for use in others}
            if not pair.weight:
                known = amax[pair.tensor] if placement.needs_range(pair) else self.precision.max
                scales[pair.tensor] = float(storable_scale(known, self.precision)[0])
            elif others:
                values = self.model.constant(self.tensors[pair.tensor])
                assert values is not None
                scales[pair.tensor] = float(storable_scale(weight_amax(values, None), self.precision).max())
        return Config(frozenset(on), scales)


def wanted_tensors(model: Model, facts: Facts, judge: Judge | None = None, placer: PlacementRule = place) -> list[str]:
    """Activation tensors that some subset of the groups quantizes, so their ranges are needed.

    They include both branches of a residual Add: which one gets the pair depends on the convolution that stays in
    float.
    """
    full = placer(model, facts, judge or (lambda node: None))
    nodes = {node.name: node for node in model.nodes}
    wanted = dict.fromkeys(full.activations)
    for name in full.layers:
        if nodes[name].op in ADDS:
            wanted.update(dict.fromkeys(source(t).name for t in nodes[name].inputs if model.constant(t) is None))
    return list(wanted)


def fake_quantized(values: Array, scale: Array, axis: int | None, precision: Precision, block: int = 0) -> Array:
    """Weights quantized and dequantized, as QuantizeLinear and DequantizeLinear compute it.

    Args:
        values: float weights.
        scale: float32 [1], or [channels] with ``axis``; with ``block`` an array of the weights' rank.
        axis: the axis of the channels or blocks.
        precision: the quantized type; see ``on_grid``.
        block: number of values along ``axis`` per scale; 0 for one scale per channel.
    """
    if not values.ndim:
        return fake_quantized(values.reshape(1), scale, None, precision).reshape(())
    wide, made = spread(scale.astype(np.float32), values, axis, block), np.empty_like(values)
    for part in parts_of(values):
        own = along(part, wide, values)
        made[part] = on_grid(values[part].astype(np.float32) / own, precision) * own
    return made
