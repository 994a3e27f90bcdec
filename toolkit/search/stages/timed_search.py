"""What a search knows of latencies: measured on engines built for it, read from earlier runs, or predicted."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from toolkit.base.gpu import find_gpu
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.graph.layers.macs import macs
from toolkit.graph.model import Model
from toolkit.placement.ops import TARGETS
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.budget.spending import Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import GpuSpec, known_as
from toolkit.search.cost.layer_times import LayerTimes
from toolkit.search.quantizer.quantizer import Quantizer
from toolkit.search.stages.times import CLEARLY, EngineTimes, KnownTimes, earlier_times, gpu_for
from toolkit.simulation.simulation import Simulation


class TimedSearch:
    """The part of a search that compares plans by time.

    Attributes:
        quantizer: decides where Q/DQ pairs go.
        settings: the search's settings.
        model: the float graph.
        context: provides ranges, the bench and the journal.
        simulation: the model with its layers under switches.
        spending: the search's account of inferences.
        reference: the float model that outputs are compared with, if ``model`` is quantized in part.
        by: the name of the pass that searches.
    """

    quantizer: Quantizer
    settings: SearchSettings
    model: Model
    context: Context
    spending: Spending
    reference: Model | None
    by: str

    if TYPE_CHECKING:

        @cached_property
        def simulation(self) -> Simulation:
            """See ``PlanSearch``."""

    @cached_property
    def timing(self) -> KnownTimes:
        """Layer times: measured on engines built for the search if plans are compared by time, or from earlier runs."""
        gpu = gpu_for(self.settings.gpu, self.context)
        engines = self._engines(gpu)
        with self.spending.waiting():
            found = KnownTimes(engines.layers() if engines is not None else self._earlier(gpu))
            if engines is not None and found.layers.seconds:
                found.ends = engines.ends()
        if found.ends and self._prefers(found) == "time":
            assert engines is not None
            found.nothing_pays = self._nothing_pays(self._cost(found, gpu), engines)
        return found

    def _nothing_pays(self, cost: CostModel, engines: EngineTimes) -> bool:
        """Whether neither full quantization nor any plan in between is fast enough for a search to be worthwhile.

        The fully quantized engine was measured; a plan in between is only predicted: its gain must justify an engine.
        """
        plain, least = cost.time(self.simulation.names), cost.least_time()
        too_slow = self.settings.max_ms is not None and plain * 1e3 > self.settings.max_ms
        margin = CLEARLY if too_slow else engines.margin
        return least is not None and least * margin >= plain and cost.time(()) * CLEARLY >= plain

    def _earlier(self, gpu: GpuSpec) -> LayerTimes:
        """The layer times of the runs that the setting ``times`` lists; empty if it lists none."""
        if not self.settings.times:
            return LayerTimes()
        names = self.simulation.names
        return earlier_times(self.settings.times, names, self.quantizer.precision, self.context, gpu.name)

    def _cost(self, timing: KnownTimes, gpu: GpuSpec) -> CostModel:
        """The cost model of plans, with measured times where there are any."""
        simulation, own = self.simulation, self.settings
        others = {name for name, ask in self.context.plan.items() if ask.precision is self.quantizer.precision}
        cost = CostModel(
            simulation.switches, simulation.facts, gpu, self.context.rest, timing.layers, simulation.work, others,
            named=bool(own.gpu) or own.max_ms is not None or own.prefer == "time",
        )  # fmt: skip
        for end, seconds in timing.ends.items():
            cost.learn(end, seconds)
        return cost

    def _prefers(self, timing: KnownTimes) -> str:
        """What the search optimizes: ``int8`` or ``time``."""
        if self.settings.prefer != "auto":
            return self.settings.prefer
        return "time" if timing.layers.seconds and self._may_prefer_time() else "int8"

    def _may_prefer_time(self) -> bool:
        """Whether time may be optimized rather than the quantized share, if the settings leave this open."""
        bench = self.context.bench
        return not self.settings.int8_only and (bench is None or bench.prefers_speed)

    def _engines(self, gpu: GpuSpec) -> EngineTimes | None:
        """The builder of engines for the search; None if none are measured, with a note if the user expects them."""
        own, context = self.settings, self.context
        decides = own.prefer == "time" or own.max_ms is not None or (own.prefer == "auto" and self._may_prefer_time())
        if own.times or not own.measure or not decides or self.reference is not None:
            return None
        bench, here = context.bench, find_gpu()
        why = bench.cannot_measure() if bench is not None else "the context has no bench to build engines on"
        if not why and own.gpu and (here is None or known_as(here.name) is not gpu):
            why = f"gpu = {own.gpu!r} is not the GPU here"
        elif not why and own.keep not in (None, str(context.rest)):
            why = f"layers kept in float run in {own.keep}, and the engine without pairs in {context.rest}"
        if bench is None or why:
            if here is not None or own.insist:
                context.journal.noted(Code.TIMES_PREDICTED(why=why))
            return None
        heavy = [node for node in self.model.nodes if node.op in TARGETS]
        work = {node.name: known for node in heavy if (known := macs(node, self.simulation.facts)) is not None}
        return EngineTimes(
            self.quantizer.candidate(self.model, context), self.simulation.names, work, bench, context.known_ranges,
            context, self.quantizer.precision, self.by,
        )  # fmt: skip
