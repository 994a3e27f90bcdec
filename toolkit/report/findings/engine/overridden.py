"""Remedies for nodes in another precision than requested; each completes the sentence "To fix it, ..."."""

from __future__ import annotations

from toolkit.contract.roles import Role
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import pass_for

OVERRIDDEN: Table = {
    ReportCode.BACKEND_HAS_NO_KERNEL: "{backend} has no INT8 kernel for {op}",
    ReportCode.DO_EXCLUDE_FLOAT_KERNEL: lambda by="": (
        f"exclude it in {by or pass_for(Role.QUANTIZE)}: its pairs cost accuracy and time, and no kernel uses them"
    ),
    ReportCode.DO_ASK_FLOAT: "request a float type for it, since it runs in float anyway",
    ReportCode.DO_PLACE_PAIRS: lambda: (
        f"let {pass_for(Role.QUANTIZE)} place pairs on its inputs and weights: a request alone quantizes nothing"
    ),
    ReportCode.DO_ONE_TYPE: "quantize all its inputs to one type",
    ReportCode.DO_QUANTIZE_READERS: "quantize the readers of its output too, or request a float type for it",
    ReportCode.DO_TIME_KERNELS: (
        "nothing if the float kernel is faster; else let TensorRT time kernels longer "
        "([engine] avg_timing_iterations = 8, optimization_level = 5)"
    ),
    ReportCode.DO_USE_PAIRS: 'use Q/DQ pairs ([engine] quantization = "explicit"), which enforce the precision',
    ReportCode.DO_OBEY: 'set [engine] constraints = "obey"',
    ReportCode.DO_ASK_HOST: "request the same precision for '{node}', since it runs in the same kernel",
    ReportCode.DO_KEEP_BEFORE: lambda: (
        f"request it with {pass_for(Role.KEEP)} before the pass that quantizes, or exclude it there"
    ),
    ReportCode.DO_ASK_NEIGHBOURS: "request the same type for its neighbours, or set [engine] io for inputs and outputs",
    ReportCode.DO_EDIT_CAST: "remove the Cast from the model, or request the type that it casts to",
    ReportCode.DO_WIDER_TYPE: "nothing: float16 cannot represent its values; bf16 can, on Ampere and newer GPUs",
}
