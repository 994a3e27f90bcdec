"""Every activation's range by another calibration method, for the whole model: one run says which method suits it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.analysis.budget import Budget
from toolkit.analysis.outcome import Outcome
from toolkit.analysis.simulation import Simulation

_DIFFER = 0.03


def alternatives(simulation: Simulation, tensor: str, now: float) -> list[tuple[str, float]]:
    """The methods that give a tensor another amax than ``now`` and than those before, with it."""
    found: list[tuple[str, float]] = []
    taken = [now]
    entry = simulation.ranges.tensors.get(tensor)
    for method, amax in (entry.diagnosis.get("amax", {}) if entry is not None else {}).items():
        if amax and all(abs(amax / other - 1) > _DIFFER for other in taken if other):
            found.append((method, float(amax)))
            taken.append(float(amax))
    return found


def whole_model(simulation: Simulation) -> Iterator[tuple[str, dict[str, float]]]:
    """For every method the amax of each tensor that it would change; methods that change nothing are left out."""
    own = simulation.switches.amax
    known = {name: simulation.ranges.tensors[name].diagnosis.get("amax", {}) for name in own
             if name in simulation.ranges.tensors}  # fmt: skip
    for method in dict.fromkeys(method for values in known.values() for method in values):
        amax = {name: float(values[method]) for name, values in known.items() if values.get(method)}
        changed = {name: value for name, value in amax.items() if abs(value / own[name] - 1) > _DIFFER}
        if changed:
            yield method, changed


@dataclass(frozen=True)
class Standing:
    """How all layers quantized do with the ranges that suit the model best.

    Attributes:
        distance: from the budget; 0 where it is met.
        outcome: what it does to the outputs.
    """

    distance: float
    outcome: Outcome

    def clearly_better(self, other: Standing) -> bool:
        """Whether it is worth a changed graph: much nearer to the budget, or as near with half the noise."""
        if self.distance < 0.8 * other.distance:
            return True
        return self.distance <= other.distance and self.outcome.noise < 0.5 * other.outcome.noise


def standing(simulation: Simulation, budget: Budget, try_ranges: bool = True) -> Standing:
    """The best of all methods, or the recipe's own alone where ``try_ranges`` is off."""
    reference = simulation.runner.float_outcome
    ranges = [{}, *(amax for _, amax in whole_model(simulation))] if try_ranges else [{}]
    found = []
    for amax in ranges:
        outcome = simulation.without((), amax)
        found.append(Standing(budget.distance(budget.lacks(outcome, reference)), outcome))
        if amax == {} and budget.safely(outcome, reference):
            break
    return min(found, key=lambda one: (one.distance, one.outcome.noise))
