"""Where Q/DQ pairs go so that TensorRT fuses them, and which candidates are left alone.

The rules follow TensorRT's documentation on explicit quantization and what was measured on an H200 with 8.6 (residual
branches: ResNet-50, batch 32, 0.786 ms with their pairs and 1.313 ms without).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding, finding
from toolkit.graph.constants import RANDOM
from toolkit.graph.facts import Facts
from toolkit.graph.forms import Forms, constant_affine
from toolkit.graph.model import Model
from toolkit.placement.dequantized import dequantizer, foreign_pair, pair_type, source
from toolkit.placement.ops import (
    ACTIVATIONS,
    ADDS,
    AFFINE,
    DEQUANTIZE,
    MOVERS,
    POOLS,
    QUANTIZE,
    REGION,
    TARGETS,
)
from toolkit.placement.ops import weight_axis as axis_of
from toolkit.placement.pairs import Pair, Placement, Refusal, Use

Judge = Callable[[gs.Node], Finding | str | None]
"""Says for a candidate why the user or the plan keeps it float, or None."""
PlacementRule = Callable[[Model, Facts, Judge], Placement]
"""Says where pairs go, with all that the judge keeps left float."""


def place(
    model: Model,
    facts: Facts,
    judge: Judge | None = None,
    activation_matmul: bool = False,
    precision: Precision | None = None,
) -> Placement:
    """Decide every pair for the model's Conv, ConvTranspose, Gemm and MatMul nodes and what belongs to them.

    Args:
        model: the graph; pairs that it already has are kept and completed.
        facts: types and shapes at every corner of every profile.
        judge: what the user's patterns and the plan say.
        activation_matmul: also quantize MatMuls both of whose operands are activations.
        precision: the type being inserted; layers that have a pair of another type are left alone.
    """
    return _Placer(model, facts, judge or (lambda node: None), activation_matmul, precision).run()


class _Placer:
    def __init__(
        self, model: Model, facts: Facts, judge: Judge, activation_matmul: bool, precision: Precision | None
    ) -> None:
        self.precision = precision
        self.model, self.facts, self.judge, self.activation_matmul = model, facts, judge, activation_matmul
        self.result = Placement()
        # every walk below goes with the graph's order, which passes keep topological
        self.nodes = model.nodes
        self.main = {id(node) for node in self.nodes}
        self.outputs = {t.name for t in model.graph.outputs}
        self.forms = Forms(model, facts)
        self.depth = self._depths()
        self.constant = _constant_tensors(model)
        self.region: set[str] | None = None
        self.leading: set[str] | None = None

    def run(self) -> Placement:
        for node, _ in self.model.walk():
            if node.op in TARGETS:
                self._target(node)
        for node in self.nodes:
            if self.forms.op(node) in ADDS:
                self._residual(node)
        self._concats()
        # from behind: a pool before a pool is quantized where that one is, as a mean over one axis after the other
        for node in reversed(self.nodes):
            if self.forms.op(node) in POOLS:
                self._pool(node)
        for node in self.nodes:
            if node.op == "MaxPool":
                self._max_pool(node)
        return self.result

    # ---------------------------------------------------------------- targets

    def _target(self, node: gs.Node) -> None:
        refusal = self._why_not(node)
        if refusal is not None:
            self._refuse(node, refusal)
            return
        wanted = [i for i in self._operands(node) if dequantizer(node.inputs[i]) is None]
        name = node.name
        self.result.layers[name] = Code.HAS_KERNELS(op=node.op)
        self.result.groups[name] = []
        if not wanted:
            self.result.complete.append(name)
            return
        for index in wanted:
            tensor = node.inputs[index]
            values = self.model.constant(tensor)
            axis = axis_of(node.op, index, values.ndim, node.attrs) if values is not None else None
            weight = values is not None
            reason = Code.OPERAND(weight=weight, op=node.op, node=name)
            self._want(tensor.name, Use(name, index), axis, weight, reason)
            self.result.groups[name].append(tensor.name)

    def _operands(self, node: gs.Node) -> tuple[int, int]:
        return 0, 1

    def _why_not(self, node: gs.Node) -> Finding | str | None:
        if id(node) not in self.main:
            return Code.SUBGRAPH()
        kept = self.judge(node)
        if kept is not None:
            return kept
        operands = [node.inputs[i] for i in self._operands(node) if i < len(node.inputs)]
        if len(operands) < 2:
            return Code.MALFORMED()
        for tensor in operands:
            foreign = foreign_pair(tensor, self.model)
            if foreign is not None:
                return foreign
            other = self._other_type(tensor)
            if other is not None:
                return Code.FOREIGN_PAIR(tensor=tensor.name, fault="type", has=other, inserted=self.precision)
            kind = self.facts.types.get(tensor.name)
            if kind is not None and not self.facts.is_float(tensor.name):
                return Code.NOT_FLOAT(tensor=tensor.name)
        return self._operand_trouble(node, operands)

    def _other_type(self, tensor: gs.Tensor) -> Precision | None:
        """The type that the tensor is quantized to already, where it is another than the one being inserted."""
        node = dequantizer(tensor)
        kind = pair_type(node) if node is not None else None
        return None if self.precision is None or kind is self.precision else kind

    def _operand_trouble(self, node: gs.Node, operands: list[gs.Tensor]) -> Finding | None:
        values = [self.model.constant(t) for t in operands]
        constant = [v is not None or t.name in self.constant for v, t in zip(values, operands)]
        if all(constant) and all(v is not None for v in values):
            return Code.BOTH_CONSTANT()
        if not any(constant):
            if node.op != "MatMul" and node.op != "Gemm":
                return Code.COMPUTED_WEIGHTS()
            if not self.activation_matmul:
                return Code.ACTIVATION_MATMUL()
        if node.op in ("Conv", "ConvTranspose") and not constant[1]:
            return Code.COMPUTED_WEIGHTS()
        for tensor, value in zip(operands, values):
            rank = value.ndim if value is not None else self.facts.rank(tensor.name)
            if rank is not None and rank < 2:
                return Code.VECTOR(tensor=tensor.name, rank=rank)
            if value is None:
                continue
            if value.size == 0:
                return Code.EMPTY(tensor=tensor.name)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return Code.NOT_FINITE(tensor=tensor.name)
        for tensor, value, is_constant in zip(operands, values, constant):
            if value is None and is_constant and dequantizer(tensor) is None:
                return Code.COMPUTED_WEIGHTS(maker=tensor.inputs[0].op)
        return None

    # ---------------------------------------------------------------- residual adds

    def _residual(self, node: gs.Node) -> None:
        """Ask for a pair on the branch that is not the fused convolution's, where a quantized layer reads the sum.

        Where only float layers read it the pair costs time. On an H200 with 8.6.0 (tests/benchmarks/bench_residual.py),
        with and without: 0.033 and 0.045 ms where a quantized convolution reads the sum; 0.054 and 0.048 ms where a
        float one does, 0.054 and 0.051 ms if the branch is another convolution's.
        """
        branches = [(i, t) for i, t in enumerate(node.inputs) if self.model.constant(t) is None]
        convs = [(i, self._conv_before(t)) for i, t in branches]
        fused = [(i, conv) for i, conv in convs if conv is not None]
        if not fused or len(branches) < 2:
            return
        if len(branches) > 2:
            self._refuse(node, Code.SUM_OF_MANY(branches=len(branches)))
            return
        kept = self.judge(node)
        if kept is not None:
            self._refuse(node, kept)
            return
        if not self._same_shapes([t.name for _, t in branches]):
            self._refuse(node, Code.BROADCAST())
            return
        if not self._leads_to_layer(node.outputs[0]):
            self._refuse(node, Code.SUM_STAYS_FLOAT())
            return
        main = max(fused, key=lambda pair: self.depth.get(pair[1], 0))[0]
        index, tensor = next((i, t) for i, t in branches if i != main)
        conv = dict(fused)[main]
        reason = Code.RESIDUAL_BRANCH(node=node.name, into=conv)
        self.result.layers[node.name] = reason
        if dequantizer(tensor) is None:
            self._want(tensor.name, Use(node.name, index), None, False, reason)
            self.result.groups.setdefault(conv, []).append(tensor.name)

    def _conv_before(self, tensor: gs.Tensor) -> str | None:
        """The quantized convolution whose epilogue could take an Add after this tensor."""
        while True:
            node = self.model.producer(tensor)
            if node is None or len(self.forms.readers(tensor)) != 1 or tensor.name in self.outputs:
                return None
            if node.op in ("Conv", "ConvTranspose"):
                return str(node.name) if node.name in self.result.layers else None
            if self.forms.op(node) not in AFFINE and not self._constant_affine(node):
                return None
            tensor = next((t for t in self.forms.before(node) if self.model.constant(t) is None), node.inputs[0])

    def _constant_affine(self, node: gs.Node) -> bool:
        """Whether a node is what a BatchNormalization is written out as, and no piece of something else."""
        return self.forms.composite(node) is None and constant_affine(self.model, node)

    def _same_shapes(self, names: list[str]) -> bool:
        shapes = [self.facts.shapes.get(name) for name in names]
        if any(s is None for s in shapes):
            return True
        return all(
            len(a) == len(b) and all(x == y or x < 0 or y < 0 for x, y in zip(a, b))
            for corner in zip(*(s for s in shapes if s is not None))
            for a, b in [corner]
        )

    # ---------------------------------------------------------------- concats

    def _concats(self) -> None:
        chosen: list[gs.Node] = []
        for node in self.nodes:
            if node.op != "Concat" or not self._float(node.outputs[0]):
                continue
            inputs = [t for t in node.inputs if self.model.constant(t) is None]
            from_quantized = [self._in_region(t) for t in inputs]
            if not any(from_quantized) or not self._leads_to_layer(node.outputs[0]):
                continue
            kept = self.judge(node)
            if kept is not None:
                self._refuse(node, kept)
            elif (self.facts.rank(node.outputs[0].name) or 4) < 3:
                self._refuse(node, Code.VECTOR())
            elif not all(from_quantized):
                stranger = inputs[from_quantized.index(False)].name
                self._refuse(node, Code.UNLIKE_BRANCHES(tensor=stranger))
            else:
                chosen.append(node)
        for node in chosen:
            reason = Code.CONCAT_INPUT(node=node.name)
            self.result.layers[node.name] = reason
            for index, tensor in enumerate(node.inputs):
                if dequantizer(tensor) is None:
                    weight = self.model.constant(tensor) is not None
                    self._want(tensor.name, Use(node.name, index), None, weight, reason)
        self.result.same_scale = _joined([{source(t).name for t in (*node.inputs, *node.outputs)} for node in chosen])

    def _leads_to_layer(self, tensor: gs.Tensor) -> bool:
        """Whether a quantized layer reads the tensor, directly or through what keeps it in the quantized region."""
        if self.leading is None:
            self.leading = set()
            for node in reversed(self.nodes):
                if node.name in self.result.layers and node.op in TARGETS:
                    self.leading.update(t.name for t in node.inputs)
                elif any(out.name in self.leading for out in node.outputs):
                    self.leading.update(t.name for t in node.inputs if self._passes_on(node, t))
        return tensor.name in self.leading

    def _passes_on(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        op = self.forms.op(node)
        through = op in MOVERS | ACTIVATIONS | AFFINE | POOLS | ADDS | {"Concat", QUANTIZE, DEQUANTIZE, "Resize"}
        return through or self._constant_affine(node) or (node.op == "Mul" and _is_gate(node, tensor))

    def _in_region(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor comes from a quantized layer, directly or through what keeps it in the region."""
        if self.region is None:
            self.region = set()
            for node in self.nodes:
                inside = (
                    node.name in self.result.layers
                    if node.op in TARGETS
                    else self._keeps_region(node) and any(t.name in self.region for t in node.inputs)
                )
                if inside:
                    self.region.update(t.name for t in node.outputs)
        return tensor.name in self.region

    def _keeps_region(self, node: gs.Node) -> bool:
        return self.forms.op(node) in REGION or self._constant_affine(node)

    # ---------------------------------------------------------------- pools

    def _pool(self, node: gs.Node) -> None:
        tensor, out = node.inputs[0], node.outputs[0]
        if not self._float(tensor) or not self._in_region(tensor):
            return
        kept = self.judge(node)
        if kept is not None:
            self._refuse(node, kept)
        elif not self._all_quantized(out):
            self._refuse(node, Code.ONE_SIDED())
        else:
            reason = Code.POOL_INPUT(op=self.forms.op(node), node=node.name)
            self.result.layers[node.name] = reason
            if dequantizer(tensor) is None:
                self._want(tensor.name, Use(node.name, 0), None, False, reason)

    def _max_pool(self, node: gs.Node) -> None:
        """A MaxPool beside another reader whose pair its input has: it reads that pair, at the scale of its own output.

        Q moves through a MaxPool by itself only where nothing else reads the input. Where a Concat reads it too (a
        U-Net's skip), the convolution before wrote float16 and two kernels quantized it: on an H200 with 8.6.0 these
        took 0.45 ms of 2.26 ms (U-Net, 256 x 256, batch 32).
        """
        tensor, out = node.inputs[0], node.outputs[0]
        shared = self.result.pairs.get((tensor.name, None))
        if shared is None or (out.name, None) not in self.result.pairs or len(node.outputs) != 1:
            return
        if self.judge(node) is not None or not self._all_quantized(out):
            return
        reason = Code.SHARED_POOL_INPUT(op=node.op, node=node.name, shared=shared.reason)
        self.result.layers[node.name] = reason
        self._want(tensor.name, Use(node.name, 0), None, False, reason)
        self.result.same_scale = _joined([*self.result.same_scale, {source(tensor).name, source(out).name}])

    def _all_quantized(self, tensor: gs.Tensor) -> bool:
        if tensor.name in self.outputs or not tensor.outputs:
            return False
        for node in tensor.outputs:
            if node.op == QUANTIZE:
                continue
            uses = [i for i, t in enumerate(node.inputs) if t is tensor]
            pair = self.result.pairs.get((tensor.name, None))
            if pair is not None and all(Use(node.name, i) in pair.uses for i in uses):
                continue
            if (
                node.op in MOVERS
                and uses == [0]
                and all(self._all_quantized(out) for out in node.outputs if out.outputs)
            ):
                continue
            return False
        return True

    # ---------------------------------------------------------------- helpers

    def _float(self, tensor: gs.Tensor) -> bool:
        return tensor.name not in self.facts.types or self.facts.is_float(tensor.name)

    def _want(self, tensor: str, use: Use, axis: int | None, weight: bool, reason: Finding) -> None:
        pair = self.result.pairs.setdefault((tensor, axis), Pair(tensor, reason, axis=axis, weight=weight))
        if use not in pair.uses:
            pair.uses.append(use)

    def _refuse(self, node: gs.Node, why: Finding | str) -> None:
        self.result.refusals.append(Refusal(node.name, node.op, finding(why)))

    def _depths(self) -> dict[str, int]:
        """For each node the number of targets on the longest path that leads to it."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            before = [depth.get(p.name, 0) for t in node.inputs for p in t.inputs]
            depth[node.name] = max(before, default=0) + (node.op in TARGETS)
        return depth


def _constant_tensors(model: Model) -> set[str]:
    """Names of tensors that are computed from constants alone (a Transpose of a weight, a pre-quantized weight)."""
    found: set[str] = set()
    for node in model.nodes:
        if any(True for _ in node.subgraphs()) or node.op in RANDOM:
            continue
        if all(t.is_empty() or t.name in found or isinstance(t, gs.Constant) for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return found


def _is_gate(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a Mul is x * sigmoid(x), as SiLU and hard-swish are exported."""
    makers: Mapping[int, str] = {i: t.inputs[0].op for i, t in enumerate(node.inputs) if t.inputs}
    return any(op in ("Sigmoid", "HardSigmoid", "Softplus", "Tanh") for op in makers.values()) and tensor in node.inputs


def _joined(sets: list[set[str]]) -> list[set[str]]:
    """Sets that share a member, made one."""
    joined: list[set[str]] = []
    for new in sets:
        apart = [s for s in joined if not s & new]
        joined = [*apart, new.union(*(s for s in joined if s & new))]
    return joined
