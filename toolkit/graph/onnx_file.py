"""Reading, normalising, converting and writing ONNX files."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError
from toolkit.base.files import atomic_path, write_parts
from toolkit.base.mapped import map_file, release_pages, was_read
from toolkit.base.reading import FileKind, open_regular, read_file, reading
from toolkit.base.types import Array
from toolkit.graph.external import read_external
from toolkit.graph.functions import inlined
from toolkit.graph.light import LightModel, bytes_of, fits_message, place_at
from toolkit.graph.names import Names
from toolkit.graph.nodes import (
    ONNX_DOMAINS,
    all_nodes,
    held_by,
    let_inference_through,
    operators_of,
    opset_of,
    subgraphs_of,
)
from toolkit.graph.proto_check import check_proto
from toolkit.graph.scanned import without_values
from toolkit.graph.scopes import unshadowed
from toolkit.graph.stored import constant_tensor, stored_tensors
from toolkit.graph.stored_outputs import computed_outputs
from toolkit.graph.streamed import streamed
from toolkit.graph.value_check import check_values

OLDEST_OPSET, NEWEST_OPSET = 9, 25
_NAMED_OPSET = 17
"""The newest that models of IR version 8 may name (ONNX's Versioning.md), the oldest in which models are written."""
DATA_NAME = r"\.[0-9a-f]{16}\.data"
"""What the file of a large model's weights is called, after the model file's own name, as a regular expression."""
ONNX = FileKind(
    "this is not a valid ONNX model",
    ModelError,
    "export the model again",
    limit=(1 << 31) - 1,
    smaller="export it again with its weights as external data, as onnx.save does with save_as_external_data=True",
)
_SCANNED = 32 << 20
"""Bytes of a file from which on it is not read whole."""
_APART, _PAGE = 1024, 4096
_MOST_DENSE = 1 << 29


def read(path: Path) -> LightModel:
    """Read an ONNX file with its external data; that of large weights is mapped, and read when it is looked at.

    Raises:
        ModelError: it is missing, empty, not ONNX, or its external data is broken.
        NotAllowedError: its external data lies outside the model's folder.
    """
    proto, maps = _parsed(path)
    model = LightModel(proto, where=str(path))
    with reading(path, ONNX):
        check_proto(model.proto, str(path))
        read_external(model, path, maps)
        model.lighten()
        check_values(model)
    release_pages()
    return model


def parse(path: Path) -> onnx.ModelProto:
    """The message in an ONNX file, unchecked and without its external data.

    Of a file above 32 MB the values of large initializers are not read: they are external data in the file itself.

    Raises:
        ModelError: it is missing, empty, no regular file, or not ONNX.
    """
    return _parsed(path)[0]


def _parsed(path: Path) -> tuple[onnx.ModelProto, dict[Path, mmap.mmap]]:
    """The message, and the model's own file where values were left in it."""
    if not path.exists():
        raise ModelError("no such model file", where=str(path), remedy="check the path")
    if path.is_dir():
        raise ModelError("the model is a folder, not a file", where=str(path), remedy="name the .onnx file inside it")
    content, maps = _scanned(path)
    if not content:
        raise ModelError("the model file is empty", where=str(path), remedy="export the model again")
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:
        raise ONNX.fault(path, "it cannot be parsed", "export the model again as ONNX") from error
    if not proto.graph.node:
        raise ModelError("the model has no nodes", where=str(path), remedy="export the model again")
    # what training needs is not for us, and may name files too
    proto.ClearField("training_info")
    return proto, maps


def _scanned(path: Path) -> tuple[bytes, dict[Path, mmap.mmap]]:
    """The bytes of the message; of a large file those that are not weights, and the file, mapped."""
    with reading(path, ONNX), open_regular(path) as stream:
        if _SCANNED <= os.fstat(stream.fileno()).st_size <= ONNX.limit:
            file = path.resolve()
            # what is no message, or a name that is no text, is reported in reading the whole
            with suppress(ValueError):
                mapped = map_file(stream, file)
                return without_values(memoryview(mapped), file.name), {file: mapped}
    return read_file(path, ONNX), {}


def normalise(
    proto: onnx.ModelProto, where: str, weights: dict[str, Array] | None = None
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A copy that onnx-graphsurgeon can take: dense initializers, functions inlined, unique node names.

    Args:
        proto: the model; not changed.
        where: what it is called in errors.
        weights: values of its large weights by name; a weight that gets another name gets it here too.

    Returns:
        The copy and how many things were changed for it: ``functions`` inlined, ``sparse`` initializers made dense,
        Constant nodes taken as initializers (``constants``), weights that were listed among the ``inputs``, outputs
        that were ``stored`` as weights, nodes that were ``unnamed``, nodes whose name was ``doubled``, inner tensors
        that were ``shadowing`` outer ones, and ``opset`` 1 where the model named none and one was added.

    Raises:
        ModelError: its opset is not read, or something in the graph cannot be.
    """
    changed: dict[str, int] = {}
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
            remedy="pip install -U onnx, or export the model at an older opset",
        )
    if proto.functions:
        changed["functions"] = len(proto.functions)
        proto = inlined(proto, where)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        proto = copy
    if not opset_of(proto):
        changed["opset"] = 1
        proto.opset_import.add(domain="", version=version)
    changed["sparse"] = _sparse_to_dense(proto.graph, where)
    # the checker wants a name, and some exporters write none
    proto.graph.name = proto.graph.name or "graph"
    changed["shadowing"] = unshadowed(proto.graph)
    changed["constants"] = _constants_to_initializers(proto.graph)
    stored = {t.name for t in proto.graph.initializer}
    changed["inputs"] = sum(value.name in stored for value in proto.graph.input)
    if changed["inputs"]:
        kept = [value for value in proto.graph.input if value.name not in stored]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    _forget_unknown_dimensions(proto.graph)
    _forget_other_types(proto.graph)
    if not proto.graph.output:
        raise ModelError("the model has no outputs", where=where, remedy="declare what it computes as graph.output")
    changed["stored"] = computed_outputs(proto.graph, where, weights if weights is not None else {})
    untyped = [
        v.name
        for v in proto.graph.output
        if not v.type.WhichOneof("value") or (v.type.HasField("tensor_type") and not v.type.tensor_type.elem_type)
    ]
    if untyped:
        _type_outputs(proto, untyped, where)
    changed["unnamed"], changed["doubled"] = _name_nodes(proto.graph)
    return proto, {what: number for what, number in changed.items() if number}


def _forget_unknown_dimensions(graph: onnx.GraphProto) -> None:
    """Clear dimensions called '?' or -1: Paddle's exporter writes both for sizes that it does not know.

    Dimensions of one name would have to be equal, and these are not.
    """
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.dim_param == "?" or dim.dim_value < 0:
                dim.Clear()


def _forget_other_types(graph: onnx.GraphProto) -> None:
    """Drop declared types of sequences and the like within a graph: onnx-graphsurgeon cannot hold them."""
    kept = [value for value in graph.value_info if value.type.HasField("tensor_type")]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _constants_to_initializers(graph: onnx.GraphProto) -> int:
    """Make the main graph's Constant nodes initializers, which have no type of their own to get out of step."""
    outputs = {value.name for value in graph.output}
    kept, count = [], 0
    for node in graph.node:
        tensor = constant_tensor(node) if node.op_type == "Constant" and node.output[0] not in outputs else None
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


def _type_outputs(proto: onnx.ModelProto, names: list[str], where: str) -> None:
    """Give outputs that declare no type the one that shape inference finds."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    let_inference_through(bare.graph)
    found = {v.name: v for v in onnx.shape_inference.infer_shapes(bare).graph.output}
    for value in proto.graph.output:
        if value.name in names:
            inferred = found[value.name].type
            if not inferred.tensor_type.elem_type:
                raise ModelError(
                    f"output '{value.name}' declares no type and none can be inferred",
                    where=where,
                    remedy="export the model again with typed outputs",
                )
            value.type.CopyFrom(inferred)


def _name_nodes(graph: onnx.GraphProto) -> tuple[int, int]:
    """Give every node a unique name; returns how many had none, and how many had another's."""
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
    """The opset for a model that names none: any will do where no operator is ONNX's own, as in trees alone.

    Raises:
        ModelError: it has operators of ONNX's own, whose meaning depends on the version.
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
    """Make sparse initializers and Constants dense, also in bodies: onnx-graphsurgeon drops them; returns how many."""
    found = 0
    for one in (graph, *subgraphs_of(graph)):
        found += len(one.sparse_initializer)
        one.initializer.extend(_dense(sparse, sparse.values.name, where) for sparse in one.sparse_initializer)
        del one.sparse_initializer[:]
    for node in all_nodes(graph.node):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and not attribute.ref_attr_name:
                dense = _dense(attribute.sparse_tensor, node.output[0], where)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
                found += 1
    return found


def _dense(sparse: onnx.SparseTensorProto, name: str, where: str) -> TensorProto:
    """A sparse tensor as a dense one, refused where that is too large or the indices do not lie within its shape."""
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


def write(model: LightModel, path: Path) -> Path:
    """Write a model whole or not at all; above protobuf's limit the weights go to a file beside it.

    That file's name holds the hash of its content, ``<name>.<hash>.data``: a model names the weights that it was
    written with, whenever the writing is killed, and other weights make another model file. Data files of the model
    that stood at ``path`` before are removed at the end.

    Args:
        model: the model; its message is changed.
        path: the model's file.
    """
    data: Path | None = None
    apart = _apart(model)
    if apart:
        digest = hashlib.sha256()
        for _, content in apart:
            digest.update(content)
            was_read(len(content))
        data = path.with_name(f"{path.name}.{digest.hexdigest()[:16]}.data")
        takes = sum(len(content) + _PAGE for _, content in apart)
        with atomic_path(data, takes) as temporary, open(temporary, "wb") as stream:
            for tensor, content in apart:
                # mapping the file requires tensors to begin on a page
                stream.write(bytes(-stream.tell() % _PAGE))
                place_at(tensor, data.name, stream.tell(), len(content))
                stream.write(content)
                was_read(len(content))
            stream.flush()
            os.fsync(stream.fileno())
    inside = model if not apart else LightModel(model.proto)
    write_parts(path, _read_on(streamed(inside)), inside.proto.ByteSize() + inside.weight_bytes)
    own = re.compile(re.escape(path.name) + DATA_NAME)
    for other in path.parent.iterdir():
        if other != data and own.fullmatch(other.name):
            other.unlink(missing_ok=True)
    release_pages()
    return path


def _read_on(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for part in parts:
        yield part
        was_read(len(part))


def _apart(model: LightModel) -> list[tuple[TensorProto, memoryview | bytes]]:
    """The tensors whose values go to a separate file, with the values; none where the model's file can hold all."""
    if model.fits_whole():
        return []
    left = model.message_bytes
    found: list[tuple[TensorProto, memoryview | bytes]] = []
    for tensor in model.proto.graph.initializer:
        if tensor.name in model.weights:
            found.append((tensor, bytes_of(model.weights[tensor.name])))
        elif len(tensor.raw_data) >= _APART:
            found.append((tensor, tensor.raw_data))
            left -= len(tensor.raw_data)
    # those of subgraphs and attributes stay where they are as long as they can: not everybody looks there
    main = len(model.proto.graph.initializer)
    for tensor in islice(stored_tensors(model.proto), main, None):
        if not fits_message(left) and len(tensor.raw_data) >= _APART:
            found.append((tensor, tensor.raw_data))
            left -= len(tensor.raw_data)
    return found
