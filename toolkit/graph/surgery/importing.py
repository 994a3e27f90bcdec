"""Import of a message as an onnx-graphsurgeon graph, in one traversal; subgraphs find outer tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.util.misc import convert_from_onnx_attr_type

from toolkit.base.types import Array
from toolkit.graph.proto.light import LightModel, is_detached
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.proto.strangers import called
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import StoredValues

_Scope = dict[str, gs.Tensor]


def import_light(model: LightModel) -> gs.Graph:
    """Import a message without its large weights; the graph shares the weights of ``model``.

    Small constants are read from the message, which must not be changed afterwards.
    """
    proto = model.proto
    reader = _Importer(model.weights, list(proto.opset_import))
    return reader.graph(
        proto.graph,
        (),
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        ir_version=proto.ir_version,
    )


class EmptyList(list[Any], gs.Node.AttributeRef):
    """An empty list attribute that keeps its type, which could not be inferred on export.

    It is also a reference to no attribute, since onnx-graphsurgeon exports the type of references.
    """

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.name, self.type = "", convert_from_onnx_attr_type(kind)


class _Importer:
    def __init__(self, weights: Mapping[str, Array], opsets: list[onnx.OperatorSetIdProto]) -> None:
        self.weights, self.domains = weights, opsets
        self.opset = next((one.version for one in opsets if one.domain in ONNX_DOMAINS), None)

    def graph(self, proto: onnx.GraphProto, around: tuple[_Scope, ...], **more: Any) -> gs.Graph:
        """Import a graph; ``around`` are the tensors of enclosing graphs, the innermost first."""
        own: _Scope = {}
        for tensor in proto.initializer:
            if _found(tensor.name, own, around) is None:
                own[tensor.name] = self._constant(tensor)
        for value in proto.value_info:
            known = _found(value.name, own, around)
            if known is None:
                own[value.name] = _typed(value)
            elif value.name in own and isinstance(known, gs.Variable):
                again = _typed(value)
                known.dtype, known.shape = known.dtype or again.dtype, known.shape or again.shape
        stored = {tensor.name for tensor in proto.initializer}
        inputs = [own.setdefault(v.name, _typed(v)) for v in proto.input if v.name not in stored]
        outputs = [own[v.name] if v.name in own else own.setdefault(v.name, _typed(v)) for v in proto.output]
        nodes = [self._node(node, own, around) for node in proto.node]
        return gs.Graph(
            nodes, inputs, outputs, name=proto.name, doc_string=proto.doc_string, opset=self.opset,
            import_domains=self.domains, **more,
        )  # fmt: skip

    def _node(self, proto: onnx.NodeProto, own: _Scope, around: tuple[_Scope, ...]) -> gs.Node:
        """Import a node with its tensors: those of its own graph, or of enclosing graphs."""
        # tensors that subgraphs read and nothing has produced yet belong to the subgraphs, as in onnx-graphsurgeon
        attrs: dict[str, Any] = {}
        for attribute in proto.attribute:
            self._attribute(attribute, attrs, own, around)
        inputs = []
        for name in proto.input:
            tensor = _found(name, own, around) if name else assemble.variable("")
            inputs.append(tensor if tensor is not None else own.setdefault(name, assemble.variable(name)))
        outputs = []
        for name in proto.output:
            tensor = own.get(name) if name else assemble.variable("")
            outputs.append(tensor if tensor is not None else own.setdefault(name, assemble.variable(name)))
        domain = proto.domain if proto.HasField("domain") else None
        return assemble.node(called(domain, proto.op_type), proto.name, attrs, inputs, outputs, domain)

    def _attribute(self, proto: AttributeProto, attrs: dict[str, Any], own: _Scope, around: tuple[_Scope, ...]) -> None:
        """Add an attribute's value to ``attrs``, in onnx-graphsurgeon's representation."""
        kind = proto.type
        if proto.ref_attr_name:
            attrs[proto.name] = gs.Node.AttributeRef(proto.ref_attr_name, convert_from_onnx_attr_type(kind))
        elif kind == AttributeProto.INT:
            attrs[proto.name] = proto.i
        elif kind == AttributeProto.FLOAT:
            attrs[proto.name] = proto.f
        elif kind == AttributeProto.STRING:
            # plugins may store bytes in string attributes
            attrs[proto.name] = _text(proto.s)
        elif kind in _LISTS:
            values: list[Any] = list(getattr(proto, _LISTS[kind]))
            if kind == AttributeProto.STRINGS:
                texts = [_text(value) for value in values]
                values = texts if all(isinstance(text, str) for text in texts) else values
            attrs[proto.name] = values or EmptyList(kind)
        elif kind == AttributeProto.TENSOR:
            attrs[proto.name] = self._constant(proto.t)
        elif kind == AttributeProto.GRAPH:
            attrs[proto.name] = self.graph(proto.g, (own, *around))
        else:
            attrs.update(OnnxImporter.import_attributes([proto], {}, {}, self.opset, self.domains))

    def _constant(self, tensor: TensorProto) -> gs.Constant:
        location = int(tensor.data_location) if tensor.HasField("data_location") else None
        if is_detached(tensor) and tensor.name in self.weights:
            return assemble.constant(tensor.name, StoredValues(self.weights[tensor.name], tensor.data_type), location)
        return assemble.constant(tensor.name, StoredValues.of(tensor), location)


_LISTS = {AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings"}


def _found(name: str, own: _Scope, around: tuple[_Scope, ...]) -> gs.Tensor | None:
    if name in own:
        return own[name]
    return next((scope[name] for scope in around if name in scope), None)


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _typed(value: onnx.ValueInfoProto) -> gs.Variable:
    """A tensor with the type and shape that a message declares."""
    if value.type.WhichOneof("value") != "tensor_type":
        found: gs.Variable = OnnxImporter.import_tensor(value)
        return found
    tensor = value.type.tensor_type
    shape: list[int | str | None] | None = None
    if tensor.HasField("shape"):
        shape = [getattr(dim, field) if (field := dim.WhichOneof("value")) else None for dim in tensor.shape.dim]
    return assemble.variable(value.name, _dtype(tensor.elem_type), shape)


@lru_cache(maxsize=64)
def _dtype(kind: int) -> Any:
    """onnx-graphsurgeon's representation of an element type: numpy's type, or ONNX's number if numpy has none."""
    return OnnxImporter.import_tensor(onnx.helper.make_tensor_value_info("", kind, [])).dtype
