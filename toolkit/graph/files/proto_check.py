"""Checks for content that protobuf accepts but ONNX does not allow, made before the model is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from toolkit.base.errors import ModelError, shortened
from toolkit.graph.files.node_check import check_nodes
from toolkit.graph.files.wiring_check import check_wiring
from toolkit.graph.proto.functions import check_functions
from toolkit.graph.proto.nodes import node_words
from toolkit.graph.proto.stored import BITS, byte_count, value_count

_STRING = 8
_KNOWN_TYPES = frozenset({*BITS, _STRING})
_ATTRIBUTES = frozenset(range(1, 15))
_LOST = (
    AttributeProto.TENSORS, AttributeProto.GRAPHS, AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS,
)  # fmt: skip
"""Attribute types that onnx-graphsurgeon drops; among ONNX's operators only Constant has one of them."""
_LARGEST_DIM = 2**31 - 1
_MOST_DIMS = 32
"""Most dimensions of a tensor: NumPy 1 supports no more, TensorRT 8."""
_ALIAS = "ai.onnx"
"""The long name of ONNX's own domain; onnxruntime treats it like the empty name, ONNX's checker does not."""
_AGAIN = "export the model again"
_TYPED = {
    1: "float_data", 7: "int64_data", 8: "string_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data",
    14: "float_data", 15: "double_data",
}  # fmt: skip
"""The field for values that are not raw, by data type; int32_data for all other types."""
_FIELDS = ("int32_data", *dict.fromkeys(_TYPED.values()))
_TENSORS_ONLY = (
    "TensorRT supports tensors only: cut the model where sequences or optional values begin, or export it without them "
    "(skl2onnx: zipmap = False)"
)


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Check that names are UTF-8, types are known, and every tensor has as many values as its shape requires.

    Doc strings that are not UTF-8 are removed, and ONNX's own domain is written as the empty name throughout.

    Args:
        proto: the model, before its external data is read.
        where: the file, for the error.

    Raises:
        ModelError: a check fails; the message names the node or tensor.
    """
    check = _ProtoCheck(where)
    check.text(proto, "the model")
    check.version(proto)
    check.opsets(proto)
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
    for value in proto.graph.input:
        if value.name not in stored:
            check.input(value)
    for value in proto.graph.output:
        check.output(value)
    check.graph(proto.graph)
    for function in proto.functions:
        check.opsets(function)
        check.nodes(function.node)
        for attribute in function.attribute_proto:
            check.attribute(attribute, f"function '{function.name}'", "")
    check_nodes(proto, where)
    check_functions(proto, where)
    check_wiring(proto, where)


class _ProtoCheck:
    def __init__(self, where: str) -> None:
        self._where = where

    def fault(self, what: str, remedy: str = _AGAIN) -> ModelError:
        return ModelError(what, where=self._where, remedy=remedy)

    # ---------------------------------------------------------------- text

    def text(self, message: Any, place: str) -> None:
        """Check that strings are UTF-8 without NUL characters, since protobuf does not enforce it."""
        if isinstance(message, TensorProto):
            # the values are skipped, since reading the field copies them
            for one in (message.name, *(part for entry in message.external_data for part in (entry.key, entry.value))):
                self._one_text(one, place)
            return
        if isinstance(message, onnx.NodeProto):
            place = f"node '{_shown(message.name)}'" if message.name else f"a node ({_shown(message.op_type)})"
        for field, value in message.ListFields():
            if field.name == "doc_string":
                # not used, and copying invalid text fails
                if isinstance(value, bytes):
                    message.ClearField(field.name)
            elif field.type == field.TYPE_STRING:
                for text in (value,) if isinstance(value, (str, bytes)) else value:
                    self._one_text(text, place)
            elif field.type == field.TYPE_MESSAGE:
                for one in (value,) if hasattr(value, "ListFields") else value:
                    self.text(one, place)

    def _one_text(self, text: Any, place: str) -> None:
        if not isinstance(text, str):
            raise self.fault(f"a name in {place} is not UTF-8 text: '{_shown(text)}'")
        if "\0" in text:
            raise self.fault(f"a name in {place} holds a NUL character: {shortened(text)!r}")

    # ---------------------------------------------------------------- graphs

    def version(self, proto: onnx.ModelProto) -> None:
        """Check that the IR version is known: the meaning of later versions is not."""
        if proto.ir_version > onnx.IR_VERSION:
            raise self.fault(
                f"the model has IR version {proto.ir_version}, and onnx {onnx.__version__} knows {onnx.IR_VERSION} at "
                "most",
                "run pip install -U onnx, or export the model with an older onnx",
            )

    def opsets(self, owner: onnx.ModelProto | onnx.FunctionProto) -> None:
        """Check that a model or function imports only one version of a domain."""
        versions: dict[str, int] = {}
        for entry in owner.opset_import:
            domain = "" if entry.domain == _ALIAS else entry.domain
            if versions.setdefault(domain, entry.version) != entry.version:
                who = f"function '{owner.name}'" if isinstance(owner, onnx.FunctionProto) else "the model"
                raise self.fault(
                    f"{who} imports the opsets {versions[domain]} and {entry.version} of '{domain or _ALIAS}'"
                )
        del owner.opset_import[:]
        owner.opset_import.extend(onnx.helper.make_opsetid(*each) for each in versions.items())

    def graph(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.tensor(tensor, f"tensor '{tensor.name}'")
        for sparse in graph.sparse_initializer:
            self.sparse(sparse, f"sparse tensor '{sparse.values.name}'")
        made = [name for node in graph.node for name in node.output if name]
        for what, names in (
            ("inputs", [value.name for value in graph.input]),
            ("outputs", [value.name for value in graph.output]),
            ("initializers", [tensor.name for tensor in graph.initializer]),
            ("values of nodes", made),
        ):
            twice = next((name for name, count in Counter(names).items() if count > 1), None)
            if twice is not None:
                given = twice in {value.name for value in graph.output}
                other = f"{_AGAIN}, with another name for output '{twice}', which an inner tensor already has"
                remedy = other if given and names is made else _AGAIN
                raise self.fault(f"two {what} of graph '{graph.name}' are named '{twice}'", remedy)
        for value in (*graph.input, *graph.output):
            self.handed(value, graph.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.value(value)
        self.nodes(graph.node)

    def nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            place = node_words(node)
            if not node.op_type:
                raise self.fault(f"{place.replace(' ()', '')} has no operator")
            if node.domain == _ALIAS:
                node.domain = ""
            for attribute in node.attribute:
                self.attribute(attribute, place, node.op_type)

    def attribute(self, attribute: AttributeProto, place: str, op: str) -> None:
        place = f"attribute '{attribute.name}' of {place}"
        if not attribute.name:
            raise self.fault(f"an {place.replace(chr(39) * 2, 'without a name')}")
        if attribute.type not in _ATTRIBUTES:
            raise self.fault(f"{place} has the type {attribute.type}, which ONNX does not have")
        if attribute.type in (AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS):
            raise self.fault(f"{place} is a type, as optional values have it", _TENSORS_ONLY)
        single = {AttributeProto.TENSOR: "t", AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor"}
        if attribute.type in _LOST and not (attribute.name == "sparse_value" and op == "Constant"):
            kind = AttributeProto.AttributeType.Name(attribute.type)
            raise self.fault(f"{place} is of the type {kind}, which qtool cannot keep", "give the node inputs instead")
        field = single.get(attribute.type)
        if field is not None and not attribute.HasField(field) and not attribute.ref_attr_name:
            raise self.fault(f"{place} has no value")
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            self.tensor(tensor, place)
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for one in (*sparse, *attribute.sparse_tensors):
            self.sparse(one, place)
        for sub in (attribute.g, *attribute.graphs):
            self.graph(sub)

    # ---------------------------------------------------------------- types

    def input(self, value: onnx.ValueInfoProto) -> None:
        """Check that a model input is a tensor of a known numeric type."""
        kind = value.type.WhichOneof("value")
        if kind is None or (kind == "tensor_type" and not value.type.tensor_type.elem_type):
            raise self.fault(f"input '{value.name}' declares no type", "export the model again with typed inputs")
        if value.type.tensor_type.elem_type == _STRING:
            raise self.fault(f"input '{value.name}' holds strings", "remove the nodes that convert them to numbers")

    def output(self, value: onnx.ValueInfoProto) -> None:
        """Check that a model output does not hold strings."""
        if value.type.tensor_type.elem_type == _STRING:
            raise self.fault(
                f"output '{value.name}' holds strings, which TensorRT does not support",
                "remove it from the outputs, or end the model at the index from which it is looked up",
            )

    def handed(self, value: onnx.ValueInfoProto, graph: str) -> None:
        """Check that an input or output of a graph or subgraph is a tensor."""
        kind = value.type.WhichOneof("value") or "tensor_type"
        if kind != "tensor_type":
            raise self.fault(
                f"'{value.name}', which graph '{graph}' takes or gives, is of the kind {kind.removesuffix('_type')}",
                _TENSORS_ONLY,
            )

    def value(self, value: onnx.ValueInfoProto) -> None:
        if not value.type.HasField("tensor_type"):
            return
        kind = value.type.tensor_type
        if kind.elem_type and kind.elem_type not in _KNOWN_TYPES:
            raise self.fault(f"'{value.name}' has the element type {kind.elem_type}, which ONNX does not have")
        self.rank(len(kind.shape.dim), f"'{value.name}'")
        for axis, dim in enumerate(kind.shape.dim):
            if dim.dim_value > _LARGEST_DIM:
                raise self.fault(
                    f"dimension {axis} of '{value.name}' is {dim.dim_value}, and TensorRT's end at {_LARGEST_DIM}"
                )

    def tensor(self, tensor: TensorProto, place: str) -> None:
        """Check that a stored tensor has a known type, and as many values as its shape requires."""
        shape = shortened(str(list(tensor.dims)))
        if tensor.data_type not in _KNOWN_TYPES:
            raise self.fault(f"{place} has the data type {tensor.data_type}, which ONNX does not have")
        self.shape(tensor.dims, place)
        if tensor.HasField("segment"):
            raise self.fault(f"{place} is one segment of a tensor")
        if tensor.data_location == TensorProto.EXTERNAL:
            if tensor.data_type == _STRING:
                raise self.fault(f"{place} holds strings in external data")
            return
        if tensor.data_type == _STRING:
            if len(tensor.string_data) != value_count(tensor):
                raise self.fault(f"{place} has the shape {shape} and {len(tensor.string_data)} strings")
            return
        needed = byte_count(tensor)
        fields = ["raw_data"] if tensor.HasField("raw_data") else []
        fields += [name for name in _FIELDS if len(getattr(tensor, name))]
        if len(fields) > 1:
            raise self.fault(f"{place} stores its values in {' and in '.join(fields)}")
        if tensor.HasField("raw_data"):
            found, unit = len(tensor.raw_data), "bytes"
        else:
            found, unit = len(getattr(tensor, _TYPED.get(tensor.data_type, "int32_data"))), "values"
            bits = BITS[tensor.data_type]
            needed = value_count(tensor) * (2 if tensor.data_type in (14, 15) else 1) if bits >= 8 else needed
        if found != needed:
            raise self.fault(f"{place} has the shape {shape}, which is {needed:,} {unit}, and stores {found:,}")

    def shape(self, dims: Sequence[int], place: str) -> None:
        self.rank(len(dims), place)
        if any(not 0 <= side <= _LARGEST_DIM for side in dims):
            raise self.fault(f"{place} has the shape {shortened(str(list(dims)))}")

    def rank(self, rank: int, place: str) -> None:
        if rank > _MOST_DIMS:
            raise self.fault(f"{place} has {rank} dimensions, and qtool supports {_MOST_DIMS}")

    def sparse(self, sparse: onnx.SparseTensorProto, place: str) -> None:
        """Check a sparse tensor's shape, and that it has an index per value; where the indices point is checked when it
        is made dense.
        """
        values, indices = sparse.values, sparse.indices
        for what, tensor in (("values", values), ("indices", indices)):
            if not tensor.data_type:
                raise self.fault(f"{place} has no {what}")
            self.tensor(tensor, f"{what} of {place}")
        self.shape(sparse.dims, place)
        if values.data_type == _STRING or indices.data_type == _STRING:
            raise self.fault(f"{place} holds strings")
        count = value_count(values)
        if len(values.dims) != 1 or list(indices.dims) not in ([count], [count, len(sparse.dims)]):
            raise self.fault(
                f"{place} has values of the shape {list(values.dims)} and indices of the shape {list(indices.dims)}, "
                "which is not an index per value"
            )


def _shown(text: Any) -> str:
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "backslashreplace")
