"""Recognizing operators however they are exported: pools written as reductions, operators decomposed into several
nodes.

PyTorch exports LayerNorm as LayerNormalization from opset 17 on and as nine nodes before, GELU as Gelu from opset 20 on
and as five nodes before, adaptive pooling as GlobalAveragePool or as ReduceMean over the spatial axes. TensorRT builds
the same layers for all forms, so code that depends on operators uses this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.tensors import upstream

_POOL = "GlobalAveragePool"
_THROUGH = ("Cast", "Identity")
_GATES = {
    frozenset({"Erf"}): "Gelu",
    frozenset({"Tanh"}): "Gelu",
    frozenset({"Sigmoid"}): "Swish",
    frozenset({"Exp"}): "Swish",
    frozenset({"HardSigmoid"}): "HardSwish",
    frozenset({"Clip"}): "HardSwish",
    frozenset({"Softplus", "Tanh"}): "Mish",
    frozenset({"Abs"}): "Softsign",
}
"""Activations that multiply or divide a tensor by a function of it, by the functions in them."""
_SCALED = ("Gelu", "HardSwish")
"""Those that exporters multiply by a constant at the end: 0.5, 1 / 6."""
_FUNCTIONS = frozenset().union(*_GATES)
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Neg", *_THROUGH})
_MOST_NODES = 12

_Path: TypeAlias = "tuple[gs.Tensor, tuple[gs.Node, ...]]"
"""The tensor where a path begins, and its nodes."""


@dataclass(frozen=True)
class Composite:
    """An operator that is decomposed into several nodes.

    Attributes:
        op: the equivalent ONNX operator: LayerNormalization, InstanceNormalization, RMSNormalization, Gelu, Swish,
            HardSwish, Mish or Softsign.
        nodes: its nodes, in graph order.
        input: its input.
        output: its output.
    """

    op: str
    nodes: tuple[gs.Node, ...]
    input: gs.Tensor
    output: gs.Tensor


class Forms:
    """The operators of a model's nodes, with decomposed operators recognized.

    Args:
        facts: its types and shapes, if known already; otherwise ranks that the graph does not declare are inferred.
    """

    def __init__(self, model: Model, facts: Facts | None = None) -> None:
        self.model, self._facts = model, facts
        graphs = {id(graph): graph for graph in (model.graph, *(graph for _, graph in model.walk()))}
        self._outputs = {id(t) for graph in graphs.values() for t in graph.outputs}
        self._order = {id(node): place for place, (node, _) in enumerate(model.walk())}
        self.composites = [*self._normalizations(), *self._activations()]
        self._of = {id(node): one for one in self.composites for node in one.nodes}

    def op(self, node: gs.Node) -> str:
        """The operator that a node is, or is part of; a reduction that acts as a pool counts as the pool."""
        whole = self._of.get(id(node))
        if whole is not None:
            return whole.op
        return _POOL if node.op == "ReduceMean" and self._spatial(node) else str(node.op)

    def composite(self, node: gs.Node) -> Composite | None:
        """The composite that a node is part of."""
        return self._of.get(id(node))

    def readers(self, tensor: gs.Tensor) -> list[gs.Node]:
        """The nodes that read a tensor, with only one node per composite."""
        found = {id(self._of.get(id(node), node)): node for node in tensor.outputs}
        return list(found.values())

    def outputs(self, node: gs.Node) -> list[gs.Tensor]:
        """The outputs of a node, or of the composite that it is part of."""
        whole = self._of.get(id(node))
        return list(node.outputs) if whole is None else [whole.output]

    def inputs(self, node: gs.Node) -> list[gs.Tensor]:
        """The inputs of a node, or of the composite that it is part of."""
        whole = self._of.get(id(node))
        return list(node.inputs) if whole is None else [whole.input]

    # ---------------------------------------------------------------- reductions

    def _axes(self, node: gs.Node) -> tuple[int, ...] | None:
        """The axes of a reduction, not negative if the rank is known; None if it has none, or they are computed."""
        axes = node.attrs.get("axes")
        if axes is None and len(node.inputs) > 1 and not node.inputs[1].is_empty():
            values = self.model.constant(node.inputs[1])
            axes = None if values is None else values.reshape(-1).tolist()
        if not axes:
            return None
        rank = self._rank(node.inputs[0]) if any(axis < 0 for axis in axes) else None
        return tuple(sorted(int(axis) + rank if axis < 0 and rank is not None else int(axis) for axis in axes))

    def _spatial(self, node: gs.Node) -> bool:
        """Whether a reduction is only over axes after batch and channels, as a pool's is."""
        axes = self._axes(node)
        return axes is not None and axes[0] >= 2

    def _rank(self, tensor: gs.Tensor) -> int | None:
        if tensor.shape is not None:
            return len(tensor.shape)
        if self._facts is None:
            self._facts = self.model.facts()
        return self._facts.rank(tensor.name)

    # ---------------------------------------------------------------- normalizations

    def _normalizations(self) -> Iterator[Composite]:
        for node, _ in self.model.walk():
            if node.op == "ReduceMean":
                found = self._normalization(node)
                if found is not None:
                    yield found

    def _normalization(self, variance: gs.Node) -> Composite | None:
        """The normalization whose variance or mean square a node computes, if any."""
        nodes = [variance]
        square = self._maker(variance.inputs[0], nodes)
        if square is None or not self._squares(square):
            return None
        nodes.append(square)
        difference, axes = square.inputs[0], self._axes(variance)
        casts: list[gs.Node] = []
        centre = self._maker(difference, casts)
        centred = centre is not None and self._centred(centre, axes, nodes)
        nodes += casts if centred else []
        source = centre.inputs[0] if centre is not None and centred else difference
        divided = self._divided(variance, nodes)
        if divided is None:
            return None
        last, over = divided
        if upstream(over, _THROUGH) is not upstream(difference, _THROUGH):
            # exporters without common subexpression elimination compute the difference twice
            other = self._maker(over, nodes)
            if not centred or other is None or not self._centred(other, axes, nodes) or other.inputs[0] is not source:
                return None
        for op in ("Mul", "Add"):
            casts = []
            reader, tensor = self._reader(last, casts)
            if reader is not None and reader.op == op and self._other(reader, tensor) is not None:
                nodes += [*casts, reader]
                last = reader
        name = "RMSNormalization"
        if centred:
            name = "InstanceNormalization" if self._spatial_norm(variance) else "LayerNormalization"
        return self._closed(name, nodes, source, last)

    def _spatial_norm(self, variance: gs.Node) -> bool:
        axes, rank = self._axes(variance), self._rank(variance.inputs[0])
        return rank is not None and rank > 3 and axes == tuple(range(2, rank))

    def _squares(self, node: gs.Node) -> bool:
        if node.op == "Mul":
            return node.inputs[0] is node.inputs[1]
        return node.op == "Pow" and self._number(node.inputs[1]) == 2

    def _centred(self, node: gs.Node, axes: Sequence[int] | None, nodes: list[gs.Node]) -> bool:
        """Whether a node subtracts from a tensor its mean; if so, it and the mean's node are added to ``nodes``."""
        mean = self._maker(node.inputs[1], nodes) if node.op == "Sub" else None
        if mean is None or mean.op != "ReduceMean" or mean.inputs[0] is not node.inputs[0] or self._axes(mean) != axes:
            return False
        nodes += [node, mean]
        return True

    def _divided(self, variance: gs.Node, nodes: list[gs.Node]) -> tuple[gs.Node, gs.Tensor] | None:
        """The node that divides by the root of the variance, and its dividend; nodes between are added to ``nodes``."""
        root = self._root(variance, nodes)
        if root is None:
            return None
        inverse = root.op != "Sqrt"
        node, tensor = self._reader(root, nodes)
        if node is None or node.op != ("Mul" if inverse else "Div"):
            return None
        others = [t for t in node.inputs if t is not tensor]
        if len(others) != 1 or (not inverse and node.inputs[1] is not tensor):
            return None
        nodes.append(node)
        return node, others[0]

    def _root(self, variance: gs.Node, nodes: list[gs.Node]) -> gs.Node | None:
        """The Sqrt of a variance with its epsilon, or its inverse: a Pow, or the Div or Reciprocal after the Sqrt.

        It and the nodes on the way are added to ``nodes``.
        """
        node, tensor = self._reader(variance, nodes)
        if node is not None and node.op == "Add" and self._number(self._other(node, tensor)) is not None:
            nodes.append(node)
            node, _ = self._reader(node, nodes)
        if node is None or not (node.op == "Sqrt" or (node.op == "Pow" and self._number(node.inputs[1]) == -0.5)):
            return None
        nodes.append(node)
        if node.op == "Pow":
            return node
        casts: list[gs.Node] = []
        after, _ = self._reader(node, casts)
        one = after is not None and after.op == "Div" and self._number(after.inputs[0]) == 1
        if after is None or not (one or after.op == "Reciprocal"):
            return node
        nodes += [*casts, after]
        return after

    # ---------------------------------------------------------------- activations

    def _activations(self) -> list[Composite]:
        """Gates of one tensor: all paths from it to a Mul or Div go through arithmetic with scalars."""
        paths_to: dict[int, list[_Path]] = {}
        found: list[Composite] = []
        # without a node at which a path can end, none is followed
        if not any(node.op in ("Mul", "Div") for node, _ in self.model.walk()):
            return found
        for node, _ in self.model.walk():
            if node.op not in _ARITHMETIC | _FUNCTIONS or len(node.outputs) != 1 or not node.inputs:
                continue
            read = self._activations_read(node)
            if not 1 <= len(read) <= 2:
                continue
            paths = [[(t, ()), *paths_to.get(id(t), [])] for t in read]
            joined = paths[0] if len(paths) == 1 else _joined(*paths)
            near = [(tensor, (*nodes, node)) for tensor, nodes in joined if len(nodes) < _MOST_NODES]
            paths_to[id(node.outputs[0])] = near
            if len(paths) == 2 and near and node.op in ("Mul", "Div"):
                whole = self._gate(*near[0], node)
                if whole is not None:
                    inner = {id(one) for one in whole.nodes}
                    found = [one for one in found if not inner >= {id(node) for node in one.nodes}] + [whole]
        return found

    def _activations_read(self, node: gs.Node) -> list[gs.Tensor]:
        """The tensors that a node reads besides scalars, each once; empty if one is a constant."""
        values = node.inputs[:1] if node.op == "Clip" else node.inputs
        read = list({id(t): t for t in values if self._number(t) is None}.values())
        return [] if any(isinstance(t, gs.Constant) for t in read) else read

    def _gate(self, source: gs.Tensor, nodes: tuple[gs.Node, ...], last: gs.Node) -> Composite | None:
        op = _GATES.get(frozenset(node.op for node in nodes) & _FUNCTIONS)
        if op is None:
            return None
        members = list(nodes)
        casts: list[gs.Node] = []
        reader, tensor = self._reader(last, casts)
        scaled = op in _SCALED and reader is not None and reader.op in ("Mul", "Div")
        if reader is not None and scaled and self._number(self._other(reader, tensor)) is not None:
            members += [*casts, reader]
            last = reader
        return self._closed(op, members, source, last)

    # ---------------------------------------------------------------- helpers

    def _closed(self, op: str, nodes: list[gs.Node], source: gs.Tensor, last: gs.Node) -> Composite | None:
        """The composite, if only its own nodes read its inner tensors."""
        own = {id(node) for node in nodes}
        inner = [t for node in nodes if node is not last for t in node.outputs]
        if any(id(t) in self._outputs or any(id(r) not in own for r in t.outputs) for t in inner):
            return None
        ordered = sorted({id(node): node for node in nodes}.values(), key=lambda node: self._order[id(node)])
        return Composite(op, tuple(ordered), source, last.outputs[0])

    def _maker(self, tensor: gs.Tensor, nodes: list[gs.Node]) -> gs.Node | None:
        """The node that produces a tensor; casts on the way are added to ``nodes``."""
        node = self.model.producer(tensor)
        while node is not None and node.op in _THROUGH:
            nodes.append(node)
            node = self.model.producer(node.inputs[0])
        return node

    def _reader(self, node: gs.Node, nodes: list[gs.Node]) -> tuple[gs.Node | None, gs.Tensor]:
        """The only node that reads a result, and the tensor it reads; casts on the way are added to ``nodes``."""
        tensor = node.outputs[0]
        while len(tensor.outputs) == 1 and tensor.outputs[0].op in _THROUGH:
            nodes.append(tensor.outputs[0])
            tensor = tensor.outputs[0].outputs[0]
        return tensor.outputs[0] if len(tensor.outputs) == 1 else None, tensor

    def _other(self, node: gs.Node, tensor: gs.Tensor) -> gs.Tensor | None:
        """The constant that a node combines with a tensor; None if there is none."""
        others = [t for t in node.inputs if t is not tensor]
        constant = len(others) == 1 and self.model.constant(others[0]) is not None
        return others[0] if constant else None

    def _number(self, tensor: gs.Tensor | None) -> float | None:
        """The value of a constant with one element; None for other tensors."""
        if tensor is None or (tensor.inputs and tensor.inputs[0].op != "Constant"):
            return None
        values = self.model.constant(tensor)
        if values is None or values.size != 1 or values.dtype.kind not in "fiuV":
            return None
        return float(np.asarray(values, np.float64).reshape(-1)[0])


def _joined(first: list[_Path], second: list[_Path]) -> list[_Path]:
    """The tensors from which both paths come, nearest first, with the nodes of both paths."""
    other = {id(tensor): nodes for tensor, nodes in second}
    return [
        (tensor, tuple({id(node): node for node in (*nodes, *other[id(tensor)])}.values()))
        for tensor, nodes in first
        if id(tensor) in other
    ]


def constant_affine(model: Model, node: gs.Node) -> bool:
    """Whether a node scales or shifts by constants, as in a decomposed BatchNormalization."""
    return node.op in ("Mul", "Add", "Sub", "Div") and any(model.constant(t) is not None for t in node.inputs)
