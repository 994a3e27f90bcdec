"""Sizes of Resize nodes that are given for some axes only, in the form for all axes."""

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

_SIZES = 3
"""Index of the input that holds the sizes."""


def sizes_of_all_axes(model: Model, journal: Journal) -> int:
    """Give sizes for all axes to every Resize of dynamic shape that has constant sizes for the axes in ``axes``.

    TensorRT's parsers write the sizes of the other axes as -1 if these are dynamic, and then refuse the node: "axis 0
    with inherently negative length" (RTX 1.7.1). Those of the input's shape are the same (ONNX, Resize-18). A Resize
    that keeps the aspect ratio stays, since its sizes are only limits, and so does one that crops, since its region is
    given for the axes too; the parsers refuse both in any form.

    Returns:
        The number of nodes changed.
    """
    found = [(node, graph) for node, graph in model.walk() if node.op == "Resize" and _of_some_axes(model, node)]
    facts = model.facts() if found else Facts()
    names, tensors, count = Names(model.node_names()), model.tensor_names(), 0
    for node, graph in found:
        # tensors in two subgraphs may have the same name
        rank, shapes = facts.rank(node.inputs[0].name), facts.shapes.get(node.inputs[0].name, [])
        if rank is None or all(size >= 0 for shape in shapes for size in shape):
            continue
        given = {axis % rank: rank + place for place, axis in enumerate(node.attrs.pop("axes"))}
        order = make_constant(
            tensors.take(f"{node.name}_order"), np.array([given.get(axis, axis) for axis in range(rank)])
        )
        before, joined, sizes = (
            assemble.variable(tensors.take(f"{node.name}_{what}"), np.dtype(np.int64), [length])
            for what, length in (("shape", rank), ("joined", rank + len(given)), ("sizes", rank))
        )
        made = [
            make_node("Shape", names.take(f"{node.name}_Shape"), [node.inputs[0]], [before]),
            make_node("Concat", names.take(f"{node.name}_Concat"), [before, node.inputs[_SIZES]], [joined], axis=0),
            make_node("Gather", names.take(f"{node.name}_Gather"), [joined, order], [sizes], axis=0),
        ]
        node.inputs[_SIZES] = sizes
        place = next(number for number, one in enumerate(graph.nodes) if one is node)
        graph.nodes[place:place] = made
        count += 1
    if count:
        journal.noted(EngineCode.SIZES_OF_ALL_AXES(resizes=count))
    return count


def _of_some_axes(model: Model, node: gs.Node) -> bool:
    """Whether a Resize stretches the axes in ``axes`` to constant sizes, without cropping."""
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    sized = len(node.inputs) > _SIZES and not node.inputs[_SIZES].is_empty()
    return "axes" in node.attrs and sized and model.constant(node.inputs[_SIZES]) is not None
