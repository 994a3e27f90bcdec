"""Where Q/DQ pairs go so that TensorRT fuses them, and which candidates are skipped.

The rules follow TensorRT's documentation on explicit quantization, and measurements on an H200 with 8.6 (ResNet-50,
batch 32: 0.786 ms with pairs on residual branches, 1.313 ms without).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import onnx_graphsurgeon as gs

from toolkit.base.cells import Network
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.blocks import place_blocks
from toolkit.placement.dequantized import dequantizer, source
from toolkit.placement.moved import picks
from toolkit.placement.obstacles import Obstacles
from toolkit.placement.ops import MOVERS, POOLS, QUANTIZE, TARGETS
from toolkit.placement.ops import weight_axis as axis_of
from toolkit.placement.pairs import Decision, Placement, Quantized, Use, joined, request_pair, skip_candidate
from toolkit.placement.reach import Is, Reach
from toolkit.placement.sums import Sums

Judge = Callable[[gs.Node], Finding | str | None]
"""Returns why the user or the plan keeps a candidate in float, or None."""
PlacementRule = Callable[[Model, Facts, Judge], Placement]
"""Decides where pairs go; nodes that the judge keeps stay in float."""


def place(
    model: Model,
    facts: Facts,
    judge: Judge | None = None,
    activation_matmul: bool = False,
    precision: Precision | None = None,
    block: int = 0,
) -> Placement:
    """Decide all pairs for the model's Conv, ConvTranspose, Gemm and MatMul nodes and the operators between them.

    Args:
        model: the graph; pairs that it already has are kept and completed.
        facts: types and shapes at every corner of every profile.
        judge: returns why the user's patterns or the plan keep a node in float, or None.
        activation_matmul: also quantize MatMuls of two activations.
        precision: the type being inserted; layers with pairs of another type are left as they are.
        block: how many weights share a scale, for types with block scales.
    """
    obstacles = Obstacles(model, facts, activation_matmul, precision)
    if precision is not None and (precision.weights_only or precision.block):
        return place_blocks(model, facts, judge or (lambda node: None), obstacles, precision, precision.block or block)
    return Placer(model, facts, judge or (lambda node: None), obstacles).placement()


@dataclass(frozen=True)
class _Claim:
    """A node input that reads a tensor's pair if a condition holds."""

    use: Use
    holds: Is


class Placer:
    """The decisions about one model, each stored with its dependencies.

    A judge may depend on a ``cells.Input``: when that changes, ``network.settle()`` recomputes only what depends on it.
    All loops follow the graph's order, which passes keep topological.

    Args:
        judge: returns why the user's patterns or the plan keep a node in float, or None.
        obstacles: finds what keeps a layer in float in any case.

    Attributes:
        network: the decisions.
        activations: names of all activations that may get a pair, regardless of the judge.
    """

    def __init__(self, model: Model, facts: Facts, judge: Judge, obstacles: Obstacles) -> None:
        self.model, self.facts, self.judge, self.obstacles = model, facts, judge, obstacles
        self.network = Network()
        self.nodes = model.nodes
        self.outputs = {t.name for t in model.graph.outputs}
        self.forms = Forms(model, facts)
        self.activations: dict[str, None] = {}
        self._claims: dict[tuple[str, int | None], list[_Claim]] = {}
        self._late: dict[tuple[str, int | None], list[_Claim]] = {}
        self._layers: dict[str, Is] = {}
        main = {id(node) for node in self.nodes}
        self._targets = [
            (node, self.network.add(partial(self._refusal, node, id(node) in main)))
            for node, _ in model.walk() if node.op in TARGETS
        ]  # fmt: skip
        for node, refusal in self._targets:
            if id(node) in main:
                self._layers[node.name] = self.network.add(partial(_is_none, refusal))
                for index in (i for i in (0, 1) if i < len(node.inputs) and dequantizer(node.inputs[i]) is None):
                    self._claim(node, index, self._layers[node.name])
        self.reach = Reach(self.nodes, self.forms, self._layers, self.network)
        products = obstacles.activation_matmul and obstacles.precision in (None, Precision.INT8)
        sums = Sums(self.forms, facts, self.reach, judge, self.layer, products)
        self._residuals = self._decided(sums.rule, self.nodes)
        self._concats = self._decided(self._concat, self.nodes)
        # backwards: a pool followed by a pool depends on the latter, as in means over one axis after another
        self._pools = self._decided(self._pool, reversed(self.nodes))
        self._picked = self._decided(self._picking, self.nodes)

    # ---------------------------------------------------------------- results

    def layer(self, name: str) -> bool:
        """Whether a node computes in the quantized type."""
        return name in self._layers and self._layers[name]()

    def uses(self, tensor: str) -> set[Use]:
        """The node inputs that read the pair of an activation; empty if it has none."""
        claims = [*self._claims.get((tensor, None), ()), *self._late.get((tensor, None), ())]
        return {claim.use for claim in claims if claim.holds()}

    def placement(self) -> Placement:
        """All decisions."""
        result = Placement(placer=self)
        for node, refused in self._targets:
            self._take_target(node, refused(), result)
        for node, decision in self._residuals:
            self._take(node, decision(), result)
        shared = []
        for node, decision in self._concats:
            if self._take(node, decision(), result):
                shared.append({source(t).name for t in (*node.inputs, *node.outputs)})
        for node, decision in (*self._pools, *self._picked):
            taken = self._take(node, decision(), result)
            if taken and picks(node):
                shared.append({source(node.inputs[0]).name, source(node.outputs[0]).name})
        result.same_scale = joined(shared)
        return result

    def _take_target(self, node: gs.Node, refusal: Finding | str | None, result: Placement) -> None:
        if refusal is not None:
            skip_candidate(result, node, refusal)
            return
        name = node.name
        result.layers[name] = Code.HAS_KERNELS(op=node.op)
        result.groups[name] = []
        wanted = [i for i in (0, 1) if dequantizer(node.inputs[i]) is None]
        if not wanted:
            result.complete.append(name)
        for index in wanted:
            tensor = node.inputs[index]
            weight = self.model.constant(tensor) is not None
            reason = Code.OPERAND(weight=weight, op=node.op, node=name)
            request_pair(result, tensor.name, Use(name, index), self._axis(node, index), weight, reason)
            result.groups[name].append(tensor.name)

    def _take(self, node: gs.Node, decision: Decision, result: Placement) -> bool:
        """Record a decision; returns whether the node is quantized."""
        if decision is None:
            return False
        if not isinstance(decision, Quantized):
            skip_candidate(result, node, decision)
            return False
        shared = result.pairs.get((node.inputs[0].name, None)) if picks(node) else None
        reason = decision.reason if shared is None else Code.SHARED_POOL_INPUT(
            op=node.op, node=node.name, shared=shared.reason
        )  # fmt: skip
        result.layers[node.name] = reason
        for index in decision.reads:
            tensor = node.inputs[index]
            if dequantizer(tensor) is None or shared is not None:
                weight = self.model.constant(tensor) is not None
                request_pair(result, tensor.name, Use(node.name, index), None, weight, reason)
                if decision.group:
                    result.groups.setdefault(decision.group, []).append(tensor.name)
        return True

    # ---------------------------------------------------------------- targets

    def _refusal(self, node: gs.Node, main: bool) -> Finding | str | None:
        """Why a target stays in float; None if it is quantized."""
        if not main:
            return Code.SUBGRAPH()
        kept = self.judge(node)
        return kept if kept is not None else self.obstacles.of(node)

    def _axis(self, node: gs.Node, index: int) -> int | None:
        values = self.model.constant(node.inputs[index])
        return axis_of(node.op, index, values.ndim, node.attrs) if values is not None else None

    def _decided(
        self, rule: Callable[[gs.Node], Callable[[], Decision] | None], nodes: Iterable[gs.Node]
    ) -> list[tuple[gs.Node, Callable[[], Decision]]]:
        """The decisions of a rule, for each node that it applies to."""
        found: list[tuple[gs.Node, Callable[[], Decision]]] = []
        for node in nodes:
            decide = rule(node)
            if decide is None:
                continue
            cell = self.network.add(decide)
            found.append((node, cell))
            self._layers[node.name] = partial(_reads, cell)
            for index in (0,) if picks(node) else range(len(node.inputs)):
                if dequantizer(node.inputs[index]) is None:
                    self._claim(node, index, partial(_reads, cell, index))
        return found

    def _claim(self, node: gs.Node, index: int, holds: Is) -> None:
        """Record that a node's input may read a pair."""
        tensor = node.inputs[index]
        if self.model.constant(tensor) is None:
            self.activations.setdefault(tensor.name)
        own = self._late if picks(node) else self._claims
        axis = self._axis(node, index) if node.op in TARGETS else None
        own.setdefault((tensor.name, axis), []).append(_Claim(Use(node.name, index), holds))

    # ---------------------------------------------------------------- concats

    def _concat(self, node: gs.Node) -> Callable[[], Decision] | None:
        if node.op != "Concat" or not self._float(node.outputs[0]):
            return None
        inputs = [t for t in node.inputs if self.model.constant(t) is None]

        def decide() -> Decision:
            from_quantized = [self.reach.in_region(t) for t in inputs]
            if not any(from_quantized) or not self.reach.leads(node.outputs[0]):
                return None
            kept = self.judge(node)
            if kept is not None:
                return kept
            if (self.facts.rank(node.outputs[0].name) or 4) < 3:
                return Code.VECTOR()
            if not all(from_quantized):
                return Code.UNLIKE_BRANCHES(tensor=inputs[from_quantized.index(False)].name)
            return Quantized(tuple(range(len(node.inputs))), Code.CONCAT_INPUT(node=node.name))

        return decide

    # ---------------------------------------------------------------- pools

    def _pool(self, node: gs.Node) -> Callable[[], Decision] | None:
        if self.forms.op(node) not in POOLS or not self._float(node.inputs[0]):
            return None

        def decide() -> Decision:
            if not self.reach.in_region(node.inputs[0]):
                return None
            kept = self.judge(node)
            if kept is not None:
                return kept
            if not self._all_quantized(node.outputs[0]):
                return Code.ONE_SIDED()
            return Quantized((0,), Code.POOL_INPUT(op=self.forms.op(node), node=node.name))

        return decide

    def _picking(self, node: gs.Node) -> Callable[[], Decision] | None:
        """A MaxPool or nearest Resize whose input also has another reader with a pair reads that pair too.

        TensorRT moves Q through it only if nothing else reads the input. If a Concat reads it too (the skip connection
        of a U-Net), the preceding convolution wrote float16 and two kernels quantized it: on an H200 with 8.6.0 these
        took 0.45 ms of 2.26 ms (U-Net, 256 x 256, batch 32). For a Resize next to a convolution (the top-down path of a
        detector) both scales happened to be equal where it was measured, and the producer wrote INT8.
        """
        if not picks(node):
            return None
        tensor, out = node.inputs[0], node.outputs[0]

        def decide() -> Decision:
            if not self._held(tensor) or not self._held(out):
                return None
            if self.judge(node) is not None or not self._all_quantized(out):
                return None
            return Quantized((0,), Code.TRIAL())

        return decide

    def _held(self, tensor: gs.Tensor) -> set[Use]:
        """The node inputs that read the tensor's pair, except MaxPools and nearest Resizes."""
        return {claim.use for claim in self._claims.get((tensor.name, None), ()) if claim.holds()}

    def _all_quantized(self, tensor: gs.Tensor) -> bool:
        if tensor.name in self.outputs or not tensor.outputs:
            return False
        held = self._held(tensor)
        for node in tensor.outputs:
            if node.op == QUANTIZE:
                continue
            uses = [i for i, t in enumerate(node.inputs) if t is tensor]
            if held and all(Use(node.name, i) in held for i in uses):
                continue
            if (
                node.op in MOVERS
                and uses == [0]
                and all(self._all_quantized(out) for out in node.outputs if out.outputs or out.name in self.outputs)
            ):
                continue
            return False
        return True

    # ---------------------------------------------------------------- helpers

    def _float(self, tensor: gs.Tensor) -> bool:
        return tensor.name not in self.facts.types or self.facts.is_float(tensor.name)


def _is_none(refusal: Callable[[], Finding | str | None]) -> bool:
    return refusal() is None


def _reads(decision: Callable[[], Decision], index: int | None = None) -> bool:
    """Whether a node is quantized and, if ``index`` is given, has a pair at that input."""
    found = decision()
    return isinstance(found, Quantized) and (index is None or index in found.reads)
