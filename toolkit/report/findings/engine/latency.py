"""Messages on the engine's speed compared with the unquantized model's, and on the time of conversions."""

from __future__ import annotations

from typing import Any

from toolkit.base.text import count
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import percent
from toolkit.report.schema.engine import Latencies, Overhead

_KERNEL_LETTERS = 60


def against(ms: float, float_ms: float) -> str:
    """Both latencies: ``0.690 ms against 0.579 ms``."""
    return f"{ms:.3f} ms against {float_ms:.3f} ms"


def pair_words(times: Latencies) -> str:
    """Both latencies of a profile, in words."""
    return against(times.ours_ms, times.other_ms)


def overhead_words(one: Overhead) -> str:
    """A profile's time in reformats and Q/DQ kernels, in words."""
    return _overhead(**one.model_dump(), share=one.share)


def _overhead(
    layers_ms: float, reformat_ms: float, qdq_ms: float, reformats: int, qdq_kernels: int, share: float
) -> str:
    parts = [
        f"{value:.3f} ms in {count(number, what)}"
        for value, number, what in (
            (reformat_ms, reformats, "reformat"),
            (qdq_ms, qdq_kernels, "Q/DQ kernel"),
        )
        if number
    ]
    said = " and ".join(parts) or "nothing in reformats or Q/DQ kernels"
    return f"{said} of {layers_ms:.3f} ms" + (f" ({percent(share, 0)})" if parts else "")


def _slower(precision: str, profile: str, ms: float, float_ms: float, more: int) -> str:
    others = f" and in {more} more" if more else ""
    return f"SLOWER than {precision.upper()}: {against(ms, float_ms)} in profile '{profile}'{others}"


def _faster(precision: str, least: float, most: float) -> str:
    words = f"{most:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
    return f"{words} times as fast as {precision.upper()}"


def _no_faster(precision: str, profile: str, ms: float, float_ms: float) -> str:
    return f"no faster than {precision.upper()} ({against(ms, float_ms)} in profile '{profile}')"


def _same(precision: str, profile: str, ms: float, float_ms: float) -> str:
    return (
        f"the engine is the {precision.upper()} one ({against(ms, float_ms)} in profile '{profile}': two builds of one "
        f"network)"
    )


def _late(ms: float, max_ms: float, gpu: str) -> str:
    return f"{ms:.4g} ms {f'predicted on the {gpu}' if gpu else 'measured'}, above max_ms {max_ms:g}"


def _predicted_slower(precision: str, ms: float, float_ms: float, gpu: str) -> str:
    return f"predicted SLOWER than {precision.upper()}: {ms:.4g} ms against {float_ms:.4g} ms on the {gpu}"


def _heavy(profile: str, more: int, **spent: Any) -> str:
    others = f"; {count(more, 'more profile')} likewise" if more else ""
    return f"Profile '{profile}' spends {_overhead(**spent)}{others}."


def _ms(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"


def _give_back(quantizer: str, precision: str, profile: str, ms: float, float_ms: float) -> str:
    return (
        f"The quantized engine is slower than {precision.upper()} ({against(ms, float_ms)} in profile '{profile}'): "
        f"let {quantizer} build and measure engines, and leave in float the layers that do not pay off."
    )


def _leave(precision: str, groups: int, node: str, cost_ms: float, profile: str, why: str) -> str:
    slow = "One group of layers is" if groups == 1 else f"{groups} groups of layers are"
    return (
        f"{slow} slower quantized, '{node}' by {cost_ms:.3f} ms in profile '{profile}' ({why}): keep what does not pay "
        f"off in {precision.upper()}. Put this before the pass that quantizes."
    )


def _no_faster_kernels(kernel: str) -> str:
    return "its own kernels are no faster than the float ones" + (f" ({kernel[:_KERNEL_LETTERS]})" if kernel else "")


LATENCY: Table = {
    ReportCode.SLOWER_THAN_FLOAT: _slower,
    ReportCode.FASTER_THAN_FLOAT: _faster,
    ReportCode.NO_FASTER_THAN_FLOAT: _no_faster,
    ReportCode.SAME_AS_FLOAT: _same,
    ReportCode.LATENCY_OVER_LIMIT: _late,
    ReportCode.PREDICTED_SLOWER: _predicted_slower,
    ReportCode.CONVERSIONS_HEAVY: _heavy,
    ReportCode.COMPARE_WITH_FLOAT: (
        "Build the unquantized model too: its latency and layer times show whether quantizing paid off, and where."
    ),
    ReportCode.GIVE_BACK_WHAT_IS_SLOWER: _give_back,
    ReportCode.LEAVE_WHAT_DOES_NOT_PAY: _leave,
    ReportCode.GROUP_RUNS_FLOAT: "'{node}' runs in {precision}: {why}",
    ReportCode.TIME_IN_QDQ_KERNELS: lambda ms, of_ms: (
        f"{_ms(ms)} of {_ms(of_ms)} ms go into Q/DQ kernels (pairs that did not fuse)"
    ),
    ReportCode.TIME_IN_REFORMATS: lambda ms, of_ms: f"{_ms(ms)} of {_ms(of_ms)} ms go into reformats",
    ReportCode.GROUP_TINY: lambda limit_ms: f"too small to gain: below {_ms(limit_ms)} ms in either engine",
    ReportCode.GROUP_SMALL_BESIDE_CONVERSIONS: lambda ms: (
        f"its kernels take only {_ms(ms)} ms, too little to pay for the conversions"
    ),
    ReportCode.GROUP_HIDDEN: "its kernels cannot be told apart: '{node}' is {why}",
    ReportCode.KERNELS_NO_FASTER: _no_faster_kernels,
}
