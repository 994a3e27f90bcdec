"""Predicted latency of a plan: a roofline for every layer, and the traffic of conversions between precisions.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 2009: a layer takes
max(2 macs / rate, bytes / bandwidth), the larger of its arithmetic at the peak rate and its traffic at the peak
bandwidth. A tensor that a quantized layer writes and only quantized layers read is stored in eight bits; otherwise its
quantization is a separate pass over memory, so islands of INT8 are charged for it. Absolute times are optimistic; only
differences are used.
Measured layer times replace the roofline. Layers without a measured time take their roofline times the median of
measured over predicted; the quantization of a tensor at a border is a separate kernel, at the roofline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from functools import cached_property, partial
from statistics import median

import onnx_graphsurgeon as gs

from toolkit.base.cells import Cell
from toolkit.base.precision import Precision
from toolkit.graph.layers.forms import Forms, constant_affine
from toolkit.graph.layers.macs import macs, shape_of
from toolkit.graph.layers.work import Work, work_of
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.flips import Flips
from toolkit.placement.ops import ACTIVATIONS, ADDS, FOLDED, MOVERS, TARGETS
from toolkit.placement.pairs import Placement, Use
from toolkit.search.cost.gpus import GpuSpec
from toolkit.search.cost.layer_times import LayerTimes
from toolkit.simulation.switches import Switches

LAUNCH = 2e-6
"""The shortest time of a kernel in seconds; measured gaps between small kernels are 1.5 to 3 microseconds."""

Small = Callable[[str], bool]
"""Whether a tensor is quantized and written in eight bits by the layer that produces it."""


_FLIPPED = 4
"""The largest number of passes over all groups, flipping one at a time, in the search for the fastest plan."""


class _Placed:
    """The parts of a placement that the cost model needs."""

    def __init__(self, placement: Placement, cost: CostModel) -> None:
        self._layers, self._cost = placement.layers, cost
        self._small: dict[str, bool] = {}
        self._uses = {pair.tensor: set(pair.uses) for pair in placement.pairs.values() if not pair.weight}
        self.tensors = list(self._uses)

    def layer(self, name: str) -> bool:
        return name in self._layers

    def uses(self, tensor: str) -> set[Use]:
        return self._uses.get(tensor, set())

    def small(self, tensor: str) -> bool:
        if tensor not in self._small:
            self._small[tensor] = self._cost.is_small(tensor, self.uses(tensor), self.layer)
        return self._small[tensor]


class _Terms:
    """``_Placed`` for flips of groups, and the terms of a plan's time; a flip recomputes only terms that it changes."""

    def __init__(self, flips: Flips, cost: CostModel) -> None:
        self.keep, self.layer, self.uses = flips.keep, flips.layer, flips.uses
        add = flips.network.add
        self._cost, self._small = cost, dict[str, Cell[bool]]()
        for tensor in flips.tensors:
            self._small[tensor] = add(partial(self._is_small, tensor))
        self._layers = [add(partial(self._layer_term, node)) for node in cost.heavy]
        self._borders = [add(partial(cost.border_term, tensor, self)) for tensor in flips.tensors]

    def _is_small(self, tensor: str) -> bool:
        return self._cost.is_small(tensor, self.uses(tensor), self.layer)

    def _layer_term(self, node: gs.Node) -> tuple[bool, float]:
        return self._cost.layer_term(node, self.layer(node.name), self.small)

    def small(self, tensor: str) -> bool:
        return tensor in self._small and self._small[tensor]()

    def layers(self) -> list[tuple[bool, float]]:
        """``CostModel.layer_term`` of every layer."""
        return [cell() for cell in self._layers]

    def borders(self) -> list[float]:
        """``CostModel.border_term`` of every tensor that needs a separate kernel."""
        return [term for cell in self._borders if (term := cell()) is not None]


class CostModel:
    """Predicts the latency of plans of one model at one shape.

    Args:
        switches: the model, its groups, and the placement for each subset of them.
        facts: shapes at the profile's opt.
        gpu: the GPU's peak rates.
        rest: the float precision of everything that is not quantized.
        times: measured times; they replace the roofline of these layers.
        work: every node's share of the arithmetic; computed from ``facts`` if None.
        others: nodes that other passes have quantized to the same type.
        named: whether the user asked for times, on this GPU or on any.
    """

    def __init__(
        self,
        switches: Switches,
        facts: Facts,
        gpu: GpuSpec,
        rest: Precision = Precision.FP16,
        times: LayerTimes | None = None,
        work: Work | None = None,
        others: Collection[str] = (),
        named: bool = True,
    ) -> None:
        self.named = named
        self.switches, self.facts, self.gpu, self.rest = switches, facts, gpu, rest
        self.model: Model = switches.model
        self.forms = Forms(self.model, facts)
        self.times = times or LayerTimes()
        self.work, self.others = work or work_of(self.model, facts), frozenset(others)
        self.macs = {name: macs(switches.nodes[name], facts) or 0 for name in switches.names}
        self._prices: dict[str, float] = {}
        self.heavy = [node for node in self.model.nodes if node.op in TARGETS]
        self._whole: dict[frozenset[str], float] = {}
        self._outputs = {t.name for t in self.model.graph.outputs}

    @property
    def place(self) -> str:
        """The name of the GPU that times are for; empty if times were neither requested nor measured.

        In that case predictions only order plans and are not for any actual GPU.
        """
        return self.times.gpu or (self.gpu.name if self.named or self.times.seconds else "")

    def learn(self, kept: Iterable[str], seconds: float) -> None:
        """Use the measured time of a whole plan, in seconds, in place of its prediction."""
        self._whole[frozenset(kept)] = seconds

    def time(self, kept: Iterable[str] = (), launch: float = LAUNCH) -> float:
        """Seconds of the plan that keeps these groups float; nodes that no plan changes count only if measured.

        Args:
            kept: the groups that stay float.
            launch: seconds that every kernel takes in addition, if it was not measured.
        """
        kept = frozenset(kept)
        return self._whole[kept] if kept in self._whole else sum(self._parts(kept, launch))

    def idle(self, kept: Collection[str]) -> set[str]:
        """The groups kept float that would make the plan no faster if they were quantized."""
        time = self.time(kept)
        return {name for name in kept if self.time(other for other in kept if other != name) >= time}

    def least_time(self) -> float | None:
        """Seconds of the fastest plan found by flips of single groups, from full quantization and from no quantization.

        None if every flip would require placing all pairs again.
        """
        if self._terms is None:
            return None
        names, found = self.switches.names, []
        for kept in (frozenset[str](), frozenset(names)):
            seconds, better = self.time(kept), True
            for _ in range(_FLIPPED):
                if not better:
                    break
                better = False
                for name in names:
                    flipped = kept ^ {name}
                    if (time := self.time(flipped)) < seconds:
                        kept, seconds, better = flipped, time, True
            found.append(seconds)
        return min(found)

    def measured_share(self, kept: Iterable[str] = ()) -> float:
        """Share of the plan's time that was measured rather than predicted, 0 to 1."""
        kept = frozenset(kept)
        if kept in self._whole:
            return 1.0
        measured, predicted = self._parts(kept, LAUNCH)
        return measured / (measured + predicted) if measured else 0.0

    @cached_property
    def scale(self) -> float:
        """Median of measured over predicted time of the measured layers; 1 if there are none."""
        ratios = []
        everything = self.switches.placement(()), self.switches.placement(self.switches.names)
        small = [_Placed(placement, self).small for placement in everything]
        for node in self.heavy:
            for quantized in (True, False):
                seconds = self.times.seconds.get((node.name, quantized))
                if seconds:
                    ratios.append(seconds / (self._layer(node, quantized, small[0 if quantized else 1]) + LAUNCH))
        return median(ratios) if ratios else 1.0

    @cached_property
    def _measured_borders(self) -> set[str]:
        """Tensors whose quantization is included in the measured times of the layers that read them."""
        if not (self.times.borders and self.times.seconds):
            return set()
        placed = _Placed(self.switches.placement(()), self)
        return {tensor for tensor in placed.tensors if not placed.small(tensor)}

    @cached_property
    def _terms(self) -> _Terms | None:
        """The terms of a plan's time that flips of groups change; None if flips require placing all pairs again."""
        flips, _ = self.switches.flips, self._measured_borders
        return _Terms(flips, self) if flips is not None else None

    def _parts(self, kept: Iterable[str], launch: float) -> tuple[float, float]:
        """Measured and predicted seconds of a plan.

        Sums are rounded once, so they do not depend on the order of their terms.
        """
        terms = self._terms
        if terms is not None and terms.keep(kept):
            layers, borders = terms.layers(), terms.borders()
        else:
            placed = _Placed(self.switches.placement(kept), self)
            layers = [self.layer_term(node, placed.layer(node.name), placed.small) for node in self.heavy]
            borders = [term for tensor in placed.tensors if (term := self.border_term(tensor, placed)) is not None]
        measured = math.fsum([self.times.rest, *(seconds for known, seconds in layers if known)])
        predicted = math.fsum(seconds + launch for known, seconds in layers if not known)
        return measured, predicted * self.scale + math.fsum(seconds + launch for seconds in borders)

    def layer_term(self, node: gs.Node, quantized: bool, small: Small) -> tuple[bool, float]:
        """Whether a layer's time was measured, and its seconds."""
        seconds = self.times.seconds.get((node.name, quantized))
        return (True, seconds) if seconds is not None else (False, self._layer(node, quantized, small))

    def border_term(self, tensor: str, placed: _Placed | _Terms) -> float | None:
        """Seconds of the kernel that quantizes a tensor; None if there is no separate kernel."""
        if not placed.uses(tensor) or placed.small(tensor) or tensor in self._measured_borders:
            return None
        return self._elements(tensor) * (self._bytes(self.rest) + 1) / self.gpu.bandwidth

    def arithmetic(self, group: str) -> float:
        """Seconds of arithmetic that quantizing a group saves, without traffic and conversions; positive."""
        work = 2 * self.macs[group]
        return max(work / self.gpu.rate(self.rest) - work / self.gpu.rate(self.switches.precision), 1e-12)

    def price(self, group: str) -> float:
        """Seconds that keeping a group float costs if all others are quantized, without launches; positive.

        Conversions can make it cheap to keep a layer float. The price is at least half of the layer's own arithmetic,
        since its neighbours may be kept float too, which removes the conversions.
        """
        if group not in self._prices:
            saving = self.time([group], launch=0.0) - self.time(launch=0.0)
            self._prices[group] = max(saving, self.arithmetic(group) / 2)
        return self._prices[group]

    def share(self, kept: Iterable[str]) -> float:
        """Share of the model's arithmetic that is quantized with these groups float, 0 to 1; see ``Work``."""
        return self.work.share(self.others.union(self.switches.placement(kept).layers))

    def _layer(self, node: gs.Node, quantized: bool, small: Small) -> float:
        """A layer's roofline in seconds; ``small`` returns whether a tensor is stored in eight bits."""
        stored = self.switches.precision
        precision = stored if quantized and not stored.weights_only else self.rest
        work = 2 * (macs(node, self.facts) or 0)
        traffic = 0.0
        for tensor in node.inputs[:2]:
            constant = self.model.constant(tensor) is not None
            narrow = quantized and (constant or small(tensor.name))
            traffic += self._elements(tensor.name) * self._bytes(stored if narrow else self.rest)
        out = self._end(node.outputs[0])
        traffic += self._elements(out.name) * self._bytes(stored if small(out.name) else self.rest)
        return max(work / self.gpu.rate(precision), traffic / self.gpu.bandwidth)

    def is_small(self, name: str, uses: set[Use], layer: Callable[[str], bool]) -> bool:
        """Whether the layer before a quantized tensor writes it in eight bits, since nothing reads it in float."""
        if not uses or name in self._outputs:
            return False
        tensor = self.switches.tensors[name]
        everyone = all(
            Use(reader.name, index) in uses
            for reader in tensor.outputs
            for index, read in enumerate(reader.inputs)
            if read is tensor
        )
        return everyone and self._made_quantized(tensor, layer)

    def _made_quantized(self, tensor: gs.Tensor, layer: Callable[[str], bool]) -> bool:
        """Whether a quantized layer produces the tensor, directly or through operators that fuse with it."""
        while tensor.inputs:
            node = tensor.inputs[0]
            if node.op in TARGETS:
                return layer(node.name)
            fused = self.forms.op(node) in ACTIVATIONS | FOLDED | ADDS | MOVERS | {"Mul"} or self._affine(node)
            if not fused:
                return layer(node.name)
            read = self.forms.inputs(node)
            tensor = next((t for t in read if t.inputs), read[0])
        return False

    def _end(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor that is written to memory after fusing activations and normalizations."""
        while len(readers := self.forms.readers(tensor)) == 1:
            if self.forms.op(readers[0]) not in ACTIVATIONS | FOLDED and not self._affine(readers[0]):
                break
            tensor = self.forms.outputs(readers[0])[0]
        return tensor

    def _affine(self, node: gs.Node) -> bool:
        """Whether a node adds a bias, or applies the gain or shift of a normalization exported as several nodes."""
        return self.forms.composite(node) is None and constant_affine(self.model, node)

    def _elements(self, tensor: str) -> int:
        """A tensor's number of elements; 0 if its shape is unknown."""
        shape = shape_of(self.facts, tensor)
        return math.prod(shape) if shape is not None else 0

    def _bytes(self, precision: Precision) -> float:
        return precision.bits / 8
