"""Constant folding, in the main graph and in every If, Loop and Scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from toolkit.base.errors import QtoolError
from toolkit.base.profiles import Profiles
from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.ort_forms.float32_twin import computes_in_bfloat16, is_bfloat16
from toolkit.graph.proto.nodes import ONNX_DOMAINS
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.session import session
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies, subgraphs
from toolkit.graph.surgery.inlining import Inliner
from toolkit.graph.surgery.strangers import op_type
from toolkit.graph.surgery.tensors import make_constant, np_dtype, onnx_type, reroute, stored_bytes, values_of

KeepNode = Callable[[gs.Node], bool]
"""Returns whether a node with constant inputs must stay."""

_NUMBERS = ("value", "value_float", "value_floats", "value_int", "value_ints")
_NOT_TENSORS = ("Sequence", "SplitToSequence", "Optional")
_OF_SHAPES = ("Shape", "Size", "EyeLike")
"""Operators whose result is known from the shape and type of their input."""
_SMALL = 1024


@dataclass
class Folded:
    """The result of folding.

    Attributes:
        values: names of the nodes that became constants.
        branches: for each If that was replaced by a branch, ``then`` or ``else``.
        large: for each node that stays because its result is too large, the result's bytes.
        failed: for each node that stays because it could not be computed, the error.
    """

    values: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    large: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the graph was changed."""
        return bool(self.values or self.branches)


def fold(model: Model, keep: KeepNode, limit: int) -> Folded:
    """Fold what depends only on constants and known shapes, and replace Ifs with constant conditions by their branch.

    Constants are computed by onnxruntime. A tensor that only lends its type (CastLike) or its shape (Shape, Size,
    EyeLike) needs no values if that is known. Of nodes with subgraphs only the subgraphs are folded. Nodes that produce
    an output of their graph stay; their inputs become constants.

    Args:
        model: topologically sorted; changed in place. Nodes that are no longer needed remain, unread.
        keep: returns whether a node must stay as it is.
        limit: most bytes of a stored result.
    """
    folder = _Folder(model, keep, limit)
    while folder.run(model.graph):
        # inlined nodes may now have known shapes
        folder.facts = None
    return folder.folded


def fixed_dimensions(model: Model, profiles: Profiles) -> dict[str, list[Any]]:
    """By name, the shapes of inputs with a dynamic dimension to which every profile gives the same size."""
    found = {}
    for tensor in model.graph.inputs:
        extents = [profile.shapes[tensor.name] for profile in profiles if tensor.name in profile.shapes]
        if not extents or tensor.shape is None:
            continue
        shape = []
        for axis, dim in enumerate(tensor.shape):
            sizes = {size[axis] for extent in extents for size in (extent.min, extent.max)}
            shape.append(dim if isinstance(dim, int) or len(sizes) > 1 else sizes.pop())
        if shape != list(tensor.shape):
            found[str(tensor.name)] = shape
    return found


def fix_dimensions(model: Model, profiles: Profiles) -> list[str]:
    """Declare the sizes of dimensions for which all profiles agree; returns the names of changed inputs."""
    fixed = fixed_dimensions(model, profiles)
    for tensor in model.graph.inputs:
        tensor.shape = fixed.get(tensor.name, tensor.shape)
    return list(fixed)


class _Folder:
    def __init__(self, model: Model, keep: KeepNode, limit: int) -> None:
        self.model, self.keep, self.limit = model, keep, limit
        self.folded = Folded()
        self.facts: Facts | None = None
        self.makers: Counter[str] | None = None
        self.inliner: Inliner | None = None
        others = [one for one in model.graph.import_domains or () if one.domain not in ONNX_DOMAINS]
        self.opsets = [helper.make_opsetid("", model.opset), *others]

    def run(self, graph: gs.Graph) -> bool:
        """Fold a graph and then its subgraphs; returns whether an If was replaced by its branch."""
        inlined = False
        while True:
            ops = {node.op for node in graph.nodes}
            for step, present in (
                (self._store_constants, "Constant" in ops),
                (self._store_shapes, not ops.isdisjoint(_OF_SHAPES)),
                (self._compute, True),
            ):
                if present:
                    step(graph)
                    # those of a subgraph may have been emptied along with those around it
                    graph.nodes[:] = [node for node in graph.nodes if node.outputs]
            if "If" not in ops or not self._inline(graph):
                break
            inlined = True
        for node in [node for node in graph.nodes if node.attrs]:
            for sub in bodies(node):
                inlined |= self.run(sub)
        return inlined

    # ---------------------------------------------------------------- values known without computing

    def _store_constants(self, graph: gs.Graph) -> None:
        outputs = {id(tensor) for tensor in graph.outputs}
        for node in graph.nodes:
            if node.op != "Constant" or not node.outputs or id(node.outputs[0]) in outputs or self.keep(node):
                continue
            name, value = next(iter(node.attrs.items()), ("", None))
            if len(node.attrs) == 1 and name in _NUMBERS:
                plain = values_of(value) if isinstance(value, gs.Constant) else _number(name, value)
                self._store(node, node.outputs[0], plain)

    def _store_shapes(self, graph: gs.Graph) -> None:
        """Store known shapes, and the known parts of others if a Gather or Slice reads only those."""
        # a known part of a shape may be read in a subgraph
        outputs = {id(tensor) for one in (graph, *subgraphs(graph)) for tensor in one.outputs}
        shapes = [node for node in graph.nodes if node.op in _OF_SHAPES and node.outputs and not self.keep(node)]
        for node in shapes:
            whole = _shape(node.inputs[0], self._known())
            if whole is None:
                continue
            if node.op == "EyeLike":
                kind = node.attrs.get("dtype") or self._type(node.inputs[0])
                if kind and min(whole) >= 0 and id(node.outputs[0]) not in outputs:
                    self._store_eye(node, whole, np_dtype(int(kind)))
                continue
            sizes = np.array(whole[int(node.attrs.get("start", 0)) : node.attrs.get("end")], np.int64)
            if (sizes >= 0).all():
                if id(node.outputs[0]) not in outputs:
                    value = sizes if node.op == "Shape" else np.array(sizes.prod(dtype=np.int64))
                    self._store(node, node.outputs[0], value)
                continue
            for reader in list(node.outputs[0].outputs):
                part = _part(self.model, reader, node.outputs[0], sizes)
                tensor = reader.outputs[0] if reader.outputs else None
                if part is not None and tensor is not None and id(tensor) not in outputs and (part >= 0).all():
                    self._store(reader, tensor, part)

    def _store_eye(self, node: gs.Node, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if size > self.limit:
            self.folded.large[node.name] = size
            return
        self._store(node, node.outputs[0], np.eye(shape[0], shape[1], int(node.attrs.get("k", 0))).astype(dtype))

    def _known(self) -> Facts:
        if self.facts is None:
            self.facts = self.model.facts()
        return self.facts

    def _type(self, tensor: gs.Tensor) -> int | None:
        """A tensor's type; None if it is unknown, or if two subgraphs have a tensor of this name."""
        if isinstance(tensor, gs.Constant):
            return onnx_type(tensor.dtype)
        if self.makers is None:
            nodes = [node for node, _ in self.model.walk()]
            graphs = (self.model.graph, *(body for node in nodes for body in bodies(node)))
            begun = (one.name for graph in graphs for one in graph.inputs)
            self.makers = Counter(chain(begun, (made.name for node in nodes for made in node.outputs)))
        return self._known().types.get(tensor.name) if self.makers[tensor.name] <= 1 else None

    def _operands(self, node: gs.Node) -> list[gs.Tensor]:
        """The inputs whose values determine a node's result, without inputs that only determine its type."""
        lends = node.op == "CastLike" and self._type(node.inputs[1]) is not None
        return list(node.inputs[:1] if lends else node.inputs)

    def _exported(self, node: gs.Node) -> onnx.NodeProto:
        """The node as ONNX message, with CastLike replaced by Cast, so that it reads only its operands."""
        proto = OnnxExporter.export_node(node)
        proto.op_type = op_type(node)
        kind = self._type(node.inputs[1]) if node.op == "CastLike" else None
        if kind is not None:
            proto.op_type = "Cast"
            del proto.input[1:]
            proto.attribute.append(helper.make_attribute("to", kind))
        return proto

    def _store(self, node: gs.Node, tensor: gs.Tensor, value: Array) -> None:
        """Make a node's output a constant; the node stays in the graph, without that output."""
        constant = make_constant(tensor.name, value)
        place = next(index for index, out in enumerate(node.outputs) if out is tensor)
        reroute(tensor, constant)
        node.outputs[place] = gs.Variable.empty()
        if all(out.is_empty() for out in node.outputs):
            _empty(node)
        self.folded.values.add(node.name)

    # ---------------------------------------------------------------- computed values

    def _compute(self, graph: gs.Graph) -> None:
        """Fold everything in one graph that depends only on constants; node by node if it cannot be run as a whole."""
        nodes, wanted = self._wanted(graph)
        if not wanted:
            return
        try:
            values = self._run(nodes, list(wanted), {})
        except EndlessLoopError as error:
            self.folded.failed[error.node] = error.what
            return
        except QtoolError:
            # a node that onnxruntime cannot run makes the whole fail: running each separately shows which
            values = self._one_by_one(nodes)
            nodes, wanted = self._wanted(graph)
        for name, node in wanted.items():
            value = values[name]
            if value.dtype.hasobject:
                continue
            if value.nbytes > self.limit:
                self.folded.large[node.name] = value.nbytes
                continue
            self._store(node, next(tensor for tensor in node.outputs if tensor.name == name), value)
        # intermediate nodes have no readers left
        for node in reversed(nodes):
            if node.outputs and not any(tensor.outputs for tensor in node.outputs):
                _empty(node)
                self.folded.values.add(node.name)

    def _wanted(self, graph: gs.Graph) -> tuple[list[gs.Node], dict[str, gs.Node]]:
        """The nodes of a graph that can be computed, and those of them whose outputs other nodes read."""
        nodes = list(self._computable(graph))
        if self.facts is None and any(stored_bytes([tensor]) > self.limit for node in nodes for tensor in node.inputs):
            # results derived from it are most likely too large as well, so they are not computed
            self.facts = self.model.facts()
        inner = {id(node) for node in nodes}
        return nodes, {
            tensor.name: node
            for node in nodes
            for tensor in node.outputs
            if not tensor.is_empty() and any(id(reader) not in inner for reader in tensor.outputs)
            if not self._too_large(node, tensor)
        }

    def _computable(self, graph: gs.Graph) -> Iterator[gs.Node]:
        """The nodes of a graph that depend only on constants, in order."""
        outputs = {id(tensor) for tensor in graph.outputs}
        known: set[int] = set()
        for node in graph.nodes:
            for tensor in node.inputs if node.op != "CastLike" else self._operands(node):
                if not isinstance(tensor, gs.Constant) and id(tensor) not in known and not tensor.is_empty():
                    break
            else:
                if node.op == "Constant" or node.name in self.folded.failed or not node.outputs:
                    continue
                tensors = not node.op.startswith(_NOT_TENSORS) and not bodies(node)
                if tensors and not any(id(t) in outputs for t in node.outputs) and not self.keep(node):
                    known.update(id(tensor) for tensor in node.outputs)
                    yield node

    def _too_large(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        shape, kind = tensor.shape, None if tensor.dtype is None else onnx_type(tensor.dtype)
        if (shape is None or kind is None) and self.facts is not None:
            shape, kind = _shape(tensor, self.facts), self.facts.types.get(tensor.name)
        if shape is None or kind is None or not all(isinstance(size, int) and size >= 0 for size in shape):
            return False
        size = int(np.prod(shape, dtype=np.float64)) * np_dtype(kind).itemsize
        if size > self.limit:
            self.folded.large[node.name] = size
        return size > self.limit

    def _one_by_one(self, nodes: list[gs.Node]) -> dict[str, Array]:
        """The values of these nodes' outputs; nodes that cannot be computed are recorded."""
        found: dict[str, Array] = {}
        for node in nodes:
            names = [tensor.name for tensor in node.outputs if not tensor.is_empty()]
            read = [t for t in self._operands(node) if not t.is_empty()]
            if any(not isinstance(t, gs.Constant) and t.name not in found for t in read):
                continue
            try:
                found.update(self._run([node], names, found))
            except QtoolError as error:
                self.folded.failed[node.name] = error.what
        return found

    def _run(self, nodes: list[gs.Node], wanted: list[str], known: Mapping[str, Array]) -> Mapping[str, Array]:
        """The results of nodes, computed by onnxruntime. Large constants are inputs, to limit the size of the message.

        Raises:
            QtoolError: it cannot compute one of the nodes.
        """
        made = {tensor.name for node in nodes for tensor in node.outputs}
        read = {tensor.name: tensor for node in nodes for tensor in self._operands(node) if not tensor.is_empty()}
        given = {n: known[n] if n in known else values_of(tensor) for n, tensor in read.items() if n not in made}
        feeds = {name: value for name, value in given.items() if value.size > _SMALL}
        graph = helper.make_graph(
            [self._exported(node) for node in nodes],
            "constants",
            [helper.make_tensor_value_info(name, onnx_type(v.dtype), v.shape) for name, v in feeds.items()],
            [onnx.ValueInfoProto(name=name) for name in wanted],
            [numpy_helper.from_array(value, name) for name, value in given.items() if name not in feeds],
        )
        proto = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        values = session(proto, wanted, optimise=False).run(feeds)
        if not computes_in_bfloat16(proto):
            return values
        # a session returns bfloat16 as float32
        typed = onnx.shape_inference.infer_shapes(proto).graph
        narrow = {v.name for v in (*typed.value_info, *typed.output) if is_bfloat16(v.type)}
        bfloat16 = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
        return {name: value.astype(bfloat16) if name in narrow else value for name, value in values.items()}

    # ---------------------------------------------------------------- branches

    def _inline(self, graph: gs.Graph) -> bool:
        """Replace the Ifs of a graph whose condition is a constant; returns whether there was one."""
        found = False
        index = 0
        while index < len(graph.nodes):
            node = graph.nodes[index]
            condition = self.model.constant(node.inputs[0]) if node.op == "If" and node.inputs else None
            if condition is None or condition.size != 1 or self.keep(node):
                index += 1
                continue
            self.inliner = self.inliner or Inliner(self.model.graph)
            self.folded.branches[node.name] = self.inliner.inline(graph, index, bool(condition.reshape(())))
            found = True
        return found


def _empty(node: gs.Node) -> None:
    node.inputs.clear()
    node.outputs.clear()


def _number(name: str, value: object) -> Array:
    return np.array(value, np.float32 if "float" in name else np.int64)


def _shape(tensor: gs.Tensor, facts: Facts) -> tuple[int, ...] | None:
    """A tensor's shape, -1 for unknown sizes; None if its rank is not known."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    # tensors in two subgraphs may have the same name
    found = set(facts.shapes.get(tensor.name, ()))
    return found.pop() if len(found) == 1 else None


def _part(model: Model, reader: gs.Node, shape: gs.Tensor, sizes: Array) -> Array | None:
    """The part of a shape that a Gather or Slice selects; None for other readers."""
    if not reader.inputs or reader.inputs[0] is not shape:
        return None
    settings = [model.constant(tensor) if not tensor.is_empty() else None for tensor in reader.inputs[1:]]
    if reader.op == "Gather" and settings and settings[0] is not None:
        index = settings[0]
        inside = ((index >= -len(sizes)) & (index < len(sizes))).all()
        return sizes[index] if inside else None
    if reader.op != "Slice":
        return None
    if len(reader.inputs) < 3:
        settings = [np.array(reader.attrs.get(name, [])) for name in ("starts", "ends", "axes")]
    given = [value for value in settings if value is not None]
    if len(given) < len([t for t in reader.inputs[1:] if not t.is_empty()]) or any(v.size > 1 for v in given):
        return None
    start, stop, axis, step = ([_only(value) for value in settings] + [None, None])[:4]
    return sizes[start:stop:step] if axis in (None, 0, -1) and step != 0 else None


def _only(value: Array | None) -> int | None:
    return int(value.reshape(())) if value is not None and value.size else None
