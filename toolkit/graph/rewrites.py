"""Rewrites of onnxruntime's that would make something else of a model than it says."""

from __future__ import annotations

import onnx
from onnx import helper

from toolkit.graph.nodes import all_nodes

_TAKEN_OUT = frozenset({"Add", "Cast", "Div", "Dropout", "Expand", "Identity", "Mul", "Reshape", "Slice", "Sub"})
"""Operators that onnxruntime takes out, or into a MatMul as its factor, before it looks for a Transpose."""


def wrong_rewrites(proto: onnx.ModelProto) -> list[str]:
    """The rewrites to leave out.

    ``MatmulTransposeFusion`` takes a Transpose into the MatMul whose first operand it gives; where the second one is a
    vector, onnxruntime 1.32 then multiplies it with rows in place of columns.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    moved: set[str] = set()
    turned: set[str] = set()
    for node in all_nodes(proto.graph.node):
        if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
        elif node.op_type == "Transpose":
            # of two in a row onnxruntime makes one
            turned.update(node.output if _turns(node) or not moved.isdisjoint(node.input) else ())
            moved.update(node.output)
        elif node.op_type in _TAKEN_OUT:
            for names in (moved, turned):
                names.update(node.output if not names.isdisjoint(node.input) else ())
        elif node.op_type == "MatMul" and node.input[0] in turned and ranks.get(node.input[1], 1) == 1:
            # what is computed may be a vector too
            return ["MatmulTransposeFusion"]
    return []


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a Transpose is one that onnxruntime takes into a MatMul: of the last two axes, or of the first one."""
    perm = next((list(helper.get_attribute_value(one)) for one in node.attribute if one.name == "perm"), None)
    return perm is None or perm[:1] != [0] or perm[-2:] == [len(perm) - 1, len(perm) - 2]
