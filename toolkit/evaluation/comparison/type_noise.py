"""The noise of 16-bit float types, which a simulation in float32 leaves out, added to that of quantized layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from toolkit.evaluation.comparison.outcome import Outcome

_LEAST = 1e-3


@dataclass(frozen=True)
class TypeNoise:
    """The noise that float16 or bfloat16 adds to a plan that was simulated in float32.

    Its errors are independent of those of quantization, so noise powers add, as do the squares of figures proportional
    to the size of errors: the expected shares of changed answers, which are due to near ties (see ``expected_flips``).

    Attributes:
        noise: noise power over signal power of the worst output.
        flips: the expected share of positions whose argmax changes by this noise alone.
        expected: the expected share of answers that change by this noise alone, in the part where it is largest.
    """

    noise: float
    flips: float = 0.0
    expected: float = 0.0

    @classmethod
    def of(cls, outcome: Outcome) -> TypeNoise:
        """The type noise of a model in which nothing is quantized."""
        return cls.between(outcome, Outcome(0.0))

    @classmethod
    def between(cls, real: Outcome, simulated: Outcome) -> TypeNoise:
        """The type noise of a plan, from its outcome in its actual types and that of its simulation.

        Args:
            real: the outcome in the plan's types.
            simulated: the outcome in float32, on the same samples.
        """
        return cls(
            max(real.noise - simulated.noise, 0.0),
            _apart(real.flips or 0.0, simulated.flips or 0.0),
            _apart(real.expected or 0.0, simulated.expected or 0.0),
        )

    def largest(self, other: TypeNoise | None) -> TypeNoise:
        """The maximum of both, figure by figure."""
        if other is None:
            return self
        return TypeNoise(max(self.noise, other.noise), max(self.flips, other.flips), max(self.expected, other.expected))

    def added_to(self, simulated: Outcome) -> Outcome:
        """A simulated outcome with this noise added; that of the float model, without noise, is unchanged."""
        if simulated.noise == 0:
            return simulated
        tallies = tuple(
            replace(one, expected=math.hypot(one.expected, self.expected * one.answers))
            if one.expected is not None else one
            for one in simulated.tallies
        )  # fmt: skip
        flips = math.hypot(simulated.flips, self.flips) if simulated.flips is not None else None
        noise, variation = simulated.noise + self.noise, simulated.variation_db
        if variation is not None and math.isfinite(noise):
            variation -= 10 * math.log10(noise / simulated.noise)
        return replace(simulated, noise=noise, flips=flips, tallies=tallies, variation_db=variation)

    def left(self, expected: float) -> float:
        """The part of an expected share of answers left for the plan's own noise; positive if the share is."""
        return max(_apart(expected, self.expected), _LEAST * expected)


def _apart(both: float, one: float) -> float:
    return math.sqrt(max(both * both - one * one, 0.0))
