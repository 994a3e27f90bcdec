"""Names for outputs of If, Loop and Scan that a model leaves unnamed because nothing reads them.

ONNX's checker accepts them, but onnxruntime 1.32 crashes on such a node (signal 11).
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from toolkit.graph.proto.nodes import all_nodes, held_by

_HOLD = frozenset({("", op) for op in ("If", "Loop", "Scan")} | {("ai.onnx", op) for op in ("If", "Loop", "Scan")})


def name_outputs(proto: onnx.ModelProto, operators: Collection[tuple[str, str]]) -> None:
    """Name the unnamed outputs, in place; ``operators`` are domain and name of all operators of the model."""
    if _HOLD.isdisjoint(operators):
        return
    for node in all_nodes(proto.graph.node):
        if "" in node.output and any(held_by(node)):
            for index, name in enumerate(node.output):
                node.output[index] = name or f"{node.name or next(filter(None, node.output), '')}/unread {index}"
