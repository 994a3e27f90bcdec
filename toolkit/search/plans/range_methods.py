"""Every activation's range by another calibration method, for the whole model: one run shows which method suits it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from toolkit.base.files import sha256_json
from toolkit.base.log import Log
from toolkit.contract.ranges import GIVEN
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.racing import plan_key
from toolkit.simulation.output_ranges import range_for_outputs
from toolkit.simulation.simulation import Simulation

OUTPUT = "output"
"""The method whose range costs least in the outputs of the layers that read the tensor."""
_DIFFER, NEARER, _MUCH_NEARER = 0.03, 0.8, 0.5
_BY_CHANCE = 2
"""So many answers more or less are chance: of a helper whose layers gained 6 dB one of eight spoke against it."""


def alternatives(simulation: Simulation, tensor: str, now: float) -> list[float]:
    """The values of amax that methods choose for a tensor and that differ from ``now`` and from each other."""
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
    """For every tensor the method that proposes this amax; among several the one that proposes most others too."""
    known = {name: [method for method, given in _proposed(simulation, name).items() if given == value]
             for name, value in amax.items()}  # fmt: skip
    often = Counter(method for methods in known.values() for method in methods)
    return {name: max(methods, key=lambda method: often[method]) for name, methods in known.items() if methods}


def _proposed(simulation: Simulation, tensor: str) -> dict[str, float]:
    """By method the amax that calibration noted for a tensor, and the one that costs its readers' outputs least.

    A range that was given is not put to question.
    """
    entry = simulation.ranges.tensors.get(tensor)
    if entry is None or entry.method in GIVEN:
        return {}
    given = {method: float(amax) for method, amax in entry.diagnosis.get("amax", {}).items()}
    readers = {node.name for node in simulation.switches.tensors[tensor].outputs if node.inputs[0].name == tensor}
    asking = {group.name for group in simulation.switches.groups if tensor in group.tensors}
    errors = simulation.rounder.errors
    # what another reader loses is not known
    best = range_for_outputs((errors[name] for name in asking), entry.amax) if asking <= readers & set(errors) else None
    return given | ({OUTPUT: best} if best is not None else {})


def _differs(amax: float, other: float) -> bool:
    """Whether two ranges are far enough apart to be worth a run; any range differs from that of zeros."""
    return not other or abs(amax / other - 1) > _DIFFER


@dataclass(frozen=True)
class Standing:
    """How all layers quantized do with the ranges that suit the model best.

    Attributes:
        distance: from the budget; 0 where it is met.
        outcome: the effect on the outputs.
        amax: the ranges that differ from calibration's.
        method: the method that gives them; empty for the recipe's own.
        samples: how many samples were run.
        simulation: the model on these samples.
        kept: where outcomes are looked for and kept; None for nowhere.
        step: how far one answer moves the distance.
        by_answers: what of the distance answers make; the rest is measured, and no chance.
    """

    distance: float
    outcome: Outcome
    simulation: Simulation
    amax: Mapping[str, float] = field(default_factory=dict)
    method: str = ""
    samples: int = 0
    kept: Log | None = None
    step: float = 0.0
    by_answers: float = 0.0

    @property
    def share(self) -> float | None:
        """The metric, else the share of answers that stay in the worst part; None where neither is known."""
        if self.outcome.metric is not None:
            return self.outcome.metric if math.isfinite(self.outcome.metric) else None
        return min((tally.share for tally in self.outcome.tallies), default=None)

    def clearly_better(self, other: Standing) -> bool:
        """Whether it is worth a changed graph: much nearer to the budget, or hardly further with less noise, by 1 dB.

        Where a budget is on answers, of which few samples have few, the distance from it moves in steps, by chance.
        """
        if self.distance + other._chance(self) < _MUCH_NEARER * other.distance:
            return True
        near = self.distance <= other.distance / NEARER + self._chance(other)
        return near and self.outcome.noise < NEARER * other.outcome.noise

    def is_further(self, other: Standing) -> bool:
        """Whether it is further from the budget, by more than chance."""
        return self.distance > other.distance + self._chance(other)

    def _chance(self, other: Standing) -> float:
        """How much further than the other it may be by chance: no more than its answers speak against it."""
        return min(_BY_CHANCE * max(self.step, other.step), max(self.by_answers - other.by_answers, 0.0))

    def only(self, groups: Collection[str], pay: Callable[[float], None] = lambda price: None) -> Outcome:
        """The outcome with only these groups quantized; ``pay`` as in ``standing``."""
        others = [name for name in self.simulation.names if name not in groups]
        return _outcome(self.simulation, others, self.amax, pay, self.kept)


def standing(
    simulation: Simulation,
    budget: Budget,
    try_ranges: bool = True,
    method: str | None = None,
    pay: Callable[[float], None] = lambda price: None,
    kept: Log | None = None,
) -> Standing:
    """The standing with the best of all methods.

    Args:
        simulation: the model and its samples.
        budget: what must hold.
        try_ranges: whether other methods than the recipe's own are tried.
        method: the only one that is tried besides the recipe's own; all are where None.
        pay: called with what each run costs, in runs of the float model over these samples.
        kept: where outcomes are looked for and kept, so that an interrupted search goes on; None for nowhere.
    """
    reference = simulation.runner.float_outcome
    ranges: list[tuple[str, dict[str, float]]] = [("", {})]
    if try_ranges and method != "":
        ranges += [one for one in whole_model(simulation) if method is None or one[0] == method]
    found, samples = [], sum(feed.count for feed in simulation.feeds)
    for name, amax in ranges:
        outcome = _outcome(simulation, (), amax, pay, kept)
        # these may be a part of the samples that the search decides on
        told = budget.on_subset(outcome, reference)
        lacks = told.lacks(outcome, reference) if told is not None else {}
        by_answers = budget.distance_by_answers(outcome, reference, lacks)
        step, distance = budget.one_answer(outcome, reference), budget.distance(lacks)
        found.append(Standing(distance, outcome, simulation, amax, name, samples, kept, step, by_answers))
        if not name and told is budget and budget.safely(outcome, reference):
            break
    return min(found, key=lambda one: (one.distance, one.outcome.noise))


def _outcome(
    simulation: Simulation, floats: Collection[str], amax: Mapping[str, float], pay: Callable[[float], None],
    kept: Log | None,
) -> Outcome:  # fmt: skip
    """A plan's outcome, which is paid for whether it was kept or not: no decision depends on an interruption."""
    config = simulation.config(floats, amax)
    pay(simulation.runner.price(config))
    if kept is None:
        return simulation.runner.run(config)
    key = sha256_json([simulation.fingerprint(), plan_key(floats, amax)])
    line = kept.get(key)
    if line is not None:
        return Outcome.from_json(line["outcome"])
    found = simulation.runner.run(config)
    kept.add(key, {"outcome": found.to_json()})
    return found
