"""A recipe up to its quantizing pass, with the simulation for sensitivity and bisection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import DataError, QtoolError, RecipeError, did_you_mean
from toolkit.base.precision import FLOATS, Precision
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.placement.ops import TARGETS
from toolkit.report.findings import sentence
from toolkit.run.checks.device import refusal
from toolkit.run.checks.preflight import names_exist, opened
from toolkit.run.inputs.batches import batches_run
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.passes import passes_of
from toolkit.run.steps.context import context_for
from toolkit.run.task.samples import float_outputs
from toolkit.run.task.task import TaskRecord, metric_options, task_of
from toolkit.search.budget.budget import OWN_LIMITS, counted_answers
from toolkit.search.quantizer.quantizer import Quantizer

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.graph.model import Model
    from toolkit.placement.pairs import Placement
    from toolkit.simulation.simulation import Settings, Simulation


DATA = ("calibration", "evaluation")


@dataclass(frozen=True)
class Samples:
    """The samples that the simulation is measured on.

    Attributes:
        data: ``calibration`` or ``evaluation``.
        most: use at most this many; all if None.
        batch: samples per inference.
    """

    data: str = "calibration"
    most: int | None = None
    batch: int = 64

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise QtoolError(f"--data is '{self.data}'", remedy=did_you_mean(self.data, DATA))


@dataclass
class QuantizingRecipe:
    """A recipe with the passes before its quantizing pass applied.

    Attributes:
        inputs: the recipe's model and samples.
        model: the graph before the quantizing pass.
        context: the passes' context, with ranges and plan.
        step: the quantizing pass.
        later: the passes after it.
        simulation: simulates any subset of the layers that the recipe quantizes.
        notes: findings about these layers for the reader.
    """

    inputs: Inputs
    model: Model
    context: Context
    step: Quantizer
    later: list[Pass]
    simulation: Simulation
    notes: list[Finding]

    @property
    def job(self) -> Job:
        """The recipe's job."""
        return self.inputs.job

    @property
    def hidden(self) -> Path:
        """The folder of resumable files."""
        return self.job.folder.hidden

    def candidate(self, kept: frozenset[str], precision: Precision) -> tuple[Model, Context]:
        """The model quantized except for the layers ``kept``, which run in ``precision``, and its context.

        The passes after the quantizing one are applied too, since they decide the types of other layers. The attributes
        are not changed.
        """
        model, context = self.model.copy(), context_for(self.inputs, self.model, self.context.journal)
        context.known_ranges = self.context.known_ranges
        context.plan = self.context.plan.copy()
        for name in sorted(kept):
            context.plan.ask(name, precision, Code.TRIAL())
        # Q/DQ pairs that do not pay stay in: the question is which ones harm
        context.bench = None
        for one in (self.step.plain(), *self.later):
            one(model, context)
        return model, context


@contextmanager
def quantizing(job: Job, samples: Samples, on_engine: bool = False) -> Iterator[QuantizingRecipe]:
    """Apply a recipe's passes before the quantizing one and create the simulation.

    Raises:
        QtoolError: ``on_engine`` is set and no engine can be built and run here; raised before anything is computed.
        RecipeError: the recipe quantizes nothing, or no layer of the model can be quantized.
        DataError: there are no samples.
    """
    from toolkit.graph.sessions.session import session
    from toolkit.simulation.samples import with_labels
    from toolkit.simulation.simulation import Simulation

    if on_engine:
        _raise_without_gpu(job)
    inputs = Inputs(job)
    where = str(job.recipe.path or "the recipe")
    with opened(job):
        names_exist(job)
        journal = Journal()
        model = inputs.source(journal).copy()
        loaded = session(model)
        probed = inputs.calibration_data(model) or inputs.evaluation_data(model)[0]
        if probed is not None:
            batches_run(inputs, probed, loaded)
        task = task_of(inputs)
        context = context_for(inputs, model, journal, task=task)
        step, later = _up_to_the_quantizer(passes_of(job.recipe, job.allow_code), model, context, where)
        placement = step.placement(model, context)
        if not placement.groups:
            raise nothing_to_quantize(placement, where)
        step.prepare(model, context)
        ranges = context.ranges(model, step.wanted(model, context), step.precision)
        notes = _left_float(step, later, model, context)
        judge = step.judge(model, context)
        data = inputs.evaluation_data(model)[0] if samples.data == "evaluation" else inputs.calibration_data(model)
        if data is None:
            raise DataError("there are no samples", where=where, remedy="give [calibration] data")
        for batch in islice(data.batches(1), 1):
            float_outputs(inputs, batch, loaded)
        labelled = with_labels(data) if job.recipe.evaluation.metric is not None else None
        simulation = Simulation(
            model, ranges, labelled or data, context.profiles, judge,
            _settings(job, step, samples, task, labelled is not None), placer=step.place,
            rounder=step.rounder(model, context),
        )  # fmt: skip
        yield QuantizingRecipe(inputs, model, context, step, later, simulation, notes)


def _up_to_the_quantizer(
    steps: Sequence[Pass], model: Model, context: Context, where: str
) -> tuple[Quantizer, list[Pass]]:
    """Apply the passes before the first quantizing pass; returns that pass and those after it.

    Raises:
        RecipeError: no pass quantizes.
    """
    for number, one in enumerate(steps):
        if isinstance(one, Quantizer):
            return one, list(steps[number + 1 :])
        one(model, context)
    raise RecipeError("the recipe quantizes nothing", where=where, remedy="add a pass that quantizes")


def _settings(job: Job, step: Quantizer, samples: Samples, task: TaskRecord, labelled: bool) -> Settings:
    """Settings of the simulation; answers are judged by the recipe's metric if samples are labelled, else by task."""
    from toolkit.simulation.simulation import Settings

    evaluation, answers = job.recipe.evaluation, task.answers
    if not labelled:
        own = {name: getattr(step, name, None) for name in OWN_LIMITS}
        answers = counted_answers(answers, evaluation.metric, own, evaluation.budget)
    return Settings(
        step.precision, step.weights, evaluation.metric if labelled else None, evaluation.output, samples.batch,
        samples.most, allow_code=job.allow_code, answers=answers, options=metric_options(evaluation, task),
    )  # fmt: skip


def nothing_to_quantize(placement: Placement, where: str) -> RecipeError:
    """The error for a model without quantizable layers, with the most frequent reason."""
    refused = [refusal for refusal in placement.refusals if refusal.op in TARGETS]
    if not refused:
        what = f"the model has no {', '.join(TARGETS[:-1])} or {TARGETS[-1]} to quantize"
        return RecipeError(what, where=where, remedy="quantize another model, or run this one in float16")
    rule, number = Counter(refusal.why.code for refusal in refused).most_common(1)[0]
    first = next(refusal for refusal in refused if refusal.why.code is rule)
    listed = "the only layer" if len(refused) == 1 else f"{number} of the {len(refused)} layers"
    return RecipeError(
        f"no layer can be quantized: {listed} by rule '{rule}' ('{first.node}': {sentence(first.why)})",
        where=where,
        remedy="for every layer with its rule, see qtool check",
    )


def _raise_without_gpu(job: Job) -> None:
    found = refusal(job.recipe)
    if found is not None:
        remedy = f"{found.remedy}, or leave out --on engine to bisect on the simulation"
        raise type(found)(found.what, where=found.where or "--on engine", remedy=remedy)


def _left_float(step: Quantizer, later: list[Pass], model: Model, context: Context) -> list[Finding]:
    """Request float for the layers whose Q/DQ pairs later passes remove; returns a note on them."""
    if not later:
        return []
    trial, apart = model.copy(), context.fork()
    apart.dry_run = True
    step.plain()(trial, apart)
    quantized = {name for name, ask in apart.plan.items() if ask.precision.quantized}
    try:
        for one in later:
            one(trial, apart)
    except QtoolError as error:
        return [Code.LATER_FLOATS_UNKNOWN(quantizer=step.title(), error=str(error))]
    left = {}
    for node, _ in trial.walk():
        reads_pairs = any(maker.op == "DequantizeLinear" for tensor in node.inputs for maker in tensor.inputs)
        if node.name in quantized and not reads_pairs:
            ask = apart.plan.get(node.name)
            left[node.name] = ask.precision if ask is not None and ask.precision in FLOATS else context.rest
    for name, precision in left.items():
        context.plan.ask(name, precision, Code.KEPT_LATER())
    return [Code.LATER_FLOATS(layers=len(left), quantizer=step.title())] if left else []
