"""Expansion of ONNX Attention masks along the queries, which onnxruntime does not do itself.

ONNX allows a mask to be broadcast to [batch, heads, queries, keys], and PyTorch exports padding masks as [batch, 1, 1,
keys]. The kernel of onnxruntime 1.32 refuses a mask with 1 query if there are more queries ("inconsistent
q_sequence_length").
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from toolkit.graph.proto.nodes import ONNX_DOMAINS, inside_out

_SPREAD = "/mask spread"
_MASK = 3
"""Index of an Attention's mask input."""


def spread_masks(proto: onnx.ModelProto, operators: Collection[tuple[str, str]] | None = None) -> bool:
    """Expand the mask of every Attention to one row per query, in place; returns whether there was any.

    Masks that are known to have several rows, or that were expanded before, stay as they are. ``operators`` are those
    of the message, by domain and name, if known.
    """
    if operators is not None and all(op != "Attention" for _, op in operators):
        return False
    changed = False
    for graph in inside_out(proto.graph):
        if any(_masked(node) for node in graph.node):
            rows = _rows(graph)
            nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
            del graph.node[:]
            for node in nodes:
                spread = _masked(node) and rows.get(node.input[_MASK], 1) <= 1
                graph.node.extend([*_spreading(node), node] if spread else [node])
                changed |= spread
    return changed


def _masked(node: onnx.NodeProto) -> bool:
    mask = node.input[_MASK] if len(node.input) > _MASK else ""
    return node.op_type == "Attention" and node.domain in ONNX_DOMAINS and bool(mask) and not mask.endswith(_SPREAD)


def _rows(graph: onnx.GraphProto) -> dict[str, int]:
    """The number of rows of tensors, along the last axis but one, as far as it is declared."""
    found = {one.name: one.dims[-2] for one in graph.initializer if len(one.dims) > 1}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and dims[-2].HasField("dim_value"):
            found[value.name] = dims[-2].dim_value
    return found


def _spreading(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes to insert before an Attention, whose mask input is changed to their result.

    The queries are the last axis but one of the first input, with or without an axis of heads.
    """
    base, mask = node.name or node.output[0], node.input[_MASK]
    one, count, shape = (f"{base}/mask {what}" for what in ("one", "queries", "shape"))
    spread = base + _SPREAD
    node.input[_MASK] = spread
    return [
        helper.make_node("Constant", [], [one], one, value=numpy_helper.from_array(np.array([1], np.int64))),
        helper.make_node("Shape", [node.input[0]], [count], count, start=-2, end=-1),
        helper.make_node("Concat", [count, one], [shape], shape, axis=0),
        helper.make_node("Expand", [mask, shape], [spread], spread),
    ]
