"""Outputs of a model that a budget judges separately, and an outcome's results for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolkit.base.errors import RecipeError
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome

_ON_ANSWERS: Mapping[str, Any] = {"min_unchanged": None, "by_task": False}
_ON_METRIC: Mapping[str, Any] = dict.fromkeys(("max_drop", "max_relative_drop", "min_value", "min_agreement"))


@dataclass(frozen=True)
class JudgedPart:
    """Outputs with a limit of their own: a plan meets the budget if it meets the limits of every part.

    Attributes:
        budget: the limits on this part.
        outputs: the outputs; empty for the model as a whole.
        tally: the index of its answers in an outcome's ``tallies``; None if only noise is limited.
    """

    budget: Budget
    outputs: tuple[str, ...] = ()
    tally: int | None = None

    def noise(self, outcome: Outcome) -> float:
        """An outcome's noise at the worst of this part's outputs."""
        return max((outcome.at(name) for name in self.outputs), default=outcome.noise)

    def of(self, outcome: Outcome) -> Outcome:
        """An outcome restricted to this part: its own noise and answers, without results of the whole model."""
        if not self.outputs:
            return outcome
        noises = tuple((name, outcome.at(name)) for name in self.outputs)
        worst, noise = max(noises, key=lambda one: one[1])
        tallies = (outcome.tallies[self.tally],) if self.tally is not None and outcome.tallies else ()
        return replace(outcome, noise=noise, output=worst, noises=noises, tallies=tallies, kl=None)


def judged_parts(budget: Budget, seen: Outcome) -> list[JudgedPart]:
    """The parts of a model's outputs with separate limits; only the whole model if it has a single part.

    SQNR is limited per output, and the share of unchanged answers per part that the task reads. Limits on the metric
    and on agreement apply to the model as a whole.

    Args:
        budget: the limits that a plan must meet.
        seen: any outcome of a plan: it names the outputs and those that the task reads.
    """
    outputs = [name for name, _ in seen.noises]
    if len(outputs) < 2:
        return [JudgedPart(budget)]
    parts, others = list[JudgedPart](), dict[str, Any]()
    if budget.min_sqnr_db is not None:
        of_noise = replace(budget, **_ON_ANSWERS, **_ON_METRIC)
        parts += [JudgedPart(of_noise, (name,)) for name in outputs]
        others["min_sqnr_db"] = None
    read = [tally.part.outputs for tally in seen.tallies]
    if (budget.by_task or budget.min_unchanged is not None) and len(read) > 1 and set().union(*read) <= set(outputs):
        of_answers = replace(budget, min_sqnr_db=None, **_ON_METRIC)
        parts += [JudgedPart(of_answers, tuple(names), number) for number, names in enumerate(read)]
        others |= _ON_ANSWERS
    if not parts:
        return [JudgedPart(budget)]
    try:
        return [*parts, JudgedPart(replace(budget, **others))]
    except RecipeError:
        # nothing else is limited
        return parts
