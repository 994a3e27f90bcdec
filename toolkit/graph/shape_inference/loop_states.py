"""Shapes of Loop-carried states, which inference leaves unknown because iterations may change them; most do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import onnx

from toolkit.graph.proto.nodes import ONNX_DOMAINS, held_by, inferred_shapes

_Shape = tuple[int, ...]
_Key = tuple[str, int]
"""A Loop state's name outside the Loop, and its index among the states."""
_ROUNDS = 8
"""Largest number of iterations, since shapes kept in one Loop may be the initial shapes of the next."""


def with_kept_states(
    model: onnx.ModelProto, found: onnx.ModelProto, infer: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Declare the dimensions of Loop states that iterations keep; returns the model and its inferred shapes.

    Each state is assumed to have its initial shape. The shape that the body computes from it then shows which
    dimensions are kept, by induction over the iterations. A state for which the body's shape is unknown stays
    undeclared.

    Args:
        model: not changed.
        found: the result of ``infer`` for it.
        infer: shape inference.
    """
    refused, known = set[_Key](), dict[_Key, _Shape]()
    for _ in range(_ROUNDS):
        states, trial, inferred = _assumed(model, found, infer, refused, known)
        if not states:
            break
        made = _made(inferred.graph, {})
        kept = {key: _kept(shape, made.get(key)) for key, shape in states.items()}
        if kept == states:
            return trial, inferred
        refused |= {key for key, shape in kept.items() if shape is None}
        known |= {key: shape for key, shape in kept.items() if shape is not None and shape != states[key]}
    return model, found


def _assumed(
    model: onnx.ModelProto,
    found: onnx.ModelProto,
    infer: Callable[[onnx.ModelProto], onnx.ModelProto],
    refused: set[_Key],
    known: Mapping[_Key, _Shape],
) -> tuple[dict[_Key, _Shape], onnx.ModelProto, onnx.ModelProto]:
    """The assumed shapes of states, a model that declares them, and its inferred shapes."""
    states, trial = dict[_Key, _Shape](), model
    for _ in range(_ROUNDS):
        # the states of one Loop may be the initial states of another, inside it or after it
        trial = deepcopy(model)
        more = _assume(trial.graph, found.graph, {}, refused, {**states, **known})
        if more == states:
            break
        states, found = more, infer(trial)
    return states, trial, found


def _kept(begun: _Shape, made: _Shape | None) -> _Shape | None:
    """The dimensions that an iteration keeps, -1 for others; None if unknown."""
    if made is None or len(made) != len(begun):
        return None
    return tuple(size if size == after else -1 for size, after in zip(begun, made))


def _assume(
    graph: onnx.GraphProto,
    found: onnx.GraphProto,
    around: Mapping[str, _Shape],
    refused: set[_Key],
    known: Mapping[_Key, _Shape],
) -> dict[_Key, _Shape]:
    """Declare Loop states with their initial shape, or the ``known`` one, in place; returns these shapes."""
    shapes = {**around, **_shapes(found)}
    states = dict[_Key, _Shape]()
    for node, twin in zip(graph.node, found.node):
        bodies = list(zip(held_by(node), held_by(twin)))
        if node.op_type == "Loop" and node.domain in ONNX_DOMAINS:
            body = bodies[0][0]
            for index, name in enumerate(node.input[2:]):
                key = (node.output[index] or node.name, index)
                inside = body.input[2 + index]
                shape = known.get(key, shapes.get(name))
                result = shapes.get(node.output[index], (-1,)) if node.output[index] else ()
                declared = _declared(inside) and -1 not in result
                if key in refused or shape is None or (declared and key not in known):
                    continue
                states[key] = shape
                _declare(inside, shape)
                if node.output[index]:
                    kept = [one for one in graph.value_info if one.name != node.output[index]]
                    del graph.value_info[:]
                    graph.value_info.extend(kept)
                    outside = graph.value_info.add(name=node.output[index])
                    outside.type.tensor_type.elem_type = inside.type.tensor_type.elem_type
                    _declare(outside, shape)
        for sub, other in bodies:
            states |= _assume(sub, other, shapes, refused, known)
    return states


def _made(graph: onnx.GraphProto, around: Mapping[str, _Shape]) -> dict[_Key, _Shape]:
    """The shapes that the bodies of Loops compute for the states."""
    shapes = {**around, **_shapes(graph)}
    found = dict[_Key, _Shape]()
    for node in graph.node:
        for sub in held_by(node):
            if node.op_type == "Loop" and node.domain in ONNX_DOMAINS:
                inner = {**shapes, **_shapes(sub)}
                for index in range(len(node.input) - 2):
                    name = sub.output[1 + index].name
                    if name in inner:
                        found[node.output[index] or node.name, index] = inner[name]
            found |= _made(sub, shapes)
    return found


def _declared(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _declare(value: onnx.ValueInfoProto, shape: _Shape) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    dims.SetInParent()
    for size in shape:
        dim = dims.dim.add()
        if size >= 0:
            dim.dim_value = size


def _shapes(graph: onnx.GraphProto) -> dict[str, _Shape]:
    """The shapes of a graph's own tensors, including initializers; see ``inferred_shapes``."""
    return {**{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}, **inferred_shapes(graph)}
