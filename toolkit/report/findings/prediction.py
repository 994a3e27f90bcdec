"""A predicted time in words, which never pass for a measurement."""

from __future__ import annotations

from toolkit.base.text import count
from toolkit.report.findings.words import percent, quoted
from toolkit.report.prediction import PredictionInfo


def prediction_words(found: PredictionInfo) -> str:
    """The sum, what it would be without pairs, and what limits it."""
    assert found.ms is not None
    plain = f", {found.float_ms:.3f} ms without any pair" if found.float_ms is not None else ""
    shares = ", ".join(
        f"{percent(found.bounded(bound) / found.ms, 0)} in layers limited by {bound}"
        for bound in ("arithmetic", "memory", "launches")
        if found.ms and found.bounded(bound)
    )
    return (
        f"At least {found.ms:.3f} ms{plain}, at peak rates and the opt shapes of profile '{found.profile}'; "
        f"{count(len(found.layers), 'kernel')}: {shares}."
    )


def uncounted_words(found: PredictionInfo) -> str:
    """Why nothing is predicted."""
    return (
        f"Nothing is predicted for {found.gpu}: the time of {quoted(found.uncounted)} is not known, whose shapes or "
        "work cannot be counted."
    )
