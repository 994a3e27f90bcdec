"""A clue to an output's task, and checks that several rules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.observation.observed import SeenModel, SeenOutput

SHARES = frozenset({"Softmax", "LogSoftmax"})
"""Operators that return class probabilities that sum to 1, or their logarithms."""
PAR = 1.25
"""Weight of a clue of values that outputs of another task may have too. Neither that task, of class scores with a usual
width, nor this one then leads by as much as a sure guess needs, with or without a linear layer: both are judged."""
LINEAR = frozenset({"Gemm", "MatMul", "Add", "MatMulNBits", "Conv"})
"""Operators of a linear layer."""


@dataclass(frozen=True)
class Clue:
    """A piece of evidence that an output belongs to a task.

    Attributes:
        task: the task.
        kind: ``shape``, ``values``, ``name``, ``operator`` or ``metric``.
        weight: how strong the evidence is; the weights of a task's clues are added up. 0.5 to 0.75: outputs of other
            tasks often have it too; 1: an ordinary clue; ``PAR`` to 1.5: on a par with another task, so that both are
            judged; 2 to 3: outputs of other tasks rarely have it.
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
            that have a usual width and a linear layer (1.75). With ``PAR`` the output is judged as both, with 1.5
            only if a linear layer produces it.
    """
    return [Clue("regression", "values", weight, what), Clue("regression", "shape", 0.5, "fits")]


def once_on_a_par(clues: Sequence[Clue]) -> list[Clue]:
    """The clues, but of those of ``of_values`` with the weight ``PAR`` only one, and none beside a stronger one.

    Two properties that scores of classes may have as well do not tell them apart from continuous values.
    """
    of_numbers = [clue for clue in clues if (clue.task, clue.kind) == ("regression", "values")]
    spare = any(clue.weight > PAR for clue in of_numbers)
    kept: list[Clue] = []
    left_out = False
    for clue in clues:
        weak = clue in of_numbers and clue.weight == PAR
        # the clue of shape follows that of values
        left_out = (weak and spare) or (left_out and clue.what == "fits")
        spare = spare or weak
        kept += [] if left_out else [clue]
    return kept


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
