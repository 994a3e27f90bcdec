"""The accuracy and latency that a plan must keep, and how far an outcome misses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from toolkit.base.errors import RecipeError
from toolkit.evaluation.outcome import Outcome

_PRIOR = 500
_BROKEN_SQNR_DB = 3.0
"""Below this, or with more noise than variation between samples, an output is useless whatever its top-1 agreement."""


@dataclass(frozen=True)
class Budget:
    """The limits that must hold; one that is None does not matter.

    Attributes:
        max_drop: largest drop of the metric, in its units.
        min_value: smallest value of the metric.
        min_sqnr_db: smallest SQNR of the worst output.
        min_agreement: smallest top-1 agreement with the float model, 0 to 1.
        max_ms: largest predicted latency in milliseconds.
        margin: how much better than the limits a plan must be, since other samples will differ: in dB for the SQNR,
            in standard errors for the metric and the agreement. The standard error is that of the samples' own
            shares, at least sqrt(p (1 - p) / n) for a share p of n positions. With a margin, the argmax changes to
            expect count too, like five hundred further positions: a hundred without a change prove little.
        higher_is_better: which way the metric goes.
        doubt: whether few samples, which say little of the tails that matter, make the argmax changes to expect count
            more: by sqrt(enough / positions), see ``enough``.
    """

    max_drop: float | None = None
    min_value: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_ms: float | None = None
    margin: float = 0.0
    higher_is_better: bool = True
    doubt: bool = True

    def __post_init__(self) -> None:
        limits = (self.max_drop, self.min_value, self.min_sqnr_db, self.min_agreement)
        if all(limit is None for limit in limits):
            raise RecipeError("the search has no accuracy budget", remedy="give max_drop, min_sqnr_db or min_agreement")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise RecipeError(
                f"min_agreement is {self.min_agreement:g}, which is not a share",
                remedy="min_agreement and max_drop are shares: 0.98 is 98%, 0.02 is 2 points",
            )

    def lacks(self, outcome: Outcome, reference: Outcome, seconds: float | None = None) -> dict[str, float]:
        """How far each limit is missed, in the limit's own units; empty where all hold.

        Raises:
            RecipeError: the budget limits a metric, and none was measured; or agreement, and no output has classes.
        """
        found: dict[str, float] = {}
        spread = self.margin * _standard_error(outcome)
        sign = 1.0 if self.higher_is_better else -1.0
        if self.max_drop is not None or self.min_value is not None:
            if outcome.metric is None or reference.metric is None:
                raise RecipeError("the budget limits a metric, and none was measured", remedy="set [evaluation] metric")
            if self.max_drop is not None:
                drop = sign * (reference.metric - outcome.metric) + spread
                found["max_drop"] = max(drop, self._flips(outcome)) - self.max_drop
            if self.min_value is not None:
                found["min_value"] = sign * (self.min_value - outcome.metric)
        if self.min_sqnr_db is not None:
            found["min_sqnr_db"] = self.min_sqnr_db + self.margin - outcome.sqnr_db
        if self.min_agreement is not None:
            if outcome.agreement is None:
                raise RecipeError("min_agreement cannot be judged: no output holds integers or scores of a fixed "
                                  "number of classes, or they are empty on these samples",
                                  remedy="give min_sqnr_db")  # fmt: skip
            agreement = min(outcome.agreement - spread, 1.0 - self._flips(outcome))
            found["min_agreement"] = self.min_agreement - agreement
        if outcome.metric is None:
            found["sqnr_db"] = _BROKEN_SQNR_DB + self.margin - outcome.sqnr_db
            if outcome.variation_db is not None:
                found["variation_db"] = self.margin - outcome.variation_db
        if self.max_ms is not None and seconds is not None:
            found["max_ms"] = seconds * 1e3 - self.max_ms
        return {name: lack for name, lack in found.items() if lack > 1e-9}

    def safely(self, outcome: Outcome, reference: Outcome) -> bool:
        """Whether the accuracy limits hold with twice the margin, so that nothing is gained by looking further."""
        return not replace(self, margin=2 * self.margin, max_ms=None).lacks(outcome, reference)

    def enough(self) -> int:
        """How many positions it takes to judge the shares that may change; 0 where the budget has no share.

        The rule of three: where none of n changes, as many as 3 / n may change elsewhere, with 95 percent confidence.
        """
        shares = [self.max_drop if self.higher_is_better else None,
                  None if self.min_agreement is None else 1.0 - self.min_agreement]  # fmt: skip
        asked = [share for share in shares if share]
        return math.ceil(3 / min(asked) - 1e-6) if asked else 0

    def tightened(self, lacks: Mapping[str, float]) -> Budget:
        """The budget with every limit that was missed tightened by as much."""
        margin = self.margin + max(lacks.get("sqnr_db", 0.0), lacks.get("variation_db", 0.0))
        moved = {name: (getattr(self, name), lack) for name, lack in lacks.items() if hasattr(self, name)}
        down = {name: max(limit - lack, 0.0) for name, (limit, lack) in moved.items() if name == "max_drop"}
        sign = 1.0 if self.higher_is_better else -1.0
        up = {name: limit + (sign if name == "min_value" else 1.0) * lack
              for name, (limit, lack) in moved.items() if name.startswith("min_")}  # fmt: skip
        if "min_agreement" in up:
            up["min_agreement"] = min(up["min_agreement"], 1.0)
        return replace(self, margin=margin, **down, **up)

    def _flips(self, outcome: Outcome) -> float:
        """The share of argmax changes to expect on other samples, from those seen and those that nearly happened."""
        if not self.margin or outcome.flips is None or outcome.agreement is None or not self.higher_is_better:
            return 0.0
        # errors have heavier tails than the normal ones that the estimate takes for granted: on classifiers with
        # outlier channels up to twice as many changed on unseen samples
        expected = outcome.flips * (1 + self.margin)
        if self.doubt:
            expected *= math.sqrt(max(1.0, self.enough() / max(outcome.positions, 1)))
        seen = outcome.positions * (1 - outcome.agreement)
        return (seen + _PRIOR * expected) / (outcome.positions + _PRIOR)

    def distance(self, lacks: dict[str, float]) -> float:
        """One number for how far a plan is from the budget: each miss over its usual size, added."""
        usual = {"max_drop": 0.01, "min_value": 0.01, "min_sqnr_db": 3.0, "min_agreement": 0.01,
                 "sqnr_db": 3.0, "variation_db": 3.0, "max_ms": max(self.max_ms or 0.0, 1e-9) / 10}  # fmt: skip
        total = sum(lack / usual[name] for name, lack in lacks.items())
        return total if math.isfinite(total) else math.inf


def _standard_error(outcome: Outcome) -> float:
    if outcome.agreement is None or not outcome.positions:
        return 0.0
    binomial = math.sqrt(outcome.agreement * (1 - outcome.agreement) / outcome.positions)
    # positions of one sample go wrong together: then the samples' own spread is the larger
    return max(binomial, outcome.agreement_error or 0.0)
