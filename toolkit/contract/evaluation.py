"""What a run is judged by, for passes that decide by accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from toolkit.graph.model import Model


@dataclass(frozen=True)
class Limits:
    """The recipe's budget; None where a limit is not given.

    Attributes:
        max_drop: largest drop of the metric from the float model, in the metric's unit.
        min_value: smallest value of the metric (largest, where lower is better).
        min_sqnr_db: smallest SQNR of any output, in dB.
        min_agreement: smallest share of positions with the float model's argmax.
        max_relative_drop: largest drop of the metric as a share of the float model's value.
        min_unchanged: smallest share of answers that match the float model's.
    """

    max_drop: float | None = None
    min_value: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_relative_drop: float | None = None
    min_unchanged: float | None = None


@dataclass
class Evaluation:
    """The evaluation's settings and samples.

    Attributes:
        metric: its name, or ``module:Name``; None compares outputs with the float model's alone.
        output: the output that the metric reads; the only one where None.
        limits: the budget.
        samples: returns the test samples for a model (a ``CalibrationData`` with labels), or None if there are none.
        allow_code: whether ``metric`` may name code.
        answers: reads outputs as the recipe's task defines (an ``Answers``); None if no task is known.
        options: what the metric must know besides the output (``MetricOptions``); None for nothing.
    """

    metric: str | None = None
    output: str | None = None
    limits: Limits = field(default_factory=Limits)
    samples: Callable[[Model], Any] = lambda model: None
    allow_code: bool = True
    answers: Any = None
    options: Any = None
