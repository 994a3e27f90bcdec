"""Which operators onnxruntime's CPU provider can run; all others are plugins to it, whoever makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import onnx

from toolkit.base.errors import BackendError

_WITHOUT_KERNEL = frozenset({"Constant"})
"""What onnxruntime runs though no kernel is registered for it: it makes an initializer of it."""


def runs(domain: str, op: str, version: int | None = None) -> bool:
    """Whether onnxruntime's CPU provider has a kernel for an operator, or a function that it is made of.

    Args:
        domain: its domain; empty or ``ai.onnx`` for ONNX's own.
        op: its name.
        version: of ONNX's operator set; the newest known where None.

    Raises:
        BackendError: onnxruntime is not installed.
    """
    domain = "" if domain == "ai.onnx" else domain
    if (domain, op) in _kernels() or (not domain and op in _WITHOUT_KERNEL):
        return True
    try:
        schema = onnx.defs.get_schema(op, version, "") if version and not domain else onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


@lru_cache(maxsize=1)
def _kernels() -> frozenset[tuple[str, str]]:
    """Domain and name of every operator that has a kernel on the CPU."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise BackendError("onnxruntime is not installed", remedy="pip install onnxruntime") from error
    return frozenset(_on_cpu(state.get_all_opkernel_def()))


def _on_cpu(kernels: Iterable[Any]) -> Iterator[tuple[str, str]]:
    yield from ((one.domain, one.op_name) for one in kernels if one.provider == "CPUExecutionProvider")
