"""The outputs of a model that a budget judges apart from each other, and what an outcome says of each."""

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
    """Outputs whose limit stands for itself: the budget holds where it holds for every part.

    Attributes:
        budget: the limits on this part.
        outputs: the outputs; empty for the model as a whole.
        tally: the place of its answers among an outcome's ``tallies``; None where noise alone is limited.
    """

    budget: Budget
    outputs: tuple[str, ...] = ()
    tally: int | None = None

    def noise(self, outcome: Outcome) -> float:
        """The noise of an outcome at the worst of its outputs."""
        return max((outcome.at(name) for name in self.outputs), default=outcome.noise)

    def of(self, outcome: Outcome) -> Outcome:
        """An outcome as it is for this part: with its own noise and answers, and without what is of the whole model."""
        if not self.outputs:
            return outcome
        noises = tuple((name, outcome.at(name)) for name in self.outputs)
        worst, noise = max(noises, key=lambda one: one[1])
        tallies = (outcome.tallies[self.tally],) if self.tally is not None and outcome.tallies else ()
        return replace(outcome, noise=noise, output=worst, noises=noises, tallies=tallies, kl=None)


def judged_parts(budget: Budget, seen: Outcome) -> list[JudgedPart]:
    """The parts of a model's outputs with limits of their own; the whole model alone where there are not several.

    The SQNR of every output is limited, and the share of unchanged answers of everything that the task reads. Limits
    on the metric and on agreement are on the whole.

    Args:
        budget: what must hold.
        seen: any outcome of a plan: it names the outputs and what the task reads.
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
