"""One plan that a search evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.comparison.outcome import Outcome


def lacks_json(lacks: Mapping[str, float]) -> dict[str, float | str]:
    """How far limits are missed, as JSON: non-finite numbers as text."""
    return {name: lack if math.isfinite(lack) else str(lack) for name, lack in lacks.items()}


def lacks_of(content: Mapping[str, Any]) -> dict[str, float]:
    """Parse the result of ``lacks_json``."""
    return {str(name): float(lack) for name, lack in content.items()}


@dataclass(frozen=True)
class SearchedPlan:
    """A plan that a search evaluated.

    Attributes:
        kept: the groups that stay float, sorted.
        amax: for each tensor the range, if it differs from the recipe's calibration.
        outcome: the effect on the outputs.
        lacks: for each limit how far it is missed; empty if the budget is met.
        seconds: predicted latency, without nodes that no plan changes.
        quantized: share of the model's arithmetic that is quantized, 0 to 1; see ``Work``.
        batches: on how many batches of samples the plan was run.
        of: the number of all batches.
        clear: whether the budget is clearly met (True) or missed (False) on a subset of the batches; None if neither is
            clear, or if all batches were run.
    """

    kept: tuple[str, ...]
    amax: Mapping[str, float]
    outcome: Outcome
    lacks: Mapping[str, float]
    seconds: float
    quantized: float
    batches: int = 1
    of: int = 1
    clear: bool | None = None

    @property
    def whole(self) -> bool:
        """Whether the plan was run on all samples."""
        return self.batches == self.of

    @property
    def meets(self) -> bool:
        """Whether the plan meets the budget on all samples."""
        return self.whole and not self.lacks

    @property
    def passes(self) -> bool:
        """Whether the plan meets the budget as far as is known."""
        return self.meets or self.clear is True

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "kept": list(self.kept), "amax": dict(self.amax), "outcome": self.outcome.to_json(),
            "lacks": lacks_json(self.lacks),
            "predicted_ms": self.seconds * 1e3, "quantized_macs": self.quantized,
            "batches": self.batches, "of": self.of, "clear": self.clear,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SearchedPlan:
        """Parse the result of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: it is not a plan.
        """
        return cls(
            tuple(str(name) for name in content["kept"]),
            {str(name): float(amax) for name, amax in content["amax"].items()},
            Outcome.from_json(content["outcome"]),
            lacks_of(content["lacks"]),
            float(content["predicted_ms"]) / 1e3,
            float(content["quantized_macs"]),
            int(content["batches"]),
            int(content["of"]),
            None if content["clear"] is None else bool(content["clear"]),
        )
