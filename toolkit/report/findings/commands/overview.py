"""The answers to the first questions about a run, in words."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.base.text import count
from toolkit.report.findings.engine.prediction import prediction_words, uncounted_words
from toolkit.report.findings.words import joined, share_percent
from toolkit.report.schema.prediction import PredictionInfo
from toolkit.report.schema.search import LayerHarm


def floats_words(floats: int, computing: int) -> str:
    """The question why layers run in float, with their number."""
    if not floats:
        return "Why float? No computing layer runs in float."
    runs = "runs" if computing == 1 else "run"
    return f"Why float? {floats} of {count(computing, 'computing layer')} {runs} in float:"


def reason_words(number: int, rule: str, node: str, reason: str) -> str:
    """How many layers run in float by one rule, with the first as example."""
    return f"{number} by {rule or 'nobody'}, such as '{node}': {reason}"


def no_time_words() -> str:
    """The message that no time is known, with the commands to get one."""
    return "Nothing was measured and nothing predicted: `qtool time RUN` measures, `qtool time RUN --gpu L4` predicts."


def predicted_words(found: PredictionInfo) -> str:
    """A predicted latency, clearly marked as a prediction."""
    words = prediction_words(found) if found.ms is not None else uncounted_words(found)
    return f"PREDICTED for {found.gpu}, nothing was measured: {words}"


def costs_words(nodes: Sequence[str], harms: Sequence[LayerHarm]) -> str:
    """The layers that cost accuracy, with their shares of the loss if measured."""
    if not nodes:
        return "None stands out, or nothing was measured: `qtool sensitivity RECIPE` measures every layer."
    if not harms:
        listed = joined([f"'{node}'" for node in nodes])
        by, cost = ("its", "it costs") if len(nodes) == 1 else ("their", "they cost")
        return f"{listed}, by {by} own error; `qtool sensitivity RECIPE` measures what {cost} at the output."
    kept = ", stays in float"
    return (
        joined(f"'{one.node}' ({share_percent(one.share)} of the loss{kept if one.kept else ''})" for one in harms)
        + "."
    )
