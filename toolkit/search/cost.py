"""Predicted time of a plan: a roofline for every layer, and the traffic at borders between precisions.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 2009: a layer takes
the longer of its arithmetic at the peak rate and its traffic at the peak bandwidth. A tensor that a quantized layer
makes and only quantized layers read is stored in eight bits; anywhere else the quantization is a pass over memory of
its own, so that islands of INT8 cost what they cost. Absolute times are optimistic; only differences are used.
Where layers were measured, their times replace the roofline, and a layer that was not measured takes its roofline times
the median of measured over predicted; a border's quantization is a kernel of its own, at the roofline.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import cached_property
from statistics import median

import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.graph.facts import Facts
from toolkit.graph.forms import Forms, constant_affine
from toolkit.graph.macs import macs, shape_of
from toolkit.graph.model import Model
from toolkit.graph.work import Work, work_of
from toolkit.placement.ops import ACTIVATIONS, ADDS, AFFINE, MOVERS, TARGETS
from toolkit.placement.pairs import Placement
from toolkit.search.gpus import GpuSpec
from toolkit.search.layer_times import LayerTimes
from toolkit.simulation.switches import Switches

LAUNCH = 2e-6
"""Seconds that a kernel takes at least; measured gaps between small kernels are 1.5 to 3 microseconds."""


class CostModel:
    """Predicts the time of plans of one model at one shape.

    Args:
        switches: the model, its groups and what each subset of them quantizes.
        facts: shapes, at the profile's opt.
        gpu: the GPU's peak rates.
        rest: the float precision of what is not quantized.
        times: measured times; they replace the roofline of these layers.
        work: what every node counts for in shares of the arithmetic; by ``facts`` where None.
        others: nodes that other passes have quantized to the same type.
        named: whether the user asked for times: of this GPU, or of any.
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
        self._layers = [node for node in self.model.nodes if node.op in TARGETS]
        self._whole: dict[frozenset[str], float] = {}

    @property
    def place(self) -> str:
        """The GPU that times are of, in words; empty where nobody asked for times and none was measured.

        Predictions only order plans then: what they are is nobody's GPU.
        """
        return self.times.gpu or (self.gpu.name if self.named or self.times.seconds else "")

    def learn(self, kept: Iterable[str], seconds: float) -> None:
        """Take the measured time of a whole plan in place of its prediction."""
        self._whole[frozenset(kept)] = seconds

    def time(self, kept: Iterable[str] = (), launch: float = LAUNCH) -> float:
        """Seconds of the plan that keeps these groups float. Nodes that no plan changes count where they were measured.

        Args:
            kept: the groups that stay float.
            launch: seconds that every kernel takes besides, where it was not measured.
        """
        kept = frozenset(kept)
        return self._whole[kept] if kept in self._whole else sum(self._parts(kept, launch))

    def measured_share(self, kept: Iterable[str] = ()) -> float:
        """Share of the plan's time that was measured rather than predicted, 0 to 1."""
        kept = frozenset(kept)
        if kept in self._whole:
            return 1.0
        measured, predicted = self._parts(kept, LAUNCH)
        return measured / (measured + predicted) if measured else 0.0

    @cached_property
    def scale(self) -> float:
        """Median of measured over predicted time of the layers that were measured; 1 without any."""
        ratios = []
        everything = self.switches.placement(()), self.switches.placement(self.switches.names)
        small = [self._small(placement) for placement in everything]
        for node in self._layers:
            for quantized in (True, False):
                seconds = self.times.seconds.get((node.name, quantized))
                if seconds:
                    ratios.append(seconds / (self._layer(node, quantized, small[0 if quantized else 1]) + LAUNCH))
        return median(ratios) if ratios else 1.0

    @cached_property
    def _measured_borders(self) -> set[str]:
        """Tensors whose quantization is in the measured times of the layers that read them."""
        if not (self.times.borders and self.times.seconds):
            return set()
        placement = self.switches.placement(())
        return set(placement.activations) - self._small(placement)

    def _parts(self, kept: Iterable[str], launch: float) -> tuple[float, float]:
        """Measured and predicted seconds of a plan."""
        placement = self.switches.placement(kept)
        small = self._small(placement)
        measured, predicted, borders = self.times.rest, 0.0, 0.0
        for node in self._layers:
            quantized = node.name in placement.layers
            seconds = self.times.seconds.get((node.name, quantized))
            if seconds is not None:
                measured += seconds
            else:
                predicted += self._layer(node, quantized, small) + launch
        for tensor in placement.activations:
            if tensor not in small and tensor not in self._measured_borders:
                borders += launch + self._elements(tensor) * (self._bytes(self.rest) + 1) / self.gpu.bandwidth
        return measured, predicted * self.scale + borders

    def arithmetic(self, group: str) -> float:
        """Seconds of arithmetic that quantizing a group saves, traffic and borders left out; positive."""
        work = 2 * self.macs[group]
        return max(work / self.gpu.rate(self.rest) - work / self.gpu.rate(self.switches.precision), 1e-12)

    def price(self, group: str) -> float:
        """Seconds that keeping a group float costs when all others are quantized, launches left out; positive.

        Borders can make it cheap to keep a layer; it is never less than half of the layer's own arithmetic, since
        its neighbours may be kept too and the borders fall away.
        """
        if group not in self._prices:
            saving = self.time([group], launch=0.0) - self.time(launch=0.0)
            self._prices[group] = max(saving, self.arithmetic(group) / 2)
        return self._prices[group]

    def share(self, kept: Iterable[str]) -> float:
        """Share of the model's arithmetic that is quantized with these groups float, 0 to 1; see ``Work``."""
        return self.work.share(self.others.union(self.switches.placement(kept).layers))

    def _layer(self, node: gs.Node, quantized: bool, small: set[str]) -> float:
        precision = self.switches.precision if quantized else self.rest
        work = 2 * (macs(node, self.facts) or 0)
        traffic = 0.0
        for tensor in node.inputs[:2]:
            constant = self.model.constant(tensor) is not None
            eight = quantized and (constant or tensor.name in small)
            traffic += self._elements(tensor.name) * (1 if eight else self._bytes(self.rest))
        out = self._end(node.outputs[0])
        traffic += self._elements(out.name) * (1 if out.name in small else self._bytes(self.rest))
        return max(work / self.gpu.rate(precision), traffic / self.gpu.bandwidth)

    def _small(self, placement: Placement) -> set[str]:
        """Quantized tensors that the layer before them writes in eight bits: nobody reads them as floats."""
        found = set()
        tensors = self.switches.tensors
        outputs = {t.name for t in self.model.graph.outputs}
        for pair in placement.pairs.values():
            if pair.weight or pair.tensor in outputs:
                continue
            tensor = tensors[pair.tensor]
            used = {(use.node, use.index) for use in pair.uses}
            everyone = all(
                (reader.name, index) in used
                for reader in tensor.outputs
                for index, read in enumerate(reader.inputs)
                if read is tensor
            )
            if everyone and self._made_quantized(tensor, placement):
                found.add(pair.tensor)
        return found

    def _made_quantized(self, tensor: gs.Tensor, placement: Placement) -> bool:
        """Whether a quantized layer makes the tensor, what fuses with the layer in between."""
        while tensor.inputs:
            node = tensor.inputs[0]
            if node.op in TARGETS:
                return node.name in placement.layers
            fused = self.forms.op(node) in ACTIVATIONS | AFFINE | ADDS | MOVERS | {"Mul"} or self._affine(node)
            if not fused:
                return node.name in placement.layers
            read = self.forms.before(node)
            tensor = next((t for t in read if t.inputs), read[0])
        return False

    def _end(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor that is written to memory after the activation or normalization that fuses."""
        while len(readers := self.forms.readers(tensor)) == 1:
            if self.forms.op(readers[0]) not in ACTIVATIONS | AFFINE and not self._affine(readers[0]):
                break
            tensor = self.forms.behind(readers[0])[0]
        return tensor

    def _affine(self, node: gs.Node) -> bool:
        """Whether a node is a bias or a normalization's gain or shift that is written out."""
        return self.forms.composite(node) is None and constant_affine(self.model, node)

    def _elements(self, tensor: str) -> int:
        shape = shape_of(self.facts, tensor)
        return math.prod(shape) if shape is not None else 0

    def _bytes(self, precision: Precision) -> float:
        return precision.bits / 8
