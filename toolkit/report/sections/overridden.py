"""Remedies for nodes that run in another precision than requested, by cause."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.backends.choose import NEVER_INT8
from toolkit.backends.codes import EngineCode
from toolkit.contract.findings import BaseCode, Code, Finding
from toolkit.report.codes import ReportCode

_REMEDIES: dict[BaseCode, ReportCode] = {
    EngineCode.KERNEL_READS_FLOAT: ReportCode.DO_EXCLUDE_FLOAT_KERNEL,
    EngineCode.NO_QUANTIZED_KERNEL: ReportCode.DO_ASK_FLOAT,
    EngineCode.NO_INPUT_QUANTIZED: ReportCode.DO_PLACE_PAIRS,
    EngineCode.ONLY_WEIGHTS_QUANTIZED: ReportCode.DO_PLACE_PAIRS,
    EngineCode.WEIGHTS_NOT_QUANTIZED: ReportCode.DO_PLACE_PAIRS,
    EngineCode.INPUTS_NOT_QUANTIZED: ReportCode.DO_PLACE_PAIRS,
    EngineCode.INPUT_TYPES_DIFFER: ReportCode.DO_ONE_TYPE,
    EngineCode.OUTPUT_NOT_QUANTIZED: ReportCode.DO_QUANTIZE_READERS,
    EngineCode.READERS_NOT_QUANTIZED: ReportCode.DO_QUANTIZE_READERS,
    EngineCode.MOVES_FLOAT: ReportCode.DO_ASK_FLOAT,
    EngineCode.FLOAT_KERNEL_TAKEN: ReportCode.DO_TIME_KERNELS,
    EngineCode.FASTEST_KERNEL_TAKEN: ReportCode.DO_USE_PAIRS,
    EngineCode.CONSTRAINT_NOT_KEPT: ReportCode.DO_OBEY,
    EngineCode.PART_OF_KERNEL: ReportCode.DO_ASK_HOST,
    EngineCode.INPUTS_QUANTIZED: ReportCode.DO_KEEP_BEFORE,
    EngineCode.MOVES_QUANTIZED: ReportCode.DO_KEEP_BEFORE,
    EngineCode.ADDED_IN_CONVOLUTION: ReportCode.DO_KEEP_BEFORE,
    EngineCode.INPUT_IS: ReportCode.DO_ASK_NEIGHBOURS,
    EngineCode.OUTPUT_IS: ReportCode.DO_ASK_NEIGHBOURS,
    EngineCode.CAST_TO: ReportCode.DO_EDIT_CAST,
    Code.FLOAT_RANGE: ReportCode.DO_WIDER_TYPE,
    Code.NO_KERNEL: ReportCode.DO_ASK_FLOAT,
    Code.SUBGRAPH: ReportCode.DO_ASK_FLOAT,
    EngineCode.IN_SUBGRAPH: ReportCode.DO_ASK_FLOAT,
}


def cause_of(reason: Finding | None, op: str, backend: str) -> Finding | None:
    """The cause behind the reason, if known and not stated in the reason itself; else None."""
    seen = EngineCode.KERNEL_READS_FLOAT in {one.code for one in _within(reason)}
    known = seen and op in NEVER_INT8.get(backend, ())
    return ReportCode.BACKEND_HAS_NO_KERNEL(backend=backend, op=op) if known else None


def remedy_of(reason: Finding | None, by: str = "") -> Finding | None:
    """The remedy for a node that runs in another precision than requested; None if none is known.

    Args:
        reason: why the node runs in another precision.
        by: the recipe's pass that requested its precision; empty if none did.
    """
    for one in _within(reason):
        if one.code in _REMEDIES:
            code = _REMEDIES[one.code]
            if code is ReportCode.DO_EXCLUDE_FLOAT_KERNEL and by:
                return code(by=by)
            return code(node=one.values["node"]) if code is ReportCode.DO_ASK_HOST else code()
    return None


def _within(reason: Finding | None) -> Iterator[Finding]:
    """A finding and, recursively, the findings among its values."""
    if reason is None:
        return
    yield reason
    for value in reason.values.values():
        if isinstance(value, Finding):
            yield from _within(value)
