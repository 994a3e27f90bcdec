"""Corrections for operators whose meaning ONNX's version converter does not preserve.

They were found by running a model of every operator that changed between opsets 9 and 21 before and after conversion,
at the top level of a graph and in the branch of an If.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, held_by, inside_out
from toolkit.graph.proto.strangers import operator_of

_RESIZE, _SCALARS, _DROPOUT, _HARDMAX = 11, 11, 12, 13
"""The opsets in which these operators changed their meaning, or got inputs in place of attributes (ONNX's Changelog.md,
Resize-11, Clip-11 and Pad-11, Dropout-12 and Hardmax-13)."""
_WIDE = (TensorProto.FLOAT16, TensorProto.DOUBLE)
_OF_THE_DATA = {"Clip": (1, 2), "Pad": (2,)}
"""The inputs that were float attributes, and have the type of the first input."""


def keep_semantics(proto: onnx.ModelProto, before: int, after: int) -> None:
    """Restore the original meaning of a converted model, in place, including subgraphs.

    Args:
        proto: the converter's result, in which each operator named below is from the old graph.
        before: its original opset.
        after: its present opset.
    """
    graph = proto.graph
    if before < _RESIZE <= after:
        for one, constants in _scopes(graph):
            for node in one.node:
                if node.op_type == "Resize" and node.domain in ONNX_DOMAINS:
                    _place_samples(node, constants)
    if before < _SCALARS <= after:
        _type_scalars(proto)
    if before < _HARDMAX <= after:
        taken = {name for node in all_nodes(graph.node) for name in (*node.input, *node.output, node.name)}
        taken |= {one.name for each in inside_out(graph) for one in (*each.input, *each.initializer)}
        for one in inside_out(graph):
            _flatten_hardmaxes(one, taken)
    if before < _DROPOUT <= after:
        for node in all_nodes(graph.node):
            if node.op_type == "Dropout" and node.domain in ONNX_DOMAINS:
                # the converter makes the ratio a tensor of one element instead of a scalar; inference does not need it
                del node.input[1:]


def _scopes(
    graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto] | None = None
) -> Iterator[tuple[onnx.GraphProto, dict[str, onnx.TensorProto]]]:
    """A graph and its subgraphs, each with the constants that its nodes can read: branches may use the same names."""
    found = {**(outer or {}), **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        if operator_of(node) == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    yield graph, found
    for node in graph.node:
        for inner in held_by(node):
            yield from _scopes(inner, found)


def _type_scalars(proto: onnx.ModelProto) -> None:
    """Give limits and padding values the type of the data: the converter makes all of them float32."""
    if not any(node.op_type in _OF_THE_DATA and node.domain in ONNX_DOMAINS for node in all_nodes(proto.graph.node)):
        return
    inferred = inside_out(onnx.shape_inference.infer_shapes(proto).graph)[::-1]
    every = [_kinds(graph) for graph in inferred]
    known = {name: kind for kinds in every for name, kind in kinds.items()}
    for (graph, constants), own in zip(_scopes(proto.graph), every, strict=True):
        for node in graph.node:
            places = _OF_THE_DATA.get(node.op_type, ()) if node.domain in ONNX_DOMAINS else ()
            kind = own.get(node.input[0]) or known.get(node.input[0], 0) if places else 0
            for name in [node.input[place] for place in places if place < len(node.input)]:
                held = constants.get(name)
                if held is not None and held.data_type == TensorProto.FLOAT and kind in _WIDE:
                    with np.errstate(over="ignore"):
                        values = numpy_helper.to_array(held).astype(helper.tensor_dtype_to_np_dtype(kind))
                    held.CopyFrom(numpy_helper.from_array(values, held.name))


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    """The element types of a graph's tensors by name, as far as they are known."""
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds = {one.name: one.type.tensor_type.elem_type for one in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _place_samples(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Set the coordinates of a Resize or Upsample from opset 9 or 10; the converter leaves opset 11's defaults.

    Their coordinates are asymmetric. ONNX does not define how they are rounded to the nearest sample; onnxruntime, the
    reference here, rounds down, and up if an axis shrinks (upsamplebase.h, NearestMode SIMPLE).
    """
    kept = [one for one in node.attribute if one.name not in ("coordinate_transformation_mode", "nearest_mode")]
    scales = constants.get(node.input[2]) if len(node.input) > 2 else None
    changed = [scale for scale in numpy_helper.to_array(scales).ravel() if scale != 1] if scales is not None else []
    rounding = "ceil" if changed and max(changed) < 1 else "floor"
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    node.attribute.append(helper.make_attribute("nearest_mode", rounding))


def _flatten_hardmaxes(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Make each Hardmax flatten all axes from its own on, as before opset 13; its default axis was 1."""
    nodes = list[onnx.NodeProto]()
    for node in graph.node:
        if node.op_type != "Hardmax" or node.domain not in ONNX_DOMAINS:
            nodes.append(node)
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        read, made = node.input[0], node.output[0]
        shape, rows, marked = (_free(f"{made}_{word}", taken) for word in ("shape", "rows", "marked"))
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", -1))
        node.input[0], node.output[0] = rows, marked
        nodes += [
            helper.make_node("Shape", [read], [shape], shape),
            helper.make_node("Flatten", [read], [rows], rows, axis=axis),
            node,
            helper.make_node("Reshape", [marked, shape], [made], marked),
        ]
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
