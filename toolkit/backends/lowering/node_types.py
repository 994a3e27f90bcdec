"""Lowering for strong typing, first half: every node's float type, and why if it is not the requested one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.backends.codes import EngineCode
from toolkit.backends.lowering.loop_inputs import RECURRENT
from toolkit.base.parts import ends_of
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.plan import Ask, PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies
from toolkit.graph.surgery.opset import known_operators
from toolkit.graph.surgery.strangers import op_type
from toolkit.graph.surgery.tensors import FLOAT_TYPES, SHORT_FLOATS, onnx_type, values_of
from toolkit.placement.dequantized import pair_type
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE, TARGETS

_LENGTHS = 4
_STOP = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", *RECURRENT, "Softmax", "LayerNormalization"])
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8,
                       TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64})  # fmt: skip
_RESIZE_WITH_ROI = 11
_SIZED = {"Upsample": (1,), "Range": (0, 1, 2), "OneHot": (1,)}
_NAMES = {Precision.FP32: "tensor(float)", Precision.FP16: "tensor(float16)", Precision.BF16: "tensor(bfloat16)"}
_SUBNORMAL = 2.0**-17
_LOST, _EPSILON_SIZE = 50 * 2.0**-24, 64
_AFTER_EPSILON = frozenset({"Sqrt", "Reciprocal", "Pow", "Log", "Max", "Clip", "Add", "Div", "Mul"})
_PARSER_LACKS = {
    # the parser adds a float32 epsilon
    Precision.FP16: frozenset({"MeanVarianceNormalization"}),
    Precision.BF16: frozenset({
        "GRU", "GlobalLpPool", "HardSwish", "LpNormalization", "LpPool", "MeanVarianceNormalization", "Mish",
        "RandomNormalLike", "RandomUniformLike", "Shrink",
    }),
}  # fmt: skip
"""Operators that TensorRT's parser rejects in a type that ONNX allows (tested with TensorRT-RTX 1.7's parser)."""
EXACT_INTEGERS = {Precision.FP16: 2048.0, Precision.BF16: 256.0}


@dataclass
class Types:
    """The decision for every node.

    Attributes:
        node: float type by node name; nodes without float computation are missing.
        reason: why, for nodes that do not get the requested type (or that of the rest).
        own: the type that the model declares for a node without a request, if it differs from ``rest``.
        unchecked: whether there were no observed values to compare with the range of float16.
        frozen: nodes with subgraphs, which keep their types.
    """

    node: dict[str, Precision] = field(default_factory=dict)
    reason: dict[str, Finding] = field(default_factory=dict)
    own: dict[str, Precision] = field(default_factory=dict)
    unchecked: bool = False
    frozen: set[str] = field(default_factory=set)


def decide(
    model: Model,
    facts: Facts,
    plan: PrecisionPlan,
    rest: Precision,
    observed: Mapping[str, tuple[float, float]],
    unbuilt: Mapping[Precision, Collection[str]],
) -> Types:
    """Choose a float type for every node of the main graph that computes floats.

    A node gets the type that the plan requests; the float side of a quantized node gets ``rest``, or bfloat16 if the
    model has it. A node without a request gets ``rest`` or, in a model with 16-bit types, the type that the model
    declares. If its values, weights, scales or operator do not allow this, it gets FP32 and a reason.

    Args:
        model: float graph with its Q/DQ pairs, at the opset at which it will be lowered.
        rest: the type of nodes without a request.
        observed: smallest and largest observed value of float tensors.
        unbuilt: per type, operators that the backend cannot build in it.
    """
    types = Types(unchecked=not observed)
    authored = any(facts.types.get(t.name) in SHORT_FLOATS for n in model.nodes if n.op in TARGETS for t in n.outputs)
    tiny = _around_tiny_constants(model)
    indices = _feeds_integers(model, facts)
    subgraph_outputs = _subgraph_outputs(model)
    for node in model.nodes:
        floats = [t for t in (*node.inputs, *node.outputs) if facts.is_float(t.name)]
        unknown = [t for t in (*node.inputs, *node.outputs) if not t.is_empty() and t.name not in facts.types]
        if node.op in (QUANTIZE, DEQUANTIZE) or not (floats or unknown):
            continue
        if bodies(node):
            types.frozen.add(node.name)
        ask = plan.get(node.name)
        wanted = _wanted(ask, _stated(node, facts), rest, authored)
        if ask is None and wanted is not rest and node.op != "Cast":
            types.own[node.name] = wanted
        refusal = None
        if wanted is not Precision.FP32:
            refusal = (
                _structure(node, unknown, indices, subgraph_outputs)
                or _schema(node, facts, wanted, model.opset)
                or _unbuilt(node, wanted, unbuilt)
                or _values(node, facts, model, wanted, observed)
                or (tiny.get(node.name) if wanted is Precision.FP16 else None)
                or _scales(node, model, wanted)
            )
        types.node[node.name] = Precision.FP32 if refusal else wanted
        if refusal:
            types.reason[node.name] = refusal
    return types


def _wanted(ask: Ask | None, stated: Precision | None, rest: Precision, authored: bool) -> Precision:
    """The type that a node should compute in: requested, declared by the model, or ``rest``."""
    if ask is not None and not ask.precision.quantized:
        return ask.precision
    # bfloat16 values may exceed the range of float16, so the float side of pairs keeps bfloat16 too
    # the model's own pairs are only an expectation, and leave the types that it states
    if stated is not None and (stated is Precision.BF16 or (authored and (ask is None or ask.free))):
        return stated
    return rest


def _stated(node: gs.Node, facts: Facts) -> Precision | None:
    """The float type that the model declares for a node: that of its outputs, else of its inputs (Shape, Less)."""
    for tensors in (node.outputs, node.inputs):
        own = [Precision.from_onnx(facts.types[t.name]) for t in tensors if facts.is_float(t.name)]
        if own:
            return own[0]
    return None


def _structure(
    node: gs.Node, unknown: list[gs.Tensor], indices: Mapping[str, Finding], subgraph_outputs: set[str]
) -> Finding | None:
    """Why a node's position in the graph keeps it in FP32; None if it does not."""
    if bodies(node):
        return Code.HOLDS_SUBGRAPH(op=node.op)
    if node.op in RECURRENT and len(node.inputs) > _LENGTHS and not node.inputs[_LENGTHS].is_empty():
        # onnx-tensorrt, RNNHelpers.cpp, clearMissingSequenceElements
        return EngineCode.SEQUENCE_LENGTHS(op=node.op, lengths=node.inputs[_LENGTHS].name)
    if node.domain not in ONNX_DOMAINS:
        own = op_type(node)
        twin = {"twin": own} if own in known_operators("") else {}
        return Code.NOT_ONNX(op=f"{node.domain}::{own}", known=own in known_operators(node.domain), **twin)
    if unknown:
        return Code.TYPE_UNKNOWN(tensor=unknown[0].name)
    if node.name in indices:
        return indices[node.name]
    if any(t.name in subgraph_outputs for t in node.outputs):
        return Code.FEEDS_SUBGRAPH()
    return None


def formal(node: gs.Node, opset: int) -> onnx.defs.OpSchema | None:
    """ONNX's schema of a node; None for an operator that is not ONNX's."""
    return _formal(node.op, opset)


@lru_cache(maxsize=1024)
def _formal(op: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


def input_types(schema: onnx.defs.OpSchema, index: int) -> frozenset[str]:
    """The types that ONNX allows for an input; the last formal input represents all further ones."""
    return _types(schema.name, schema.since_version, index, "inputs")


def _output_types(schema: onnx.defs.OpSchema, index: int) -> frozenset[str]:
    return _types(schema.name, schema.since_version, index, "outputs")


@lru_cache(maxsize=4096)
def _types(op: str, since: int, index: int, side: str) -> frozenset[str]:
    formals = getattr(onnx.defs.get_schema(op, since, ""), side)
    return frozenset(formals[min(index, len(formals) - 1)].types) if formals else frozenset()


def _schema(node: gs.Node, facts: Facts, wanted: Precision, opset: int) -> Finding | None:
    """Why ONNX's schema or the parser does not allow the operator in the wanted type; None if they do."""
    schema = formal(node, opset)
    if schema is None:
        return Code.NOT_IN_OPSET(op=node.op, opset=opset)
    if node.op in _PARSER_LACKS.get(wanted, ()):
        return EngineCode.PARSER_LACKS_TYPE(op=node.op, precision=wanted)
    name = _NAMES[wanted]
    free = [i for i, t in enumerate(node.inputs) if facts.is_float(t.name) and len(input_types(schema, i)) > 1]
    if any(name not in input_types(schema, i) for i in free):
        return Code.NO_SUCH_FORM(op=node.op, precision=wanted, opset=opset)
    for index, tensor in enumerate(node.outputs):
        if facts.is_float(tensor.name):
            allowed = _output_types(schema, index)
            # mean and deviation of LayerNormalization have the type of the attribute stash_type, not that of the input
            stash = index > 0 and "stash_type" in schema.attributes
            other = stash and wanted.onnx_type != int(node.attrs.get("stash_type", TensorProto.FLOAT))
            if other or (allowed and name not in allowed):
                return Code.NO_SUCH_FORM(op=node.op, precision=wanted, opset=opset)
    return None


def _unbuilt(node: gs.Node, wanted: Precision, unbuilt: Mapping[Precision, Collection[str]]) -> Finding | None:
    """The finding that the backend cannot build the operator in the wanted type; None if it can."""
    return EngineCode.BUILDER_LACKS_TYPE(op=node.op, precision=wanted) if node.op in unbuilt.get(wanted, ()) else None


def _values(
    node: gs.Node, facts: Facts, model: Model, wanted: Precision, observed: Mapping[str, tuple[float, float]]
) -> Finding | None:
    """The finding that a node's values or weights exceed the range of the wanted type; None if they fit."""
    limit = wanted.max
    for index, tensor in enumerate(node.inputs):
        if not facts.is_float(tensor.name) or (node.op == "Clip" and index > 0):
            continue
        values = _held(model, tensor)
        if values is not None and values.size:
            largest = _largest(values)
            if largest > limit:
                return _beyond(tensor, largest, wanted, constant=True)
    filled = _filling(node)
    if filled is not None and (largest := _largest(filled)) > limit:
        return _beyond(node.outputs[0], largest, wanted, constant=True)
    for tensor in (*node.inputs, *node.outputs):
        if tensor.name in observed and facts.is_float(tensor.name):
            largest = max(abs(v) for v in observed[tensor.name])
            if largest > limit:
                return _beyond(tensor, largest, wanted, constant=False)
            if wanted is Precision.FP16 and 0 < largest < _SUBNORMAL:
                return Code.VANISHING_VALUES(tensor=tensor.name, value=largest)
    if node.op == "Cast" and facts.types.get(node.inputs[0].name) in _INTEGERS:
        largest = max((abs(v) for v in observed.get(node.outputs[0].name, ())), default=0.0)
        if largest > EXACT_INTEGERS.get(wanted, np.inf):
            return Code.INEXACT_INTEGERS(value=largest, precision=wanted, exact=EXACT_INTEGERS[wanted])
    return None


def _held(model: Model, tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
    """The values of a constant, also of one whose shape is known only at run time."""
    values = model.constant(tensor)
    return _filling(tensor.inputs[0]) if values is None and tensor.inputs else values


def _filling(node: gs.Node) -> np.ndarray[Any, Any] | None:
    """The value with which a ConstantOfShape fills its output; None for other nodes."""
    value = node.attrs.get("value") if node.op == "ConstantOfShape" else None
    return values_of(value) if isinstance(value, gs.Constant) else None


def _beyond(tensor: gs.Tensor, largest: float, wanted: Precision, constant: bool) -> Finding:
    """The finding that a tensor's largest magnitude exceeds that of the type."""
    return Code.BEYOND_TYPE(tensor=tensor.name, value=largest, precision=wanted, limit=wanted.max, constant=constant)


def _largest(values: np.ndarray[Any, Any]) -> float:
    """The largest magnitude."""
    return max(map(abs, ends_of(values) or (0.0,)))


def _scales(node: gs.Node, model: Model, wanted: Precision) -> Finding | None:
    """The finding that float16 does not hold a scale within 1 percent, so the pair dequantizes to FP32; else None."""
    if wanted is not Precision.FP16:
        return None
    pairs = [(t, t.inputs[0]) for t in node.inputs if t.inputs and t.inputs[0].op == DEQUANTIZE]
    pairs += [(t, reader) for t in node.outputs for reader in t.outputs if reader.op == QUANTIZE]
    for tensor, maker in pairs:
        scale = model.constant(maker.inputs[1])
        kind = pair_type(maker)
        if scale is None or (kind is not None and kind.block):
            continue
        wide = scale.astype(np.float64)
        with np.errstate(over="ignore"):
            off = np.abs(wide.astype(np.float16).astype(np.float64) - wide) > 0.01 * np.abs(wide)
        if off.any():
            worst = float(wide[off].flat[0])
            return Code.SCALE_LOST(tensor=tensor.name, scale=worst)
    return None


def _around_tiny_constants(model: Model) -> dict[str, Finding]:
    """Nodes with a constant that vanishes in float16 (an epsilon of 1e-12), and nodes that would then divide by 0."""
    found: dict[str, Finding] = {}
    for node in model.nodes:
        for tensor in node.inputs:
            values = model.constant(tensor)
            if values is None or not 0 < values.size <= _EPSILON_SIZE or values.dtype.kind != "f":
                continue
            largest = _largest(values)
            if not 0 < largest < _LOST:
                continue
            found.setdefault(node.name, Code.EPSILON_LOST(tensor=tensor.name, value=largest))
            pending = [reader for t in node.outputs for reader in t.outputs]
            while pending:
                reader = pending.pop()
                if reader.name in found or reader.op not in _AFTER_EPSILON:
                    continue
                found[reader.name] = Code.FOLLOWS_EPSILON(node=node.name, value=largest)
                if reader.op not in ("Div", "Mul"):
                    pending.extend(r for t in reader.outputs for r in t.outputs)
    return found


def _feeds_integers(model: Model, facts: Facts) -> dict[str, Finding]:
    """Float nodes whose result becomes an integer or a size after cheap arithmetic, by name, and where it does."""
    found: dict[str, Finding] = {}
    for reader, _ in model.walk():
        if reader.op == "Cast" and int(reader.attrs.get("to", 0)) in _INTEGERS:
            pending, why = [reader], Code.BECOMES_INTEGER(cast=reader.name)
        elif indices := _sizes(reader, model.opset):
            sizes = [reader.inputs[index] for index in indices if index < len(reader.inputs)]
            pending = [t.inputs[0] for t in sizes if t.inputs and facts.is_float(t.name)]
            why = EngineCode.BECOMES_SIZE(reader=reader.name)
        else:
            continue
        while pending:
            node = pending.pop()
            if node.name in found or node.op in _STOP or node.op in (QUANTIZE, DEQUANTIZE):
                continue
            if any(facts.is_float(t.name) for t in (*node.inputs, *node.outputs)):
                found[node.name] = why
            pending.extend(t.inputs[0] for t in node.inputs if t.inputs and facts.is_float(t.name))
    return found


def _sizes(node: gs.Node, opset: int) -> Sequence[int]:
    """The inputs from whose float values a node computes the number of its output's elements."""
    if node.op == "Resize":
        return (2,) if opset >= _RESIZE_WITH_ROI else (1,)
    return _SIZED.get(node.op, ())


def _subgraph_outputs(model: Model) -> set[str]:
    """Main-graph tensors that a subgraph returns directly as its output."""
    made = {t.name for node in model.nodes for t in node.outputs}
    return {
        t.name for node in model.nodes for sub in bodies(node, recursive=True) for t in sub.outputs if t.name in made
    }


def is_float(tensor: gs.Tensor) -> bool:
    """Whether a tensor's own dtype is float32, float16 or bfloat16."""
    return onnx_type(tensor.dtype) in FLOAT_TYPES
