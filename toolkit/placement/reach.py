"""Which tensors come from quantized layers, and which lead to them, through operators that stay quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_graphsurgeon as gs

from toolkit.base.cells import Network
from toolkit.graph.layers.forms import Forms, constant_affine
from toolkit.placement.ops import ACTIVATIONS, ADDS, AFFINE, DEQUANTIZE, MOVERS, POOLS, QUANTIZE, REGION, TARGETS

Is = Callable[[], bool]
"""A condition to be evaluated when needed."""
_THROUGH = MOVERS | ACTIVATIONS | AFFINE | POOLS | ADDS | {"Concat", QUANTIZE, DEQUANTIZE, "Resize"}
"""Operators through which a tensor may lead to a quantized layer."""


class Reach:
    """The reach of a model's quantized layers.

    Args:
        nodes: of the main graph, in order.
        layers: for every Conv, ConvTranspose, Gemm and MatMul, whether it is quantized.
        network: the network to which the conditions are added.

    Attributes:
        depth: for each node, the number of such layers on the longest path to it.
    """

    def __init__(self, nodes: Sequence[gs.Node], forms: Forms, layers: Mapping[str, Is], network: Network) -> None:
        self._nodes, self._forms, self._layers, self._network = nodes, forms, dict(layers), network
        self._leading, self._region = self._find_leading(), self._find_region()
        self.depth: dict[str, int] = {}
        for node in nodes:
            before = [self.depth.get(p.name, 0) for t in node.inputs for p in t.inputs]
            self.depth[node.name] = max(before, default=0) + (node.op in TARGETS)

    def leads(self, tensor: gs.Tensor) -> bool:
        """Whether a quantized layer reads the tensor, directly or through operators that stay quantized."""
        leads = self._leading.get(tensor.name)
        return leads is not None and leads()

    def in_region(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor comes from a quantized layer, directly or through operators that stay quantized."""
        inside = self._region.get(tensor.name)
        return inside is not None and inside()

    def constant_affine(self, node: gs.Node) -> bool:
        """Whether a node is part of a BatchNormalization exported as Mul and Add, and of no other composite."""
        return self._forms.composite(node) is None and constant_affine(self._forms.model, node)

    def _find_leading(self) -> dict[str, Is]:
        readers: dict[str, list[gs.Node]] = {}
        for node in self._nodes:
            for name in dict.fromkeys(t.name for t in node.inputs):
                readers.setdefault(name, []).append(node)
        found: dict[str, Is] = {}
        for node in reversed(self._nodes):
            for tensor in node.outputs:
                parts: list[Is] = []
                for reader in readers.get(tensor.name, ()):
                    downstream = [found[out.name] for out in reader.outputs if out.name in found]
                    if reader.op in TARGETS:
                        parts.append(self._layers[reader.name])
                    elif downstream and self._passes_on(reader, tensor):
                        parts += downstream
                if parts:
                    found[tensor.name] = self._any(parts)
        return found

    def _passes_on(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        through = self._forms.op(node) in _THROUGH
        return through or self.constant_affine(node) or (node.op == "Mul" and _is_gate(node, tensor))

    def _find_region(self) -> dict[str, Is]:
        found: dict[str, Is] = {}
        for node in self._nodes:
            parts = [found[t.name] for t in node.inputs if t.name in found]
            if node.op in TARGETS:
                found.update({t.name: self._layers[node.name] for t in node.outputs})
            elif parts and self._keeps_region(node):
                inside = self._any(parts)
                found.update({t.name: inside for t in node.outputs})
        return found

    def _keeps_region(self, node: gs.Node) -> bool:
        return self._forms.op(node) in REGION or self.constant_affine(node)

    def _any(self, parts: Iterable[Is]) -> Is:
        """Whether any of these holds."""
        own = list(dict.fromkeys(parts))
        return own[0] if len(own) == 1 else self._network.add(lambda: any(part() for part in own))


def _is_gate(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a Mul is x * sigmoid(x), as SiLU and hard-swish are exported."""
    makers: Mapping[int, str] = {i: t.inputs[0].op for i, t in enumerate(node.inputs) if t.inputs}
    return any(op in ("Sigmoid", "HardSigmoid", "Softplus", "Tanh") for op in makers.values()) and tensor in node.inputs
