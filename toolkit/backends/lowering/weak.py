"""Lowering for weak typing: a float32 graph with its Q/DQ pairs (or without), and layer precisions beside it."""

from __future__ import annotations

from onnx import TensorProto

from toolkit.backends.backend import Backend, EngineSettings
from toolkit.backends.lowering.lowered import Lowered
from toolkit.backends.lowering.parser_forms import (
    convolve_pooled,
    float_weights,
    state_kernel_shapes,
    state_loop_conditions,
)
from toolkit.backends.lowering.resize_sizes import sizes_of_all_axes
from toolkit.backends.lowering.rewrite import pair_precision, pair_reason
from toolkit.base.errors import BackendError
from toolkit.base.precision import Precision
from toolkit.base.versions import major
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.surgery.tensors import SHORT_FLOATS, make_node, reroute
from toolkit.placement.attention import attentions
from toolkit.placement.existing import pairs_of
from toolkit.placement.float_path import FloatPath
from toolkit.placement.ops import DEQUANTIZE, NORMALIZATIONS, QUANTIZE
from toolkit.placement.qdq import bypass, float_constants

NO_INT8_KERNEL = {8: frozenset({"ConvTranspose"})}
"""Operators that a major version cannot run in INT8 in a weakly typed network.

ConvTranspose: 8.6.0 fails to build it (observed on an H200, refitUtils.cpp, also with Q/DQ pairs from other tools), and
if it builds, it is slower than float16 (NVIDIA/TensorRT issue 1699).
"""


def lower_weak(
    model: Model,
    plan: PrecisionPlan,
    settings: EngineSettings,
    backend: Backend,
    journal: Journal,
    own: bool = False,
    rest: Precision = Precision.FP32,
) -> Lowered:
    """The graph for a weakly typed backend, and the plan including its Q/DQ nodes.

    Args:
        model: float32, with its Q/DQ pairs; not modified unless it is ``own``.
        plan: the requested precisions; not modified.
        settings: with ``quantization = "implicit"`` the pairs are removed, and only the plan requests INT8.
        backend: provides the newest opset that it supports.
        journal: receives an entry for every change.
        own: ``model`` is not needed otherwise: it is lowered in place instead of a copy.
        rest: the float type of nodes without a request.

    Raises:
        BackendError: see ``admit_weak``.
    """
    journal.by = "lowering"
    plan = plan.copy()
    plan.by = "lowering"
    lowered = model if own else model.copy()
    admit_weak(lowered, backend)
    float_constants(lowered, journal)
    float_weights(lowered, journal)
    state_kernel_shapes(lowered, journal)
    state_loop_conditions(lowered, journal)
    sizes_of_all_axes(lowered, journal)
    _without_kernel(lowered, plan, backend, journal)
    if settings.quantization == "implicit":
        count = _take_out(lowered)
        journal.noted(Code.IMPLICIT(pairs=count))
    else:
        convolve_pooled(lowered, journal)
        if rest is not Precision.FP32 and any(node.op == DEQUANTIZE for node in lowered.nodes):
            _settle_attention(lowered, plan, rest, journal)
    for node in lowered.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE):
            plan.ask(node.name, pair_precision(node), pair_reason(node))
    for name in lowered.node_names():
        ask = plan.get(name)
        if ask is not None:
            lowered.metadata.setdefault(name, {})["qtool.precision"] = str(ask.precision)
    names = set(lowered.node_names())
    return Lowered(lowered, plan, {name: ask.reason for name, ask in plan.items() if name in names})


def _settle_attention(model: Model, plan: PrecisionPlan, rest: Precision, journal: Journal) -> None:
    """Request ``rest`` in float attention, or leave types to TensorRT if all attention is quantized.

    TensorRT 8.6.0 runs a transformer without pairs as one Myelin block in float16. With pairs, it ran products of
    activations without a requested type in TF32: on an H100 at batch 8, BERT-6 with quantized projections took 0.373
    ms, and 0.322 ms with float16 requested in attention. Between quantized products it computes in float32 without
    writing the result, and each float16 request, as for Softmax and LayerNormalization, adds a cast that prevents
    fusions, such as of GELU and its product: at batch 1 it took 0.211 ms with these requests, and 0.177 ms without. No
    other node loses its constraint.
    """
    found = list(attentions(model))
    if found and all(one.quantized for one in found):
        inside = {node.name for one in found for node in one.nodes}
        inside |= {node.name for node in model.nodes if node.op in NORMALIZATIONS}
        asked = [name for name, ask in plan.items() if name in inside and ask.precision is rest and not ask.free]
        for name in asked:
            plan.release(name)
        if asked:
            journal.noted(Code.QUANTIZED_ATTENTION(precision=rest, nodes=asked))
        return
    for one in found:
        asks = [plan.get(node.name) for node in one.nodes]
        if one.quantized is False and all(ask is None or ask.precision is rest for ask in asks):
            for node in one.nodes:
                plan.ask(node.name, rest, Code.FLOAT_ATTENTION(precision=rest))


def admit_weak(model: Model, backend: Backend) -> None:
    """Refuse a model whose opset the parser does not support; Q/DQ pairs of 16-bit floats or new types may have raised
    it.

    Raises:
        BackendError: its opset is too new.
    """
    newest = backend.max_opset()
    if model.opset <= newest:
        return
    short = sorted({TensorProto.DataType.Name(t).lower() for t in model.facts().types.values() if t in SHORT_FLOATS})
    late = sorted(
        {kind for node in model.nodes if node.op == QUANTIZE and (kind := pair_precision(node)).opset > newest}
    )
    remedy = f"export the model at opset {newest}, or use a newer TensorRT"
    if late:
        remedy = f"{' and '.join(str(kind).upper() for kind in late)} pairs need opset {max(k.opset for k in late)}: "
        remedy += "quantize to another type, or use a newer TensorRT"
    elif short:
        remedy = f"pairs of {' and '.join(short)} tensors need opset 19: export the model in float32 and let "
        remedy += '[engine] rest = "fp16" choose the type, or use a newer TensorRT'
    raise BackendError(
        f"the model uses opset {model.opset}; {backend.name} {backend.version()} supports {newest} at most",
        where=str(model.source or "the model"),
        remedy=remedy,
    )


def _without_kernel(model: Model, plan: PrecisionPlan, backend: Backend, journal: Journal) -> None:
    """Make nodes for which this version has no INT8 kernel read the float tensors that their pairs quantize."""
    version = major(backend.version())
    refused = NO_INT8_KERNEL.get(version, frozenset())
    for node, _ in list(model.walk()):
        ask = plan.get(node.name)
        if node.op not in refused:
            continue
        freed = bypass(node, model)
        if freed or (ask is not None and ask.precision.quantized):
            journal.declined(node.name, Code.NO_KERNEL(op=node.op, version=version))
    model.tidy()


def _take_out(model: Model) -> int:
    """Make every reader of a pair read the float tensor; stored integer weights keep their dequantizer."""
    pairs = [pair for pair in pairs_of(model) if pair.quantizers]
    path, names = FloatPath(model), Names(model.node_names())
    for pair in pairs:
        result, source = pair.dequantize.outputs[0], path.given(pair)
        reroute(result, source)
        if model.is_output(result):
            pair.dequantize.outputs.clear()
            name = names.take(f"{pair.dequantize.name}_Identity")
            model.graph.nodes.append(make_node("Identity", name, [source], [result]))
    path.finish()
    return len(pairs)
