"""The simulation of a model with a switch for every quantizable layer, for sensitivity, search and bisection."""

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
    """The settings of a simulation.

    Attributes:
        precision: INT8 or FP8.
        weights: the method to choose the range of a weight channel: minmax, mse or output.
        metric: one that ``METRICS`` lists, or ``module:Name``; None to only compare outputs.
        output: the output for the metric; None for the first.
        batch: samples to run at once.
        samples: use at most this many samples, evenly spread.
        stages: number of stages to cut the graph into.
        threads: batches to compute in parallel; None for one per core.
        memory: bytes for kept states and for the weights of sessions.
        allow_code: whether ``metric`` may name code.
        answers: interprets outputs by the task; None without a task.
        options: further options of the metric.
        against_float: whether the metric uses the float model's outputs as labels, for samples without labels.
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
    """A model with every quantizable layer under a switch, and the samples to run it on.

    Example:
        >>> simulation = Simulation(model, ranges, data)                      # doctest: +SKIP
        >>> simulation.alone("/head/Gemm").sqnr_db                            # doctest: +SKIP

    Args:
        model: the float model; not changed. The simulation's copy has a higher opset if pairs need it.
        ranges: ranges of the activation tensors to quantize; readers of a tensor without a range stay in float.
        data: the samples to run.
        judge: decides which nodes stay in float in any case.
        settings: all further settings.
        reference: the float model to compare outputs with, if ``model`` is partly quantized; None for ``model`` itself.
        placer: decides where to insert pairs.
        rounder: rounds the weights; None for one by the settings.
        like: a simulation of another form of the model; with the same samples and settings its batches are used.

    Raises:
        PassError: there is no quantizable layer.
        DataError: there are no samples, or no labels for the metric.
    """

    data: CalibrationData
    feeds: list[Batch]

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
        like: Simulation | None = None,
    ) -> None:
        # return memory of earlier simulations that is no longer in use
        grown_memory.give_back()
        self.settings = settings or Settings()
        self._reference = reference
        profiles = profiles if profiles is not None else Profiles()
        self.model = with_pairs_opset(model, self.settings.precision)
        # results of graph analysis are used several times
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
            same = like is not None and like.data is data and like.settings == self.settings
            self.feeds = like.feeds if like is not None and same else feeds_of(data, self.settings)
            # without profiles, only the samples give the sizes of dynamic dimensions
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
        """Names of the groups, in graph order."""
        return self.switches.names

    @property
    def runner(self) -> Runner:
        """The runner of states; created, with a run of the float model, at the first access."""
        if self._runner is None:
            self._runner = self.job().runner()
        return self._runner

    @property
    def ran(self) -> bool:
        """Whether the float model's outputs for the samples are known."""
        return self._runner is not None or self._known is not None

    @property
    def macs(self) -> float:
        """The cost of a float inference of all samples by the graph's arithmetic, in multiply-accumulates."""
        elements = sum(value.size for feed in self.feeds for value in feed.inputs.values())
        return cost_of(self.cutter, range(len(self.cutter.stages)), Config(), elements, len(self.feeds))

    @contextmanager
    def shared_out(self, states: int | None = None) -> Iterator[Workers[Any, Any] | None]:
        """Within the ``with`` block, states are run by workers if the user configured any; yields these, else None.

        Args:
            states: number of states to run, if known; for one or none no workers are started.
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
        """Free the memory of sessions while another form is used; with weights too large for copies, of kept states
        too.

        Later runs load them again.
        """
        if self.cutter.shares:
            self.forget()
        elif self._runner is not None:
            self._runner.unload()

    def forget(self) -> None:
        """Free the memory of sessions and kept states, when little or nothing remains to run."""
        if self._runner is not None:
            self._runner.forget()
            if self.cutter.shares:
                # nodes and tensors of a graph refer to each other, so only garbage collection frees them
                gc.collect()

    def job(self) -> SimulationJob:
        """Everything a process needs to run states of this simulation."""
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
        """The same simulation with other samples, batches or metric; ``settings`` must have the same quantization."""
        twin = copy.copy(self)
        twin.settings, twin._runner, twin._known, twin._data_print = settings, None, None, ""
        twin.feeds = feeds_of(self.data, settings)
        return twin

    def compared_like(self, other: Simulation, begins: bool = False) -> None:
        """Compare states with the float outputs of another form on the same samples, without another float run.

        Args:
            other: the simulation of the other form.
            begins: whether states start at the last cut up to which they equal the float model, which is run up to
                there when needed; else every state is run from the first stage on.
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
        """The same simulation with another rounder of weights; the float model's outputs stay."""
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
        """Share of the model's arithmetic that is quantized if no group is kept in float, 0 to 1; see ``Work``."""
        return self.work.share(self.switches.placement(()).layers)

    def config(self, kept: Iterable[str], amax: Mapping[str, float] | None = None) -> Config:
        """The state with the groups ``kept`` in float and all others quantized; ``amax`` replaces single ranges."""
        return self.switches.config(kept, amax)

    def without(self, kept: Iterable[str], amax: Mapping[str, float] | None = None) -> Outcome:
        """The outcome with all groups but ``kept`` quantized; ``amax`` replaces the ranges of single tensors."""
        return self.runner.run(self.config(kept, amax))

    def alone(self, group: str, amax: Mapping[str, float] | None = None) -> Outcome:
        """The outcome with only one group quantized; ``amax`` replaces the ranges of single tensors."""
        return self.runner.run(self.switches.alone(group, amax))

    def squashed_by(self, output: str) -> str:
        """See ``squashed_by``."""
        return squashed_by(self.model, output)

    def outcome_of(self, lowered: Model) -> Outcome:
        """The outcome of a lowered form of the model, with its rounding to 16-bit floats, on the same samples.

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
        """SHA-256 of everything that results depend on: model, ranges, rounded weights, samples, settings, and code."""
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
    """A copy of the model at an opset with the required Q/DQ operators; see ``pairs_opset``.

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
    """The samples to use: at most ``settings.samples``, evenly spread."""
    return data if settings.samples is None else data.spread(settings.samples, together(settings.metric))


def _profile_of(feed: Batch) -> Profiles:
    return fixed_profile({name: value.shape for name, value in feed.inputs.items()})
