"""Opening opaque blocks: which inner tensors to mark, and what an engine built with them shows about the nodes.

A block that TensorRT compiles as a unit (Myelin) shows no kernels. If its inner tensors must be written, the block is
cut at these, and the parts show formats and kernels. But the parts are not what normally runs: marked tensors prevent
fusions, so the parts show what the block can run in, not necessarily what it runs in. Nodes therefore stay
``opaque``, and this is only evidence.
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
"""Most tensors to mark: each is one more output to write, and one more cut in the engine."""

_BORDERS = frozenset({*TARGETS, "Softmax", "LayerNormalization"})


@dataclass(frozen=True)
class Marks:
    """The tensors to mark.

    Attributes:
        tensors: names of the tensors, in graph order.
        nodes: per tensor, the node that computes it.
        asked: per tensor, whether a quantized type was requested for its node.
        left_out: names of nodes whose outputs are not marked because of the limit.
    """

    tensors: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    asked: tuple[bool, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def by_weight(self) -> list[str]:
        """The tensors, with those of nodes for which a quantized type was requested first."""
        return [tensor for _, tensor in sorted(zip(self.asked, self.tensors), key=lambda pair: not pair[0])]


def marks(model: Model, actuals: Mapping[str, Actual], plan: PrecisionPlan, limit: int = MOST_TENSORS) -> Marks:
    """The inner tensors of opaque blocks at which to cut.

    These are float outputs of opaque nodes for which a quantized type was requested, and of the matrix products,
    Softmax and LayerNormalization nodes around them. If there are too many, nodes with such a request take precedence.

    Args:
        model: the graph that was built.
        actuals: what is known about its nodes.
        limit: most tensors to mark.
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
    """The opaque nodes with the evidence from the opened engine.

    Args:
        actuals: what the engine itself shows.
        opened: what the engine with marked tensors shows.
        build: the build of the engine with marked tensors.

    Returns:
        The opaque nodes by name, and for how many of them the opened engine shows a precision.
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
    """The opaque nodes with the evidence from the values of their opened tensors.

    If a quantized type was requested for a node, its values are those of that type, and the opened engine's inspector
    showed no precision, the node gets the requested precision with source ``values``.

    Args:
        found: the result of ``with_evidence``.
        marked: the tensors that were marked.
        values: per tensor, the result of ``evaluation.opened_values``, with the number of ``samples``.
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
    """The finding about the values of a node's opened tensor."""
    errors = (comparison[key] for key in ("engine", "simulated"))
    engine, simulated = (error["sqnr_db"] if error is not None else None for error in errors)
    return EngineCode.OPENED_VALUES(
        samples=comparison["samples"], verdict=comparison["verdict"], asked=asked, why=comparison["why"],
        to_quantized_db=comparison["to_quantized_db"], to_float_db=comparison["to_float_db"],
        engine_db=engine, simulated_db=simulated,
    )  # fmt: skip


def _evidence(there: Actual, layers: Mapping[str, Layer], build: Build) -> dict[str, Any]:
    """What the engine with marked tensors shows about a node, as JSON."""
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
    """The finding about what the opened engine's inspector shows of a node."""
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
