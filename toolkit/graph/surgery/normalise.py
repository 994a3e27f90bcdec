"""Conversion of an ONNX message to a form that onnx-graphsurgeon neither drops parts of nor misreads."""

from __future__ import annotations

import math
from copy import deepcopy

import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError
from toolkit.base.types import Array
from toolkit.graph.proto.functions import inlined
from toolkit.graph.proto.names import Names
from toolkit.graph.proto.nodes import (
    ONNX_DOMAINS,
    all_nodes,
    held_by,
    let_inference_through,
    operators_of,
    opset_of,
    subgraphs_of,
)
from toolkit.graph.proto.scopes import unshadowed
from toolkit.graph.proto.stored import constant_tensor
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.surgery.stored_outputs import computed_outputs

OLDEST_OPSET, NEWEST_OPSET = 9, 25
_NAMED_OPSET = 17
"""The newest opset for models of IR version 8 (ONNX's Versioning.md), the oldest IR version that qtool writes."""
_MOST_DENSE = 1 << 29
"""Largest size in bytes of a sparse tensor after it is made dense."""


def normalise(
    proto: onnx.ModelProto, where: str, weights: dict[str, Array] | None = None
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A copy for onnx-graphsurgeon: dense initializers, functions inlined, unique node names.

    Args:
        proto: the model; not changed.
        where: the model's name in errors.
        weights: values of its large weights by name; renamed weights are renamed here too.

    Returns:
        The copy and the number of changes of each kind: ``functions`` inlined, ``sparse`` initializers made dense,
        Constant nodes converted to initializers (``constants``), weights removed from the ``inputs``, outputs that were
        ``stored`` as weights, nodes that were ``unnamed``, nodes with the name of another (``doubled``), inner tensors
        that were ``shadowing`` outer ones, and ``opset`` 1 if the model declares none and one was added.

    Raises:
        ModelError: its opset is not supported, or its graph cannot be converted.
    """
    version = _readable_opset(proto, where)
    changed = {"functions": len(proto.functions)}
    proto = inlined(proto, where) if proto.functions else deepcopy(proto)
    if not opset_of(proto):
        changed["opset"] = 1
        proto.opset_import.add(domain="", version=version)
    graph = proto.graph
    changed["sparse"] = _sparse_to_dense(graph, where)
    # the checker requires a name, but some exporters write none
    graph.name = graph.name or "graph"
    changed["shadowing"] = unshadowed(graph)
    changed["constants"] = _constants_to_initializers(graph)
    changed["inputs"] = _drop_inputs_with_values(graph)
    _forget_unknown_dimensions(graph)
    _forget_other_types(graph)
    if not graph.output:
        raise ModelError("the model has no outputs", where=where, remedy="declare what it computes as graph.output")
    changed["stored"] = computed_outputs(graph, where, weights if weights is not None else {})
    _type_outputs(proto, where)
    changed["unnamed"], changed["doubled"] = _name_nodes(graph)
    return proto, {what: number for what, number in changed.items() if number}


def _readable_opset(proto: onnx.ModelProto, where: str) -> int:
    """The opset of a model, or the one to declare if it has none.

    Raises:
        ModelError: qtool or the installed onnx does not support it, or none is declared and operators depend on it.
    """
    version = opset_of(proto) or _named_opset(proto, where)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ModelError(
            f"the model uses opset {version}; qtool reads {OLDEST_OPSET} to {NEWEST_OPSET}",
            where=where,
            remedy="export it again, or convert it with onnx.version_converter and set its ir_version to 8",
        )
    if version > (known := onnx.defs.onnx_opset_version()):
        raise ModelError(
            f"the model uses opset {version}, and onnx {onnx.__version__} knows {known} at most",
            where=where,
            remedy="run pip install -U onnx, or export the model at an older opset",
        )
    return version


def _drop_inputs_with_values(graph: onnx.GraphProto) -> int:
    """Remove initializers from the inputs, where IR versions below 4 require them; returns their number."""
    stored = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in stored]
    dropped = len(graph.input) - len(kept)
    if dropped:
        del graph.input[:]
        graph.input.extend(kept)
    return dropped


def _forget_unknown_dimensions(graph: onnx.GraphProto) -> None:
    """Clear dimensions '?' and -1, which Paddle's exporter writes for unknown sizes.

    Dimensions with the same name would have to be equal, but these are not.
    """
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.dim_param == "?" or dim.dim_value < 0:
                dim.Clear()


def _forget_other_types(graph: onnx.GraphProto) -> None:
    """Drop declared types other than tensors within a graph, which onnx-graphsurgeon cannot represent."""
    kept = [value for value in graph.value_info if value.type.HasField("tensor_type")]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _constants_to_initializers(graph: onnx.GraphProto) -> int:
    """Convert the main graph's Constant nodes to initializers, whose type cannot contradict their values."""
    outputs = {value.name for value in graph.output}
    kept, count = [], 0
    for node in graph.node:
        tensor = constant_tensor(node) if operator_of(node) == "Constant" and node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        count += 1
    if count:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return count


def _type_outputs(proto: onnx.ModelProto, where: str) -> None:
    """Declare the inferred type of outputs without a declared one.

    Raises:
        ModelError: no type can be inferred.
    """
    untyped = [value for value in proto.graph.output if not _is_typed(value)]
    if not untyped:
        return
    bare = deepcopy(proto)
    let_inference_through(bare.graph)
    found = {v.name: v for v in onnx.shape_inference.infer_shapes(bare).graph.output}
    for value in untyped:
        inferred = found[value.name].type
        if not inferred.tensor_type.elem_type:
            raise ModelError(
                f"output '{value.name}' declares no type and none can be inferred",
                where=where,
                remedy="export the model again with typed outputs",
            )
        value.type.CopyFrom(inferred)


def _is_typed(value: onnx.ValueInfoProto) -> bool:
    """Whether a value declares a type, and for a tensor its element type."""
    kind = value.type.WhichOneof("value")
    return bool(kind and (kind != "tensor_type" or value.type.tensor_type.elem_type))


def _name_nodes(graph: onnx.GraphProto) -> tuple[int, int]:
    """Give every node a unique name; returns how many had none, and how many had the name of another node."""
    taken: set[str] = set()
    unnamed = doubled = 0
    pending = [graph]
    ordered: list[onnx.NodeProto] = []
    while pending:
        current = pending.pop(0)
        for node in current.node:
            ordered.append(node)
            pending.extend(held_by(node))
    taken = Names(node.name for node in ordered if node.name)
    seen: set[str] = set()
    for node in ordered:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        doubled += bool(node.name)
        unnamed += not node.name
        node.name = taken.take(node.name or f"{node.op_type}_{next((o for o in node.output if o), 'node')}")
        seen.add(node.name)
    return unnamed, doubled


def _named_opset(proto: onnx.ModelProto, where: str) -> int:
    """The opset for a model that declares none: any if it has no operators of ONNX's own, such as a tree ensemble.

    Raises:
        ModelError: it has operators of ONNX's own, or functions, whose meaning depends on the version.
    """
    own = next((op for domain, op in sorted(operators_of(proto)) if domain in ONNX_DOMAINS), None)
    if own is None and not proto.functions:
        return _NAMED_OPSET
    raise ModelError(
        "the model does not name its opset, " + (f"on which '{own}' depends" if own else "on which functions depend"),
        where=where,
        remedy="export it again, or append onnx.helper.make_opsetid('', VERSION) of its exporter to opset_import",
    )


def _sparse_to_dense(graph: onnx.GraphProto, where: str) -> int:
    """Make sparse initializers and Constants dense, which onnx-graphsurgeon would drop; returns their number."""
    found = 0
    for one in (graph, *subgraphs_of(graph)):
        found += len(one.sparse_initializer)
        one.initializer.extend(_dense(sparse, sparse.values.name, where) for sparse in one.sparse_initializer)
        del one.sparse_initializer[:]
    for node in all_nodes(graph.node):
        for attribute in node.attribute if operator_of(node) == "Constant" else ():
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and not attribute.ref_attr_name:
                dense = _dense(attribute.sparse_tensor, node.output[0], where)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
                found += 1
    return found


def _dense(sparse: onnx.SparseTensorProto, name: str, where: str) -> TensorProto:
    """A sparse tensor as a dense one; refused if it is too large, or if indices are outside its shape."""
    import numpy as np

    shape = tuple(sparse.dims)
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    size = math.prod(shape) * values.itemsize
    if size > _MOST_DENSE:
        raise ModelError(
            f"sparse tensor '{name}' {list(shape)} takes {size / 1e9:.1f} GB as a dense tensor; the "
            f"limit is {_MOST_DENSE / 1e9:.1f} GB",
            where=where,
            remedy="export the model with dense weights, or split the tensor",
        )
    columns = indices.reshape(len(values), -1).T if indices.ndim < 2 else indices.T
    limits = shape if indices.ndim > 1 else (math.prod(shape),)
    fits = values.ndim == 1 and indices.dtype.kind == "i" and columns.shape == (len(limits), len(values))
    if not fits or any(((column < 0) | (column >= limit)).any() for column, limit in zip(columns, limits)):
        raise ModelError(
            f"the indices of sparse tensor '{name}' {list(shape)} do not lie within its shape",
            where=where,
            remedy="export the model again",
        )
    dense = np.zeros(shape, values.dtype)
    if indices.ndim > 1:
        dense[tuple(columns)] = values
    else:
        dense.reshape(-1)[columns[0]] = values
    return onnx.numpy_helper.from_array(dense, name)
