"""Opening opaque blocks: which inner tensors to mark, and what an engine built that way tells about the nodes.

A block that TensorRT compiles as one (Myelin) shows no kernels. Where its inner tensors must be written out, the block
is cut there, and the pieces show formats and kernels. But what is cut is not what runs: marked tensors break fusions,
so the pieces show what the block can run in, not surely what it runs in. Nodes stay ``opaque``; this is evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build, Layer
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.evaluation.node_errors.opened_values import AS_QUANTIZED
from toolkit.graph.layers.forms import Forms
from toolkit.graph.model import Model
from toolkit.placement.ops import QUANTIZERS, TARGETS

MOST_TENSORS = 64
"""How many tensors are marked at most: each is one more output to write, and one more border in the engine."""

_BORDERS = frozenset({*TARGETS, "Softmax", "LayerNormalization"})


@dataclass(frozen=True)
class Marks:
    """The tensors to mark.

    Attributes:
        tensors: their names, in the graph's order.
        nodes: for each of them the node that computes it.
        asked: for each of them whether that node was asked for a quantized type.
        left_out: names of nodes whose outputs would be marked too, were there not so many.
    """

    tensors: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    asked: tuple[bool, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def by_weight(self) -> list[str]:
        """The tensors, those of nodes that were asked for a quantized type first."""
        return [tensor for _, tensor in sorted(zip(self.asked, self.tensors), key=lambda pair: not pair[0])]


def marks(model: Model, actuals: Mapping[str, Actual], plan: PrecisionPlan, limit: int = MOST_TENSORS) -> Marks:
    """The inner tensors of opaque blocks at which to cut.

    These are float outputs of opaque nodes that were asked for a quantized type, and of the products, Softmax and
    LayerNormalization around them; those that were asked for a quantized type come first where there are too many.

    Args:
        model: the graph that was built.
        actuals: what is known of its nodes.
        plan: what was asked.
        limit: how many tensors at most.
    """
    facts = model.facts()
    forms = Forms(model, facts)
    outputs = {tensor.name for tensor in model.graph.outputs}
    wanted: list[tuple[bool, int, str, str]] = []
    for position, node in enumerate(model.nodes):
        actual, ask = actuals.get(node.name), plan.get(node.name)
        if actual is None or actual.status != "opaque" or node.op in QUANTIZERS:
            continue
        quantized = ask is not None and ask.precision.quantized
        tensor = node.outputs[0] if node.outputs else None
        if tensor is None or tensor.name in outputs or not facts.is_float(tensor.name):
            continue
        border = forms.op(node) in _BORDERS and any(tensor is made for made in forms.outputs(node))
        if border or (quantized and node.op != "DequantizeLinear"):
            wanted.append((not quantized, position, tensor.name, node.name))
    chosen = sorted(sorted(wanted)[:limit], key=lambda entry: entry[1])
    left = sorted(sorted(wanted)[limit:], key=lambda entry: entry[1])
    return Marks(
        tuple(entry[2] for entry in chosen),
        tuple(entry[3] for entry in chosen),
        tuple(not entry[0] for entry in chosen),
        tuple(entry[3] for entry in left),
    )


def with_evidence(
    actuals: Mapping[str, Actual], opened: Mapping[str, Actual], build: Build
) -> tuple[dict[str, Actual], int]:
    """The opaque nodes with what the opened engine tells about them.

    Args:
        actuals: what the engine itself tells.
        opened: the same for the engine whose tensors were marked.
        build: that engine.

    Returns:
        The opaque nodes alone, by name, and for how many of them the opened engine tells a precision.
    """
    layers = {layer.name: layer for layer in build.layers}
    found: dict[str, Actual] = {}
    shown_nodes = 0
    for name, actual in actuals.items():
        if actual.status != "opaque":
            continue
        there = opened.get(name)
        evidence = _evidence(there, layers, build) if there is not None else None
        shown_nodes += evidence is not None and evidence["precision"] is not None
        shown = _shown(there, evidence)
        reason = EngineCode.OPENED(
            block=actual.reason, shown=shown, values=None, told=shown.code is EngineCode.OPENED_RUNS
        )
        found[name] = replace(actual, opened=evidence, reason=reason)
    return found, shown_nodes


def with_values(
    found: Mapping[str, Actual], marked: Marks, plan: PrecisionPlan, values: Mapping[str, Mapping[str, Any]]
) -> dict[str, Actual]:
    """The opaque nodes with what the values of their opened tensors tell.

    A node that was asked for a quantized type, and whose values are those of that type, gets that precision, source
    ``values``, where the opened engine's inspector showed none.

    Args:
        found: what ``with_evidence`` returned.
        marked: the tensors that were marked.
        plan: what was asked.
        values: by tensor what ``evaluation.opened_values`` tells, and from how many ``samples``.
    """
    made = dict(found)
    for tensor, node in zip(marked.tensors, marked.nodes):
        actual, comparison, ask = made.get(node), values.get(tensor), plan.get(node)
        if actual is None or actual.opened is None or actual.reason is None or comparison is None:
            continue
        opened = {**actual.opened, "values": {"tensor": tensor, **comparison}}
        asked = ask.precision if ask is not None and ask.precision.quantized else None
        if opened["precision"] is None and asked is not None and comparison["verdict"] == AS_QUANTIZED:
            opened |= {"precision": str(asked), "source": "values"}
        reason = EngineCode.OPENED(**{**actual.reason.values, "values": _nearest(comparison, asked), "told": True})
        made[node] = replace(actual, opened=opened, reason=reason)
    return made


def _nearest(comparison: Mapping[str, Any], asked: Precision | None) -> Finding:
    """What the values of a node's opened tensor tell."""
    errors = (comparison[key] for key in ("engine", "simulated"))
    engine, simulated = (error["sqnr_db"] if error is not None else None for error in errors)
    return EngineCode.OPENED_VALUES(
        samples=comparison["samples"], verdict=comparison["verdict"], asked=asked, why=comparison["why"],
        to_quantized_db=comparison["to_quantized_db"], to_float_db=comparison["to_float_db"],
        engine_db=engine, simulated_db=simulated,
    )  # fmt: skip


def _evidence(there: Actual, layers: Mapping[str, Layer], build: Build) -> dict[str, Any]:
    """What the engine with inner tensors marked says of a node, as JSON."""
    tactics = [layers[name].tactic for name in there.engine_layers if name in layers and layers[name].tactic]
    times: dict[str, float] = {}
    for name in there.engine_layers:
        for profile, milliseconds in build.time_ms.get(name, {}).items():
            times[profile] = times.get(profile, 0.0) + milliseconds
    return {
        "precision": str(there.precision) if there.precision is not None else None,
        "status": there.status,
        "source": there.source,
        "input_types": list(there.input_types),
        "output_types": list(there.output_types),
        "engine_layers": list(there.engine_layers),
        "tactics": list(dict.fromkeys(tactics)),
        "time_ms": times,
    }


def _shown(there: Actual | None, evidence: Mapping[str, Any] | None) -> Finding:
    """What the opened engine's inspector shows about a node."""
    if there is None or evidence is None:
        return EngineCode.OPENED_NOT_KNOWN()
    layer = there.engine_layers[0] if there.engine_layers else "?"
    if there.status == "opaque":
        return EngineCode.OPENED_IN_BLOCK(block=layer)
    if there.precision is None:
        return EngineCode.OPENED_STATUS(status=there.status, why=there.reason)
    kernel = evidence["tactics"][0] if evidence["tactics"] else ""
    fused = there.status == "fused"
    return EngineCode.OPENED_RUNS(
        precision=there.precision, source=evidence["source"], layer=layer, kernel=kernel, fused=fused
    )
