"""Attribution from the engine inspector: what every node actually runs in, per profile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx_graphsurgeon as gs

from toolkit.backends.attribution.engine_map import EngineMap, is_constant_node, opaque
from toolkit.backends.attribution.flow import Flow
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.inspector import tactic_word
from toolkit.backends.layers.layer import Actual, Build, Layer
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.placement.ops import MOVERS, PAIR_OPERATORS, TARGETS

_BY_WORD = {**{str(precision): precision for precision in Precision}, "fp4": Precision.NVFP4}
_WEIGHTED = ("conv", "gemm", "matrixmultiply", "matmul", "fullyconnected", "deconvolution")
_OF_SHAPES = frozenset({"Shape", "Size", "If", "Loop", "Scan"})


class InspectorAttribution:
    """Maps the nodes of a graph to the layers that the engine inspector reports."""

    def __init__(self, model: Model, build: Build, plan: PrecisionPlan) -> None:
        self.model, self.build, self.plan = model, build, plan
        self.flow = Flow(model)
        self.facts = model.facts()

    def all(self) -> dict[str, Actual]:
        """An Actual for every node; if profiles differ, the reason says how."""
        numbers = sorted({layer.profile for layer in self.build.layers}) or [0]
        found: list[dict[str, Actual]] = []
        for number in numbers:
            layers = [layer for layer in self.build.layers if layer.profile == number]
            found.append(self._profile(EngineMap(self.flow, self.model.graph.outputs, layers)))
        known = list(self.build.settings.get("profiles", ()))
        names = known if len(known) == len(numbers) else [str(number) for number in numbers]
        return {name: _merge([one[name] for one in found], names) for name in self.flow.nodes}

    def _profile(self, engine: EngineMap) -> dict[str, Actual]:
        mains = self._mains(engine)
        return {name: self._actual(node, engine, mains) for name, node in self.flow.nodes.items()}

    def _mains(self, engine: EngineMap) -> dict[str, str]:
        """Per layer name, the main node that the layer computes: its heaviest."""
        mains: dict[str, tuple[int, str]] = {}
        for name, layers in engine.layers.items():
            weight = self._weight(self.flow.nodes[name])
            for layer in layers:
                if layer.name not in mains or weight > mains[layer.name][0]:
                    mains[layer.name] = (weight, name)
        return {layer: name for layer, (_, name) in mains.items()}

    def _weight(self, node: gs.Node) -> int:
        if node.op in TARGETS:
            return 4
        if node.op in PAIR_OPERATORS:
            return 1
        return 2 if node.op in MOVERS else 3

    def _actual(self, node: gs.Node, engine: EngineMap, mains: dict[str, str]) -> Actual:
        layers = engine.layers.get(node.name, [])
        if is_constant_node(node) and engine.how.get(node.name) not in ("metadata", "name"):
            if node.op in PAIR_OPERATORS and layers:
                return self._record(self.flow.pair_type(node), layers, "fused", EngineCode.DONE_WHILE_BUILDING())
            known = EngineCode.CONSTANT() if node.op == "Constant" else EngineCode.COMPUTED_WHILE_BUILDING()
            return self._record(None, [], "removed", known)
        if not layers:
            return self._absent(node)
        blocks = [layer for layer in layers if opaque(layer)]
        if blocks and len(blocks) == len(layers) and not self._alone(node, blocks[0], engine):
            return self._hidden(node, blocks)
        if node.op in PAIR_OPERATORS:
            return self._pair(node, layers, engine, mains)
        precision, source = self._precision(node, layers)
        host = self._host(node, layers, mains)
        status, reason = self._compare(node, precision, layers, host)
        return self._record(precision, layers, status, reason, source)

    def _alone(self, node: gs.Node, block: Layer, engine: EngineMap) -> bool:
        """Whether a block runs no other computing node than this one: then the block's formats are the node's."""
        inside = [n for n, layers in engine.layers.items() if block in layers and self._computes(self.flow.nodes[n])]
        return inside == [node.name]

    def _computes(self, node: gs.Node) -> bool:
        return node.op not in MOVERS | PAIR_OPERATORS | {"Constant", "Cast"} and self._is_float(node)

    def _is_float(self, node: gs.Node) -> bool:
        if node.op in _OF_SHAPES:
            return False
        known = [t.name for t in (*node.outputs, *node.inputs) if t.name and t.name in self.facts.types]
        return any(self.facts.is_float(name) for name in known) if known else True

    def _host(self, node: gs.Node, layers: list[Layer], mains: dict[str, str]) -> str:
        """Another node whose kernel runs this one; empty if there is none."""
        owners = [mains[layer.name] for layer in layers if layer.name in mains]
        return "" if node.name in owners or not owners else owners[0]

    def _precision(self, node: gs.Node, layers: list[Layer]) -> tuple[Precision | None, str]:
        """The type that layers compute in and how it is known: from formats, else kernel names, else weights."""
        if not self._is_float(node):
            return None, "inspector"
        computing = [layer for layer in layers if layer.kind not in ("Reformat", "NoOp")] or layers
        for layer in computing:
            weighted = any(word in layer.kind.lower() for word in _WEIGHTED)
            inputs = _precisions(port.precision for port in layer.inputs)
            if inputs and (weighted or node.op in TARGETS):
                return inputs[0], "inspector"
            either = inputs or _precisions(port.precision for port in layer.outputs)
            if either:
                return max(either, key=lambda precision: precision.bits), "inspector"
        for layer in computing:
            if (word := tactic_word(layer.tactic)) in _BY_WORD:
                return _BY_WORD[word], "tactic"
        for layer in computing:
            if layer.weights in _BY_WORD:
                return _BY_WORD[layer.weights], "weights"
        return None, "inspector"

    def _compare(
        self, node: gs.Node, precision: Precision | None, layers: list[Layer], host: str
    ) -> tuple[str, Finding | None]:
        """Status and reason of a node that layers run."""
        asked = self.plan.get(node.name)
        wanted = asked.precision if asked is not None else None
        into = EngineCode.IN_KERNEL_OF(node=host) if host else None
        if not self._is_float(node):
            status = "fused" if host else "honoured"
            if wanted is None:
                return status, into
            return status, EngineCode.PRECISION_NOT_APPLICABLE(
                asked=wanted, why=EngineCode.COMPUTES_NO_FLOATS(), into=into
            )
        if precision is None:
            return "unknown", EngineCode.TYPE_NOT_SHOWN(layer=layers[0].name)
        if wanted is None or wanted is precision:
            return ("fused" if host else "honoured"), into
        why = self._why(node, wanted, precision, layers[0], host)
        return "overridden", EngineCode.RUNS_IN(precision=precision, why=why)

    def _why(self, node: gs.Node, wanted: Precision, actual: Precision, layer: Layer, host: str) -> Finding:
        settings = self.build.settings
        verdict = self.flow.verdict(node)
        implicit = settings.get("quantization") == "implicit"
        kernel = layer.tactic
        if host:
            return EngineCode.PART_OF_KERNEL(layer=layer.name, node=host)
        if wanted.quantized and not implicit:
            if verdict.precision is None:
                return verdict.reason
            return EngineCode.FLOAT_KERNEL_TAKEN(promised=verdict.reason, precision=actual, kernel=kernel)
        if wanted.quantized:
            return EngineCode.FASTEST_KERNEL_TAKEN(kernel=kernel)
        if actual.quantized and verdict.precision is not None:
            return verdict.reason
        if settings.get("typing") == "weak" and settings.get("constraints") == "prefer":
            return EngineCode.CONSTRAINT_NOT_KEPT(kernel=kernel)
        types = tuple(dict.fromkeys(port.precision for port in layer.inputs if port.precision))
        return EngineCode.LAYER_READS(layer=layer.name, types=types, kernel=kernel)

    def _pair(self, node: gs.Node, layers: list[Layer], engine: EngineMap, mains: dict[str, str]) -> Actual:
        precision = self.flow.pair_type(node)
        host = self._host(node, layers, mains)
        asked = self.plan.get(node.name)
        if asked is not None and asked.precision is not precision:
            why = EngineCode.PAIR_TYPE(op=node.op, precision=precision)
            return self._record(precision, layers, "overridden", why)
        if host and engine.how[node.name] != "metadata":
            return self._record(precision, layers, "fused", EngineCode.PART_OF_LAYER(layer=layers[0].name))
        return self._record(precision, layers, "honoured", EngineCode.OWN_KERNEL())

    def _hidden(self, node: gs.Node, blocks: list[Layer]) -> Actual:
        block = blocks[0]
        asked = self.plan.get(node.name)
        reads = tuple(dict.fromkeys(port.precision or "?" for port in block.inputs))
        writes = tuple(dict.fromkeys(port.precision or "?" for port in block.outputs))
        wanted = asked.precision if asked is not None and self._is_float(node) else None
        why = self.flow.verdict(node).reason if wanted is not None and wanted.quantized else None
        reason = EngineCode.IN_BLOCK(block=block.name, reads=reads, writes=writes, asked=wanted, why=why)
        return self._record(None, blocks, "opaque", reason)

    def _absent(self, node: gs.Node) -> Actual:
        own = {tensor.name for tensor in self.model.graph.outputs}
        if node.op in ("Identity", "Dropout"):
            reason = EngineCode.IDENTITY()
        elif not self._is_float(node):
            reason = EngineCode.SHAPES_OUTSIDE_LAYERS()
        elif not any(tensor.outputs or tensor.name in own for tensor in node.outputs):
            reason = EngineCode.UNREAD()
        else:
            return self._record(None, [], "unknown", EngineCode.NOT_IN_ENGINE())
        return self._record(None, [], "removed", reason)

    def _record(
        self,
        precision: Precision | None,
        layers: list[Layer],
        status: str,
        reason: Finding | None,
        source: str = "inspector",
    ) -> Actual:
        return Actual(
            precision=precision,
            input_types=tuple(dict.fromkeys(p.precision for layer in layers for p in layer.inputs if p.precision)),
            output_types=tuple(dict.fromkeys(p.precision for layer in layers for p in layer.outputs if p.precision)),
            source=source,
            status=status,
            reason=reason,
            engine_layers=tuple(dict.fromkeys(layer.name for layer in layers)),
        )


def _merge(found: list[Actual], names: list[str]) -> Actual:
    """One Actual for all profiles: that of the worst status, with a reason that lists each profile's type."""
    first = found[0]
    layers = tuple(dict.fromkeys(name for one in found for name in one.engine_layers))
    if all(one.precision is first.precision and one.status == first.status for one in found):
        return replace(first, engine_layers=layers)
    order = ("overridden", "unknown", "opaque", "fused", "honoured", "removed")
    worst = min(found, key=lambda one: order.index(one.status))
    runs = [str(one.precision or one.status) for one in found]
    reason = EngineCode.PROFILES_DIFFER(why=worst.reason, runs=runs, profiles=names)
    return replace(worst, reason=reason, engine_layers=layers)


def _precisions(words: Iterable[str]) -> list[Precision]:
    return [_BY_WORD[word] for word in words if word in _BY_WORD]
