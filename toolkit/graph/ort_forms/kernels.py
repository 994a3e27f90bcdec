"""The operators that onnxruntime's CPU provider can run; all others are treated as plugins, whatever their origin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

import onnx
import onnx.inliner

from toolkit.base.errors import BackendError
from toolkit.graph.proto.nodes import ONNX_DOMAINS, all_nodes, operators_of, opset_of
from toolkit.graph.shape_inference.block_functions import is_written_out

_WITHOUT_KERNEL = frozenset({"Constant"})
"""Operators without a registered kernel that onnxruntime handles itself, by turning them into initializers."""

_OWN_FUNCTIONS = 23
"""The newest opset in which onnxruntime expands every operator that is defined as a function."""


def runs(domain: str, op: str, version: int | None = None) -> bool:
    """Whether onnxruntime's CPU provider has a kernel for an operator, or can expand its function definition.

    Args:
        domain: its domain; empty or ``ai.onnx`` for ONNX's own.
        op: its name.
        version: version of ONNX's operator set; None for the newest known.

    Raises:
        BackendError: onnxruntime is not installed.
    """
    domain = "" if domain == "ai.onnx" else domain
    if is_written_out(domain, op):
        return True
    if has_kernel(domain, op):
        return True
    try:
        schema = onnx.defs.get_schema(op, version, "") if version and not domain else onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def has_kernel(domain: str, op: str) -> bool:
    """Whether onnxruntime's CPU provider has a kernel for the operator itself, not only for its function definition."""
    domain = "" if domain == "ai.onnx" else domain
    return (domain, op) in _kernels() or (not domain and op in _WITHOUT_KERNEL)


def written_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators that have no kernel expanded to ONNX's function definitions; itself if there are none.

    Default attributes may be added to the model's nodes.

    Up to opset 23 onnxruntime does this itself. Version 1.32 refuses Swish of opset 24 in a model of opset 25, since
    operators in the function's body have newer versions there.
    """
    version = opset_of(proto)
    if version <= _OWN_FUNCTIONS:
        return proto
    ops = {op for domain, op in operators_of(proto) if domain in ONNX_DOMAINS}
    without = sorted(op for op in ops if not has_kernel("", op))
    wanted = [op for op in without if runs("", op, version)]
    if not wanted:
        return proto
    for node in all_nodes(proto.graph.node):
        if node.op_type in wanted and node.domain in ONNX_DOMAINS:
            # the inliner does not fill in defaults of missing attributes
            given = {attribute.name for attribute in node.attribute}
            every = onnx.defs.get_schema(node.op_type, version, "").attributes
            node.attribute.extend(a.default_value for n, a in every.items() if n not in given and a.default_value.name)
    try:
        return _inlined(proto, wanted)
    except RuntimeError:
        # type-dependent functions, such as CastLike's, need types that the inliner does not infer itself
        proto = onnx.shape_inference.infer_shapes(proto)
    for op in wanted:
        try:
            proto = _inlined(proto, [op])
        except RuntimeError:
            # types are unknown downstream of a plugin: onnxruntime reports the operator itself
            continue
    return proto


def _inlined(proto: onnx.ModelProto, ops: Collection[str]) -> onnx.ModelProto:
    return onnx.inliner.inline_selected_functions(proto, [("", op) for op in ops], inline_schema_functions=True)


@lru_cache(maxsize=1)
def _kernels() -> frozenset[tuple[str, str]]:
    """Domain and name of every operator with a kernel for the CPU."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise BackendError("onnxruntime is not installed", remedy="run pip install onnxruntime") from error
    return frozenset(_on_cpu(state.get_all_opkernel_def()))


def _on_cpu(kernels: Iterable[Any]) -> Iterator[tuple[str, str]]:
    yield from ((one.domain, one.op_name) for one in kernels if one.provider == "CPUExecutionProvider")
