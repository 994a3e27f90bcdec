"""Attribution from the typed network definition only: for machines whose GPU cannot open the engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx_graphsurgeon as gs

from toolkit.backends.attribution.flow import Flow, is_constant
from toolkit.backends.attribution.reasons import NodeRequest, compare
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build, Layer
from toolkit.backends.layers.program import operands
from toolkit.base.precision import FLOATS, Precision
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.ops import DEQUANTIZERS, MOVERS, PAIR_OPERATORS, TARGETS

_FLOAT_WORDS = {str(precision): precision for precision in FLOATS}
_OF_SHAPES = frozenset({"Shape", "Size"})
_BRANCHING = frozenset({"If", "Loop", "Scan"})


class NetworkAttribution:
    """Maps the nodes of a graph to the layers of the typed network that TensorRT's parser created."""

    def __init__(self, model: Model, build: Build, plan: PrecisionPlan) -> None:
        self.model, self.build, self.plan = model, build, plan
        read = {node: operands(layer.tactic) for layer in build.layers for node in layer.nodes if layer.tactic}
        floats = {node: sorted(words & _FLOAT_WORDS.keys()) for node, words in read.items()}
        self.flow = Flow(model, {node: words for node, words in floats.items() if words})
        self.seen = {node for node, words in read.items() if words}
        self.layers: dict[str, list[Layer]] = defaultdict(list)
        self.makers: dict[str, Layer] = {}
        self.types: dict[str, str] = {}
        for layer in build.layers:
            for node in layer.nodes:
                if node in self.flow.nodes:
                    self.layers[node].append(layer)
            for port in (*layer.inputs, *layer.outputs):
                self.types[port.name] = port.precision
            for port in layer.outputs:
                self.makers[port.name] = layer

    def all(self) -> dict[str, Actual]:
        """An Actual for every node."""
        return {name: self._actual(node) for name, node in self.flow.nodes.items()}

    def _actual(self, node: gs.Node) -> Actual:
        layers = self._layers(node)
        if not layers:
            return self._absent(node)
        if node.op in PAIR_OPERATORS:
            return self._pair(node, layers)
        names = tuple(dict.fromkeys(layer.name for layer in layers))
        precision, why = self._precision(node, layers)
        asked = self.plan.get(node.name)
        status, reason = compare(
            NodeRequest(node, asked.precision if asked else None), precision, why, self.flow, self._word
        )
        if node.op in _BRANCHING:
            reason = EngineCode.SEE_BRANCHES()
        verdict = self.flow.verdict(node)
        if precision is not None and precision.quantized and verdict.into:
            status, reason = ("fused" if status == "honoured" else status), reason or verdict.reason
            names = self._names(verdict.into) or names
        source = "tactic" if node.name in self.seen and node.op in TARGETS else "network"
        return self._record(node, precision, status, reason, names, source)

    def _layers(self, node: gs.Node) -> list[Layer]:
        """The layers that name the node, else those that produce its outputs."""
        found = self.layers.get(node.name)
        if found:
            return found
        return [self.makers[tensor.name] for tensor in node.outputs if tensor.name in self.makers]

    def _names(self, node: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.name for layer in self._layers(self.flow.nodes[node])))

    def _precision(self, node: gs.Node, layers: list[Layer]) -> tuple[Precision | None, Finding | None]:
        """The type that a node computes in, and a finding about it."""
        if node.op in _BRANCHING or node.op in _OF_SHAPES:
            return None, EngineCode.COMPUTES_NO_FLOATS()
        verdict = self.flow.verdict(node)
        if verdict.precision is not None:
            return verdict.precision, verdict.reason
        outputs = _floats(self._word(tensor) for tensor in node.outputs)
        floats = self._layer_floats(node, layers, bool(outputs))
        if not floats:
            words = [word for word in dict.fromkeys(self._word(t) for t in node.outputs if t.name) if word]
            return None, EngineCode.COMPUTES_TYPES(types=words) if words else EngineCode.COMPUTES_NO_FLOATS()
        widest = max(floats, key=lambda precision: precision.bits)
        if outputs and widest not in outputs:
            return widest, EngineCode.PARSER_CASTS(op=node.op, precision=widest, result=outputs[0])
        return widest, None

    def _layer_floats(self, node: gs.Node, layers: list[Layer], makes_floats: bool) -> list[Precision]:
        """The float types of a node's layers: those of their outputs, else of their inputs if the node reads floats.

        A node without float outputs may still have internal float layers; its inputs then tell what it computes in.
        """
        made = _floats(port.precision for layer in layers for port in layer.outputs)
        if node.op == "Cast" or (made and makes_floats):
            return made
        read = _floats(port.precision for layer in layers for port in layer.inputs)
        return read if _floats(self._word(tensor) for tensor in node.inputs) else []

    def _pair(self, node: gs.Node, layers: list[Layer]) -> Actual:
        """The Actual of a Q/DQ node: part of an adjacent quantized layer, or a kernel of its own."""
        precision = self.flow.pair_type(node)
        own = tuple(dict.fromkeys(layer.name for layer in layers))
        into, why = self._host(node)
        asked = self.plan.get(node.name)
        if asked is not None and asked.precision is not precision:
            return self._record(
                node, precision, "overridden", EngineCode.PAIR_TYPE(op=node.op, precision=precision), own
            )
        if into:
            names = tuple(dict.fromkeys(name for host in into for name in self._names(host)))
            return self._record(node, precision, "fused", why, names or own)
        return self._record(node, precision, "honoured", why, own)

    def _host(self, node: gs.Node) -> tuple[list[str], Finding | None]:
        """The quantized nodes whose kernels perform a Q/DQ node, and why."""
        return self._host_after(node) if node.op in DEQUANTIZERS else self._host_before(node)

    def _host_after(self, node: gs.Node) -> tuple[list[str], Finding | None]:
        """``_host`` of a DequantizeLinear: the quantized nodes that read it."""
        served = [reader for reader in node.outputs[0].outputs if reader.op in DEQUANTIZERS]
        if served:
            # these readers dequantize the block scales
            return self._host(served[0])
        readers = [reader.name for reader in self.flow.readers(node) if self.flow.verdict(reader).precision]
        floats = [reader.name for reader in self.flow.readers(node) if reader.name not in readers]
        if readers:
            return readers, EngineCode.DEQUANTIZED_IN(nodes=readers, other=floats[0] if floats else "")
        return [], EngineCode.DEQUANTIZES_FOR_FLOAT(nodes=floats) if floats else EngineCode.DEQUANTIZES_OUTPUT()

    def _host_before(self, node: gs.Node) -> tuple[list[str], Finding | None]:
        """``_host`` of a QuantizeLinear: the node that computes its values, or the readers of a constant."""
        if is_constant(node.inputs[0]):
            readers = self.flow.readers(node, MOVERS | DEQUANTIZERS)
            hosts = [reader.name for reader in readers if self.flow.verdict(reader).precision]
            return hosts, EngineCode.CONSTANT_QUANTIZED(nodes=hosts) if hosts else None
        maker = self.flow.maker(node.inputs[0])
        if maker is None:
            return [], EngineCode.QUANTIZES_INPUT(tensor=node.inputs[0].name)
        if maker.op in DEQUANTIZERS:
            return [], EngineCode.RESCALES()
        if self.flow.verdict(maker).precision is not None:
            return [maker.name], EngineCode.QUANTIZED_IN(node=maker.name)
        return [], EngineCode.QUANTIZES_FLOAT(node=maker.name)

    def _absent(self, node: gs.Node) -> Actual:
        """The Actual of a node without a layer in the network."""
        own = {tensor.name for tensor in self.model.graph.outputs}
        read = any(tensor.outputs or tensor.name in own for tensor in node.outputs)
        if node.op == "Constant":
            reason = EngineCode.CONSTANT()
        elif node.op in ("Identity", "Dropout"):
            reason = EngineCode.IDENTITY()
        elif node.inputs and all(is_constant(tensor) for tensor in node.inputs if tensor.name):
            reason = EngineCode.FOLDED_BY_PARSER()
        elif not read:
            reason = EngineCode.UNREAD()
        elif not _floats(self._word(t) for t in (*node.inputs, *node.outputs)):
            reason = EngineCode.SHAPES_FOLDED_BY_PARSER()
        else:
            return self._record(node, None, "unknown", EngineCode.NOT_IN_NETWORK(), ())
        return self._record(node, None, "removed", reason, ())

    def _record(
        self,
        node: gs.Node,
        precision: Precision | None,
        status: str,
        reason: Finding | None,
        layers: tuple[str, ...],
        source: str = "network",
    ) -> Actual:
        return Actual(
            precision=precision,
            input_types=tuple(self._word(tensor) for tensor in node.inputs if tensor.name),
            output_types=tuple(self._word(tensor) for tensor in node.outputs if tensor.name),
            source=source,
            status=status,
            reason=reason,
            engine_layers=layers,
        )

    def _word(self, tensor: gs.Tensor) -> str:
        """The type of a tensor in the network, else in the graph."""
        if tensor.name in self.types and not isinstance(tensor, gs.Constant):
            return self.types[tensor.name]
        kind = onnx_type(tensor.dtype)
        precision = Precision.from_onnx(kind)
        if precision is not None:
            return str(precision)
        from onnx import TensorProto

        return TensorProto.DataType.Name(kind).lower() if kind else ""


def _floats(words: Iterable[str]) -> list[Precision]:
    return [_FLOAT_WORDS[word] for word in words if word in _FLOAT_WORDS]
