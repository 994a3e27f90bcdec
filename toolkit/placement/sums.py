"""Which branches of a sum get Q/DQ pairs, depending on what TensorRT fuses the Add into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import onnx_graphsurgeon as gs

from toolkit.contract.findings import Code, Finding
from toolkit.graph.layers.forms import Forms
from toolkit.graph.layers.macs import shape_of
from toolkit.graph.shape_inference.facts import Facts
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.ops import ACTIVATIONS, ADDS, FOLDED, MOVERS, NORMALIZATIONS, TARGETS
from toolkit.placement.pairs import Decision, Quantized
from toolkit.placement.reach import Reach


class Sums:
    """The rule for Adds of two activations.

    Args:
        forms: the operators of the model's nodes.
        reach: the reach of its quantized layers.
        judge: returns why the user's patterns or the plan keep a node in float, or None.
        layer: whether a node computes in the quantized type.
        products: whether sums of MatMul results get pairs, as quantized attention needs.
    """

    def __init__(
        self,
        forms: Forms,
        facts: Facts,
        reach: Reach,
        judge: Callable[[gs.Node], Finding | str | None],
        layer: Callable[[str], bool],
        products: bool = False,
    ) -> None:
        self.model, self.forms, self.facts, self.reach = forms.model, forms, facts, reach
        self.judge, self.layer, self.products = judge, layer, products
        self.outputs = {t.name for t in self.model.graph.outputs}

    def rule(self, node: gs.Node) -> Callable[[], Decision] | None:
        """Request a pair on the branch that is not the fused convolution's, if a quantized layer reads the sum.

        Of two convolutions, the Add is fused into the one with fewer weights, which has less work: on an H200, TensorRT
        8.6.0 had sm90 kernels for plain convolutions, but only sm80 kernels for those with an Add. Three such pairs of
        ResNet-18 at batch 32 took 0.081 ms with the Add in the 1x1 shortcut, and 0.088 ms with it in the 3x3
        convolution.

        If only float layers read the sum, the pair costs time. Latencies with and without it on an H200 with 8.6.0
        (tests/benchmarks/bench_residual.py): 0.033 and 0.045 ms if a quantized convolution reads the sum; 0.054 and
        0.048 ms if a float one does; 0.054 and 0.051 ms if the branch is another convolution's.

        With an activation between the convolution and the Add, as in YOLO's bottlenecks, the Add remains a kernel of
        its own, and both branches get pairs: a float reader makes the layer before it write float16, and every later Q
        becomes a kernel. On an H100 with 8.6.0, the detector at batch 8 took 0.387 ms without these pairs (of 0.719 ms
        in kernels, 0.131 ms in 13 QuantizeLinear kernels, besides six SiLU kernels) and 0.276 ms as ModelOpt places
        them (one of 0.018 ms). Built at optimization level 2, it takes 0.2846 ms by this rule and 0.2856 ms by
        ModelOpt's.
        """
        if self.forms.op(node) not in ADDS:
            return None
        branches = [i for i, t in enumerate(node.inputs) if self.model.constant(t) is None]
        convs = self._convs_before(node, branches, self._conv_before)
        apart = not convs
        if apart:
            convs = self._convs_before(node, branches, self._conv_before_activation)
        # a tensor added to itself has no other branch
        if len({node.inputs[i].name for i in branches}) < 2:
            return None
        if not convs:
            return self._after_products(node, branches) if self.products else None

        def decide() -> Decision:
            fused = {i: conv.name for i, conv in convs.items() if self.layer(conv.name)}
            if not fused or (apart and not all(self.reach.in_region(node.inputs[i]) for i in branches)):
                return None
            if len(branches) > 2:
                return Code.SUM_OF_MANY(branches=len(branches))
            kept = self.judge(node)
            if kept is not None:
                return kept
            if not self._same_shapes([node.inputs[i].name for i in branches]):
                return Code.BROADCAST()
            if not self.reach.leads(node.outputs[0]):
                return Code.SUM_STAYS_FLOAT()
            main = min(fused, key=lambda i: (self._weights(convs[i]), -self.reach.depth.get(fused[i], 0)))
            if apart:
                return Quantized(tuple(branches), Code.SUM_OPERAND(node=node.name, behind=fused[main]), fused[main])
            index = next(i for i in branches if i != main)
            return Quantized((index,), Code.RESIDUAL_BRANCH(node=node.name, into=fused[main]), fused[main])

        return decide

    def _after_products(self, node: gs.Node, branches: list[int]) -> Callable[[], Decision] | None:
        """Request a pair on what a MatMul or Gemm adds to a transformer's residual stream; share the other branch's.

        The MatMul then writes INT8, which the kernel that adds and normalizes reads.
        """
        products = {i: one for i in branches if (one := self._product_before(node.inputs[i])) is not None}
        if not products or len(branches) > 2:
            return None

        def decide() -> Decision:
            made = [i for i, one in products.items() if self.layer(one.name)]
            if not made or not self._normalized(node.outputs[0]):
                return None
            kept = self.judge(node)
            if kept is not None:
                return kept
            if not self._same_shapes([node.inputs[i].name for i in branches]):
                return Code.BROADCAST()
            shared = [i for i in branches if i not in made and self._read_quantized(node.inputs[i])]
            name = products[made[0]].name
            return Quantized(tuple(sorted([*made, *shared])), Code.STREAM_BRANCH(node=node.name, behind=name), name)

        return decide

    def _product_before(self, tensor: gs.Tensor) -> gs.Node | None:
        """The MatMul or Gemm with weights that produces a tensor with one reader, possibly via movers and a bias."""
        while True:
            node = self.model.producer(tensor)
            readers = [reader for reader in tensor.outputs if reader.op != "Shape"]
            if node is None or len(readers) != 1 or tensor.name in self.outputs:
                return None
            constants = [self.model.constant(t) is not None or dequantizer(t) is not None for t in node.inputs[:2]]
            if node.op in ("MatMul", "Gemm"):
                return node if any(constants) else None
            if node.op in ADDS and sum(constants) == 1:
                tensor = node.inputs[constants.index(False)]
            elif node.op in MOVERS:
                tensor = node.inputs[0]
            else:
                return None

    def _normalized(self, tensor: gs.Tensor) -> bool:
        """Whether quantized layers read a normalization of the tensor."""
        norms = [one for one in self.forms.readers(tensor) if self.forms.op(one) in NORMALIZATIONS]
        return any(self.reach.leads(made) for one in norms for made in self.forms.outputs(one))

    def _read_quantized(self, tensor: gs.Tensor) -> bool:
        """Whether a quantized layer reads the tensor's pair."""
        return any(one.op in TARGETS and self.layer(one.name) for one in tensor.outputs)

    def _convs_before(
        self, node: gs.Node, branches: Iterable[int], find: Callable[[gs.Tensor], gs.Node | None]
    ) -> dict[int, gs.Node]:
        return {i: conv for i in branches if (conv := find(node.inputs[i])) is not None}

    def _conv_before_activation(self, tensor: gs.Tensor) -> gs.Node | None:
        """The convolution whose epilogue ends with the activation that produces a tensor with one reader."""
        node = self.model.producer(tensor)
        alone = len(self.forms.readers(tensor)) == 1 and tensor.name not in self.outputs
        if node is None or not alone or self.forms.op(node) not in ACTIVATIONS:
            return None
        return self._conv_before(self.forms.inputs(node)[0])

    def _weights(self, conv: gs.Node) -> int:
        """The number of weights of a quantized convolution; their shape is known, since they are constants."""
        return math.prod(shape_of(self.facts, conv.inputs[1].name) or ())

    def _conv_before(self, tensor: gs.Tensor) -> gs.Node | None:
        """The convolution whose epilogue could take an Add after this tensor, if it is quantized."""
        while True:
            node = self.model.producer(tensor)
            if node is None or len(self.forms.readers(tensor)) != 1 or tensor.name in self.outputs:
                return None
            if node.op in ("Conv", "ConvTranspose"):
                return node
            if self.forms.op(node) not in FOLDED and not self.reach.constant_affine(node):
                return None
            tensor = next((t for t in self.forms.inputs(node) if self.model.constant(t) is None), node.inputs[0])

    def _same_shapes(self, names: list[str]) -> bool:
        shapes = [self.facts.shapes.get(name) for name in names]
        if any(s is None for s in shapes):
            return True
        return all(
            len(a) == len(b) and all(x == y or x < 0 or y < 0 for x, y in zip(a, b))
            for corner in zip(*(s for s in shapes if s is not None))
            for a, b in [corner]
        )
