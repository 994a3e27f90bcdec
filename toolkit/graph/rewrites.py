"""Rewrites of onnxruntime's that would make something else of a model than it says."""

from __future__ import annotations

import onnx
from onnx import helper

from toolkit.graph.nodes import all_nodes


def wrong_rewrites(proto: onnx.ModelProto) -> list[str]:
    """The rewrites to leave out.

    ``MatmulTransposeFusion`` takes a Transpose into the MatMul whose first operand it gives; where the second one is a
    vector, onnxruntime 1.32 then multiplies it with rows in place of columns.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    turned: set[str] = set()
    for node in all_nodes(proto.graph.node):
        if node.op_type == "Transpose":
            turned.update(node.output if _turns(node) else ())
        elif node.op_type == "Cast" and node.input[0] in turned:
            turned.update(node.output)
        elif node.op_type == "MatMul" and node.input[0] in turned and ranks.get(node.input[1], 1) == 1:
            # what is computed may be a vector too
            return ["MatmulTransposeFusion"]
    return []


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a Transpose is one that onnxruntime takes into a MatMul: of the last two axes, or of the first one."""
    perm = next((list(helper.get_attribute_value(one)) for one in node.attribute if one.name == "perm"), None)
    return perm is None or perm[0] != 0 or perm[-2:] == [len(perm) - 1, len(perm) - 2]
