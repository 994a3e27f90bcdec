"""What to do where a node runs in another precision than was asked; each follows «what to do»."""

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
    ReportCode.DO_ASK_FLOAT: "ask for a float type for it, which is what it runs in",
    ReportCode.DO_PLACE_PAIRS: lambda: (
        f"let {pass_for(Role.QUANTIZE)} place pairs on its inputs and weights: a request alone quantizes nothing"
    ),
    ReportCode.DO_ONE_TYPE: "quantize all its inputs to one type",
    ReportCode.DO_QUANTIZE_READERS: "quantize what reads its output too, or ask for a float type for it",
    ReportCode.DO_TIME_KERNELS: (
        "nothing where the float kernel is faster; else let TensorRT time kernels longer "
        "([engine] avg_timing_iterations = 8, optimization_level = 5)"
    ),
    ReportCode.DO_USE_PAIRS: 'use Q/DQ pairs ([engine] quantization = "explicit"), which enforce the precision',
    ReportCode.DO_OBEY: 'set [engine] constraints = "obey"',
    ReportCode.DO_ASK_HOST: "ask for the same precision for '{node}', in whose kernel it runs",
    ReportCode.DO_KEEP_BEFORE: lambda: (
        f"ask for it with {pass_for(Role.KEEP)} before the pass that quantizes, or exclude it there"
    ),
    ReportCode.DO_ASK_NEIGHBOURS: "ask for the same type around it, or set [engine] io for the model's own tensors",
    ReportCode.DO_EDIT_CAST: "remove the Cast from the model, or ask for the type that it casts to",
    ReportCode.DO_WIDER_TYPE: "leave it: float16 cannot hold its values; bf16 can, where the GPU is Ampere or newer",
}
