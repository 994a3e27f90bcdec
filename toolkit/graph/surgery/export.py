"""Export of an onnx-graphsurgeon graph as a message without its large weights."""

from __future__ import annotations

import marshal
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeGuard

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from toolkit.base.errors import PassError
from toolkit.base.types import Array
from toolkit.graph.proto.light import APART, LARGE, LightModel, fits_message, large_header
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.stored import BITS
from toolkit.graph.surgery.assemble import kind_of, subgraphs
from toolkit.graph.surgery.strangers import op_type
from toolkit.graph.surgery.tensors import onnx_type, values_of

_TENSOR = "tensor_type"
_PLAIN = frozenset({int, float, str, bytes, bool})
_NO_REFERENCES = 2
"""The version of marshal's format whose output does not depend on object identity."""
_MOST_KNOWN = 500_000
"""Largest number of cached node messages, about 150 MB."""


def export(graph: gs.Graph, where: str = "the model", known: NodeMessages | None = None) -> LightModel:
    """The graph as a message without its large weights, without type checks; weights are not copied.

    Constants read only by a subgraph are stored in it, including large ones, unless the message would become too large:
    they are then stored in the main graph, which subgraphs can read as well.

    Args:
        graph: not changed, except that domains of its nodes are added to ``import_domains``.
        where: the model's file, for errors.
        known: cached messages of nodes, which are reused if the nodes have not changed.

    Raises:
        PassError: constants of the same name have different values, or another tensor has a constant's name.
    """
    tensors = _tensors(graph)
    main = [tensor for tensor in tensors.values() if _is_large(tensor)]
    seen = {id(tensor) for tensor in main}
    inner = [tensor for tensor in _inner_constants(graph) if id(tensor) not in seen and _is_large(tensor)]
    hoisted = [] if fits_message(2 * sum(map(_size, inner))) else inner
    names = [tensor.name for tensor in hoisted]
    try:
        if hoisted:
            _name_apart(graph, hoisted)
        weights = {tensor.name: values_of(tensor) for tensor in (*main, *hoisted)}
        writer = _Writer(known or NodeMessages(), {id(t): weights[t.name] for t in main}, {id(t) for t in hoisted})
        proto = writer.model(graph, tensors)
        proto.graph.initializer.extend(_header(name, weights[name]) for name in sorted({t.name for t in hoisted}))
    finally:
        for tensor, name in zip(hoisted, names):
            tensor.name = name
    return LightModel(proto, weights, where)


class NodeMessages:
    """Cached messages of nodes and tensors, by their content: unchanged ones are not exported again.

    Only nodes whose attributes are numbers, strings and lists of these are cached. A model and its copies share a
    cache.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[object, ...], bytes] = {}
        self._types: dict[Any, bytes] = {}

    def clear(self) -> None:
        """Clear the cache."""
        self._nodes.clear()
        self._types.clear()

    def of(self, node: gs.Node) -> bytes:
        """The serialized message of a node without subgraphs."""
        attrs, held = node.attrs, b""
        if attrs:
            for value in attrs.values():
                if type(value) not in _PLAIN and not (type(value) is list and _PLAIN.issuperset(map(type, value))):
                    made = OnnxExporter.export_node(node)
                    made.op_type = op_type(node)
                    return _serialized(made)
            # as bytes, since 1, 1.0 and True are equal
            held = marshal.dumps([*attrs.items()], _NO_REFERENCES)
        read, gives = [t.name for t in node.inputs], [t.name for t in node.outputs]
        key = node.op, node.name, node.domain, held, len(read), *read, *gives
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) > _MOST_KNOWN:
                self._nodes.clear()
            found = self._nodes[key] = _serialized(_plain(node, read, gives))
        return found

    def typed(self, tensor: gs.Tensor) -> bytes:
        """The serialized message with a tensor's name, type and shape."""
        shape, kind = tensor.shape, kind_of(tensor)
        key = tensor.name, tensor.dtype, kind, None if shape is None else tuple(shape)
        found = self._types.get(key)
        if found is None:
            if len(self._types) > _MOST_KNOWN:
                self._types.clear()
            found = self._types[key] = _serialized(_typed(tensor, kind))
        return found


def _serialized(message: onnx.NodeProto | onnx.ValueInfoProto) -> bytes:
    """A serialized message preceded by its length, as it follows a field number."""
    content: bytes = message.SerializeToString()
    head, left = bytearray(), len(content)
    while left >= 0x80:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return bytes(head) + content


def _append(proto: onnx.GraphProto, field: str, messages: Iterable[bytes]) -> None:
    """Append serialized messages to a field of a graph, all at once.

    Each is preceded by its tag, the field's number and the wire type of length-delimited fields (protobuf's encoding,
    "Message structure"); for all fields of a graph the tag is a single byte.
    """
    mark = bytes([onnx.GraphProto.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
    content = mark.join(messages)
    if content:
        proto.MergeFromString(mark + content)


def _typed(tensor: gs.Tensor, kind: str) -> onnx.ValueInfoProto:
    if tensor.dtype is None or kind != _TENSOR:
        made: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
        return made
    made = onnx.ValueInfoProto(name=tensor.name)
    made.type.tensor_type.elem_type = onnx_type(tensor.dtype)
    if tensor.shape is not None:
        made.type.tensor_type.shape.SetInParent()
        for size in tensor.shape:
            if isinstance(size, str):
                made.type.tensor_type.shape.dim.add(dim_param=size)
            else:
                made.type.tensor_type.shape.dim.add(dim_value=size)
    return made


def _plain(node: gs.Node, read: list[str], gives: list[str]) -> onnx.NodeProto:
    """The message of a node with only plain attributes."""
    made = onnx.NodeProto(op_type=op_type(node), input=read, output=gives)
    if node.name:
        made.name = node.name
    if node.domain is not None:
        made.domain = node.domain
    for name, value in node.attrs.items():
        if type(value) is int:
            made.attribute.add(name=name, type=onnx.AttributeProto.INT, i=value)
        elif type(value) is list and value and all(type(one) is int for one in value):
            made.attribute.add(name=name, type=onnx.AttributeProto.INTS, ints=value)
        else:
            made.attribute.append(onnx.helper.make_attribute(name, value))
    return made


class _Writer:
    """Writes a graph and its subgraphs like onnx-graphsurgeon's exporter, but subgraphs without outer constants.

    Args:
        known: see ``NodeMessages``.
        away: values of the main graph's large constants, by the tensor's id.
        moved: ids of constants of subgraphs that are stored in the main graph.
    """

    def __init__(self, known: NodeMessages, away: Mapping[int, Array], moved: set[int]) -> None:
        self.known, self.away, self.moved = known, away, moved
        self.domains: set[str | None] = set()

    def model(self, graph: gs.Graph, tensors: dict[str, gs.Tensor]) -> onnx.ModelProto:
        """Write the main graph; ``tensors`` are its tensors by name, see ``_tensors``."""
        proto = onnx.ModelProto(
            ir_version=onnx.IR_VERSION if graph.ir_version is None else graph.ir_version,
            producer_name=graph.producer_name,
            producer_version=graph.producer_version,
        )
        self._fill(proto.graph, graph, (), tensors)
        proto.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
        if graph.import_domains is None:
            graph.import_domains = [onnx.helper.make_opsetid("", graph.opset)]
        missing = self.domains - {None} - {one.domain for one in graph.import_domains}
        graph.import_domains.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(map(str, missing)))
        proto.opset_import.extend(graph.import_domains)
        return proto

    def _fill(
        self,
        proto: onnx.GraphProto,
        graph: gs.Graph,
        around: tuple[Mapping[str, gs.Tensor], ...],
        tensors: dict[str, gs.Tensor],
    ) -> None:
        """Write a graph with these tensors; ``around`` are the tensors of enclosing graphs by name."""
        constants = [t for t in tensors.values() if isinstance(t, gs.Constant)]
        if around:
            constants = [t for t in constants if id(t) not in self.moved and not _defined(t, around)]
        self._nodes(proto, graph, around, constants)
        proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        _append(proto, "input", map(self.known.typed, graph.inputs))
        _append(proto, "output", map(self.known.typed, graph.outputs))
        self._constants(proto, constants)
        ends = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
        inner = (
            tensor
            for name, tensor in tensors.items()
            if name not in ends
            and isinstance(tensor, gs.Variable)
            and (tensor.dtype is not None or tensor.shape is not None)
            and not any(tensor.name in one for one in around)
        )
        _append(proto, "value_info", map(self.known.typed, inner))

    def _nodes(
        self,
        proto: onnx.GraphProto,
        graph: gs.Graph,
        around: tuple[Mapping[str, gs.Tensor], ...],
        constants: Sequence[gs.Constant],
    ) -> None:
        """Write the nodes of a graph; those without subgraphs are appended in serialized form, many at a time."""
        own: dict[str, gs.Tensor] | None = None
        pending: list[bytes] = []
        for node in graph.nodes:
            self.domains.add(node.domain)
            if not node.attrs or gs.Graph not in map(type, node.attrs.values()):
                pending.append(self.known.of(node))
                continue
            if own is None:
                made = (t for one in graph.nodes for t in one.outputs)
                own = {t.name: t for t in (*constants, *graph.inputs, *made)}
            _append(proto, "node", pending)
            pending = []
            self._holder(proto.node.add(), node, (own, *around))
        _append(proto, "node", pending)

    def _holder(self, proto: onnx.NodeProto, node: gs.Node, around: tuple[Mapping[str, gs.Tensor], ...]) -> None:
        """Write a node with subgraphs."""
        bare = gs.Node(op_type(node), node.name, domain=node.domain)
        proto.CopyFrom(OnnxExporter.export_node(bare))
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        for name, value in node.attrs.items():
            if isinstance(value, gs.Graph):
                self._fill(
                    proto.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g, value, around, _tensors(value)
                )
            else:
                proto.attribute.extend(OnnxExporter.export_attributes({name: value}))

    def _constants(self, proto: onnx.GraphProto, tensors: Iterable[gs.Constant]) -> None:
        dense = []
        for tensor in tensors:
            if isinstance(tensor._values, SparseValues):
                proto.sparse_initializer.append(tensor._values.tensor)
            else:
                dense.append(tensor)
        # one message at a time: a subgraph's may be large
        proto.initializer.extend(map(self._dense, dense))

    def _dense(self, tensor: gs.Constant) -> onnx.TensorProto:
        """The message of a constant, which may be that of its values and must not be changed."""
        values = self.away.get(id(tensor))
        if values is not None:
            return _header(tensor.name, values)
        held, name = tensor._values, tensor.name
        if isinstance(held, LazyValues):
            message: onnx.TensorProto = held.tensor
            if message.name == name:
                return message
            # the message may be shared with a constant that has another name
            made = onnx.TensorProto()
            made.CopyFrom(message)
            made.name = name
            return made
        if tensor._export_dtype is None and tensor.data_location is None and held.dtype.kind in "fiub":
            return onnx.TensorProto(
                name=name, data_type=onnx_type(held.dtype), dims=held.shape, raw_data=held.tobytes()
            )
        exported: onnx.TensorProto = OnnxExporter.export_tensor_proto(tensor)
        return exported


def _tensors(graph: gs.Graph) -> dict[str, gs.Tensor]:
    """The tensors of a graph by name, in the order of its nodes, without those that only its subgraphs read."""
    every: dict[int, gs.Tensor] = {id(tensor): tensor for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            every[id(tensor)] = tensor
        for tensor in node.outputs:
            every[id(tensor)] = tensor
    found = {tensor.name: tensor for tensor in every.values()}
    if len(found) < len(every):
        _refuse_rivals(graph)
    found.update((tensor.name, tensor) for tensor in graph.outputs)
    found.pop("", None)
    return found


def _refuse_rivals(graph: gs.Graph) -> None:
    """Refuse two tensors of a graph that have the same name, see ``_refuse_two``."""
    found: dict[str, gs.Tensor] = {tensor.name: tensor for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in chain(node.inputs, node.outputs):
            if found.setdefault(tensor.name, tensor) is not tensor:
                _refuse_two(found[tensor.name], tensor)
                found[tensor.name] = tensor


def _defined(constant: gs.Constant, around: Iterable[Mapping[str, gs.Tensor]]) -> bool:
    """Whether an enclosing graph defines a constant that a subgraph reads.

    Raises:
        PassError: it defines another tensor of that name.
    """
    found = next((one[constant.name] for one in around if constant.name in one), None)
    if found is not None and found is not constant:
        _refuse_two(found, constant)
    return found is not None


def _refuse_two(one: gs.Tensor, other: gs.Tensor) -> None:
    """Refuse two different tensors with the same name, since a file could store only one of them.

    Raises:
        PassError: one is a constant, and the other is not, or has different values.
    """
    constants = [tensor for tensor in (one, other) if isinstance(tensor, gs.Constant)]
    if not other.name or not constants or (len(constants) == 2 and _same_values(*constants)):
        return
    nodes = " and ".join(f"'{node.name}'" for tensor in (one, other) for node in (*tensor.inputs, *tensor.outputs)[:1])
    what = "two constants of different values" if len(constants) == 2 else "a constant and another tensor"
    raise PassError(
        f"{what} are named '{other.name}' (nodes {nodes})",
        remedy=f"give one of them a name of its own, model.unique_tensor('{other.name}')",
    )


def _same_values(one: gs.Constant, other: gs.Constant) -> bool:
    if one._values is other._values:
        return True
    if SparseValues in (type(one._values), type(other._values)) or onnx_type(one.dtype) != onnx_type(other.dtype):
        return False
    first, second = values_of(one), values_of(other)
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def _header(name: str, values: Array) -> onnx.TensorProto:
    return large_header(name, onnx_type(values.dtype), tuple(values.shape))


def _is_large(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):
        return False
    # all of these types take whole bytes
    return tensor._values.nbytes >= LARGE and math.prod(tensor.shape) >= LARGE and onnx_type(tensor.dtype) in APART


def _size(tensor: gs.Constant) -> int:
    return math.prod(tensor.shape) * BITS[onnx_type(tensor.dtype)] // 8


def _inner_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """The constants that subgraphs read or return, without duplicates; some may be of the main graph."""
    seen: set[int] = set()
    for sub in subgraphs(graph):
        for tensor in (*sub.outputs, *(t for inner in sub.nodes for t in inner.inputs)):
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def _name_apart(graph: gs.Graph, inner: Iterable[gs.Constant]) -> None:
    """Give constants of subgraphs unique names: those of two subgraphs may have the same name."""
    taken = Names(_tensors(graph))
    for sub in subgraphs(graph):
        taken.update(t.name for t in sub.inputs)
        taken.update(t.name for node in sub.nodes for t in node.outputs)
    names: dict[tuple[str, int], str] = {}
    for tensor in inner:
        key = tensor.name, id(tensor._values)
        if key not in names:
            names[key] = taken.take(tensor.name)
        tensor.name = names[key]
