"""The effects of single layers, known before weights were rounded on samples or helpers changed other layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.sensitivity.measure import Sensitivity
from toolkit.simulation.simulation import Simulation


@dataclass(frozen=True)
class SingleLayerOutcomes:
    """Layers that were measured alone in an earlier form of the model, all others float.

    Attributes:
        batches: the number of batches it was measured on.
        outcomes: by layer its effect on the outputs.
        ranges: by layer the amax of each activation that it quantizes.
    """

    batches: int
    outcomes: Mapping[str, Outcome]
    ranges: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, simulation: Simulation, found: Sensitivity, batches: int) -> SingleLayerOutcomes:
        """The results of a sensitivity analysis on so many of a simulation's batches."""
        outcomes = {group.name: group.alone for group in found.groups if group.alone is not None}
        return cls(batches, outcomes, _ranges(simulation))

    def without(self, changed: Collection[str]) -> SingleLayerOutcomes:
        """The same without the layers that were changed."""
        kept = {name: outcome for name, outcome in self.outcomes.items() if name not in changed}
        return SingleLayerOutcomes(self.batches, kept, self.ranges)

    def of_same(self, simulation: Simulation) -> dict[str, Outcome]:
        """The layers whose activations have the ranges that they were measured with.

        Their weights may be rounded differently, nearer to the float layer, by less than what the outcomes of plans
        that ran correct in the expectation of a layer.
        """
        now = _ranges(simulation)
        return {name: one for name, one in self.outcomes.items() if name in now and now[name] == self.ranges[name]}


def _ranges(simulation: Simulation) -> dict[str, dict[str, float]]:
    amax = simulation.switches.amax
    return {
        group.name: {tensor: amax[tensor] for tensor in group.tensors if tensor in amax}
        for group in simulation.switches.groups
    }
