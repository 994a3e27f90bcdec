"""Sizes or scales of Resize nodes that are given for some axes only, in the form for all axes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.backends.codes import EngineCode
from toolkit.contract.journal import Journal
from toolkit.graph.model import Model
from toolkit.graph.proto.names import Names
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery import assemble
from toolkit.graph.surgery.tensors import make_constant, make_node

_SCALES, _SIZES = 2, 3
"""Index of the input that holds the scales, and of that which holds the sizes."""


def sizes_of_all_axes(model: Model, journal: Journal) -> int:
    """Give sizes or scales for all axes to every Resize that has those in ``axes``, where TensorRT's parsers need it.

    The parsers write constant sizes of the other axes as -1 if these are dynamic, and then refuse the node: "axis 0
    with inherently negative length" (RTX 1.7.1). Computed scales for some axes they refuse: "axes attribute is
    supported with scales tensor only when it's trivial". The sizes of the other axes are those of the input, and their
    scales are 1 (ONNX, Resize-18). A Resize that keeps the aspect ratio stays, since its sizes are only limits, and so
    does one that crops, since its region is given for the axes too; the parsers refuse both in any form.

    Returns:
        The number of nodes changed.
    """
    found = [(node, graph) for node, graph in model.walk() if node.op == "Resize" and _of_some_axes(node)]
    facts = model.facts() if found else Facts()
    names, tensors, count = Names(model.node_names()), model.tensor_names(), 0
    for node, graph in found:
        # tensors in two subgraphs may have the same name
        rank = facts.rank(node.inputs[0].name)
        index = _to_complete(model, node, facts)
        if rank is None or index is None:
            continue
        given = {axis % rank: rank + place for place, axis in enumerate(node.attrs.pop("axes"))}
        order = make_constant(
            tensors.take(f"{node.name}_order"), np.array([given.get(axis, axis) for axis in range(rank)])
        )
        kind = np.dtype(np.float32 if index == _SCALES else np.int64)
        joined, completed = (
            assemble.variable(tensors.take(f"{node.name}_{what}"), kind, [length])
            for what, length in (("joined", rank + len(given)), ("of_all", rank))
        )
        made = []
        if index == _SCALES:
            others: gs.Tensor = make_constant(tensors.take(f"{node.name}_ones"), np.ones(rank, np.float32))
        else:
            others = assemble.variable(tensors.take(f"{node.name}_shape"), kind, [rank])
            made.append(make_node("Shape", names.take(f"{node.name}_Shape"), [node.inputs[0]], [others]))
        made += [
            make_node("Concat", names.take(f"{node.name}_Concat"), [others, node.inputs[index]], [joined], axis=0),
            make_node("Gather", names.take(f"{node.name}_Gather"), [joined, order], [completed], axis=0),
        ]
        node.inputs[index] = completed
        place = next(number for number, one in enumerate(graph.nodes) if one is node)
        graph.nodes[place:place] = made
        count += 1
    if count:
        journal.noted(EngineCode.SIZES_OF_ALL_AXES(resizes=count))
    return count


def _of_some_axes(node: gs.Node) -> bool:
    """Whether a Resize stretches the axes in ``axes``, without cropping."""
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    return "axes" in node.attrs and node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"


def _to_complete(model: Model, node: gs.Node, facts: Facts) -> int | None:
    """The index of the input with sizes or scales that the parsers need for all axes; None if they take it as it is."""
    if len(node.inputs) > _SIZES and not node.inputs[_SIZES].is_empty():
        shapes = facts.shapes.get(node.inputs[0].name, [])
        fixed = all(size >= 0 for shape in shapes for size in shape)
        return None if fixed or model.constant(node.inputs[_SIZES]) is None else _SIZES
    return _SCALES if model.constant(node.inputs[_SCALES]) is None else None
