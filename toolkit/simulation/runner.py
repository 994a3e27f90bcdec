"""Runs states of the simulation, computing only the stages from the first change on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from toolkit.base.cpu import cores
from toolkit.base.places import Pending, Workers
from toolkit.base.spread import representative, spread_indices
from toolkit.base.threads import in_some_threads
from toolkit.base.types import Array
from toolkit.data.dataset import Batch
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome
from toolkit.simulation.compared import ComparedOutputs, KnownOutputs, MetricMaker
from toolkit.simulation.cut import Cutter
from toolkit.simulation.cuts import KeptCuts, StateKey, joined_kinds, needed_later, signatures_of
from toolkit.simulation.loaded import LoadedPieces, PlannedPiece
from toolkit.simulation.piece_builder import FLOAT, FULL, SWITCHED, StageKind
from toolkit.simulation.prices import cost_after_cuts, cost_on, pays_to_reorder_less
from toolkit.simulation.state_run import BatchRequest, BatchRun, StateRun, Tensors, in_rounds
from toolkit.simulation.switches import Config

MEMORY = 1 << 30
"""Default memory of a simulation in bytes."""
_JOINED_BYTES = 256 << 20
_TIMED, _BEGUN = 24, 3
_PARTS, _PARTS_JOINED = 2, 4
"""The divisor of the memory for the sessions' weights; larger for pieces of all stages, of which few are reused."""
_counting = Lock()


class Runner:
    """Runs states of one model's stages on batches, reusing results of earlier states.

    Every session has one thread and batches run in parallel, so results depend neither on the number of threads nor on
    that of processes.

    Args:
        pieces: the stages of the model.
        base: the state with every group quantized.
        feeds: the samples.
        outputs: the model's outputs, in order.
        classes: outputs that hold scores of classes.
        metric: returns a new instance of the user's metric; None without one.
        threads: batches to compute in parallel; None for one per core.
        memory: bytes for states at the cuts (half of it) and for sessions' weights (up to half of it).
        reference: for a model that is partly quantized already, returns the outputs to compare with for a batch of
            inputs; None to compare with the state in which nothing is quantized.
        answers: interprets outputs by the task; None without a task.
        labels: returns the metric's labels for the float model's outputs; None for the batches' own labels.
        known: the float outputs, if another form of the same model was run on the same batches.

    Attributes:
        threads: batches to compute in parallel.
        joins: whether states are run in one piece, since keeping them at cuts would cost more than it saves.
        order: the batches' numbers, so that the first few are spread evenly and representative of all.
        workers: the workers that run states in place of this process; None without any.
    """

    workers: Workers[BatchRequest, BatchRun] | None = None

    def __init__(
        self,
        pieces: Cutter,
        base: Config,
        feeds: Sequence[Batch],
        outputs: Sequence[str],
        classes: Sequence[str] = (),
        metric: MetricMaker | None = None,
        threads: int | None = None,
        memory: int = MEMORY,
        reference: Callable[[dict[str, Array]], Tensors] | None = None,
        answers: Answers | None = None,
        labels: Callable[[Tensors], Tensors] | None = None,
        known: KnownOutputs | None = None,
    ) -> None:
        self._pieces, self._base, self.feeds = pieces, base, list(feeds)
        self.outputs, self.metric, self._given, self.memory = list(outputs), metric, reference, memory
        self.spent = self.float_seconds = 0.0
        self.threads = threads or cores()
        self._count = len(pieces.stages)
        # small models run in as few pieces as possible: a call costs more than its layers
        self.joins = pieces.weight_bytes * self._count <= _JOINED_BYTES
        self._loaded = LoadedPieces(pieces, memory // (_PARTS_JOINED if self.joins else _PARTS))
        self._kept: list[StateRun] = []
        self._begun: dict[StateKey, StateRun] = {}
        self._keeps_all = False
        self._later = needed_later(pieces, self.outputs)
        self._off, self._full = self.signatures(Config()), self.signatures(base)
        self._sizes = [sum(value.size for value in feed.inputs.values()) for feed in self.feeds]
        self.order = spread_indices(len(self.feeds))
        self._compared = ComparedOutputs(self.feeds, list(classes), metric, answers, labels)
        self._start(known)
        self.float_outcome = self.float_on(len(self.feeds))

    def signatures(self, config: Config) -> StateKey:
        """See ``signatures_of``."""
        return signatures_of(self._pieces, config)

    @cached_property
    def full_outcome(self) -> Outcome:
        """The outcome of the base state, which is kept at the cuts for states with the same beginning."""
        self._keeps_all = True
        return self.base.run()

    @cached_property
    def base(self) -> StateRun:
        """The base state, possibly run only on some batches."""
        # if no states are kept, one session runs it
        self._kept.append(probe := StateRun(self, self._base, keep=bool(self._cuts.rest)))
        return probe

    @property
    def inferences(self) -> float:
        """The cost of all states so far, in units of a float inference of all samples."""
        return self.spent / self.float_seconds if self.float_seconds else 0.0

    def run(self, config: Config) -> Outcome:
        """Run a state and compare its outputs with the float model's."""
        full = self.full_outcome
        return full if self.signatures(config) == self._full else StateRun(self, config).run()

    def probe(self, config: Config, keep: bool = False) -> StateRun:
        """A state to run on some batches first, and on more later."""
        if (signatures := self.signatures(config)) == self._full:
            return self.base
        found = self._begun.get(signatures) or StateRun(self, config, keep)
        if not keep:
            self._begun = {**dict(list(self._begun.items())[1 - _BEGUN :]), signatures: found}
        return found

    def anchor(self, probe: StateRun) -> None:
        """Keep this state at its cuts for states with the same beginning, in place of the previous anchor."""
        self._kept = [one for one in self._kept if one.signatures in (self._off, self._full)]
        if probe not in self._kept:
            self._kept.append(probe)

    def float_on(self, count: int) -> Outcome:
        """The float model's outcome on the first ``count`` batches of ``order``."""
        return self._compared.float_on(sorted(self.order[:count]))

    def price(self, config: Config, count: int | None = None, like: Config | None = None) -> float:
        """The cost of a state by the graph's arithmetic, in units of running the float model on all batches.

        Args:
            count: number of batches of ``order``; None for all.
            like: a kept state: states with the same beginning start at a cut; None for the float model.
        """
        part, like = self.order[:count], like or Config()
        kept = self._cuts.first if self.joins else part
        return cost_after_cuts(self._pieces, config, like, self._sizes, part, self._cuts, kept) / self.macs

    @cached_property
    def macs(self) -> float:
        """The cost of the float model on all batches, in multiply-accumulates."""
        return max(cost_on(self._pieces, range(self._count), Config(), self._sizes, self.order), 1.0)

    def rebased(self, pieces: Cutter, base: Config) -> Runner:
        """A runner with the same samples and float outputs for another base state."""
        twin = copy.copy(self)
        twin.workers, twin._begun = None, {}
        for name in ("full_outcome", "base"):
            vars(twin).pop(name, None)
        twin._pieces, twin._base, twin._full = pieces, base, twin.signatures(base)
        twin._loaded = LoadedPieces(pieces, self.memory // (_PARTS_JOINED if self.joins else _PARTS))
        # the float states are shared, and the twin keeps as much at the cuts beside them
        twin._loaded.reserve(self._cuts.size)
        twin._kept = [one for one in self._kept if one.signatures == self._off]
        return twin

    def outcome_of(self, model: Callable[[dict[str, Array]], Tensors]) -> Outcome:
        """The outcome of another form of the model on the same batches; ``model`` returns outputs for inputs."""

        def one(index: int) -> tuple[BatchOutcome, Tensors]:
            outputs = model(dict(self.feeds[index].inputs))
            return self._compared.of(index, outputs), self._compared.held(outputs)

        done = self._pool(one)
        return self.summed([part for part, _ in done], range(len(done)), [outputs for _, outputs in done])

    def unload(self) -> None:
        """Free the memory of sessions; later runs load them again and start at the kept states."""
        self._loaded.unload()

    def forget(self, float_too: bool = True) -> None:
        """Free the memory of sessions and kept states; later runs start at the first stage.

        Without ``float_too`` the float model's states at the cuts stay, for states with the same beginning.
        """
        self._kept = [] if float_too else [one for one in self._kept if one.signatures == self._off]
        self._begun.clear()
        vars(self).pop("base", None)
        self._loaded.forget()

    def known(self, begins: bool) -> KnownOutputs:
        """The float outputs for the runner of another form of the same model."""
        return KnownOutputs(self._compared.floats, self.float_seconds, begins)

    # ---------------------------------------------------------------- one state

    def _start(self, known: KnownOutputs | None) -> None:
        """Run the float model, unless its outputs are known, and keep it at the cuts for states that begin with it."""
        self._cuts = KeptCuts()
        if known is None or known.begins:
            seconds, own = self._run_float(only_first=known is not None)
        if known is not None:
            self._compared.know(known.outputs)
            self.float_seconds = known.seconds
        else:
            self.float_seconds = self._timed(seconds)
            given = self._given
            self._compared.know(own if given is None else [given(dict(feed.inputs)) for feed in self.feeds])
        self.order = representative(self.order, self._compared.tellings())
        self._cuts = self._cuts.for_order(self.order)
        for one in self._kept:
            # missing states are computed once a state starts there
            one.states = {place: {index: one.states.get(place, {}).get(index) for index in range(len(self.feeds))
                                  if place in self._cuts.of(index)} for place in self._cuts.places}  # fmt: skip

    def _run_float(self, only_first: bool) -> tuple[float, list[Tensors]]:
        """Choose the cuts, and run the float model stage by stage; returns the seconds and the outputs by batch.

        The largest batch is run before the others, to measure the sizes of states at the cuts. With ``only_first``
        other batches are run later, as far as a state needs.
        """
        off = StateRun(self, Config(), keep=True)
        apart = self._plan(Config(), off.signatures, 0, apart=True)
        self._load(apart)
        largest = max(range(len(self.feeds)), key=lambda index: self._sizes[index])
        made, trail, took = self._advance(apart, dict(self.feeds[largest].inputs), set(range(1, self._count + 1)))
        scale = sum(self._sizes) / max(self._sizes[largest], 1)
        sizes = {place: scale * sum(value.nbytes for value in state.values()) for place, state in trail.items()}
        self._cuts = KeptCuts.affordable(sizes, self.memory / 2, self.order, self.joins)
        self._loaded.reserve(self._cuts.size)
        wanted = [index for index in range(len(self.feeds)) if not only_first or index in self._cuts.first]
        others = [index for index in wanted if index != largest]
        runs = self._pool(lambda i: self._advance(apart, dict(self.feeds[i].inputs), self._cuts.of(i)), others)
        done = dict(zip(others, runs)) | {largest: (made, {at: trail[at] for at in self._cuts.of(largest)}, took)}
        for index in wanted:
            for place, state in done[index][1].items():
                off.states.setdefault(place, {})[index] = state
        self._kept.append(off)
        return sum(done[index][2] for index in wanted), [{n: done[i][0][n] for n in self.outputs} for i in wanted]

    def _timed(self, apart: float) -> float:
        """Seconds of one float inference of all batches; ``apart``: the seconds when run stage by stage."""
        if not self.joins:
            return apart
        whole = self._plan(Config(), self._off, 0, apart=False)
        part = self.order[: -(-len(self.feeds) // _TIMED)]
        # the first run of a session allocates
        _, *seconds = [self._advance(whole, dict(self.feeds[i].inputs), ())[2] for i in (part[0], *part)]
        return sum(seconds) * sum(self._sizes) / max(sum(self._sizes[i] for i in part), 1)

    def compute(
        self, probe: StateRun, indices: Sequence[int], keep: bool
    ) -> Iterable[tuple[int, BatchOutcome, Tensors, dict[int, Tensors]]]:
        """Run a state on some batches; yields for each its number, comparison, outputs, and states at the cuts."""
        alike: dict[tuple[int, bool], list[int]] = {}
        for index in indices:
            alike.setdefault((self._known_until(probe, index), keep and self._keeps(index)), []).append(index)
        for (start, kept), group in alike.items():
            load = self._pieces, probe.config, start, self._sizes, group, probe.begun
            probe.often = probe.often or pays_to_reorder_less(*load)
            plan = self._plan(probe.config, probe.signatures, start, apart=kept, often=probe.often)
            self._load(plan)

            def one(index: int, start: int = start, plan: Sequence[PlannedPiece] = plan, kept: bool = kept) -> Any:
                return self._from(start, probe, index, plan, kept)

            for some in in_rounds(group, self._compared.bytes_of, self.threads):
                # comparing between two runs would evict the model from the processor's caches
                done = self._pool(one, some)
                made = [outputs for outputs, *_ in done]
                parts = self._pool(self._compared.of, some, made)
                with _counting:
                    self.spent += sum(seconds for *_, seconds in done)
                for index, part, (outputs, states, _) in zip(some, parts, done):
                    yield index, part, self._compared.held(outputs), states

    def asked(self, probe: StateRun, index: int, keep: bool) -> tuple[int, Pending[BatchRun]] | None:
        """Send a batch of a state to a worker; returns its first cut and pending result, or None without workers."""
        if self.workers is None:
            return None
        start = self._known_until(probe, index)
        anchor = next((one.config for one in self._kept if one.signatures not in (self._off, self._full)), None)
        keep = keep and self._keeps(index)
        return start, self.workers.submit(BatchRequest(probe.config, index, start, keep, anchor))

    def answered(self, pending: Pending[BatchRun]) -> tuple[BatchOutcome, Tensors]:
        """The comparison of a batch that a worker ran, and its outputs."""
        part, outputs, seconds = pending.result()
        with _counting:
            self.spent += seconds
        return part, outputs

    def answer(self, asked: BatchRequest) -> BatchRun:
        """Run a batch as a worker of another process."""
        known = {one.signatures: one for one in self._kept}
        if asked.anchor is not None and (anchor := self.signatures(asked.anchor)) not in known:
            self.anchor(StateRun(self, asked.anchor))
            known[anchor] = self._kept[-1]
        signatures = self.signatures(asked.config)
        probe = self.base if signatures == self._full else known.get(signatures) or StateRun(self, asked.config)
        plan = self._plan(asked.config, signatures, asked.start, apart=asked.keep)
        before = self.spent
        outputs, states, seconds = self._from(asked.start, probe, asked.index, plan, asked.keep)
        for place, state in states.items():
            probe.states.setdefault(place, {})[asked.index] = state
        return self._compared.of(asked.index, outputs), self._compared.held(outputs), seconds + self.spent - before

    def cuts_after(self, start: int, index: int) -> list[int]:
        """The cuts after ``start`` at which states of a batch are kept."""
        return [place for place in self._cuts.of(index) if place > start and self._keeps(index)]

    def _keeps(self, index: int) -> bool:
        """Whether to keep states of a batch, and so run it stage by stage, up to a third slower than in one piece."""
        return not self.joins or self._keeps_all or index in self._cuts.first

    def _from(
        self, start: int, probe: StateRun, index: int, plan: Sequence[PlannedPiece], keep: bool
    ) -> tuple[Tensors, dict[int, Tensors], float]:
        """Run a batch from a cut on; returns its outputs, its states at the cuts to keep, and the seconds."""
        state = {**self.feeds[index].inputs, **self._state(probe, start, index)}
        state, states, seconds = self._advance(plan, state, self._cuts.of(index) if keep else ())
        return {name: state[name] for name in self.outputs}, states, seconds

    def _known_until(self, probe: StateRun, index: int) -> int:
        """The last cut at which this batch is known for a state with the same beginning; 0 if none."""
        return max((place for one in (*self._kept, probe) for place, states in one.states.items()
                    if index in states and one.signatures[:place] == probe.signatures[:place]), default=0)  # fmt: skip

    def _state(self, probe: StateRun, place: int, index: int) -> Tensors:
        """The state at a cut, from a state with the same beginning; computed here if only a worker has it."""
        if not place:
            return {}
        alike = [one for one in (*self._kept, probe) if one.signatures[:place] == probe.signatures[:place]]
        known = (one.states.get(place, {}).get(index) for one in alike)
        found = next((state for state in known if state is not None), None)
        if found is None:
            # start from an earlier cut, found or computed likewise
            before = max((cut for cut, states in alike[0].states.items() if cut < place and index in states), default=0)
            state = {**self.feeds[index].inputs, **self._state(probe, before, index)}
            plan = self._plan(probe.config, probe.signatures, before, apart=True, end=place)
            _, states, seconds = self._advance(plan, state, {place})
            with _counting:
                self.spent += seconds
            found = alike[0].states.setdefault(place, {})[index] = states[place]
        return found

    def _plan(
        self, config: Config, signatures: StateKey, start: int, apart: bool, end: int | None = None,
        often: bool = False,
    ) -> list[PlannedPiece]:  # fmt: skip
        """The pieces that compute a state from stage ``start`` on; with ``apart`` one per stage, up to ``end``.

        ``often``: whether they will be run on many batches.
        """
        kinds = [
            FLOAT if own == off else FULL if own == full else SWITCHED
            for own, off, full in zip(signatures, self._off, self._full)
        ]
        based = self._base.scales.items() >= {pair for _, scales in signatures[start:] for pair in scales}
        if not apart and self.joins and start < self._count:
            groups = [(start, joined_kinds(kinds[start:], self._pieces.stages[start:], config.on, based))]
        else:
            last = self._count if end is None else end
            groups = [(number, list[StageKind]([kinds[number]])) for number in range(start, last)]
        return [PlannedPiece(self._loaded, first, of, config, often) for first, of in groups]

    def _load(self, plan: Sequence[PlannedPiece]) -> None:
        """Load the pieces of a small model, which all fit into the memory, lest batches wait for each in turn."""
        if self.joins and len(plan) > 1:
            self._pool(PlannedPiece.load, plan)

    def _advance(
        self, plan: Sequence[PlannedPiece], state: Tensors, places: Collection[int]
    ) -> tuple[Tensors, dict[int, Tensors], float]:
        """Run the pieces; returns the last state, the states at the cuts ``places``, and the seconds."""
        kept, given, seconds = dict[int, Tensors](), set(self.feeds[0].inputs), 0.0
        for step in plan:
            made, took = step.run(state)
            seconds += took
            state = {name: value for name, value in {**state, **made}.items() if name in self._later[step.last]}
            if step.last + 1 in places:
                kept[step.last + 1] = {name: value for name, value in state.items() if name not in given}
        return state, kept, seconds

    def _pool(self, work: Callable[..., Any], *items: Sequence[Any]) -> list[Any]:
        """The results of ``work`` for all items, computed in parallel; without items, for every batch's index."""
        return in_some_threads(self.threads, work, *(items or (range(len(self.feeds)),)))

    def summed(self, parts: Sequence[BatchOutcome], indices: Sequence[int], held: Sequence[Tensors]) -> Outcome:
        """The outcome over some batches, added in order."""
        return self._compared.summed(parts, indices, held)
