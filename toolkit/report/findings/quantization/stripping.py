"""Messages on the removal of Q/DQ pairs."""

from __future__ import annotations

import math

from toolkit.base.text import count
from toolkit.contract.findings import Code
from toolkit.report.findings.table import Table

_LOST = {
    "operator": "it is not half of a Q/DQ pair: '{at}' ({op}) computes with the quantized values",
    "input": "it is not half of a Q/DQ pair: its other side is '{at}', outside the model",
    "scales": "it and '{at}' are no Q/DQ pair: they differ in scale or zero point",
    "channels": "it has a scale for every channel, and where the channels lie before '{at}' ({op}) is not known",
}
_NOT_MEASURED = {
    "dry-run": "nothing is run in a check",
    "no-samples": "there are no calibration samples",
    "shapes": "the shapes of its outputs differ from run to run",
    "refused": "{error}",
}


def _limits(low: float | str, high: float | str) -> str:
    below, above = low != "-inf", high != "inf"
    if below and above:
        return f"between {float(low):.6g} and {float(high):.6g}"
    return f"from {float(low):.6g} on" if below else f"up to {float(high):.6g}"


def _measured(output: str, sqnr_db: float | str, rounding_db: float | str, samples: int) -> str:
    what = f"Without its Q/DQ pairs output '{output}'"
    if not math.isfinite(float(sqnr_db)):
        return f"{what} is the same as with them on {count(samples, 'sample')}."
    return (
        f"{what} has {float(sqnr_db):.1f} dB SQNR against the one with them on {count(samples, 'sample')}; the pairs' "
        f"rounding accounts for {float(rounding_db):.1f} dB."
    )


STRIPPING: Table = {
    Code.NO_PAIR: lambda why, at, op: _LOST[why].format(at=at, op=op),
    Code.KEPT_RANGES: lambda tensors: f"The scales of {count(tensors, 'activation')} were kept as ranges.",
    Code.READS_FLOAT: "reads '{tensor}' instead of its Q/DQ pair",
    Code.STRIPPED: "Q/DQ pairs are removed",
    Code.INSERTED: "inserted",
    Code.CLAMP_RESTORED: lambda tensor, low, high: (
        f"the pair on '{tensor}' stood in for an activation that keeps values {_limits(low, high)}"
    ),
    Code.CLAMPS_UNSURE: (
        "Without samples it is not known whether the pairs on {tensors} stood in for a clamp: none was put back there."
    ),
    Code.CAST_RESTORED: "the pair on '{tensor}' produced another float type than it read",
    Code.COMPUTED_SCALE: (
        "The scale of the pair on '{tensor}' is computed from activations: it has no range to keep, and whether it "
        "stood in for a clamp is not known."
    ),
    Code.OUTPUT_NAME_KEPT: "Output '{output}' came from a Q/DQ pair; an Identity now keeps its name.",
    Code.STRIP_MEASURED: _measured,
    Code.STRIP_FAR: lambda **values: (
        f"{_measured(**values)} That is far from the model that was given, and results are compared with the one "
        "without pairs: fix the scales of its pairs, or start from the float model."
    ),
    Code.STRIP_NOT_MEASURED: lambda why, error="": (
        f"The model without its Q/DQ pairs was not compared with the one with them: "
        f"{_NOT_MEASURED[why].format(error=error)}."
    ),
}
