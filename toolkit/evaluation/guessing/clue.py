"""A clue to an output's task, and checks that several rules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

SHARES = frozenset({"Softmax", "LogSoftmax"})
"""Operators that return class probabilities that sum to 1, or their logarithms."""
LINEAR = frozenset({"Gemm", "MatMul", "Add", "MatMulNBits", "Conv"})
"""Operators of a linear layer."""


@dataclass(frozen=True)
class Clue:
    """A piece of evidence that an output belongs to a task.

    Attributes:
        task: the task.
        kind: ``shape``, ``values``, ``name``, ``operator`` or ``metric``.
        weight: how strong the evidence is; the weights of a task's clues are added up. 0.5 to 0.75: outputs of other
            tasks often have it too; 1: an ordinary clue; 1.5: on a par with another task, so that both are judged; 2 to
            3: outputs of other tasks rarely have it.
        what: which clue of its kind it is; for names and operators the word or operator itself.
        value: a number for the report, such as the count of classes; None if there is none.
    """

    task: str
    kind: str
    weight: float
    what: str = ""
    value: Any = None


ANY = Clue("regression", "values", 0.5, "any")
"""A weak clue that every output has; it breaks ties in favour of comparing plain values."""


def of_values(what: str, weight: float) -> list[Clue]:
    """Clues that an output holds continuous values rather than class scores: one of values, one of shape.

    Args:
        what: the property of the values that shows it.
        weight: of the clue of values. With 2.5 the two add up to 3.0, or 3.5 with ``ANY``, and lead over class scores
            that have a usual width and a linear layer (1.75). With 1.5 the output is judged as both.
    """
    return [Clue("regression", "values", weight, what), Clue("regression", "shape", 0.5, "fits")]


def computed_with(output: SeenOutput, seen: SeenModel, axis: int = -1) -> bool:
    """Whether other outputs are computed from an output, and none of them shows that it holds class scores.

    Outputs computed from class scores are probabilities, the best class, scores above a threshold, or the area of each
    class in a picture. An output computed from a latent mean, in contrast, is its decoding.

    Args:
        seen: the model that it belongs to.
        axis: the axis of the values that may be class scores, counted from the end.
    """
    made = [one for one in seen.outputs if one.name in output.feeds and one.samples]
    alike = any(one.shape == output.shape and one.largest_as(output, axis) for one in made)
    return bool(made) and not alike and not any(one.name in output.chosen_by for one in made)
