"""A predicted time in words that cannot be mistaken for a measurement."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.findings.words import percent, quoted
from toolkit.report.schema.prediction import PredictionInfo


def prediction_words(found: PredictionInfo) -> str:
    """The predicted time, that without pairs, and the shares of its bounds."""
    assert found.ms is not None
    plain = f", {found.float_ms:.3f} ms without any pair" if found.float_ms is not None else ""
    shares = ", ".join(
        f"{percent(found.bounded(bound) / found.ms, 0)} in layers limited by {bound}"
        for bound in ("arithmetic", "memory", "launches")
        if found.ms and found.bounded(bound)
    )
    return (
        f"At least {found.ms:.3f} ms{plain}, at peak rates and the opt shapes of profile '{found.profile}'; "
        f"{count(len(found.layers), 'kernel')}: {shares}.{_paid(found)}"
    )


def _paid(found: PredictionInfo) -> str:
    """Why the quantized graph is not faster by these bounds; empty if it is, or has no kernels of pairs."""
    if found.ms is None or found.float_ms is None or found.ms < found.float_ms or not found.pair_kernels:
        return ""
    saved = found.float_ms - (found.ms - found.pair_ms)
    return (
        f" Quantizing does not pay off by these bounds: {count(found.pair_kernels, 'kernel')} of Q/DQ nodes and Casts "
        f"{'takes' if found.pair_kernels == 1 else 'take'} {found.pair_ms:.4f} ms, and the layers save {saved:.4f} ms."
    )


def uncounted_words(found: PredictionInfo) -> str:
    """Why nothing is predicted."""
    return (
        f"Nothing is predicted for {found.gpu}: the time of {quoted(found.uncounted)} is not known, since the "
        "shapes or work cannot be counted."
    )
