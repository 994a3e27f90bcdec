"""Every activation's range by another calibration method, for the whole model: one run says which method suits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from toolkit.evaluation.budget import Budget
from toolkit.evaluation.outcome import Outcome
from toolkit.simulation.simulation import Simulation

_DIFFER = 0.03


def alternatives(simulation: Simulation, tensor: str, now: float) -> list[float]:
    """The values of amax that the methods give a tensor and that differ from ``now`` and from each other."""
    found: list[float] = []
    for amax in _proposed(simulation, tensor).values():
        if amax and all(_differs(amax, other) for other in (now, *found)):
            found.append(amax)
    return found


def whole_model(simulation: Simulation) -> Iterator[tuple[str, dict[str, float]]]:
    """For every method the amax of each tensor that it would change; methods that change nothing are left out."""
    own = simulation.switches.amax
    known = {name: _proposed(simulation, name) for name in own}
    for method in dict.fromkeys(method for values in known.values() for method in values):
        amax = {name: values[method] for name, values in known.items() if values.get(method)}
        changed = {name: value for name, value in amax.items() if _differs(value, own[name])}
        if changed:
            yield method, changed


def methods_of(simulation: Simulation, amax: Mapping[str, float]) -> dict[str, str]:
    """For every tensor the method that proposes this amax; of several the one that proposes most of the others too."""
    known = {name: [method for method, given in _proposed(simulation, name).items() if given == value]
             for name, value in amax.items()}  # fmt: skip
    often = Counter(method for methods in known.values() for method in methods)
    return {name: max(methods, key=lambda method: often[method]) for name, methods in known.items() if methods}


def _proposed(simulation: Simulation, tensor: str) -> dict[str, float]:
    """By method the amax that calibration noted for a tensor."""
    entry = simulation.ranges.tensors.get(tensor)
    given = entry.diagnosis.get("amax", {}) if entry is not None else {}
    return {method: float(amax) for method, amax in given.items()}


def _differs(amax: float, other: float) -> bool:
    """Whether two ranges are far enough apart to be worth a run; any range differs from that of zeros."""
    return not other or abs(amax / other - 1) > _DIFFER


@dataclass(frozen=True)
class Standing:
    """How all layers quantized do with the ranges that suit the model best.

    Attributes:
        distance: from the budget; 0 where it is met.
        outcome: what it does to the outputs.
        amax: the ranges that differ from calibration's.
    """

    distance: float
    outcome: Outcome
    amax: Mapping[str, float] = field(default_factory=dict)

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
        found.append(Standing(budget.distance(budget.lacks(outcome, reference)), outcome, amax))
        if amax == {} and budget.safely(outcome, reference):
            break
    return min(found, key=lambda one: (one.distance, one.outcome.noise))
