"""Other calibration methods' activation ranges for the whole model: one run shows which method suits it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from toolkit.base.files import sha256_json
from toolkit.base.log import Log
from toolkit.contract.ranges import BY_HAND
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.racing import plan_key
from toolkit.simulation.output_ranges import range_for_outputs
from toolkit.simulation.simulation import Simulation

OUTPUT = "output"
"""The method that chooses the range with the smallest error at the outputs of the layers that read the tensor."""
_DIFFER, NEARER, _MUCH_NEARER = 0.03, 0.8, 0.5
_BY_CHANCE = 2
"""A difference of this many answers counts as chance: a helper whose layers gained 6 dB lost one answer of eight."""


def alternatives(simulation: Simulation, tensor: str, now: float) -> list[float]:
    """The amax values that methods choose for a tensor and that differ from ``now`` and from each other."""
    found: list[float] = []
    for amax in _proposed(simulation, tensor).values():
        if amax and all(_differs(amax, other) for other in (now, *found)):
            found.append(amax)
    return found


def whole_model(simulation: Simulation) -> Iterator[tuple[str, dict[str, float]]]:
    """For each method the amax of each tensor that it would change; methods that change nothing are left out."""
    own = simulation.switches.amax
    known = {name: _proposed(simulation, name) for name in own}
    for method in dict.fromkeys(method for values in known.values() for method in values):
        amax = {name: values[method] for name, values in known.items() if values.get(method)}
        changed = {name: value for name, value in amax.items() if _differs(value, own[name])}
        if changed:
            yield method, changed


def methods_of(simulation: Simulation, amax: Mapping[str, float]) -> dict[str, str]:
    """For each tensor the method that proposes this amax; of several, the one that proposes most of the others too."""
    known = {name: [method for method, given in _proposed(simulation, name).items() if given == value]
             for name, value in amax.items()}  # fmt: skip
    often = Counter(method for methods in known.values() for method in methods)
    return {name: max(methods, key=lambda method: often[method]) for name, methods in known.items() if methods}


def _proposed(simulation: Simulation, tensor: str) -> dict[str, float]:
    """For each method the amax that calibration noted for a tensor, and the one with the smallest output error.

    Empty for a range that the recipe sets by hand, which is never replaced.
    """
    entry = simulation.ranges.tensors.get(tensor)
    if entry is None or entry.method == BY_HAND:
        return {}
    given = {method: float(amax) for method, amax in entry.diagnosis.get("amax", {}).items()}
    readers = {node.name for node in simulation.switches.tensors[tensor].outputs if node.inputs[0].name == tensor}
    asking = {group.name for group in simulation.switches.groups if tensor in group.tensors}
    errors = simulation.rounder.errors
    # the output error of other readers is unknown
    best = range_for_outputs((errors[name] for name in asking), entry.amax) if asking <= readers & set(errors) else None
    return given | ({OUTPUT: best} if best is not None else {})


def _differs(amax: float, other: float) -> bool:
    """Whether two ranges are far enough apart to be worth a run; any range differs from a range of 0."""
    return not other or abs(amax / other - 1) > _DIFFER


@dataclass(frozen=True)
class Standing:
    """How well full quantization does with the ranges that suit the model best.

    Attributes:
        distance: the distance from the budget; 0 if it is met.
        outcome: the effect on the outputs.
        simulation: the model on these samples.
        amax: the ranges that differ from the recipe's calibration.
        method: the method of these ranges; empty for the recipe's own.
        samples: how many samples were run.
        kept: the log in which outcomes are looked up and recorded; None for no log.
        step: by how much one answer changes the distance.
        by_answers: the part of the distance due to answers; the rest is measured and not subject to chance.
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
        """The metric; else the share of unchanged answers in the worst part; None if neither is known."""
        if self.outcome.metric is not None:
            return self.outcome.metric if math.isfinite(self.outcome.metric) else None
        return min((tally.share for tally in self.outcome.tallies), default=None)

    def clearly_better(self, other: Standing) -> bool:
        """Whether this is worth a changed graph: much nearer to the budget, or hardly further with 1 dB less noise.

        If the budget limits answers, few samples hold few of them, and the distance changes in steps, by chance.
        """
        if self.distance + other._chance(self) < _MUCH_NEARER * other.distance:
            return True
        near = self.distance <= other.distance / NEARER + self._chance(other)
        return near and self.outcome.noise < NEARER * other.outcome.noise

    def is_further(self, other: Standing) -> bool:
        """Whether this is further from the budget by more than chance."""
        return self.distance > other.distance + self._chance(other)

    def _chance(self, other: Standing) -> float:
        """How much further from the budget than ``other`` this may be by chance: at most the part due to answers."""
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
    """The standing with the best calibration method.

    Args:
        simulation: the model and its samples.
        budget: the limits that a plan must meet.
        try_ranges: whether to try methods other than the recipe's own.
        method: the only method to try besides the recipe's own; all methods if None.
        pay: called with the price of each run, in runs of the float model over these samples.
        kept: the log in which outcomes are looked up and recorded, so that an interrupted search resumes; None for no
            log.
    """
    reference = simulation.runner.float_outcome
    ranges: list[tuple[str, dict[str, float]]] = [("", {})]
    if try_ranges and method != "":
        ranges += [one for one in whole_model(simulation) if method is None or one[0] == method]
    found, samples = [], sum(feed.count for feed in simulation.feeds)
    for name, amax in ranges:
        outcome = _outcome(simulation, (), amax, pay, kept)
        # these may be a subset of the samples that the search decides on
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
    """A plan's outcome; paid for even if it is in the log, so that no decision depends on an interruption."""
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
