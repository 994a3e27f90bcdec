"""What a model is for: what an answer is, when it stays the float model's, and how many must; one file a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from toolkit.evaluation.tasks.base import FOUND as FOUND
from toolkit.evaluation.tasks.base import STANDS_IN as STANDS_IN
from toolkit.evaluation.tasks.base import AnswerTally as AnswerTally
from toolkit.evaluation.tasks.base import OutputPart as OutputPart
from toolkit.evaluation.tasks.base import Rows as Rows
from toolkit.evaluation.tasks.base import Task as Task
from toolkit.evaluation.tasks.classification import classification
from toolkit.evaluation.tasks.ctc import Ctc
from toolkit.evaluation.tasks.detection import Detection
from toolkit.evaluation.tasks.embedding import Embedding
from toolkit.evaluation.tasks.generation import Generation
from toolkit.evaluation.tasks.regression import regression
from toolkit.evaluation.tasks.segmentation import Segmentation
from toolkit.evaluation.tasks.sequence import SequenceLabels

_READERS: dict[str, Callable[[OutputPart], Task]] = {
    "classification": classification,
    "sequence": SequenceLabels,
    "ctc": Ctc,
    "detection": Detection,
    "segmentation": Segmentation,
    "embedding": Embedding,
    "regression": regression,
    "generation": Generation,
}

TASKS = tuple(_READERS)
CLASS_TASKS = frozenset({"classification", "sequence", "ctc", "generation"})
"""Tasks whose outputs hold scores of classes: of other outputs an argmax says nothing."""
SET_TASKS = frozenset({"detection"})
"""Tasks whose answers are sets: entries may be others, fewer or in another order although every answer stays."""


def chooses_class(part: OutputPart) -> bool:
    """Whether one class of a part's outputs is chosen: where each label holds by itself, an argmax says nothing."""
    return part.task in CLASS_TASKS and "threshold" not in part.settings


def ranked_outputs(tallies: Iterable[AnswerTally]) -> frozenset[str]:
    """The outputs whose rows are in the order of their scores: row by row they say nothing of the answers.

    The setting ``ranked`` of a part names them, or is True where they are all of its outputs.
    """
    return frozenset(name for one in tallies for name in _ranked(one.part))


def _ranked(part: OutputPart) -> tuple[str, ...]:
    ranked = part.settings.get("ranked") or ()
    return part.outputs if ranked is True else tuple(ranked)


def reader(part: OutputPart) -> Task:
    """What reads a part of the outputs."""
    return _READERS[part.task](part)
