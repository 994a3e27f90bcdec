"""Everything a process needs to run states of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.metric import pick
from toolkit.evaluation.metrics.by_name import MetricOptions, make_metric
from toolkit.graph.large_models.memory import limit_memory
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.session import session
from toolkit.simulation.compared import KnownOutputs
from toolkit.simulation.cut import Cutter
from toolkit.simulation.runner import MEMORY, Runner
from toolkit.simulation.state_run import BatchRequest, Tensors
from toolkit.simulation.switches import Config

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch

StateRequest = tuple[Config, int | None]
"""A state of the simulation, and the number of batches to run it on; None for all."""
MeasuredState = tuple[Outcome, float]
"""A state's outcome, and its cost in seconds of computing."""


@dataclass(frozen=True)
class SimulationJob:
    """A simulation in a form that can be sent to another process, see ``SharedWork``."""

    cutter: Cutter
    base: Config
    feeds: list[Batch]
    outputs: list[str]
    classes: list[str]
    metric: tuple[str, str | None, bool, MetricOptions] | None
    threads: int | None
    memory: int = MEMORY
    reference: LightModel | None = None
    answers: Answers | None = None
    limit: int | None = None
    against_float: bool = False
    known: KnownOutputs | None = None
    order: list[int] | None = None
    """The batch order of the sending process, since float outputs on another processor differ in the last bits."""

    def open(self) -> Callable[[Any], Any]:
        """See ``SharedWork``; results are the same in any process, since every session has one thread.

        The returned function answers a ``StateRequest`` with a ``MeasuredState``, and a ``BatchRequest`` with a
        ``BatchRun``.
        """
        limit_memory(self.limit)
        runner, begun = self.runner(threads=1), set[int]()

        def measure(state: StateRequest) -> MeasuredState:
            (config, batches), before = state, runner.spent
            if batches is None:
                return runner.run(config), runner.spent - before
            if batches not in begun:
                # states that begin like the base state then start from its kept cuts
                begun.add(batches)
                runner.base.run(batches)
            return runner.probe(config).run(batches), runner.spent - before

        return lambda asked: runner.answer(asked) if isinstance(asked, BatchRequest) else measure(asked)

    def runner(self, threads: int | None = None) -> Runner:
        """Create the runner; runs the float model, unless its outputs are known from another form."""
        named = self.metric
        maker = (lambda: make_metric(*named)) if named is not None else None
        reference = None
        if self.reference is not None:
            reference = session(self.reference, threads=1).run
        made = Runner(
            pieces=self.cutter,
            base=self.base,
            feeds=self.feeds,
            outputs=self.outputs,
            classes=self.classes,
            metric=maker,
            threads=threads or self.threads,
            memory=self.memory,
            reference=reference,
            answers=self.answers,
            labels=self._float_labels if self.against_float else None,
            known=self.known,
        )
        made.order = made.order if self.order is None else self.order
        return made

    def _float_labels(self, outputs: Tensors) -> Tensors:
        """The float model's outputs as labels, for a metric that measures distances."""
        assert self.metric is not None
        options = self.metric[3]
        options = replace(options, output=self.metric[1] or options.output or self.outputs[0])
        return {"label": pick(outputs, options, outputs)[0]}
