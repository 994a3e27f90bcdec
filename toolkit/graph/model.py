"""The model under work: an onnx-graphsurgeon graph with unique node names, shapes and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from toolkit.base.errors import ModelError, PassError, did_you_mean
from toolkit.contract.journal import Journal
from toolkit.graph.header import all_nodes

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles

OLDEST_OPSET, NEWEST_OPSET = 9, 23
_SKELETON_LIMIT = 4096
_PROTOBUF_LIMIT = 1_900_000_000
FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

gs.ir.graph.G_LOGGER.severity = gs.ir.graph.G_LOGGER.ERROR


@dataclass(frozen=True)
class Signature:
    """Name and ONNX element type of the graph's inputs and outputs, which passes must keep."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass
class Facts:
    """What shape inference found: element types, and every tensor's shape at every corner of every profile.

    ``shapes[tensor]`` lists one shape a corner (one in all where there are no profiles); an unknown dimension is -1.
    A tensor whose rank is unknown at any corner is missing.
    """

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def rank(self, tensor: str) -> int | None:
        """The rank of a tensor where it is known and the same at every corner."""
        ranks = {len(shape) for shape in self.shapes.get(tensor, [])}
        return ranks.pop() if len(ranks) == 1 else None

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor holds float32, float16 or bfloat16."""
        return self.types.get(tensor) in FLOAT_TYPES


class Model:
    """A graph under work.

    ``graph`` is an onnx_graphsurgeon graph whose node names are unique over all subgraphs. ``metadata`` maps node
    names to ONNX ``metadata_props``, which graphsurgeon itself drops.

    Example:
        >>> model = Model.load("models/digits_cnn.onnx")            # doctest: +SKIP
        >>> [node.name for node in model.nodes if node.op == "Gemm"]  # doctest: +SKIP
    """

    def __init__(
        self,
        graph: gs.Graph,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
        props: Mapping[str, str] | None = None,
        source: Path | None = None,
    ) -> None:
        self.graph = graph
        self.metadata: dict[str, dict[str, str]] = {name: dict(props) for name, props in (metadata or {}).items()}
        self.props: dict[str, str] = dict(props or {})
        self.source = source

    # ---------------------------------------------------------------- reading and writing

    @classmethod
    def load(cls, path: str | os.PathLike[str], journal: Journal | None = None) -> Model:
        """Read an ONNX file, with its external data, and give every node a unique name.

        Raises:
            ModelError: no such file, not ONNX, an opset outside 9 to 23, no nodes, broken or unsafe external data.
        """
        from toolkit.graph.onnx_file import read

        path = Path(path)
        return cls.from_proto(read(path), source=path, journal=journal)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, source: Path | None = None, journal: Journal | None = None) -> Model:
        """Take a model in memory. ``proto`` is not changed."""
        from toolkit.graph.onnx_file import normalise

        proto, notes = normalise(proto, str(source or "the model"))
        metadata = {
            node.name: {p.key: p.value for p in node.metadata_props}
            for node in all_nodes(proto.graph.node)
            if node.metadata_props
        }
        model = cls(gs.import_onnx(proto), metadata, {p.key: p.value for p in proto.metadata_props}, source)
        for note in notes if journal is not None else ():
            journal.noted(note, rule="load")  # type: ignore[union-attr]
        return model

    def to_proto(self, ir_version: int | None = None) -> onnx.ModelProto:
        """The whole model as a protobuf message, node metadata included."""
        self.graph.ir_version = ir_version or max(self.graph.ir_version or 0, 8)
        proto = _export(self.graph)
        for node in all_nodes(proto.graph.node):
            for key, value in self.metadata.get(node.name, {}).items():
                node.metadata_props.add(key=key, value=value)
        for key, value in self.props.items():
            proto.metadata_props.add(key=key, value=value)
        return proto

    def save(self, path: str | os.PathLike[str], ir_version: int | None = None) -> Path:
        """Write the model whole or not at all; above 1.9 GB the weights go to ``<name>.<hash>.data`` beside it."""
        from toolkit.graph.onnx_file import write

        path = Path(path)
        if self.source is not None and path.exists() and path.resolve() == self.source.resolve():
            raise ModelError("refusing to write over the input model", where=str(path), remedy="give another file name")
        return write(self.to_proto(ir_version), path, _PROTOBUF_LIMIT)

    def to_bytes(self) -> bytes:
        """The serialized model, the same bytes for the same graph.

        Raises:
            ModelError: it is larger than a protobuf message may be; save it to a file instead.
        """
        if self.weight_bytes() > _PROTOBUF_LIMIT:
            raise ModelError("the model is too large for one message", remedy="save it to a file and use its path")
        return bytes(self.to_proto().SerializeToString(deterministic=True))

    def fingerprint(self) -> str:
        """SHA-256 over graph and weights, in hex. Node metadata and names of files play no part."""
        digest = hashlib.sha256()
        digest.update(self.skeleton(named_by_content=True).SerializeToString(deterministic=True))
        return digest.hexdigest()

    def copy(self) -> Model:
        """An independent copy of the graph; weights are shared."""
        return Model(self.graph.copy(), self.metadata, self.props, self.source)

    # ---------------------------------------------------------------- looking

    @property
    def nodes(self) -> list[gs.Node]:
        """The nodes of the main graph, in the order they are stored."""
        return list(self.graph.nodes)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return int(self.graph.opset)

    def walk(self) -> Iterator[tuple[gs.Node, gs.Graph]]:
        """Every node with the graph it is in, subgraphs of If, Loop and Scan included."""
        yield from _walk(self.graph)

    def node(self, name: str) -> gs.Node:
        """The node of that name, in any subgraph.

        Raises:
            PassError: there is none; the message names the nearest.
        """
        for node, _ in self.walk():
            if node.name == name:
                return node
        raise PassError(f"no node is named '{name}'", remedy=did_you_mean(name, self.node_names()))

    def node_names(self) -> list[str]:
        """The names of all nodes, subgraphs included."""
        return [node.name for node, _ in self.walk()]

    def producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """The node that makes a tensor, or None for inputs and constants."""
        return tensor.inputs[0] if tensor.inputs else None

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is an output of the main graph."""
        return any(out is tensor for out in self.graph.outputs)

    def constant(self, tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
        """The values of an initializer or of a Constant node's output; None where they are computed or not numeric."""
        if isinstance(tensor, gs.Constant):
            return values_of(tensor)
        producer = self.producer(tensor)
        if producer is not None and producer.op == "Constant" and "value" in producer.attrs:
            return values_of(producer.attrs["value"])
        return None

    def subgraph_tensors(self) -> set[str]:
        """Names of main-graph tensors that nodes inside subgraphs read."""
        used: set[str] = set()
        for node in self.graph.nodes:
            for sub in node.subgraphs(recursive=True):
                own = {t.name for n in sub.nodes for t in n.outputs} | {t.name for t in sub.inputs}
                used |= {t.name for n in sub.nodes for t in n.inputs if t.name not in own}
                used |= {t.name for t in sub.outputs if t.name not in own}
        return used

    def signature(self) -> Signature:
        """Names and types of inputs and outputs."""
        return Signature(
            tuple((t.name, onnx_type(t.dtype)) for t in self.graph.inputs),
            tuple((t.name, onnx_type(t.dtype)) for t in self.graph.outputs),
        )

    def input_shapes(self) -> dict[str, list[int | str | None]]:
        """The declared shape of every input: numbers, names of dynamic dimensions, or None."""
        return {t.name: list(t.shape) if t.shape is not None else [] for t in self.graph.inputs}

    def weight_bytes(self) -> int:
        """Bytes of all constants of the main graph."""
        return sum(
            int(np.prod(t.shape or (1,))) * _itemsize(t.dtype)
            for t in self.graph.tensors().values()
            if isinstance(t, gs.Constant)
        )

    def facts(self, profiles: Profiles | None = None) -> Facts:
        """Element types and shapes by ONNX's shape inference, at every corner of every profile."""
        from toolkit.graph.shapes import infer

        return infer(self.skeleton(), profiles)

    # ---------------------------------------------------------------- changing

    def unique_tensor(self, base: str) -> str:
        """``base``, or ``base_2`` and so on where a tensor of that name exists."""
        taken = {t.name for n, _ in self.walk() for t in (*n.inputs, *n.outputs)}
        taken |= {t.name for t in (*self.graph.inputs, *self.graph.outputs)}
        return _free(base, taken)

    def unique_node(self, base: str) -> str:
        """``base``, or ``base_2`` and so on where a node of that name exists."""
        return _free(base, set(self.node_names()))

    def tidy(self) -> None:
        """Sort the nodes topologically and drop those that no output needs."""
        self.graph.cleanup(remove_unused_graph_inputs=False).toposort()

    def raise_opset(self, minimum: int) -> list[str]:
        """Bring the operator set up to ``minimum`` by ONNX's version converter; nodes that live on keep their names.

        Returns:
            Names of nodes that the conversion made anew.

        Raises:
            ModelError: an operator has no conversion.
        """
        from toolkit.graph.onnx_file import convert_opset

        if self.opset >= minimum:
            return []
        before = set(self.node_names())
        makers = {t.name: node.name for node in self.nodes for t in node.outputs}
        converted = convert_opset(self, minimum)
        self.graph = converted.graph
        kept = set(self.node_names())
        for node in self.nodes:
            # what the converter replaced goes on under its old name, so that requests and patterns still find it
            old = makers.get(node.outputs[0].name) if node.outputs else None
            if node.name not in before and old is not None and old not in kept:
                node.name = old
                kept.add(old)
        return [name for name in self.node_names() if name not in before]

    # ---------------------------------------------------------------- invariants

    def check(self) -> None:
        """Check that names are unique, the graph has no cycle and ONNX's checker accepts it.

        Raises:
            PassError: one of these does not hold; the message names the node.
        """
        seen: set[str] = set()
        for node, _ in self.walk():
            if not node.name or node.name in seen:
                raise PassError(f"two nodes are named '{node.name}'" if node.name else f"a {node.op} node has no name")
            seen.add(node.name)
        try:
            self.graph.toposort(recurse_subgraphs=False)
        except Exception as error:
            raise PassError(f"the graph has a cycle: {str(error).splitlines()[0]}") from error
        skeleton = self.skeleton()
        for value in (*skeleton.graph.input, *skeleton.graph.output):
            if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
                # a tensor of unknown rank is common in real exports; only the checker minds
                value.type.tensor_type.shape.SetInParent()
        try:
            onnx.checker.check_model(skeleton)
        except Exception as error:
            raise PassError(f"ONNX's checker refuses the graph: {' '.join(str(error).split())[:400]}") from error

    def skeleton(self, named_by_content: bool = False) -> onnx.ModelProto:
        """The graph with each large constant as a graph input: enough for the checker and for shape inference.

        With ``named_by_content`` the large constants also leave their SHA-256 in the metadata.
        """
        twin = self.graph.copy()
        hashes: list[tuple[str, str]] = []
        for tensor in list(twin.tensors().values()):
            if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape or (1,))) <= _SKELETON_LIMIT:
                continue
            if named_by_content:
                hashes.append((tensor.name, hashlib.sha256(_raw(tensor)).hexdigest()))
            dtype, shape = tensor.dtype, list(tensor.shape)
            tensor.to_variable(dtype=dtype, shape=shape)
            tensor.type = "tensor_type"
            twin.inputs.append(tensor)
        twin.ir_version = max(twin.ir_version or 0, 10)
        proto = _export(twin)
        for name, value in sorted(hashes):
            proto.metadata_props.add(key=name, value=value)
        return proto


def _export(graph: gs.Graph) -> onnx.ModelProto:
    proto = gs.export_onnx(graph, do_type_check=False)
    _drop_shadows(proto.graph, set())
    return proto


def _drop_shadows(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Remove from subgraphs the copies of outer constants and value infos that graphsurgeon writes into them."""
    for field_name in ("initializer", "value_info") if outer else ():
        entries = getattr(graph, field_name)
        kept = [entry for entry in entries if entry.name not in outer]
        if len(kept) != len(entries):
            del entries[:]
            entries.extend(kept)
    names = outer | {t.name for t in graph.initializer} | {t.name for t in graph.input}
    names |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                if sub.node or sub.output:
                    _drop_shadows(sub, names)


def _walk(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Graph]]:
    for node in list(graph.nodes):
        yield node, graph
        for sub in node.subgraphs():
            yield from _walk(sub)


def _free(base: str, taken: set[str]) -> str:
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name


def onnx_type(dtype: Any) -> int:
    """An element type as ONNX's number, from a numpy dtype, an ONNX number or None (0)."""
    if dtype is None:
        return 0
    return int(dtype) if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _itemsize(dtype: Any) -> int:
    try:
        return int(np.dtype(dtype).itemsize) if not isinstance(dtype, int) else 2
    except TypeError:
        return 4


def _raw(tensor: gs.Constant) -> bytes:
    held = tensor._values
    if isinstance(held, LazyValues) and not isinstance(held.tensor, onnx.SparseTensorProto):
        return held.tensor.raw_data or bytes(held.tensor.SerializeToString(deterministic=True))
    return np.ascontiguousarray(tensor.values).tobytes()


def values_of(tensor: gs.Constant) -> np.ndarray[Any, Any]:
    """The values of a constant; bfloat16 and float8 come as ml_dtypes arrays."""
    held = tensor._values
    if isinstance(held, LazyValues) and isinstance(held.tensor, onnx.TensorProto):
        return np.asarray(onnx.numpy_helper.to_array(held.tensor))
    return np.asarray(tensor.values)


def make_constant(name: str, values: np.ndarray[Any, Any], element_type: int | None = None) -> gs.Constant:
    """A constant of any ONNX element type, float8, bfloat16 and int4 included, from values of that or a wider type."""
    values = np.asarray(values)
    wanted = element_type if element_type is not None else onnx_type(values.dtype)
    if wanted in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
        cast = values.astype(onnx.helper.tensor_dtype_to_np_dtype(wanted))
        return gs.Constant(name, LazyValues(onnx.numpy_helper.from_array(cast, name)))
    # ascontiguousarray would make a scalar a vector of one
    return gs.Constant(name, np.asarray(values.astype(onnx.helper.tensor_dtype_to_np_dtype(wanted)), order="C"))


def reroute(old: gs.Tensor, new: gs.Tensor) -> list[gs.Node]:
    """Let every reader of one tensor read another; the readers, each once."""
    readers = list({id(reader): reader for reader in old.outputs}.values())
    for reader in readers:
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new
    return readers


def make_node(op: str, name: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor], **attrs: Any) -> gs.Node:
    """A node of ONNX's own operator set."""
    return gs.Node(op=op, name=name, attrs=attrs, inputs=list(inputs), outputs=list(outputs))


__all__ = [
    "FLOAT_TYPES",
    "Facts",
    "Model",
    "Signature",
    "make_constant",
    "make_node",
    "onnx_type",
    "reroute",
    "values_of",
]
