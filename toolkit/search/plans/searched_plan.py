"""One plan that a search evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.comparison.outcome import Outcome


def lacks_json(lacks: Mapping[str, float]) -> dict[str, float | str]:
    """How far limits are missed, as JSON holds it: non-finite numbers as text."""
    return {name: lack if math.isfinite(lack) else str(lack) for name, lack in lacks.items()}


def lacks_of(content: Mapping[str, Any]) -> dict[str, float]:
    """Read what ``lacks_json`` returned."""
    return {str(name): float(lack) for name, lack in content.items()}


@dataclass(frozen=True)
class SearchedPlan:
    """One plan that was evaluated.

    Attributes:
        kept: groups that stay float, sorted.
        amax: ranges that differ from calibration's, by tensor.
        outcome: its effect on the outputs.
        lacks: how far it misses the budget, by limit; empty where it meets it.
        seconds: predicted time, unchanged nodes left out.
        quantized: share of the model's arithmetic that is quantized, 0 to 1; see ``Work``.
        batches: how many batches of samples it was run on.
        of: out of how many.
        clear: whether it meets the budget as far as a part of them tells; None where that is unclear, or all were run.
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
        """Whether it was run on all samples."""
        return self.batches == self.of

    @property
    def meets(self) -> bool:
        """Whether it meets the budget, on all samples."""
        return self.whole and not self.lacks

    @property
    def passes(self) -> bool:
        """Whether it meets the budget as far as is known."""
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
        """Read what ``to_json`` returned.

        Raises:
            KeyError, TypeError, ValueError: it is no plan.
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
