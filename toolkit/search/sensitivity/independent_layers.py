"""Layers that reach no common output: several of them can be quantized in one run that shows each one's effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.tasks import AnswerTally
from toolkit.simulation.simulation import Simulation


def outputs_reached(simulation: Simulation) -> dict[str, frozenset[str]]:
    """For each layer the outputs that depend on it."""
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
    """Groups of layers that reach no common output: each layer joins the first group that it fits into."""
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
    """The part of an outcome due to a layer that reaches only some outputs; the other outputs are the float model's.

    Results over all outputs, such as divergence, agreement and the metric, are left out.
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
