"""A clue to an output's task, and what several rules ask of an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

SHARES = frozenset({"Softmax", "LogSoftmax"})
"""Operators whose results are shares of classes, or their logarithms."""
LINEAR = frozenset({"Gemm", "MatMul", "Add", "MatMulNBits", "Conv"})
"""Operators of a linear layer."""


@dataclass(frozen=True)
class Clue:
    """One thing that speaks for a task.

    Attributes:
        task: the task.
        kind: ``shape``, ``values``, ``name``, ``operator`` or ``metric``.
        weight: how much it weighs.
        what: which clue of its kind; the name or operator itself.
        value: a number that goes with it.
    """

    task: str
    kind: str
    weight: float
    what: str = ""
    value: Any = None


ANY = Clue("regression", "values", 0.5, "any")
"""A weak one, which any values are."""


def of_values(what: str, weight: float) -> list[Clue]:
    """A clue that an output holds plain values, by what these are like; any shape fits."""
    return [Clue("regression", "values", weight, what), Clue("regression", "shape", 0.5, "fits")]


def computed_with(output: SeenOutput, seen: SeenModel, axis: int = -1) -> bool:
    """Whether the model goes on to compute other outputs from an output, and none that is made of scores of classes.

    Of those come their shares or probabilities, the best of them, which are above a threshold, or how much of a picture
    each class takes; of the mean of a latent variable comes what is decoded from it.
    """
    made = [one for one in seen.outputs if one.name in output.feeds and one.samples]
    alike = any(one.shape == output.shape and one.largest_as(output, axis) for one in made)
    return bool(made) and not alike and not any(one.name in output.chosen_by for one in made)
