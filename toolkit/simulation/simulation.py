"""A model's simulation with a switch for every quantizable layer: used by sensitivity, search and bisection."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolkit.base.code import code_of
from toolkit.base.collection import grown_memory
from toolkit.base.errors import DataError, PassError
from toolkit.base.files import sha256_json
from toolkit.base.places import Workers, elsewhere
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles, fixed_profile
from toolkit.base.versions import code_fingerprint
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.outputs import class_like, discrete_outputs
from toolkit.evaluation.metrics.by_name import MetricOptions
from toolkit.evaluation.metrics.table import together
from toolkit.graph.large_models.memory import memory_limited
from toolkit.graph.layers.work import facts_at_opt, work_of
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import measured_outputs, squashed_by
from toolkit.graph.surgery.tensors import SHORT_FLOATS
from toolkit.placement.place import Judge, PlacementRule, place
from toolkit.placement.qdq import pairs_opset
from toolkit.simulation.compared import KnownOutputs
from toolkit.simulation.cut import Cutter
from toolkit.simulation.job import SimulationJob
from toolkit.simulation.loaded import cost_of
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.runner import MEMORY, Runner
from toolkit.simulation.switches import Config, Switches, wanted_tensors

if TYPE_CHECKING:
    from toolkit.contract.ranges import Ranges
    from toolkit.data.dataset import Batch, CalibrationData


@dataclass(frozen=True)
class Settings:
    """How a simulation is made.

    Attributes:
        precision: INT8 or FP8.
        weights: how the range of a weight channel is chosen: minmax, mse or output.
        metric: one that ``METRICS`` lists, or ``module:Name``; None for the outputs' differences alone.
        output: the output that the metric looks at; the first where None.
        batch: samples to run at once.
        samples: use at most this many samples, evenly spread.
        stages: stages that the graph is cut into.
        threads: batches computed at once; one a core where None.
        memory: bytes for what is kept of states and for the weights of sessions.
        allow_code: whether ``metric`` may name code.
        answers: reads outputs as the task says; None without a task.
        options: what the metric must know besides the output.
        against_float: whether the metric takes the float model's outputs as labels, which the samples lack.
    """

    precision: Precision = Precision.INT8
    weights: str = "minmax"
    metric: str | None = None
    output: str | None = None
    batch: int = 64
    samples: int | None = None
    stages: int = 12
    threads: int | None = None
    memory: int = MEMORY
    allow_code: bool = False
    answers: Answers | None = None
    options: MetricOptions = field(default_factory=MetricOptions)
    against_float: bool = False


class Simulation:
    """The model with every quantizable layer under a switch, and the samples it is run on.

    Example:
        >>> simulation = Simulation(model, ranges, data)                      # doctest: +SKIP
        >>> simulation.alone("/head/Gemm").sqnr_db                            # doctest: +SKIP

    Args:
        model: the float model; not changed. Its opset is raised where pairs need it.
        ranges: of the activation tensors that placement wants; readers of a tensor without one stay float.
        data: the samples to run.
        profiles: the recipe's profiles.
        judge: decides what stays float in any case.
        settings: everything else.
        reference: the float model that outputs are compared with, where ``model`` is quantized in part; itself where
            None.
        placer: decides where pairs go.
        rounder: how weights are rounded; from the settings where None.

    Raises:
        PassError: there is no quantizable layer.
        DataError: there are no samples, or no labels for the metric.
    """

    def __init__(
        self,
        model: Model,
        ranges: Ranges,
        data: CalibrationData,
        profiles: Profiles | None = None,
        judge: Judge | None = None,
        settings: Settings | None = None,
        reference: Model | None = None,
        placer: PlacementRule = place,
        rounder: Rounder | None = None,
    ) -> None:
        # of simulations made before, only what is still in use is to stay
        grown_memory.give_back()
        self.settings = settings or Settings()
        self._reference = reference
        profiles = profiles if profiles is not None else Profiles()
        self.model = with_pairs_opset(model, self.settings.precision)
        # what is found out about the graph is asked for several times
        with self.model.settled():
            facts = self.model.facts(profiles)
            wanted = wanted_tensors(self.model, facts, judge, placer)
            self.ranges = ranges
            known = {name: ranges.amax(name) for name in wanted if ranges.fits(name, self.settings.precision)}
            self.switches = Switches(
                self.model, facts, known, self.settings.precision, judge, placer
            )  # fmt: skip
            if not self.switches.groups:
                raise PassError(
                    "the model has no layer that could be quantized",
                    remedy="the journal says what was declined and why",
                )
            self.feeds = feeds_of(data, self.settings)
            # without profiles the sizes of dynamic dimensions are known from the samples alone
            self.facts = facts_at_opt(self.model, profiles if len(profiles) else _profile_of(self.feeds[0]))
            # shares are counted at the same shapes as in the report
            self.work = work_of(self.model, self.facts if len(profiles) else facts)
            self.rounder = rounder or Rounder(self.settings.weights, self.settings.precision)
            self.cutter = Cutter(self.switches, self.facts, self.settings.stages, self.rounder)
            self.outputs = measured_outputs(self.model)
            self.classes = [t.name for t in self.model.graph.outputs if class_like(t.shape) and t.name in self.outputs]
            self.discrete = [name for name in discrete_outputs(self.model) if name in self.outputs]
        self._data_print = ""
        self.data = data
        self._runner: Runner | None = None
        self._known: KnownOutputs | None = None

    @property
    def names(self) -> list[str]:
        """Names of the groups, in the graph's order."""
        return self.switches.names

    @property
    def runner(self) -> Runner:
        """Sessions and batches; the float model and the fully quantized one are run when first asked."""
        if self._runner is None:
            self._runner = self.job().runner()
        return self._runner

    @property
    def ran(self) -> bool:
        """Whether it is known what the float model gives for the samples."""
        return self._runner is not None or self._known is not None

    @property
    def macs(self) -> float:
        """What a float inference of the samples costs by the graph's arithmetic, in multiply-accumulates."""
        elements = sum(value.size for feed in self.feeds for value in feed.inputs.values())
        return cost_of(self.cutter, range(len(self.cutter.stages)), Config(), elements, len(self.feeds))

    @contextmanager
    def shared_out(self, states: int | None = None) -> Iterator[Workers[Any, Any] | None]:
        """In the block, states are run where the user wants work to run: who runs them, None where that is here.

        Args:
            states: how many there are, where that is known: for a single one no sessions are opened.
        """
        place, runner = elsewhere(), self.runner
        if place is None or runner.workers is not None or states in (0, 1):
            yield runner.workers
            return
        with place.workers(self.job()) as workers:
            runner.workers = workers
            try:
                yield workers
            finally:
                runner.workers = None

    def rest(self) -> None:
        """Free the memory of sessions while another form of the model is looked at; of kept states too, where the
        weights are too many to be held for both.

        Later runs load them again.
        """
        if self.cutter.shares:
            self.forget()
        elif self._runner is not None:
            self._runner.unload()

    def forget(self) -> None:
        """Free the memory of sessions and kept states: hardly anything more is to be run."""
        if self._runner is not None:
            self._runner.forget()
            if self.cutter.shares:
                # nodes and tensors of a graph refer to each other: what is dropped stays until garbage is collected
                gc.collect()

    def job(self) -> SimulationJob:
        """All that a process needs to run states of this simulation."""
        own = self.settings
        metric = (own.metric, own.output, own.allow_code, own.options) if own.metric is not None else None
        reference = self._reference.to_light() if self._reference is not None else None
        limit = memory_limited()
        return SimulationJob(
            cutter=self.cutter,
            base=self.config(()),
            feeds=self.feeds,
            outputs=self.outputs,
            classes=self.classes,
            metric=metric,
            threads=own.threads,
            memory=own.memory if limit is None else min(own.memory, limit // 2),
            reference=reference,
            answers=own.answers,
            limit=limit,
            against_float=own.against_float,
            known=self._known,
            order=self._runner.order if self._runner is not None else None,
        )

    def on(self, settings: Settings) -> Simulation:
        """The same simulation with other samples, batches or metric; ``settings`` must quantize alike."""
        twin = copy.copy(self)
        twin.settings, twin._runner, twin._known, twin._data_print = settings, None, None, ""
        twin.feeds = feeds_of(self.data, settings)
        return twin

    def compared_like(self, other: Simulation, begins: bool = False) -> None:
        """Compare states with what the float model gives in another form, on the same samples: it is not run again.

        Args:
            other: the simulation of that form.
            begins: whether states are to begin where they are still the float model, which is run that far when one
                does; else each is run from the first stage on.
        """
        self._known = other.runner.known(begins)

    def rebased(self, amax: Mapping[str, float]) -> Simulation:
        """The same simulation with other initial ranges of some tensors."""
        twin = copy.copy(self)
        twin.switches = self.switches.with_amax(amax)
        twin.cutter = Cutter(twin.switches, self.facts, self.settings.stages, self.rounder)
        if self._runner is not None:
            # the float model's outputs stay
            twin._runner = self._runner.rebased(twin.cutter, twin.config(()))
        return twin

    def rounded_by(self, rounder: Rounder) -> Simulation:
        """The same simulation with weights rounded in another way; the float model's outputs stay."""
        if rounder == self.rounder:
            return self
        twin = copy.copy(self)
        twin.rounder = rounder
        twin.cutter = Cutter(twin.switches, self.facts, self.settings.stages, rounder)
        if self._runner is not None:
            twin._runner = self._runner.rebased(twin.cutter, twin.config(()))
            self._runner.forget(float_too=False)
        return twin

    def quantized_share(self) -> float:
        """Share of the model's arithmetic that is quantized where no group is kept float, 0 to 1; see ``Work``."""
        return self.work.share(self.switches.placement(()).layers)

    def config(self, kept: Iterable[str], amax: Mapping[str, float] | None = None) -> Config:
        """The state in which the groups ``kept`` are float and all others quantized."""
        return self.switches.config(kept, amax)

    def without(self, kept: Iterable[str], amax: Mapping[str, float] | None = None) -> Outcome:
        """The model with all groups but ``kept`` quantized. ``amax`` replaces the ranges of single tensors."""
        return self.runner.run(self.config(kept, amax))

    def alone(self, group: str, amax: Mapping[str, float] | None = None) -> Outcome:
        """The model with one group quantized."""
        return self.runner.run(self.switches.alone(group, amax))

    def squashed_by(self, output: str) -> str:
        """See ``squashed_by``."""
        return squashed_by(self.model, output)

    def outcome_of(self, lowered: Model) -> Outcome:
        """What a lowered form of the model, with its roundings to float16, does to the outputs on the same samples.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        from toolkit.evaluation.arithmetic.rounding import with_rounding
        from toolkit.evaluation.comparison.counterparts import counterparts, run_on
        from toolkit.graph.sessions.session import session

        named = counterparts(self.model, lowered, self.outputs)
        loaded = session(with_rounding(lowered), list(named.values()), threads=1, often=True)
        return self.runner.outcome_of(lambda inputs: run_on(loaded, inputs, named))

    def fingerprint(self) -> str:
        """What the numbers depend on: model, ranges, rounded weights, samples, settings, and the code of all."""
        if not self._data_print:
            self._data_print = sha256_json([self.data.fingerprint(), [f.count for f in self.feeds]])
        own = {k: str(v) for k, v in vars(self.settings).items() if k not in ("threads", "memory", "allow_code")}
        amax = sorted(self.switches.amax.items())
        base = [one.fingerprint() for one in (self.model, self._reference) if one is not None]
        biases = [[*place, bias.SerializeToString().hex()] for place, bias in sorted(self.cutter.graph.biases.items())]
        learnt = [self.rounder.fingerprint(), biases]
        content = [base, amax, self._data_print, own, self.names, repr(self.switches.full), learnt, code_fingerprint()]
        return sha256_json([*content, code_of(self.settings.metric or "")])


def with_pairs_opset(model: Model, precision: Precision) -> Model:
    """A copy at an opset that holds Q/DQ pairs; see ``pairs_opset``.

    Raises:
        ModelError: an operator has no conversion.
    """
    raised = model.copy()
    facts = raised.facts()
    half = any(facts.types.get(t.name) in SHORT_FLOATS for node in raised.nodes for t in node.outputs)
    raised.raise_opset(pairs_opset(precision, half))
    return raised


def feeds_of(data: CalibrationData, settings: Settings) -> list[Batch]:
    """The samples as batches of equal shapes, at most ``settings.samples`` of them, evenly spread.

    Raises:
        DataError: there are no samples.
    """
    data = chosen(data, settings)
    batch = settings.batch if settings.answers is None else settings.answers.batch(settings.batch)
    feeds = list(data.batches(batch))
    if not feeds:
        raise DataError("there is no sample to run", where=data.name, remedy="give at least one sample")
    return feeds


def chosen(data: CalibrationData, settings: Settings) -> CalibrationData:
    """The samples that are used: at most ``settings.samples``, evenly spread."""
    if settings.samples is None or settings.samples >= len(data):
        return data
    return data.split(1 - settings.samples / len(data), together=together(settings.metric))[0]


def _profile_of(feed: Batch) -> Profiles:
    return fixed_profile({name: value.shape for name, value in feed.inputs.items()})
