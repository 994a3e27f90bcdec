"""Shape inference over a model's skeleton at every corner of every profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from toolkit.model import Facts
    from toolkit.profiles import Profiles


def infer(skeleton: onnx.ModelProto, profiles: Profiles | None) -> Facts:
    """Types and shapes of every tensor; see ``Model.facts``."""
    from toolkit.model import Facts

    corners: Sequence[Mapping[str, Sequence[int]]] = profiles.corners() if profiles is not None else []
    facts = Facts()
    for corner in list({repr(sorted(c.items())): c for c in corners}.values()) or [{}]:
        at_corner = onnx.ModelProto()
        at_corner.CopyFrom(skeleton)
        for value in at_corner.graph.input:
            if value.name in corner:
                _fix(value, corner[value.name])
        if corner:
            del at_corner.graph.value_info[:]
            for value in at_corner.graph.output:
                value.type.tensor_type.ClearField("shape")
        try:
            found = onnx.shape_inference.infer_shapes(at_corner, data_prop=True)
        except Exception:
            found = onnx.shape_inference.infer_shapes(at_corner)
        _read(found.graph, facts)
    for initializer in skeleton.graph.initializer:
        facts.types[initializer.name] = initializer.data_type
        facts.shapes[initializer.name] = [tuple(initializer.dims)]
    return facts


def _fix(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    for dim, size in zip(dims, shape):
        dim.Clear()
        dim.dim_value = size


def _read(graph: onnx.GraphProto, facts: Facts) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            facts.types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
            facts.shapes.setdefault(value.name, []).append(shape)
    for node in graph.node:
        for attribute in node.attribute:
            for sub in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _read(sub, facts)
