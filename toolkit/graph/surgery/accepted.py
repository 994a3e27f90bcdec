"""Check of a graph with ONNX's checker."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from toolkit.base.errors import PassError
from toolkit.base.text import on_one_line
from toolkit.graph.surgery.opset import name_foreign


def accepted(skeleton: bytes, operators: Collection[tuple[str, str]]) -> None:
    """Check a serialized skeleton of a graph; ``operators`` are the domains and names of its nodes.

    Raises:
        PassError: the checker refuses the graph.
    """
    seen, changed = onnx.ModelProto.FromString(skeleton), False
    for value in (*seen.graph.input, *seen.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            # tensors of unknown rank are common in real exports, but the checker requires a shape
            value.type.tensor_type.shape.SetInParent()
            changed = True
    changed |= name_foreign(seen, withdrawn=True, operators=operators)
    try:
        onnx.checker.check_model(seen if changed else skeleton)
    except Exception as error:
        raise PassError(f"ONNX's checker refuses the graph: {on_one_line(str(error))}") from error
