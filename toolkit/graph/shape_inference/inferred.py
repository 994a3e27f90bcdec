"""Shape inference of a model's skeleton at every corner of every profile, with cached results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from toolkit.base.collection import return_free_blocks
from toolkit.graph.proto.nodes import all_nodes, let_inference_through
from toolkit.graph.proto.strangers import operator_of
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.shape_inference.loop_states import with_kept_states
from toolkit.graph.shape_inference.shape_values import trip_counts, with_known_values

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles

_KEPT, _KEPT_TENSORS = 4, 20_000
"""How many results are cached: a run needs the facts of a few graphs repeatedly, a search those of a dozen. More are
kept as long as they have at most this many tensors in total.
"""
_LARGE = 1 << 20
"""Bytes of a message with some thousands of nodes."""
_ROUNDS = 16
"""Largest number of iterations, since shapes found in one may be the start of the next."""


class Inferred:
    """Recent inference results by the content of the graph, shared by a model and its copies."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Facts, bool]] = {}

    def facts(self, skeleton: bytes, profiles: Profiles | None) -> Facts:
        """Types and shapes of every tensor of a serialized skeleton; see ``Model.facts``."""
        facts, _ = self._inferred(skeleton, profiles)
        return Facts(dict(facts.types), dict(facts.shapes), dict(facts.trips))

    def fault(self, skeleton: bytes) -> Exception | None:
        """The error of strict inference for a serialized skeleton; None if its types are consistent."""
        if self._inferred(skeleton, None)[1]:
            return None
        try:
            onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
        except Exception as error:
            return error
        return None

    def _inferred(self, skeleton: bytes, profiles: Profiles | None) -> tuple[Facts, bool]:
        corners = (
            list({repr(sorted(c.items())): c for c in profiles.corners()}.values()) if profiles is not None else []
        )
        digest = hashlib.sha256(skeleton)
        digest.update(repr(corners).encode())
        key = digest.hexdigest()
        found = self._found.pop(key, None) or _infer(skeleton, corners or [{}])
        self._found[key] = found
        tensors = sum(len(facts.types) for facts, _ in self._found.values())
        for oldest in list(self._found)[:-_KEPT]:
            if tensors <= _KEPT_TENSORS:
                break
            tensors -= len(self._found.pop(oldest)[0].types)
        return found


def _infer(skeleton: bytes, corners: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Facts, bool]:
    """The inferred facts at the corners, and whether strict inference without corners accepts the graph's types."""
    facts, stored, agree = Facts(), dict[str, tuple[int, tuple[int, ...]]](), False
    for corner in corners:
        at_corner = onnx.ModelProto.FromString(skeleton)
        let_inference_through(at_corner.graph)
        stored = {one.name: (one.data_type, tuple(one.dims)) for one in at_corner.graph.initializer}
        nested = _show_constants(at_corner.graph, ())
        for value in at_corner.graph.input:
            if value.name in corner:
                _fix(value, corner[value.name])
        if corner:
            del at_corner.graph.value_info[:]
            for value in at_corner.graph.output:
                value.type.tensor_type.ClearField("shape")
        found = None if corner else _strictly(at_corner)
        agree = found is not None
        found = found or _inferred(at_corner)
        loops = nested and any(operator_of(node) == "Loop" for node in all_nodes(at_corner.graph.node))
        if loops:
            at_corner, found = with_kept_states(at_corner, found, _inferred)
        for _ in range(_ROUNDS if corner else 0):
            known = with_known_values(at_corner, found.graph) if _has_unknown(found.graph) else None
            if known is None:
                break
            at_corner, found = known, _inferred(known)
            if loops:
                # the initial shape of a state may follow from the values
                at_corner, found = with_kept_states(at_corner, found, _inferred)
        _read(found.graph, facts, {}, nested)
        if nested:
            facts.trips |= trip_counts(at_corner, found.graph)
        for tensor in at_corner.graph.initializer:
            if tensor.name not in stored:
                facts.types[tensor.name] = tensor.data_type
                facts.shapes.setdefault(tensor.name, []).append(tuple(tensor.dims))
    for name, (kind, shape) in stored.items():
        facts.types[name], facts.shapes[name] = kind, [shape]
    # thousands of tensors have the same shape, and the facts of several graphs are cached
    same: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
    facts.shapes = {name: same.setdefault(tuple(shapes), shapes) for name, shapes in facts.shapes.items()}
    if len(skeleton) > _LARGE:
        # the messages need several times the skeleton's memory
        del at_corner, found
        return_free_blocks()
    return facts, agree


def _show_constants(graph: onnx.GraphProto, around: tuple[Mapping[str, onnx.TensorProto], ...]) -> bool:
    """Copy outer constants into the subgraphs that read them, since shape inference does not see outer values.

    Returns:
        Whether there are subgraphs.
    """
    known: dict[str, onnx.TensorProto] | None = None
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                known = known if known is not None else {tensor.name: tensor for tensor in graph.initializer}
                own = {tensor.name for tensor in sub.initializer}
                for name in sorted({name for inner in all_nodes(sub.node) for name in inner.input} - own):
                    tensor = next((one[name] for one in (known, *around) if name in one), None)
                    if tensor is not None:
                        sub.initializer.append(tensor)
                _show_constants(sub, (known, *around))
    return known is not None


def _strictly(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The result of ``_inferred`` for a graph without errors; None for others."""
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception:
        return None


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return onnx.shape_inference.infer_shapes(model)


def _has_unknown(graph: onnx.GraphProto) -> bool:
    """Whether a shape is unknown: in an inferred tensor, or because nothing was inferred for an output."""
    known: set[str] = set()
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            known.add(value.name)
            if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                return True
    return any(output and output not in known for node in graph.node for output in node.output)


def _fix(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    for dim, size in zip(dims, shape):
        dim.Clear()
        dim.dim_value = size


def _read(
    graph: onnx.GraphProto, facts: Facts, known: dict[bytes, tuple[int, tuple[int, ...] | None]], nested: bool
) -> None:
    """Add inferred facts; ``known`` caches parsed types, and ``nested`` tells whether there are subgraphs.

    A large graph has few different types, and reading their fields is slow.
    """
    types, shapes = facts.types, facts.shapes
    for value in (*graph.input, *graph.value_info, *graph.output):
        name, content = value.name, value.type.SerializeToString()
        read = known.get(content)
        if read is None:
            tensor = value.type.tensor_type
            sizes = tuple([d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim])
            read = known[content] = tensor.elem_type, sizes if tensor.HasField("shape") else None
        kind, shape = read
        if kind:
            types[name] = kind
        if shape is not None:
            shapes.setdefault(name, []).append(shape)
    for node in graph.node if nested else ():
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _read(sub, facts, known, nested)
                for tensor in sub.initializer:
                    types[tensor.name] = tensor.data_type
                    shapes.setdefault(tensor.name, []).append(tuple(tensor.dims))
