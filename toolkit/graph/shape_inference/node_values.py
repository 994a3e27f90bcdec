"""Computation of a node with known inputs by ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import onnx
from onnx import helper

from toolkit.base.types import Array


def run_node(node: onnx.NodeProto, inputs: Mapping[str, Array], opsets: Sequence[onnx.OperatorSetIdProto]) -> list[Any]:
    """Compute the outputs of one node.

    Args:
        node: the node; it reads no tensors other than ``inputs``.
        inputs: values by tensor name.

    Raises:
        Exception: any exception of the reference implementation for a node that it cannot compute.
    """
    types = tuple((name, helper.np_dtype_to_tensor_dtype(value.dtype)) for name, value in inputs.items())
    versions = tuple((one.domain, one.version) for one in opsets)
    return list(_evaluator(node.SerializeToString(), types, versions).run(None, dict(inputs)))


@lru_cache(maxsize=4096)
def _evaluator(node: bytes, types: tuple[tuple[str, int], ...], opsets: tuple[tuple[str, int], ...]) -> Any:
    """The evaluator of a node, cached for all corners and calls."""
    from onnx.reference import ReferenceEvaluator

    only = onnx.NodeProto.FromString(node)
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in types]
    graph = helper.make_graph([only], "one", given, [onnx.ValueInfoProto(name=name) for name in only.output if name])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in opsets]))
