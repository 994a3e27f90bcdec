"""Unknown operators in ONNX's own domains: TensorRT plugins, or misspelled names."""

from __future__ import annotations

from toolkit.base.errors import nearest
from toolkit.graph.model import Model
from toolkit.graph.surgery.opset import is_foreign, known_operators


def foreign_operators(model: Model) -> dict[tuple[str, str], str]:
    """The first node of each unknown operator, by domain and name of the operator."""
    found: dict[tuple[str, str], str] = {}
    for node, _ in model.walk():
        key = (node.domain or "", node.op)
        if key not in found and is_foreign(*key):
            found[key] = node.name
    return found


def similar_ops(domain: str, op: str) -> list[str]:
    """Known operators with a similar name; empty if there are none."""
    return list(nearest(op, sorted(known_operators(domain))))
