"""The effects of single layers, measured before weights were rounded on samples or helpers changed other layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.sensitivity.measure import Sensitivity
from toolkit.simulation.simulation import Simulation


@dataclass(frozen=True)
class SingleLayerOutcomes:
    """Outcomes of layers quantized alone in an earlier form of the model.

    Attributes:
        batches: the number of batches that they were measured on.
        outcomes: for each layer its effect on the outputs.
        ranges: for each layer the amax of each activation that it quantizes.
    """

    batches: int
    outcomes: Mapping[str, Outcome]
    ranges: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, simulation: Simulation, found: Sensitivity, batches: int) -> SingleLayerOutcomes:
        """Collect the results of a sensitivity analysis on this many of a simulation's batches."""
        outcomes = {group.name: group.alone for group in found.groups if group.alone is not None}
        return cls(batches, outcomes, _ranges(simulation))

    def without(self, changed: Collection[str]) -> SingleLayerOutcomes:
        """A copy without the layers that were changed."""
        kept = {name: outcome for name, outcome in self.outcomes.items() if name not in changed}
        return SingleLayerOutcomes(self.batches, kept, self.ranges)

    def of_same(self, simulation: Simulation) -> dict[str, Outcome]:
        """The outcomes of layers whose activations still have the ranges that they were measured with.

        Their weights may be rounded differently, closer to the float layer. The difference is smaller than the
        correction that plans' outcomes make to the layers' expected noise.
        """
        now = _ranges(simulation)
        return {name: one for name, one in self.outcomes.items() if name in now and now[name] == self.ranges[name]}


def _ranges(simulation: Simulation) -> dict[str, dict[str, float]]:
    amax = simulation.switches.amax
    return {
        group.name: {tensor: amax[tensor] for tensor in group.tensors if tensor in amax}
        for group in simulation.switches.groups
    }
