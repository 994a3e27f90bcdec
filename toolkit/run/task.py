"""What a recipe's model is for, looked at before anything is quantized: the task, and the float model by the labels."""

from __future__ import annotations

import json
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolkit.base.errors import RecipeError
from toolkit.contract.findings import Finding
from toolkit.run.inputs import Inputs
from toolkit.run.step import Record

if TYPE_CHECKING:
    from toolkit.evaluation.answers import Answers
    from toolkit.evaluation.metric_base import MetricOptions
    from toolkit.run.sections import EvaluationSection

SEEN, _CHECKED = 16, 64
_SEEN_BYTES = 64_000_000


class TaskRecord(Record):
    """How the model is judged.

    Attributes:
        task: what it is for; empty where there are no samples to tell it from.
        sure: whether the recipe named it, or at least two kinds of clue speak for it.
        why: the task and its reason.
        parts: what is judged of the outputs, as ``OutputPart.to_json`` writes it.
        float_value: the float model's metric on the first samples; None without a built-in metric.
        suspicion: what is plainly wrong with that value; None where nothing is.
    """

    task: str = ""
    sure: bool = True
    why: Finding | None = None
    parts: list[dict[str, Any]] = Field(default_factory=list)
    float_value: float | None = None
    suspicion: Finding | None = None

    @property
    def said(self) -> list[Finding]:
        """The task, and what is plainly wrong."""
        return [one for one in (self.why, self.suspicion) if one is not None]

    @property
    def answers(self) -> Answers | None:
        """Reads outputs as the task says; None where no task is known."""
        from toolkit.evaluation.answers import Answers
        from toolkit.evaluation.tasks import OutputPart

        return Answers([OutputPart.from_json(part) for part in self.parts]) if self.parts else None


def task_of(inputs: Inputs) -> TaskRecord:
    """Run the float model on the first samples, tell its task, and hold it against their labels.

    Raises:
        RecipeError: no output can be read for the task that the recipe names.
        QtoolError: the samples or the model cannot be used.
    """
    from toolkit.evaluation.float_check import FloatCheck
    from toolkit.evaluation.judged import judged_by
    from toolkit.evaluation.observed import observe
    from toolkit.evaluation.outputs import metric_computable, widened
    from toolkit.graph.sessions import session

    job, source = inputs.job, inputs.reference()
    section = job.recipe.evaluation
    data, _ = inputs.evaluation_data(source)
    if data is None:
        return TaskRecord()
    loaded = session(source)
    given = ((batch, {n: widened(v).copy() for n, v in loaded.run(batch.inputs).items()}) for batch in data.batches(1))
    seen, size = [], 0
    for batch, outputs in islice(given, SEEN):
        seen.append((batch, outputs))
        size += sum(value.nbytes for value in outputs.values())
        if size > _SEEN_BYTES:
            break
    if not seen:
        return TaskRecord()
    try:
        found, why = judged_by(
            observe(source, [(batch.inputs, outputs, batch.count) for batch, outputs in seen]), section.task,
            section.metric, section.output, section.budget.floors,
            {"blank": section.blank, "threshold": section.threshold},
        )  # fmt: skip
    except RecipeError as error:
        error.at(job.recipe.locate("evaluation", "task"))
        raise
    record = TaskRecord(task=found.task, sure=found.sure, why=why, parts=[part.to_json() for part in found.parts])
    check = FloatCheck.of(section.metric, section.output, metric_options(section, record))
    lacking = [t.name for t in source.graph.outputs if t.name not in loaded.outputs]
    if check is not None and metric_computable(section.output, lacking):
        for batch, outputs in chain(seen, islice(given, max(_CHECKED - len(seen), 0))):
            check.add(outputs, batch.labels or {})
        record.float_value, record.suspicion = check.value(), check.suspicion()
    return record


def metric_options(section: EvaluationSection, record: TaskRecord) -> MetricOptions:
    """What the recipe's metric must know besides the output: from the recipe, else from how the outputs are read."""
    from toolkit.evaluation.metric_base import MetricOptions

    def first(task: str) -> dict[str, Any] | None:
        return next((part for part in record.parts if part["task"] == task), None)

    ctc, boxes = first("ctc"), first("detection")
    blank = section.blank if section.blank is not None else (ctc or {}).get("settings", {}).get("blank", 0)
    return MetricOptions(blank, section.space, json.dumps(boxes) if boxes is not None else None)
