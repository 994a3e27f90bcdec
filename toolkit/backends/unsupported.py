"""Operators of ONNX that no TensorRT supports, whatever the backend."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx.defs

_OTHER_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview.training")
_NO_TENSOR = ("seq(", "optional(", "map(")


@cache
def unsupported_operators() -> frozenset[str]:
    """The names of ONNX's operators for classical machine learning, training, sequences, maps and optional values.

    None of them is in the table of supported operators of any release (docs/operators.md of onnx-tensorrt).
    """
    import onnx.defs

    from toolkit.graph.surgery.opset import known_operators

    other = {name for domain in _OTHER_DOMAINS for name in known_operators(domain)} - known_operators("")
    schemas = (schema for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain)
    return frozenset(other | {schema.name for schema in schemas if _without_tensors(schema)})


def _without_tensors(schema: onnx.defs.OpSchema) -> bool:
    """Whether an input or output of an operator can never be a tensor."""
    types = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
    sides = (types.get(one.type_str, [one.type_str]) for one in (*schema.inputs, *schema.outputs))
    return any(all(kind.startswith(_NO_TENSOR) for kind in side) for side in sides)
