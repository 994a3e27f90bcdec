"""Messages on a node inside an opaque block of TensorRT, from opening the block."""

from __future__ import annotations

from toolkit.backends.codes import EngineCode
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import shortened

_BREAKS = "marked tensors break fusions, so this is what the block can run in, not necessarily what it runs in"
_KERNEL_LETTERS = 60


def _opened(block: str, shown: str, values: str | None, told: bool) -> str:
    return "; ".join(words for words in (block, shown, values, _BREAKS if told else None) if words)


def _status(status: str, why: str | None = None) -> str:
    return f"opened, it is {status}" + (f": {why}" if why else "")


def _runs(precision: str, source: str, layer: str, kernel: str, fused: bool) -> str:
    verb = "is part of a kernel that runs" if fused else "runs"
    by = f"by its {source}" if source in ("tactic", "weights") else "by its formats"
    return f"opened, it {verb} in {precision} {by}, in '{shortened(layer)}'" + (
        f" (kernel {kernel[:_KERNEL_LETTERS]})" if kernel else ""
    )


def _values(
    samples: int,
    verdict: str,
    asked: str | None,
    why: str | None,
    to_quantized_db: float | None,
    to_float_db: float | None,
    engine_db: float | None,
    simulated_db: float | None,
) -> str:
    form = f"the {asked.upper() if asked else 'quantized'} simulation"
    words = f"its values on {samples} samples are {verdict}"
    if to_quantized_db is not None and to_float_db is not None:
        words += (
            f": {to_quantized_db:.1f} dB SQNR to {form} and {to_float_db:.1f} dB to float, both computed from the "
            "engine's own values upstream of it"
        )
    words += f" ({why})" if why else ""
    if verdict == "as quantized":
        words += "; a float kernel between separate Q and DQ kernels would give the same"
    measured = [
        f"{who} has {level:.1f} dB"
        for who, level in (("the engine", engine_db), (form, simulated_db))
        if level is not None
    ]
    return f"{words}; against the float model {' and '.join(measured)}" if measured else words


OPENED: Table = {
    EngineCode.OPENED: _opened,
    EngineCode.OPENED_NOT_KNOWN: "opened, nothing is known of it",
    EngineCode.OPENED_IN_BLOCK: lambda block: f"opened, it is still inside a block, '{shortened(block)}'",
    EngineCode.OPENED_STATUS: _status,
    EngineCode.OPENED_RUNS: _runs,
    EngineCode.OPENED_VALUES: _values,
    EvaluationCode.VALUES_NOT_COMPARABLE: "its values hold NaN or infinity, or are all zero",
    EvaluationCode.NO_PAIR_BETWEEN: "no Q/DQ pair lies between it and the opened tensors before it",
    EvaluationCode.NEITHER_FORM_NEARER: "neither form is {db:.0f} dB nearer than the other",
}
