"""Which engine layers run which ONNX node: from metadata, layer names, tensor names, and then the graph."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_graphsurgeon as gs

from toolkit.backends.attribution.flow import Flow, is_constant
from toolkit.backends.layers.layer import Layer
from toolkit.graph.surgery.assemble import bodies
from toolkit.placement.ops import ACTIVATIONS, MOVERS, PAIR_OPERATORS, QUANTIZERS

_FOREIGN = re.compile(r"^\{?ForeignNode\[(.*)\]\}?$", re.DOTALL)
_HELPERS = ("Reformatting CopyNode", "copied_squeeze", "squeeze_after_", "unsqueeze_node_after_", "shuffle_between_")
_EPILOGUE = MOVERS | ACTIVATIONS | {"BatchNormalization", "Add", "Mul", "Sub", "Div"}


def opaque(layer: Layer) -> bool:
    """Whether a layer is a block whose kernels the inspector does not show."""
    return "myelin" in layer.kind.lower() or _FOREIGN.match(layer.name) is not None


class EngineMap:
    """The layers of one profile, mapped to the nodes of the graph that was built.

    Attributes:
        layers: per node name, the layers that run the node, in the engine's order.
        how: per node name, how this is known: metadata, name, tensor or graph.
    """

    def __init__(self, flow: Flow, outputs: Iterable[gs.Tensor], layers: list[Layer]) -> None:
        self.flow = flow
        self.layers: dict[str, list[Layer]] = {}
        self.how: dict[str, str] = {}
        self._all = layers
        self._makers = {port.name: layer for layer in layers for port in layer.outputs}
        self._producers = {t.name: node for node in flow.nodes.values() for t in node.outputs if t.name}
        self._graph_outputs = {tensor.name for tensor in outputs}
        self._by_metadata()
        self._by_names()
        self._by_blocks()
        self._by_tensors()
        self._pairs()
        self._by_neighbours()

    def _give(self, node: str, layer: Layer, how: str) -> None:
        if node in self.flow.nodes and self.how.get(node, how) == how:
            self.how[node] = how
            held = self.layers.setdefault(node, [])
            if layer not in held:
                held.append(layer)

    def _by_metadata(self) -> None:
        for layer in self._all:
            for node in layer.nodes:
                self._give(node, layer, "metadata")

    def _by_names(self) -> None:
        for layer in self._all:
            if not layer.name.startswith(_HELPERS):
                for node in fused_names(layer.name, self.flow.nodes):
                    self._give(node, layer, "name")

    def _by_blocks(self) -> None:
        """Assign to a block every node between its input and its output tensors that no other layer names."""
        for layer in self._all:
            if not opaque(layer):
                continue
            found = _FOREIGN.match(layer.name)
            ends = found[1].split("...") if found else []
            for end in ends:
                for node in fused_names(end, self.flow.nodes):
                    self._give(node, layer, "name")
            stop = {port.name for port in layer.inputs}
            pending = [self._producers.get(port.name) for port in layer.outputs]
            pending += [self.flow.nodes.get(end) for end in ends[-1:]]
            seen: set[str] = set()
            while pending:
                inner = pending.pop()
                if inner is None or inner.name in seen or self.how.get(inner.name) == "metadata":
                    continue
                seen.add(inner.name)
                self._give(inner.name, layer, "name")
                pending += [self._producers.get(t.name) for t in _reads(inner) if t.name not in stop]

    def _by_tensors(self) -> None:
        for node in self.flow.nodes.values():
            if node.name in self.how or is_constant_node(node):
                continue
            for tensor in node.outputs:
                if tensor.name in self._makers:
                    self._give(node.name, self._makers[tensor.name], "tensor")

    def _pairs(self) -> None:
        """Assign Q/DQ nodes without a layer to the kernel that reads their output or writes the quantized values."""
        for node in self.flow.nodes.values():
            if node.name in self.how or node.op not in PAIR_OPERATORS:
                continue
            maker = self.flow.maker(node.inputs[0]) if node.op in QUANTIZERS else None
            hosts = [maker] if maker is not None and not is_constant(node.inputs[0]) else []
            hosts = hosts or self.flow.readers(node, MOVERS | PAIR_OPERATORS)
            for host in hosts:
                for layer in self.layers.get(host.name, []):
                    self._give(node.name, layer, "graph")

    def _by_neighbours(self) -> None:
        """Assign remaining nodes to the kernel before them, of which they may be an epilogue, or to the one after."""
        waiting = [
            n for n in self.flow.nodes.values() if n.name not in self.how and not is_constant_node(n) and n.outputs
        ]
        before = -1
        while waiting and len(waiting) != before:
            before = len(waiting)
            for node in waiting:
                if (layer := self._neighbour(node)) is not None:
                    self._give(node.name, layer, "graph")
            waiting = [node for node in waiting if node.name not in self.how]

    def _neighbour(self, node: gs.Node) -> Layer | None:
        """The layer of an adjacent node: of one before it for an epilogue, else preferably of one after it."""
        makers = [self._producers.get(tensor.name) for tensor in node.inputs if not is_constant(tensor)]
        earlier = [layer for maker in makers if maker is not None for layer in self.layers.get(maker.name, [])][-1:]
        readers = [reader for tensor in node.outputs for reader in tensor.outputs]
        later = [layer for reader in readers for layer in self.layers.get(reader.name, [])][:1]
        return next(iter([*earlier, *later] if node.op in _EPILOGUE else [*later, *earlier]), None)


def is_constant_node(node: gs.Node) -> bool:
    """Whether a node's value is known at build time."""
    return node.op == "Constant" or (bool(node.inputs) and all(is_constant(t) for t in node.inputs if t.name))


def _reads(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node reads, including those read by nodes of its subgraphs."""
    found = list(node.inputs)
    for sub in bodies(node, recursive=True):
        found += [tensor for inner in sub.nodes for tensor in inner.inputs]
    return found


def fused_names(name: str, known: Iterable[str]) -> list[str]:
    """The node names that a layer's name joins: ``a + b``, ``PWN(a, b)``, nested; node names may contain " + "."""
    known = known if isinstance(known, dict) else set(known)
    if name in known:
        return [name]
    if name.startswith("PWN(") and _closes_at_end(name):
        return _joined(_top_level(name[4:-1]), ", ", known)
    parts = name.split(" + ")
    return _joined(parts, " + ", known) if len(parts) > 1 else []


def _joined(parts: list[str], separator: str, known: Iterable[str]) -> list[str]:
    """The known names in ``parts``; parts are rejoined, longest runs first, since a name may contain the separator."""
    found: list[str] = []
    start = 0
    while start < len(parts):
        for end in range(min(len(parts), start + 8), start, -1):
            whole = separator.join(parts[start:end])
            inner = [whole] if whole in known else []
            if not inner and end == start + 1 and (whole.startswith("PWN(") or " + " in whole):
                inner = fused_names(whole, known)
            if inner:
                found += inner
                start = end
                break
        else:
            start += 1
    return found


def _closes_at_end(name: str) -> bool:
    """Whether the first bracket of a name closes at its end."""
    depth = 0
    for position, character in enumerate(name):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return position == len(name) - 1
    return False


def _top_level(text: str) -> list[str]:
    """The parts of ``text`` between commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0 and text[position : position + 2] == ", ":
            parts.append(text[start:position])
            start = position + 2
    return [*parts, text[start:]]
