"""Lowering for strong typing: the plan becomes a graph in which every type is explicit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto

from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.block_forms import write_block_forms
from toolkit.backends.lowering.loop_inputs import computed_before_loops
from toolkit.backends.lowering.lowered import Lowered
from toolkit.backends.lowering.node_types import Types, decide
from toolkit.backends.lowering.parser_forms import state_kernel_shapes, state_loop_conditions
from toolkit.backends.lowering.resize_sizes import sizes_of_all_axes
from toolkit.backends.lowering.rewrite import Rewriter
from toolkit.base.collection import collector_paused
from toolkit.base.errors import ModelError, RecipeError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.default_rewrites import biases_as_rows
from toolkit.placement.moved import with_moved
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.placement.qdq import float_constants

_BFLOAT16_OPSET = 22
BY_MODEL = "the model"
"""The origin of plan entries for float types that the model declares, for nodes without a request."""


@collector_paused()
def lower(
    model: Model,
    plan: PrecisionPlan,
    *,
    rest: Precision = Precision.FP16,
    observed: Mapping[str, tuple[float, float]] | None = None,
    io: Mapping[str, Precision] | None = None,
    journal: Journal | None = None,
    newest: int = 23,
    unbuilt: Mapping[Precision, Collection[str]] | None = None,
    own: bool = False,
) -> Lowered:
    """Make every type of the plan explicit: float16 weights and scales, Casts between types, stored INT8 weights.

    Args:
        model: the graph with its Q/DQ pairs; not modified unless it is ``own``.
        plan: the requested precisions; not modified.
        rest: the float type of nodes without a request, and of the float side of quantized nodes.
        observed: smallest and largest observed value of float tensors; nodes that exceed float16's range stay in FP32.
        io: types of inputs and outputs that differ from the model's.
        journal: receives an entry for every node that does not get the requested type, and every Cast.
        newest: the newest opset that the backend's parser supports.
        unbuilt: per float type, operators that the backend cannot build in it.
        own: ``model`` is not needed otherwise: it is lowered in place instead of a copy.

    Raises:
        QtoolError: see ``admit``.
    """
    journal = journal if journal is not None else Journal()
    plan = plan.copy()
    plan.by = "lowering"
    lowered = model.changing() if own else model.copy()
    graph = lowered.graph
    admit(lowered, plan, rest=rest, io=io or {}, journal=journal, newest=newest)
    changed = float_constants(lowered, journal) + sizes_of_all_axes(lowered, journal) > 0 or lowered.graph is not graph
    # what is known about the original graph also holds for a copy of it in which only the opset differs
    seen = lowered if changed else model
    with seen.settled():
        facts, sound = seen.facts(), seen.types_fault() is None
    # these change no type or shape
    state_kernel_shapes(lowered, journal)
    state_loop_conditions(lowered, journal)
    types = decide(lowered, facts, plan, rest, with_moved(lowered, observed) if observed else {}, unbuilt or {})
    if types.unchecked and _has_short(plan, rest):
        journal.noted(Code.UNCHECKED())
    for node, reason in types.reason.items():
        # the request stays in the plan: the report compares it with the outcome, and gives this reason
        out_of_range = reason.code is Code.BEYOND_TYPE
        journal.declined(node, Code.FLOAT_RANGE(why=reason) if out_of_range else Code.STAYS_FP32(why=reason))
    plan.by = BY_MODEL
    for node, stated in types.own.items():
        plan.ask(node, stated, EngineCode.TYPE_STATED(precision=stated), free=True)
    plan.by = "lowering"
    _speak_for_subgraphs(lowered, facts, plan, rest, journal)
    Rewriter(lowered, facts, types, plan, journal, rest).run(io or {})
    write_block_forms(lowered, plan, journal)
    for node in biases_as_rows(lowered, facts):
        journal.changed(node, Code.BIAS_AS_ROW(), Code.BIAS_REQUANTIZED())
    for node, layer in computed_before_loops(lowered):
        journal.changed(node, EngineCode.SUM_WITH_ZERO(), EngineCode.FEEDS_RECURRENT(node=layer))
    reasons = _reasons(lowered, plan, types)
    try:
        lowered.check(types=sound)
    except Exception as error:
        raise ModelError(f"lowering made a graph that ONNX refuses: {error}", remedy="report this as a bug") from error
    return Lowered(lowered, plan, reasons, types)


def admit(
    model: Model,
    plan: PrecisionPlan,
    *,
    rest: Precision,
    io: Mapping[str, Precision],
    journal: Journal,
    newest: int,
    paired: bool = False,
) -> None:
    """Raise the opset of a model that is to be lowered, and refuse what lowering refuses; see ``lower``.

    ``paired`` says that the model gets Q/DQ pairs, in case a rehearsal left them out.

    Raises:
        RecipeError: ``io`` names a tensor that is not a float input or output.
        ModelError: the opset cannot be raised to the one that float16 scales need.
    """
    journal.by = "lowering"
    if io:
        facts = model.facts()
        known = [t.name for t in (*model.graph.inputs, *model.graph.outputs) if facts.is_float(t.name)]
        for name in io:
            if name not in known:
                raise RecipeError(
                    f"io names '{name}', which is not a float input or output", remedy=did_you_mean(name, known)
                )
    pairs = paired or any(node.op in (QUANTIZE, DEQUANTIZE) for node in model.nodes)
    if pairs and model.opset < 19 and _has_short(plan, rest):
        was = model.opset
        fresh = model.raise_opset(19)
        journal.noted(Code.OPSET(to=model.opset, added=len(fresh), was=was))
    asked = rest is Precision.BF16 or any(ask.precision is Precision.BF16 for _, ask in plan.items())
    if asked or _states_bfloat16(model):
        _raise_for_bfloat16(model, newest, journal)


def _has_short(plan: PrecisionPlan, rest: Precision) -> bool:
    return rest is not Precision.FP32 or any(a.precision in (Precision.FP16, Precision.BF16) for _, a in plan.items())


def _states_bfloat16(model: Model) -> bool:
    """Whether a model declares bfloat16 itself: in an input, a constant or a Cast."""
    read = (tensor for node in model.nodes for tensor in node.inputs if not tensor.inputs)
    return any(onnx_type(tensor.dtype) == TensorProto.BFLOAT16 for tensor in read) or any(
        node.op == "Cast" and node.attrs.get("to") == TensorProto.BFLOAT16 for node in model.nodes
    )


def _raise_for_bfloat16(model: Model, newest: int, journal: Journal) -> None:
    """Raise the opset to the one in which convolutions, pools and recurrent layers support bfloat16.

    ONNX's schemas allow it from opset 22 on (Changelog.md: Conv-22 and 30 others); at older opsets such nodes would
    stay in float32. A model that cannot be converted keeps its opset.
    """
    was = model.opset
    gains = was < _BFLOAT16_OPSET and any(
        _takes_bfloat16(node.op, _BFLOAT16_OPSET) and not _takes_bfloat16(node.op, was) for node in model.nodes
    )
    if not gains:
        return
    if newest < _BFLOAT16_OPSET:
        journal.noted(Code.BFLOAT16_OPSET(newest=newest, wanted=_BFLOAT16_OPSET))
        return
    raised = model.copy()
    try:
        fresh = raised.raise_opset(_BFLOAT16_OPSET)
    except ModelError as error:
        journal.noted(Code.BFLOAT16_OPSET(newest=was, wanted=_BFLOAT16_OPSET, error=error.what))
        return
    model.become(raised)
    journal.noted(Code.OPSET(to=model.opset, added=len(fresh), was=was, needed_by="bfloat16 layers"))


def _takes_bfloat16(op: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.inputs) and "tensor(bfloat16)" in schema.inputs[0].types


def _speak_for_subgraphs(model: Model, facts: Facts, plan: PrecisionPlan, rest: Precision, journal: Journal) -> None:
    """Note in the journal the nodes in subgraphs that keep another type than the requested one."""
    # one finding per type for all nodes: the report merges equal findings into one sentence
    why = {precision: Code.SUBGRAPH(precision=precision) for precision in Precision}
    why[Precision.FP32] = Code.STAYS_FP32(why=EngineCode.IN_SUBGRAPH())
    for node, graph in model.walk():
        if graph is model.graph:
            continue
        own = next((Precision.from_onnx(facts.types[t.name]) for t in node.outputs if facts.is_float(t.name)), None)
        own = own or Precision.FP32
        asked = plan.get(node.name)
        floats = any(facts.is_float(t.name) for t in node.outputs)
        if floats and (asked.precision if asked is not None else rest) is not own:
            journal.declined(node.name, why[own])


def _reasons(model: Model, plan: PrecisionPlan, types: Types) -> dict[str, Finding]:
    """Write the precision of every node into its metadata; returns the reasons by node name."""
    reasons = {}
    for name in model.node_names():
        ask, became = plan.get(name), types.node.get(name)
        precision = ask.precision if ask is not None else became
        if precision is None:
            continue
        model.metadata.setdefault(name, {})["qtool.precision"] = str(precision)
        reasons[name] = ask.reason if ask is not None else types.reason.get(name, Code.NOT_REQUESTED(rest=became))
    return reasons
