"""Tasks: what a model's answer is, when it counts as unchanged, and how many must be; one file per task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
"""Tasks whose outputs hold class scores; for other outputs an argmax has no meaning."""
SET_TASKS = frozenset({"detection"})
"""Tasks whose answers are sets: rows may change, disappear or move although no answer changes."""


def chooses_class(part: OutputPart) -> bool:
    """Whether a part's answer is an argmax over classes; for independent labels with a threshold it is not."""
    return part.task in CLASS_TASKS and "threshold" not in part.settings


def ranked_outputs(tallies: Iterable[AnswerTally]) -> frozenset[str]:
    """Names of the outputs whose rows are sorted by score, so that comparing them row by row has no meaning.

    The setting ``ranked`` of a part lists them, or is True for all of its outputs.
    """
    return frozenset(name for one in tallies for name in _ranked(one.part))


def _ranked(part: OutputPart) -> tuple[str, ...]:
    ranked = part.settings.get("ranked") or ()
    return part.outputs if ranked is True else tuple(ranked)


def scales_of(parts: Iterable[OutputPart]) -> dict[str, Sequence[float]]:
    """By output whose integers are quantized values, their scale and zero point."""
    known = [pair for part in parts for pair in zip(part.outputs, part.settings.get("quantized", ()))]
    return {name: scale for name, scale in known if scale is not None}


def reader(part: OutputPart) -> Task:
    """Create the task that reads a part of the outputs."""
    return _READERS[part.task](part)
