"""The task of a recipe's model, and the float model's agreement with labels, before anything is quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, tee
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolkit.base.errors import DataError, RecipeError
from toolkit.contract.findings import Finding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.shape_inference.dimensions import is_batch_name
from toolkit.placement.quantized import quantized_source
from toolkit.run.inputs.inputs import Inputs, random_nodes
from toolkit.run.keys.lock import not_as_locked
from toolkit.run.keys.step import Record

if TYPE_CHECKING:
    from toolkit.base.types import Array
    from toolkit.data.dataset import Batch, CalibrationData
    from toolkit.data.sample import Sample
    from toolkit.evaluation.comparison.answers import Answers
    from toolkit.evaluation.metric import MetricOptions
    from toolkit.evaluation.observation.observed import SeenModel
    from toolkit.graph.sessions.session import Session
    from toolkit.run.recipe.sections import EvaluationSection

SEEN, _CHECKED, _LABELS = 16, 64, 4096
"""How many samples are run; have outputs compared with labels; have labels checked."""
_SEEN_BYTES = 64_000_000


class TaskRecord(Record):
    """The task that the model is judged by.

    Attributes:
        task: the task; empty if there are no samples to infer it from.
        sure: whether the recipe names it, or at least two kinds of evidence support it.
        why: the task and its reason.
        uncounted: parts of the outputs without answers, such as padding.
        parts: the judged parts of the outputs, as written by ``OutputPart.to_json``.
        reads: the output that a built-in metric reads; None without one.
        float_value: the float model's metric on the first samples; None without a built-in metric.
        suspicion: a finding if that value is implausible; None otherwise.
        notes: further findings about the outputs.
        quantized_source: whether the reference model has Q/DQ pairs itself.
        drawing: the nodes that draw random numbers, which differ in an engine.
        unlike: those of them whose numbers also differ between onnxruntime runs.
        at_once: how many rows the model always computes at once, if its first dimension has a fixed size without a
            batch name: each sample then counts as that many.
    """

    task: str = ""
    sure: bool = True
    why: Finding | None = None
    uncounted: list[Finding] = Field(default_factory=list)
    parts: list[dict[str, Any]] = Field(default_factory=list)
    reads: str | None = None
    float_value: float | None = None
    suspicion: Finding | None = None
    notes: list[Finding] = Field(default_factory=list)
    quantized_source: bool = False
    drawing: list[str] = Field(default_factory=list)
    unlike: list[str] = Field(default_factory=list)
    at_once: int = 1

    @property
    def said(self) -> list[Finding]:
        """The task, further findings about the outputs, and implausible values."""
        return [*self.reading, *self.notes, *([self.suspicion] if self.suspicion is not None else [])]

    @property
    def reading(self) -> list[Finding]:
        """The task, and parts of the outputs without answers; empty without a task."""
        return [self.why, *self.uncounted] if self.why is not None else []

    @property
    def answers(self) -> Answers | None:
        """The reader of outputs for the task; None if the task is unknown."""
        from toolkit.evaluation.comparison.answers import Answers
        from toolkit.evaluation.tasks import OutputPart

        return Answers([OutputPart.from_json(part) for part in self.parts]) if self.parts else None


@dataclass
class ObservedTask:
    """The interpretation of the model's outputs, and the samples that it was inferred from.

    Attributes:
        record: the task.
        batches: the evaluation samples with the float model's outputs, from the first on; to be read once.
        lacking: the outputs that onnxruntime cannot compute.
        seen: the model with its outputs for the first samples; None if there are none.
    """

    record: TaskRecord
    batches: Iterator[tuple[Batch, dict[str, Array]]]
    lacking: list[str]
    seen: SeenModel | None = None


def look(inputs: Inputs) -> ObservedTask:
    """Run the float model on the first samples and determine its task; done once per ``inputs``.

    Raises:
        RecipeError: no output can be interpreted for the recipe's task, or not with the classes that the recipe names.
        QtoolError: the samples or the model cannot be used.
    """
    if inputs.looked is None:
        inputs.looked = _look(inputs)
    found: ObservedTask = inputs.looked
    return found


@dataclass
class FirstSeen:
    """The samples and outputs that the task is inferred from.

    Attributes:
        model: the model with its outputs for the first samples.
        first: these samples.
        batches: the evaluation samples with the float model's outputs, from the first on; to be read once.
        data: the samples.
        outputs: the outputs that onnxruntime computes.
    """

    model: SeenModel
    first: list[Batch]
    batches: Iterator[tuple[Batch, dict[str, Array]]]
    data: CalibrationData
    outputs: tuple[str, ...]


def _outputs(loaded: Session, data: CalibrationData) -> Iterator[tuple[Batch, dict[str, Array]]]:
    """Each sample with its outputs from a session."""
    from toolkit.data.faults import run_of

    batches, feeds = tee(data.batches(1))
    outputs = loaded.run_each(batch.inputs for batch in feeds)
    for batch in batches:
        with run_of(batch.origins):
            found = next(outputs)
        yield batch, found


def first_seen(inputs: Inputs) -> FirstSeen | None:
    """The reference model, run on the first evaluation samples; None without samples.

    Raises:
        QtoolError: the samples or the model cannot be used.
    """
    from toolkit.evaluation.comparison.outputs import widened
    from toolkit.evaluation.labels.label_fit import classes_read
    from toolkit.evaluation.metric import label_of
    from toolkit.evaluation.observation.observe import observe
    from toolkit.graph.sessions.session import own_session

    source = inputs.reference()
    data, _ = inputs.evaluation_data(source)
    if data is None:
        return None
    loaded = own_session(source)
    given = ((batch, {n: widened(v).copy() for n, v in found.items()}) for batch, found in _outputs(loaded, data))
    seen, size = [], 0
    for batch, found in islice(given, SEEN):
        seen.append((batch, found))
        size += sum(value.nbytes for value in found.values())
        if size > _SEEN_BYTES:
            break
    if not seen:
        return None
    watched = observe(source, [(batch.inputs, found, batch.count) for batch, found in seen])
    watched.read = classes_read(label for batch, _ in seen if batch.labels for label in label_of(batch.labels))
    return FirstSeen(watched, [batch for batch, _ in seen], chain(seen, given), data, loaded.outputs)


def _look(inputs: Inputs) -> ObservedTask:
    from toolkit.evaluation.guessing.judged import judged_by
    from toolkit.evaluation.guessing.parts import bins_among, masked_positions, one_sided_among
    from toolkit.evaluation.node_errors.layer_positions import LayerPositions

    job, section = inputs.job, inputs.job.recipe.evaluation
    found = first_seen(inputs)
    if found is None:
        return ObservedTask(TaskRecord(), iter(()), [])
    watched = found.model
    try:
        judged, why = judged_by(
            watched, section.task, section.metric, section.output, section.budget.floors,
            {"blank": section.blank, "threshold": section.threshold}, {"space": section.space},
            strict=not job.recipe.is_resolved,
        )  # fmt: skip
    except RecipeError as error:
        error.at(job.recipe.locate("evaluation", *(error.value or "task").split(".")))
        raise
    notes = [note for one in watched.outputs if (note := one.contradiction) is not None]
    notes += one_sided_among(judged.parts, watched)
    notes += bins_among(judged.parts, watched) if section.metric is None else []
    notes += rows_together(found.data, [batch.inputs for batch in found.first])
    drawing, unlike = random_nodes(inputs.source())
    untold = LayerPositions.untold(judged.parts, inputs.reference())
    uncounted = [*masked_positions(judged.parts, watched), *([untold] if untold is not None else [])]
    record = TaskRecord(
        task=judged.task, sure=judged.sure, why=why, uncounted=uncounted,
        parts=[part.to_json() for part in judged.parts], notes=notes,
        quantized_source=quantized_source(inputs.reference(), stripping=False) is not None, drawing=drawing,
        unlike=unlike, at_once=watched.at_once,
    )  # fmt: skip
    lacking = [t.name for t in inputs.reference().graph.outputs if t.name not in found.outputs]
    return ObservedTask(record, found.batches, lacking, watched)


def task_of(inputs: Inputs) -> TaskRecord:
    """Determine the model's task, and compare the float model with the labels of the first samples.

    Raises:
        RecipeError: no output can be interpreted for the recipe's task, or the labels belong to another output than the
            one that is read by default.
        DataError: the metric cannot judge the samples, for instance because none has a label.
        QtoolError: the samples or the model cannot be used.
    """
    from toolkit.data.faults import at_fault
    from toolkit.evaluation.comparison.outputs import metric_computable
    from toolkit.evaluation.labels.float_check import FloatCheck
    from toolkit.run.recipe.idle_limits import idle_limits
    from toolkit.run.task.output_choice import OutputChoice

    section, looked = inputs.job.recipe.evaluation, look(inputs)
    record = looked.record.model_copy()
    options = metric_options(section, record)
    record.reads = options.output
    check = FloatCheck.of(section.metric, section.output, options, settled=section.threshold is not None)
    if check is not None and record.task and metric_computable(section.output, looked.lacking):
        named = section.output is not None or inputs.job.recipe.is_resolved
        choice = None if named else OutputChoice.of(check, looked.seen, options.output)
        for number, (batch, outputs) in enumerate(looked.batches, 1):
            with at_fault(batch):
                check.add(outputs, batch.labels or {})
            if choice is not None:
                choice.add(outputs, batch.labels or {})
            # beyond that number only until the first usable label
            if number >= _CHECKED and check.silence() is None:
                break
        if (lacking := check.silence()) is not None:
            raise DataError(
                f"the metric {section.metric} cannot judge the {check.samples} evaluation samples: {lacking}",
                remedy="give samples with labels that it can use, or leave the metric out",
            )
        record.float_value, record.suspicion = check.value(), check.suspicion()
        record.notes = [*record.notes, *([little] if (little := check.says_little()) is not None else [])]
        if choice is not None:
            try:
                record.notes = [*record.notes, *choice.said()]
            except RecipeError as error:
                error.at(inputs.job.recipe.locate("evaluation", "metric"))
                raise
    if section.metric is None:
        record.notes = [*record.notes, *_unused_labels(inputs, looked)]
    record.notes = [*record.notes, *idle_limits(inputs.job.recipe, record.float_value, inputs.job.allow_code)]
    # free the first outputs and the session, whose memory the next steps need
    looked.batches, looked.seen = iter(()), None
    record.notes = [*record.notes, *samples_unlike(inputs), *not_as_locked(inputs)]
    return record


def rows_together(data: CalibrationData, samples: Sequence[Mapping[str, Array]]) -> list[Finding]:
    """Findings that a sample is a whole batch, as loaders yield them, or that its rows are counted as samples.

    Dimensions without a batch name are not considered.

    Args:
        samples: some of its samples, inputs by name.
    """
    named = {name: (axis, dims[axis]) for name, axis in data.axes.items() if (dims := data.specs[name].dims)}
    if apart := data.rows_as_samples():
        return [apart]
    for sample in samples:
        for name, (axis, dimension) in named.items():
            if (rows := sample[name].shape[axis]) > 1 and is_batch_name(dimension):
                return [EvaluationCode.SAMPLES_OF_ROWS(input=name, rows=rows, dimension=dimension)]
    return []


def samples_unlike(inputs: Inputs) -> list[Finding]:
    """Findings that calibration and evaluation samples, if both are given, were preprocessed differently."""
    from toolkit.data.unlike import prepared_unlike
    from toolkit.graph.interface.used_inputs import used_inputs

    recipe, model = inputs.job.recipe, inputs.source()
    if None in (recipe.calibration.data, recipe.evaluation.data):
        return []
    calibration, (evaluation, _) = inputs.calibration_data(model), inputs.evaluation_data(model)
    if calibration is None or evaluation is None:
        return []
    return prepared_unlike(calibration, evaluation, used_inputs(model))


def _unused_labels(inputs: Inputs, looked: ObservedTask) -> list[Finding]:
    """Findings about labels that all or some of the recipe's samples have, and that no metric reads."""
    from toolkit.evaluation.metric import label_of
    from toolkit.run.task.labels import all_finite, unused
    from toolkit.simulation.samples import with_labels

    data, _ = inputs.evaluation_data(inputs.reference())
    labelled = with_labels(data) if data is not None else None
    if labelled is None or looked.seen is None:
        return [some] if (some := _labels_of_some(inputs, data)) is not None else []
    beside = zip(islice(looked.batches, _CHECKED), labelled.batches(1))
    answers = ((outputs, batch.labels or {}) for (_, outputs), batch in beside)
    samples: list[Sample] = []
    # a non-finite label may come late, and one is enough
    try:
        for number, sample in enumerate(islice(labelled.samples(), _LABELS)):
            finite = all_finite(label_of(sample.labels))
            if number < _CHECKED or not finite:
                samples.append(replace(sample, inputs={}))
            if number >= _CHECKED and not finite:
                break
    except DataError:
        if (some := _labels_of_some(inputs, data)) is None:
            raise
        return [some]
    labels = looked.seen.labels_of([label_of(sample.labels) for sample in samples])
    return [unused(labels, samples, looked.seen, answers)]


def _labels_of_some(inputs: Inputs, data: CalibrationData | None) -> Finding | None:
    """``CalibrationData.labels_of_some``; None for images, which have no labels and take long to read."""
    from toolkit.data.images import holds_images

    recipe = inputs.job.recipe
    source = recipe.evaluation.data or recipe.calibration.data
    if data is None or (source is not None and holds_images(recipe.resolve(source))):
        return None
    return data.labels_of_some(_LABELS)


def metric_options(section: EvaluationSection, record: TaskRecord) -> MetricOptions:
    """The options of the recipe's metric: from the recipe, else from the interpretation of the outputs."""
    from toolkit.evaluation.metrics.options import options_for
    from toolkit.evaluation.tasks import OutputPart

    parts = [OutputPart.from_json(part) for part in record.parts]
    return options_for(section.metric, section.output, parts, section.blank, section.space, section.threshold)
