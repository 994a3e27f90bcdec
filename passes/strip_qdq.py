"""Take out Q/DQ nodes, whoever made them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto
from pydantic import Field

from toolkit import (
    DEQUANTIZE,
    FLOAT_TYPES,
    MOVERS,
    POOLS,
    QUANTIZE,
    Context,
    ExistingPair,
    Model,
    Pass,
    Precision,
    Range,
    Ranges,
    Role,
    choose,
    make_constant,
    make_node,
    onnx_type,
    pairs_of,
    reroute,
)


class StripQDQ(Pass):
    """Remove Q/DQ pairs of QAT or PTQ, per tensor or per channel, signed or not; stored weights become float again."""

    name = "strip_qdq"
    role = Role.STRIP
    nodes: list[str] = Field([], description="strip only the pairs these nodes read (names or globs); empty: all")
    keep_ranges: bool = Field(False, description="keep the scales of activations as ranges for insert_qdq")

    def reads_evaluation(self) -> bool:
        """It looks at the graph alone."""
        return False

    def measures_engines(self) -> bool:
        """It builds none."""
        return False

    def apply(self, model: Model, context: Context) -> None:
        """Rewire every reader of a pair to the float tensor behind it."""
        readers = set(choose(model, self.nodes, setting="strip_qdq nodes")) if self.nodes else None
        kept: dict[str, Range] = {}
        graphs = {id(node): graph for node, graph in model.walk()}
        for pair in list(pairs_of(model)):
            if readers is not None and not any(n.name in readers for n in pair.dequantize.outputs[0].outputs):
                continue
            self._strip(model, graphs[id(pair.dequantize)], pair, context)
            if self.keep_ranges and pair.quantize is not None and pair.axis is None:
                amax = _amax(pair)
                if amax is not None and model.constant(pair.tensor) is None:
                    kept[pair.tensor.name] = Range(amax, "stripped")
        model.tidy()
        for node, _ in model.walk():
            if readers is None and node.op in (QUANTIZE, DEQUANTIZE):
                context.journal.declined(
                    node.name, "it is not half of a Q/DQ pair: its other side is a quantized operator", rule="no-pair"
                )
        if kept:
            known = context.known_ranges or Ranges()
            known.tensors.update(kept)
            context.known_ranges = known
            context.journal.noted(f"the scales of {len(kept)} activations are kept as ranges", rule="kept-ranges")

    def _strip(self, model: Model, graph: gs.Graph, pair: ExistingPair, context: Context) -> None:
        node, result = pair.dequantize, pair.dequantize.outputs[0]
        source = pair.tensor
        if pair.quantize is None:
            source = _float_weight(model, pair, result)
        elif _clamps_at_zero(pair) and not _never_negative(model, source):
            source = _clamp(model, graph, pair, source, context)
        if pair.quantize is not None:
            source = _in_given_type(model, graph, pair, source, context)
        for reader in reroute(result, source):
            if context.plan.get(reader.name) is not None and context.plan.get(reader.name).precision.quantized:  # type: ignore[union-attr]
                context.plan.withdraw(reader.name)
            context.journal.changed(reader.name, f"reads '{source.name}' instead of its Q/DQ pair", "strip_qdq")
        if any(out is result for out in graph.outputs):
            node.outputs.clear()
            graph.nodes.append(make_node("Identity", model.unique_node(f"{node.name}_Identity"), [source], [result]))
            context.journal.noted(f"output '{result.name}' came from a pair; an Identity keeps its name", rule="output")


def _clamps_at_zero(pair: ExistingPair) -> bool:
    """Whether the smallest value a pair can hold is 0, so that it does a ReLU's work."""
    if pair.zero is None or pair.zero.size != 1 or pair.zero.dtype not in (np.uint8, np.int8):
        return False
    return int(pair.zero.reshape(())) == np.iinfo(pair.zero.dtype).min


def _never_negative(model: Model, tensor: gs.Tensor) -> bool:
    """Whether a tensor cannot be negative: an input is taken at its word, a result by the operator that makes it."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op in ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Abs", "Sqrt"):
            return True
        if node.op == "Clip":
            low = model.constant(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("min")
            return low is not None and float(np.min(low)) >= 0
        if node.op not in MOVERS and node.op not in POOLS:
            return False
        tensor = node.inputs[0]
    return True


def _clamp(model: Model, graph: gs.Graph, pair: ExistingPair, source: gs.Tensor, context: Context) -> gs.Tensor:
    """Put back the activation that a quantizer removed because its own clamping does the same.

    onnxruntime drops Relu and Clip in front of an asymmetric pair; without them the float model is another one.
    """
    top = _amax(pair) or 0.0
    six = abs(top - 6.0) <= 0.06
    result = gs.Variable(model.unique_tensor(f"{source.name}_clamped"), dtype=source.dtype, shape=source.shape)
    name = model.unique_node(f"{source.inputs[0].name}_{'Clip' if six else 'Relu'}")
    if six:
        kind = onnx_type(source.dtype) or TensorProto.FLOAT
        bounds = [make_constant(f"{name}_{w}", np.asarray(v, np.float32), kind) for w, v in (("min", 0), ("max", 6))]
        graph.nodes.append(make_node("Clip", name, [source, *bounds], [result]))
    else:
        graph.nodes.append(make_node("Relu", name, [source], [result]))
    context.journal.changed(
        name, "inserted", f"the pair on '{source.name}' clamped at 0: it stood in for an activation"
    )
    return result


def _in_given_type(model: Model, graph: gs.Graph, pair: ExistingPair, source: gs.Tensor, context: Context) -> gs.Tensor:
    """The float tensor in the type that a pair gives: from opset 19 on a pair may read float32 and give float16.

    Both types are those of the scales (ONNX's Changelog.md, QuantizeLinear-19 and DequantizeLinear-19).
    """
    assert pair.quantize is not None
    read, given = (onnx_type(node.inputs[1].dtype) for node in (pair.quantize, pair.dequantize))
    if read == given or not {read, given} <= FLOAT_TYPES:
        return source
    dtype = pair.dequantize.inputs[1].dtype
    cast = gs.Variable(model.unique_tensor(f"{source.name}_cast"), dtype=dtype, shape=source.shape)
    name = model.unique_node(f"{pair.dequantize.name}_Cast")
    graph.nodes.append(make_node("Cast", name, [source], [cast], to=given))
    context.journal.changed(name, "inserted", f"the pair on '{source.name}' gave another float type than it read")
    return cast


def _amax(pair: ExistingPair) -> float | None:
    """The magnitude a pair can hold: for uint8 the farther end from its zero point."""
    if pair.scale is None:
        return None
    kind = onnx_type(pair.dequantize.inputs[0].dtype)
    scale = float(np.max(pair.scale))
    if kind == TensorProto.UINT8 or (pair.zero is not None and pair.zero.dtype == np.uint8):
        zero = float(np.max(pair.zero)) if pair.zero is not None else 0.0
        return max(zero, 255.0 - zero) * scale
    zero_type = onnx_type(pair.quantize.inputs[2].dtype) if pair.quantize and len(pair.quantize.inputs) > 2 else kind
    precision = Precision.from_onnx(zero_type)
    return scale * (precision.max if precision is not None and precision.quantized else 127.0)


def _float_weight(model: Model, pair: ExistingPair, result: gs.Tensor) -> gs.Constant:
    """The float values of a stored weight: (q - zero point) * scale, by channel or block where the scale is so."""
    stored = model.constant(pair.tensor)
    scale = model.constant(pair.dequantize.inputs[1])
    assert stored is not None
    if scale is None:
        raise ValueError(f"the scale of {pair.dequantize.name} is computed")
    values: np.ndarray[Any, Any] = stored.astype(np.float32)
    block = int(pair.dequantize.attrs.get("block_size", 0))
    axis = int(pair.dequantize.attrs.get("axis", 1))

    def spread(parameter: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        parameter = parameter.astype(np.float32)
        if block:
            return np.take(np.repeat(parameter, block, axis=axis), range(values.shape[axis]), axis=axis)
        if parameter.size == 1:
            return parameter.reshape(())
        shape = [1] * values.ndim
        shape[axis] = -1
        return parameter.reshape(shape)

    if pair.zero is not None:
        values = values - spread(pair.zero)
    kind = onnx_type(scale.dtype)
    return make_constant(
        model.unique_tensor(f"{pair.tensor.name}_float"), values * spread(scale), kind if kind in FLOAT_TYPES else None
    )
