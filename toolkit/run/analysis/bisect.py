"""Bisection of a recipe's layers, judged by limits in simulation or on engines, or by a user's command."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from toolkit.backends.lowering.prepare import save_for
from toolkit.backends.lowering.strong import lower
from toolkit.backends.trials.bench import EngineBench
from toolkit.base.errors import ModelError, QtoolError, did_you_mean
from toolkit.base.files import sha256_json
from toolkit.base.needs import Needs
from toolkit.base.precision import Precision
from toolkit.base.reads import needs_now
from toolkit.base.schema import wanted_words
from toolkit.base.settings import without_effect
from toolkit.contract.findings import Code, Finding
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.report.fragments import keep_fragment
from toolkit.run.analysis.bisect_engine import EngineCheck
from toolkit.run.analysis.command_needs import command_needs
from toolkit.run.analysis.command_words import command_words, refuse_unknown_names
from toolkit.run.analysis.quantizing import QuantizingRecipe, Samples, quantizing
from toolkit.run.job import Job
from toolkit.run.keys.pass_code import pass_code
from toolkit.run.recipe.sections import SHARES, BudgetSection
from toolkit.run.steps.analyses import join_analysis

if TYPE_CHECKING:
    from toolkit.evaluation.budget import Budget
    from toolkit.evaluation.comparison.outcome import Outcome
    from toolkit.search.sensitivity.bisect import Bisection, Check

PLACES, KEPT = ("simulation", "engine"), ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class BisectLimits:
    """The limits that an answer must keep; the recipe's budget applies if none is given."""

    max_drop: float | None = None
    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    min_value: float | None = None
    max_relative_drop: float | None = None
    min_unchanged: float | None = None

    @property
    def given(self) -> bool:
        """Whether any limit is given."""
        return any(limit is not None for limit in vars(self).values())


@dataclass(frozen=True)
class Question:
    """The question that ``qtool bisect`` answers: which limits or command to check, and where.

    Attributes:
        limits: an answer passes if it keeps these limits.
        command: an answer passes if this command exits with 0; ``{model}`` in it stands for the path of the ONNX file,
            which is otherwise appended.
        reads: files and folders that the command reads. If empty, the inputs of the command are unknown and its
            verdicts are not reused.
        on: where answers are checked: ``simulation`` or ``engine``.
        precision: type of the kept layers: fp16, bf16 or fp32; the recipe's ``rest`` if None.
        repeats: how often the two ends (all layers kept, none kept) are checked, to detect flaky checks.
    """

    limits: BisectLimits = BisectLimits()
    command: str | None = None
    reads: tuple[Path, ...] = ()
    on: str = "simulation"
    precision: str | None = None
    repeats: int = 2

    def words(self) -> str:
        """A short description: the command, the given limits, or "the recipe's budget"."""
        if self.command is not None:
            return self.command
        given = {name: value for name, value in vars(self.limits).items() if value is not None}
        return ", ".join(f"{name} = {value:g}" for name, value in given.items()) or "the recipe's budget"

    def check(self, allow_code: bool) -> None:
        """Refuse an invalid question before anything is computed.

        Raises:
            QtoolError: an unknown value, an invalid limit, a command that is not allowed or cannot be parsed, or a
                command together with ``--on engine`` or limits.
        """
        self._check_limits()
        if self.command is not None:
            self._check_command(self.command, allow_code)
        elif self.reads:
            raise QtoolError("--reads lists inputs of --command, but there is no --command", remedy="leave out --reads")
        if self.on not in PLACES:
            raise QtoolError(f"--on is '{self.on}'", remedy=did_you_mean(self.on, PLACES))
        if self.precision is not None and self.precision not in KEPT:
            raise QtoolError(f"--precision is '{self.precision}'", remedy=did_you_mean(self.precision, KEPT))
        if self.command is not None and self.on == "engine":
            raise QtoolError("--command judges the ONNX model, and --on engine builds engines", remedy="leave out one")

    def _check_limits(self) -> None:
        for name, value in vars(self.limits).items():
            try:
                BudgetSection.model_validate({name: value})
            except ValidationError as error:
                raise QtoolError(
                    f"--{name.replace('_', '-')} is {value}: {wanted_words(error.errors()[0])}",
                    remedy=f"meaning: {BudgetSection.model_fields[name].description}",
                ) from error

    def _check_command(self, command: str, allow_code: bool) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise QtoolError(
                f"--command cannot be read: {error}", where=command, remedy="close its quotation marks"
            ) from error
        if not words:
            raise QtoolError("--command is empty", remedy="give the command that judges a model")
        refuse_unknown_names(command)
        for name, value in vars(self.limits).items():
            if value is not None:
                option = f"--{name.replace('_', '-')}"
                what, remedy = without_effect(f"{option} {value:g}", "--command decides which answer passes", option)
                raise QtoolError(what, remedy=f"{remedy} or --command")
        for path in self.reads:
            if not path.exists():
                raise QtoolError("--reads names a path that does not exist", where=str(path), remedy="check the path")
        if not allow_code:
            raise QtoolError("--command runs a command of yours", remedy="add --allow-code")


@dataclass(frozen=True)
class Bisected:
    """The result of a bisection, with the types it was checked in.

    Attributes:
        found: the layers to keep, and how they were found.
        layers: how many layers there were to choose from.
        precision: type of the kept layers.
        rest: the value that ``[engine] rest`` must have instead of the recipe's; None if the recipe's suffices.
        page: the run's report page that shows the result.
        samples: how many samples the check used; 0 for a command, which uses its own.
        data: which samples these are: calibration or evaluation.
    """

    found: Bisection
    layers: int
    precision: Precision
    rest: Precision | None = None
    page: Path | None = None
    samples: int = 0
    data: str = ""

    def fragment(self) -> str:
        """Lines to paste into the recipe before the quantizing pass; empty if no layer has to be kept."""
        kept = self.found.kept
        return keep_fragment(kept, str(self.precision), "found by qtool bisect") if kept else ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        return {
            **self.found.to_json(),
            "recipe": self.fragment(),
            "rest": str(self.rest) if self.rest is not None else None,
        }


def bisect_recipe(job: Job, samples: Samples, question: Question) -> Bisected:
    """Find a minimal set of layers to keep in float so that the check passes.

    Raises:
        QtoolError: the question or the recipe is invalid, or the check fails even with every layer in float.
    """
    from toolkit.report.sections.analysis import bisection_info
    from toolkit.search.sensitivity import bisect as bisecting
    from toolkit.search.sensitivity.measure import fast

    question.check(job.allow_code)
    with quantizing(job, samples, question.on == "engine") as ready:
        simulation, limits, rest = ready.simulation, question.limits, None
        precision = Precision(question.precision) if question.precision is not None else ready.context.rest
        if limits.max_drop is not None and limits.max_drop > 1 and job.recipe.evaluation.metric in SHARES:
            raise QtoolError(f"--max-drop is {limits.max_drop:g}", remedy="it is a share: 0.02 is 2 points")
        setup = _check_setup(question, samples.data, ready, precision)
        found = bisecting.bisect(
            simulation.names, setup.check, log=setup.log, repeats=question.repeats, progress=job.progress,
            fingerprint=setup.fingerprint, content=setup.content, needs=setup.needs,
            likely=[group.name for group in fast(simulation).ranked()],
        )  # fmt: skip
        found.notes += ready.notes
        if isinstance(setup.check, _SimulationCheck):
            found.notes += setup.check.doubts(frozenset(found.kept))
            precision, rest = setup.check.settle(found, precision)
        if isinstance(setup.check, EngineCheck):
            found.notes += setup.check.notes()
        judged = sum(feed.count for feed in simulation.feeds) if question.command is None else 0
        bisected = Bisected(found, len(simulation.names), precision, rest, samples=judged, data=samples.data)
        asked_for = question.words(), question.on
        info = bisection_info(found, bisected.layers, asked_for, precision, bisected.fragment())
        return replace(bisected, page=join_analysis(ready.inputs, info))


@dataclass(frozen=True)
class _CheckSetup:
    """The check of an answer, and the file that keeps its verdicts.

    Attributes:
        check: tells whether an answer passes.
        log: the file of verdicts, from which an interrupted bisection resumes.
        fingerprint: digest of everything that the verdicts depend on.
        content: gives the digest of a candidate's engine; None if no engines are built.
        needs: gives the files that a verdict depends on.
    """

    check: Check
    log: Path
    fingerprint: str
    content: Callable[[frozenset[str]], str] | None = None
    needs: Callable[[], Needs | None] = needs_now


def _check_setup(question: Question, data: str, ready: QuantizingRecipe, precision: Precision) -> _CheckSetup:
    """The check for a question: with a command, on engines, or in simulation.

    Raises:
        QtoolError: the limits cannot be judged on the samples.
    """
    log, simulated = ready.hidden / "bisect.jsonl", ready.simulation.fingerprint()
    passes = [pass_code(step) for step in (ready.step, *ready.later)]
    if question.command is not None:
        types = [str(ready.context.rest), str(precision)]
        return _CheckSetup(
            _CommandCheck(question.command, ready, precision),
            log,
            sha256_json([simulated, question.command, "", passes, types]),
            needs=partial(command_needs, question.command, question.reads),
        )
    budget = _budget(question.limits, data, ready) if question.limits.given else _recipes(ready, data)
    if question.on == "engine":
        check = EngineCheck(ready, budget, precision)
        # a separate file, since a bisection in simulation would discard these verdicts, which are expensive
        return _CheckSetup(check, ready.hidden / "bisect.engine.jsonl", check.fingerprint(), check.content)
    return _CheckSetup(_SimulationCheck(budget, ready), log, sha256_json([simulated, None, repr(budget), passes, []]))


def _recipes(ready: QuantizingRecipe, data: str) -> Budget:
    """The recipe's budget as its search judges it: the same limits and, if it has a search, the same margin.

    Raises:
        QtoolError: there is a limit on the metric, and neither labels to measure it nor a task to judge by.
    """
    from toolkit.search.budget.budget import OWN_LIMITS, Judged, budget_for

    section, simulation = ready.job.recipe.evaluation, ready.simulation
    budget = section.budget
    limits = BisectLimits(
        budget.max_drop, budget.min_sqnr_db, budget.min_agreement, budget.min_value, budget.max_relative_drop,
        budget.min_unchanged,
    )  # fmt: skip
    if simulation.settings.answers is None or (limits.min_value is not None and simulation.settings.metric is None):
        return _budget(limits, data, ready)
    own = {name: getattr(ready.step, name, None) for name in OWN_LIMITS}
    margin = float(getattr(ready.step, "margin", 0.0))
    decided = simulation.settings
    judged = Judged.of(
        simulation.model, decided.metric, decided.output, decided.allow_code, decided.answers, section.metric,
        decided.options.output,
    )  # fmt: skip
    return budget_for(judged, own, limits, ready.context.journal, margin=margin)


def _budget(limits: BisectLimits, data: str, ready: QuantizingRecipe) -> Budget:
    """The budget with the given limits.

    Raises:
        QtoolError: there is a limit on the metric and no labels to measure it.
    """
    from toolkit.evaluation.budget import Budget
    from toolkit.evaluation.metrics.by_name import make_metric
    from toolkit.evaluation.metrics.table import is_counted

    settings, better = ready.simulation.settings, True
    of_metric = ("max_drop", "min_value", "max_relative_drop")
    asked = next((name for name in of_metric if getattr(limits, name) is not None), None)
    named = ready.job.recipe.evaluation.metric
    if asked is not None and settings.metric is None and named is not None:
        raise QtoolError(
            f"{asked} is a limit of the metric {named}, and the {data} data has no labels to measure it with",
            remedy="use --data evaluation, or give --min-agreement or --min-sqnr-db",
        )
    if settings.metric is not None:
        better = make_metric(settings.metric, settings.output, settings.allow_code).higher_is_better
    return Budget(higher_is_better=better, counted=is_counted(settings.metric), **vars(limits))


@dataclass(frozen=True)
class _SimulationCheck:
    """Check whether the simulation with these layers in float keeps the limits."""

    budget: Budget
    ready: QuantizingRecipe

    def __call__(self, kept: frozenset[str]) -> bool:
        simulation = self.ready.simulation
        return not self.budget.lacks(simulation.without(kept), simulation.runner.float_outcome)

    def doubts(self, kept: frozenset[str]) -> list[Finding]:
        """Findings that make the answer doubtful: too few samples."""
        simulation = self.ready.simulation
        few = self.budget.unproven(simulation.without(kept), simulation.runner.float_outcome)
        return [Code.SEARCH_UNPROVEN(why=few)] if few is not None else []

    def settle(self, found: Bisection, asked: Precision) -> tuple[Precision, Precision | None]:
        """The types with which the answer passes: of the kept layers, and ``rest`` if it must differ from the recipe's.

        The simulation computes in float32. ``asked`` and the recipe's ``rest`` are used if the answer passes when it is
        computed in these types, with the margin that a search requires of its plans, or if onnxruntime cannot run the
        model in them. Otherwise float32 is used, for the kept layers first. The notes say why.
        """
        from toolkit.search.stages.real_types import lacks_in_types

        kept, rest, fp32 = frozenset(found.kept), self.ready.context.rest, Precision.FP32
        simulation = self.ready.simulation

        def lowered(kept: frozenset[str], precision: Precision) -> Outcome:
            model, context = self.ready.candidate(kept, precision)
            observed = context.known_ranges.observed if context.known_ranges is not None else None
            return simulation.outcome_of(lower(model, context.plan, rest=rest, observed=observed).model)

        for precision in dict.fromkeys((asked, fp32) if kept else (rest,)):
            if (precision, rest) == (fp32, fp32):
                break
            try:
                lacks, _ = lacks_in_types(
                    self.budget, lowered(kept, precision), simulation.runner.float_outcome,
                    partial(lowered, frozenset(simulation.names), precision),
                )  # fmt: skip
            except ModelError as error:
                found.notes.append(Code.SEARCH_TYPE_UNCHECKED(rest=rest, error=cause_of(error)))
                return precision, None
            if not lacks:
                return precision, None
            missed = {"limits": list(lacks), "by": list(lacks.values())}
            found.notes.append(Code.BISECT_IN_TYPES(precision=precision, rest=rest, **missed))
        return fp32, fp32 if rest is not fp32 else None


@dataclass(frozen=True)
class _CommandCheck:
    """Check whether a command exits with 0 on the model.onnx of a run with these layers in ``precision``."""

    command: str
    ready: QuantizingRecipe
    precision: Precision

    def __call__(self, kept: frozenset[str]) -> bool:
        model, context = self.ready.candidate(kept, self.precision)
        bench = self.ready.context.bench
        assert isinstance(bench, EngineBench)
        lowered, _ = bench.lowered(model, context.plan, context.known_ranges)
        path = save_for(bench.builder, bench.settings, lowered, self.ready.hidden / "bisect.onnx")
        words = command_words(self.command, path)
        try:
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except OSError as error:
            raise QtoolError(
                f"the command cannot be run: {error}", where=self.command, remedy="check its path"
            ) from error
