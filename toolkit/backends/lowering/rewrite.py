"""Rewriting a graph to make every decided type explicit: constants, Casts between types, stored weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from toolkit.backends.lowering.node_types import Types, formal, input_types
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, make_node, np_dtype, onnx_type, reroute, values_of
from toolkit.placement.dequantized import pair_type, stored_type
from toolkit.placement.grid import quantized
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

_FLOAT = "tensor(float)"


def dtype_of(precision: Precision) -> Any:
    """The dtype that onnx-graphsurgeon uses for a float type: numpy's, or ONNX's number for bfloat16."""
    return {Precision.FP32: np.dtype(np.float32), Precision.FP16: np.dtype(np.float16)}.get(
        precision, TensorProto.BFLOAT16
    )


def pair_reason(node: gs.Node) -> Finding:
    """Why a QuantizeLinear or DequantizeLinear is there: the tensor it converts, and the readers."""
    code = Code.QUANTIZES if node.op == QUANTIZE else Code.DEQUANTIZES
    return code(tensor=node.inputs[0].name, readers=sorted({reader.name for reader in node.outputs[0].outputs}))


def pair_precision(node: gs.Node) -> Precision:
    """The quantized type of a QuantizeLinear or DequantizeLinear: INT8 if not given or UINT8.

    For any other type without a Precision, the float type that is quantized: nothing is requested for stored values.
    """
    found = pair_type(node)
    if found is None and stored_type(node) not in (0, TensorProto.UINT8):
        found = Precision.from_onnx(onnx_type(node.inputs[1].dtype)) or Precision.FP32
    return found or Precision.INT8


class Rewriter:
    """Makes the decided types explicit in a graph, in place.

    Args:
        model: the graph with its Q/DQ pairs.
        facts: types and shapes of its tensors; those of new tensors are added.
        types: the decision for every node; those of new DequantizeLinear nodes are added.
        plan: receives the Casts and the pairs.
        journal: receives an entry for every node added, changed or removed.
        rest: the float type of nodes without a request.
    """

    def __init__(
        self, model: Model, facts: Facts, types: Types, plan: PrecisionPlan, journal: Journal, rest: Precision
    ) -> None:
        self.model, self.facts, self.types, self.plan, self.journal = model, facts, types, plan, journal
        self.rest = rest
        self.names = Names(node.name for node, _ in model.walk())
        self.names.update(t.name for n, _ in model.walk() for t in (*n.inputs, *n.outputs))
        self.made: dict[str, Precision] = {}
        self.converted: dict[tuple[str, Precision], gs.Tensor] = {}
        self.inside = {n.name for n, g in model.walk() if g is not model.graph}

    def run(self, io: Mapping[str, Precision]) -> None:
        """Rewrite the graph; ``io`` has the types of inputs and outputs that differ from the model's."""
        graph = self.model.graph
        for tensor in graph.inputs:
            if self.facts.is_float(tensor.name):
                if tensor.name in io:
                    tensor.dtype = dtype_of(io[tensor.name])
                self.made[tensor.name] = self._own(tensor)
        self._store_weights()
        self._split_dequantizers()
        self._join_scales()
        for node in self.model.nodes:
            if node.op != QUANTIZE:
                for tensor in node.outputs:
                    if self.facts.is_float(tensor.name):
                        kind = self.types.node.get(node.name, Precision.FP32)
                        self.made[tensor.name] = self._declared(tensor) if node.name in self.types.frozen else kind
        nodes = [(node, g is graph) for node, g in self.model.walk()]
        for node, main in nodes:
            self._inputs(node, main)
        for node, main in nodes:
            if main:
                self._outputs(node)
        self._graph_outputs(io)
        self._reshape_scalars()
        self._drop_idle_casts()
        self.model.tidy()
        self._name_pairs()

    def _declared(self, tensor: gs.Tensor) -> Precision:
        """The float type of the tensor before lowering."""
        return Precision.from_onnx(self.facts.types.get(tensor.name, TensorProto.FLOAT)) or Precision.FP32

    def _own(self, tensor: gs.Tensor) -> Precision:
        return Precision.from_onnx(onnx_type(tensor.dtype)) or Precision.FP32

    # ---------------------------------------------------------------- pairs

    def _store_weights(self) -> None:
        """Replace a QuantizeLinear of a constant by the stored values: fewer bytes, the same rounding."""
        gone: list[gs.Node] = []
        for node in self.model.nodes:
            if node.op != QUANTIZE or len(node.inputs) < 3:
                continue
            values, scale = self.model.constant(node.inputs[0]), self.model.constant(node.inputs[1])
            precision = Precision.from_onnx(onnx_type(node.inputs[2].dtype))
            zero = self.model.constant(node.inputs[2])
            if values is None or scale is None or zero is None or precision is None or not precision.quantized:
                continue
            block, axis = int(node.attrs.get("block_size", 0)), int(node.attrs.get("axis", 1))
            held = quantized(values, scale, zero, precision, axis, block)
            stored = make_constant(self.names.take(f"{node.inputs[0].name}_{precision}"), held, precision.onnx_type)
            reroute(node.outputs[0], stored)
            gone.append(node)
        self._remove(gone)

    def _remove(self, gone: Sequence[gs.Node]) -> None:
        """Remove nodes from the graph at once: removing them singly would compare each with all others."""
        assemble.discard(self.model.graph, gone)

    def _split_dequantizers(self) -> None:
        """Give every DequantizeLinear a single float type; if its readers differ, add one node per type."""
        for node in self.model.nodes:
            if node.op != DEQUANTIZE:
                continue
            out = node.outputs[0]
            readers: dict[Precision, list[tuple[gs.Node, int]]] = {}
            for reader in {id(r): r for r in out.outputs}.values():
                for index, tensor in enumerate(reader.inputs):
                    if tensor is out:
                        readers.setdefault(self._reader_type(reader, out), []).append((reader, index))
            if self.model.is_output(out):
                readers.setdefault(Precision.FP32, [])
            ordered = (
                sorted(readers, key=lambda p: p is not Precision.FP32) if self.model.is_output(out) else list(readers)
            )
            for position, precision in enumerate(ordered):
                target = node if position == 0 else self._clone(node, precision)
                self._type_dequantizer(target, precision)
                for reader, index in readers[precision]:
                    reader.inputs[index] = target.outputs[0]

    def _reader_type(self, reader: gs.Node, tensor: gs.Tensor) -> Precision:
        scales = reader.op == DEQUANTIZE and reader.inputs[1] is tensor
        if scales or reader.name in self.inside or reader.name in self.types.frozen:
            return self._declared(tensor)
        return self.types.node.get(reader.name, self.rest)

    def _clone(self, node: gs.Node, precision: Precision) -> gs.Node:
        result = assemble.variable(self.names.take(f"{node.outputs[0].name}_{precision}"), shape=node.outputs[0].shape)
        name = self.names.take(f"{node.name}_{precision}")
        twin = assemble.node(DEQUANTIZE, name, dict(node.attrs), list(node.inputs), [result], node.domain)
        self.model.graph.nodes.append(twin)
        self.facts.types[result.name] = precision.onnx_type
        return twin

    def _type_dequantizer(self, node: gs.Node, precision: Precision) -> None:
        if pair_precision(node).block:
            node.attrs["output_dtype"] = precision.onnx_type
        else:
            node.inputs[1] = self._constant(node.inputs[1], precision)
        node.outputs[0].dtype = dtype_of(precision)
        self.types.node[node.name] = precision
        self.made[node.outputs[0].name] = precision

    def _join_scales(self) -> None:
        """Round the scale of all parts of a Q/DQ pair to the narrowest float type among them.

        Scales of existing pairs may not fit 16 bits; Q and DQ with scales in two types would then differ by a factor.
        """
        for node in self.model.nodes:
            if node.op != QUANTIZE:
                continue
            halves = [one for one in node.outputs[0].outputs if one.op == DEQUANTIZE]
            kinds = {self.types.node.get(one.name) for one in halves if not pair_precision(one).block}
            kind = next((one for one in (Precision.BF16, Precision.FP16) if one in kinds), None)
            scale = self.model.constant(node.inputs[1])
            if kind is None or scale is None or onnx_type(scale.dtype) != TensorProto.FLOAT:
                continue
            number = scale.astype(np_dtype(kind.onnx_type)).astype(np.float32)
            if np.array_equal(number, scale):
                continue
            for one in (node, *halves):
                own = self.model.constant(one.inputs[1])
                wide = self.types.node.get(one.name, Precision.FP32) if one is not node else Precision.FP32
                if own is not None and wide is Precision.FP32 and np.array_equal(own.astype(np.float32), scale):
                    name = self.names.take(f"{one.inputs[1].name}_rounded")
                    one.inputs[1] = make_constant(name, number, TensorProto.FLOAT)

    # ---------------------------------------------------------------- inputs and outputs of nodes

    def _inputs(self, node: gs.Node, main: bool) -> None:
        """Make a node read its float inputs in the types chosen for it: constants are converted, others are cast."""
        if node.op == DEQUANTIZE:
            return
        if node.op == QUANTIZE:
            tensor = node.inputs[0]
            kind = self.made.get(tensor.name, self._own(tensor))
            if not pair_precision(node).block:
                node.inputs[1] = self._constant(node.inputs[1], kind)
            return
        schema = formal(node, self.model.opset) if node.domain in ONNX_DOMAINS else None
        frozen = not main or node.name in self.types.frozen
        wanted = Precision.FP32 if frozen else self.types.node.get(node.name)
        for index, tensor in enumerate(node.inputs):
            if wanted is None or tensor.is_empty() or not self.facts.is_float(tensor.name):
                continue
            fixed = schema is not None and input_types(schema, index) == {_FLOAT}
            kind = self._declared(tensor) if frozen else Precision.FP32 if fixed else wanted
            if self.model.constant(tensor) is not None:
                node.inputs[index] = self._constant(tensor, kind, saturate=node.op == "Clip" and index > 0)
            elif node.op != "Cast" and tensor.name in self.made and self.made[tensor.name] is not kind:
                node.inputs[index] = self._cast(tensor, kind, node)

    def _outputs(self, node: gs.Node) -> None:
        """Set the type chosen for a node on its float outputs and on the attributes that name a type."""
        kind = self.types.node.get(node.name)
        if kind is None or node.op in (QUANTIZE, DEQUANTIZE) or node.name in self.types.frozen:
            return
        floats = [t for t in node.outputs if self.facts.is_float(t.name)]
        for tensor in floats:
            tensor.dtype = dtype_of(kind)
        if not floats:
            return
        for attribute in ("to", "dtype"):
            if attribute in node.attrs and node.op not in ("QuantizeLinear", "DequantizeLinear"):
                node.attrs[attribute] = kind.onnx_type
        if node.op in ("ConstantOfShape", "Constant") and isinstance(node.attrs.get("value"), gs.Constant):
            node.attrs["value"] = self._as(node.attrs["value"], kind, node.attrs["value"].name or "value")
        elif node.op == "ConstantOfShape" and kind is not Precision.FP32:
            node.attrs["value"] = make_constant("value", np.zeros(1, np.float32), kind.onnx_type)
        elif node.op in ("RandomNormal", "RandomUniform", "EyeLike"):
            node.attrs["dtype"] = kind.onnx_type

    def _constant(self, tensor: gs.Tensor, kind: Precision, saturate: bool = False) -> gs.Tensor:
        values = self.model.constant(tensor)
        if values is None or onnx_type(values.dtype) == kind.onnx_type:
            return tensor
        key = (tensor.name + ("!" if saturate else ""), kind)
        if key not in self.converted:
            if saturate:
                values = np.clip(values, -kind.max, kind.max)
            self.converted[key] = make_constant(self.names.take(f"{tensor.name}_{kind}"), values, kind.onnx_type)
        return self.converted[key]

    def _as(self, tensor: gs.Constant, kind: Precision, name: str) -> gs.Constant:
        return make_constant(name, values_of(tensor), kind.onnx_type)

    def _cast(self, tensor: gs.Tensor, kind: Precision, reader: gs.Node) -> gs.Tensor:
        """The tensor in another type: the input of a widening Cast, an earlier reader's Cast, or a new one."""
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and maker.op == "Cast" and self.made[tensor.name] is Precision.FP32:
            # widening and narrowing again loses nothing, so the Cast's input can be read
            before = maker.inputs[0]
            if self.made.get(before.name) is kind:
                return before
        key = (tensor.name, kind)
        if key not in self.converted:
            result = assemble.variable(self.names.take(f"{tensor.name}_{kind}"), dtype_of(kind), tensor.shape)
            name = self.names.take(f"{tensor.name}_to_{kind}")
            self.model.graph.nodes.append(make_node("Cast", name, [tensor], [result], to=kind.onnx_type))
            made = self.made[tensor.name]
            why = Code.BETWEEN_TYPES(reader=reader.name, precision=kind, tensor=tensor.name, made=made)
            self.plan.ask(name, kind, why)
            self.journal.changed(name, Code.CAST_INSERTED(), why)
            self.facts.types[result.name] = kind.onnx_type
            self.made[result.name] = kind
            self.converted[key] = result
        return self.converted[key]

    def _graph_outputs(self, io: Mapping[str, Precision]) -> None:
        """Give the model's outputs the types of ``io``, else the declared ones; adds Casts where the types differ."""
        for position, out in enumerate(self.model.graph.outputs):
            if not self.facts.is_float(out.name):
                continue
            declared = Precision.from_onnx(self.facts.types[out.name]) or Precision.FP32
            kind = io.get(out.name, declared)
            made = self.made.get(out.name, kind)
            if made is kind:
                out.dtype = dtype_of(kind)
                continue
            producer = out.inputs[0]
            inner = assemble.variable(self.names.take(f"{out.name}_{made}"), dtype=dtype_of(made), shape=out.shape)
            result = assemble.variable(out.name, dtype=dtype_of(kind), shape=out.shape)
            reroute(out, inner)
            producer.outputs[[t is out for t in producer.outputs].index(True)] = inner
            name = self.names.take(f"{out.name}_to_{kind}")
            self.model.graph.nodes.append(make_node("Cast", name, [inner], [result], to=kind.onnx_type))
            self.model.graph.outputs[position] = result
            why = Code.OUTPUT_TYPE(output=out.name, precision=kind, requested=out.name in io)
            self.plan.ask(name, kind, why)
            self.journal.changed(name, Code.CAST_INSERTED(), why)

    def _reshape_scalars(self) -> None:
        """Replace Unsqueeze of a scalar by Reshape to [1]: TensorRT-RTX needs a GPU to parse Unsqueeze (observed)."""
        target: gs.Constant | None = None
        for node in self.model.nodes:
            if node.op != "Unsqueeze" or self.facts.shapes.get(node.inputs[0].name, [None])[0] != ():
                continue
            axes = self.model.constant(node.inputs[1]) if len(node.inputs) > 1 else None
            if axes is None or axes.size != 1:
                continue
            target = target or make_constant(self.names.take("shape_of_one"), np.array([1], np.int64))
            node.op = "Reshape"
            node.inputs[1] = target
            self.journal.changed(node.name, Code.UNSQUEEZE_RESHAPED(), Code.PARSED_WITHOUT_GPU())

    def _drop_idle_casts(self) -> None:
        """Remove Casts of the original model that now convert a type to itself, and conversions back and forth."""
        inner, gone = self.model.subgraph_tensors(), list[gs.Node]()
        for node in self.model.nodes:
            if node.op != "Cast" or node.name not in self.names:
                continue
            source, result = node.inputs[0], node.outputs[0]
            same = onnx_type(source.dtype) == int(node.attrs["to"]) and onnx_type(source.dtype) != 0
            if not same or self.model.is_output(result) or result.name in inner:
                continue
            reroute(result, source)
            gone.append(node)
            self.journal.changed(node.name, Code.CAST_REMOVED(), Code.IDLE_CAST())
        self._remove(gone)

    def _name_pairs(self) -> None:
        """Add the Q/DQ nodes to the plan, so that every node of the final graph has an entry."""
        for node in self.model.nodes:
            if node.op not in (QUANTIZE, DEQUANTIZE):
                continue
            self.plan.ask(node.name, pair_precision(node), pair_reason(node))
