"""Layers that reach no output in common: several of them quantized at once show what each does alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.tasks import AnswerTally
from toolkit.simulation.simulation import Simulation


def outputs_reached(simulation: Simulation) -> dict[str, frozenset[str]]:
    """For each layer the outputs that depend on its result."""
    reached = {name: {name} for name in simulation.outputs}
    found: dict[str, frozenset[str]] = {}
    for segment in reversed(simulation.cutter.segments):
        after = set[str]().union(*(reached.get(name, ()) for name in segment.outputs))
        if segment.layer:
            found[segment.layer] = frozenset(after)
        for name in segment.inputs:
            reached.setdefault(name, set()).update(after)
    return found


def independent(names: Iterable[str], reached: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The layers in as few lists as come of putting each into the first in which no other reaches an output of its."""
    lists = list[tuple[list[str], set[str]]]()
    for name in names:
        own = reached.get(name, ())
        fitting = next((one for one in lists if own and one[1] and one[1].isdisjoint(own)), None)
        if fitting is None:
            lists.append(([name], set(own)))
        else:
            fitting[0].append(name)
            fitting[1].update(own)
    return [some for some, _ in lists]


def at_outputs(outcome: Outcome, outputs: Collection[str]) -> Outcome:
    """What an outcome says of the layer whose effect is at some outputs alone: the others are the float model's.

    What is of all outputs together, as divergence, agreement and the metric, is not known of it.
    """
    noises = tuple((name, noise if name in outputs else 0.0) for name, noise in outcome.noises)
    output, noise = max(noises, key=lambda one: one[1])
    tallies = tuple(one if set(outputs).intersection(one.part.outputs) else _unchanged(one) for one in outcome.tallies)
    return Outcome(noise, parts=outcome.parts, tallies=tallies, noises=noises, output=output)


def _unchanged(tally: AnswerTally) -> AnswerTally:
    return replace(
        tally, kept=float(tally.answers), lost=0.0 if tally.lost is not None else None,
        expected=0.0 if tally.expected is not None else None, level=None,
    )  # fmt: skip
