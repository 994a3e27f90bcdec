"""Runs states of the simulation: only the stages after the first change are computed again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import Any

from toolkit.base.cpu import cores
from toolkit.base.places import Pending, Workers
from toolkit.base.spread import representative, spread_indices
from toolkit.base.types import Array
from toolkit.data.dataset import Batch
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome
from toolkit.simulation.compared import ComparedOutputs, KnownOutputs, MetricMaker
from toolkit.simulation.cuts import (
    KeptCuts,
    StateKey,
    joined_kinds,
    needed_later,
    signatures_of,
)
from toolkit.simulation.loaded import LoadedPieces, Pieces, PlannedPiece
from toolkit.simulation.piece_builder import FLOAT, FULL, SWITCHED, StageKind
from toolkit.simulation.prices import cost_after_cuts, cost_on
from toolkit.simulation.state_run import BatchRequest, BatchRun, StateRun, Tensors, in_rounds
from toolkit.simulation.switches import Config

MEMORY = 1 << 30
"""Bytes that a simulation keeps."""
_JOINED_BYTES = 256 << 20
_TIMED, _BEGUN = 24, 3
_PARTS, _PARTS_JOINED = 2, 4
"""Of the memory, one in so many parts is for the sessions' weights; few plans in one piece are run again."""
_OFTEN = 14
"""From so many batches on a session that is faster to run saves what it takes longer to load, 40 to 70 ms."""
_counting = Lock()


class Runner:
    """The stages of one model with sessions, batches, and what is kept of earlier states.

    Every session has one thread and batches run side by side, so that the numbers depend neither on the number of
    threads nor on that of processes.

    Args:
        pieces: the stages of the model; a ``Cutter``.
        base: the state with every group quantized.
        feeds: the samples.
        outputs: the model's outputs, in order.
        classes: outputs that hold scores of classes.
        metric: makes the user's metric; None without one.
        threads: batches computed at once; one a core where None.
        memory: bytes for what is kept: half of it at the cuts of states, up to half of it sessions' weights.
        reference: returns the outputs that states are compared with, for a batch of inputs; the state with nothing
            quantized where None. For a model that is partly quantized already.
        answers: reads outputs as the task says; None without a task.
        labels: makes the metric's labels of the float model's outputs; the batches' own where None.
        known: the float outputs, where another form of the same function was run on the same batches.

    Attributes:
        threads: batches computed at once.
        joins: whether states are run in one piece, so that keeping them at the cuts costs more than it saves.
        order: the batches' numbers such that the first few are spread evenly over all, and show as much as all do.
        workers: workers that run states instead of this process; None where it does.
    """

    workers: Workers[BatchRequest, BatchRun] | None = None

    def __init__(
        self,
        pieces: Pieces,
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
        # small models run as few pieces as can be: a call costs more than its layers
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
        """The outcome of the base state, which is kept at the cuts for states that begin like it."""
        self._keeps_all = True
        return self.base.run()

    @cached_property
    def base(self) -> StateRun:
        """The base state, as far as it was run."""
        # where no states are kept, one session runs it
        self._kept.append(probe := StateRun(self, self._base, keep=bool(self._cuts.rest)))
        return probe

    @property
    def inferences(self) -> float:
        """What all states so far cost, in the measured time of a float inference of the samples."""
        return self.spent / self.float_seconds if self.float_seconds else 0.0

    def run(self, config: Config) -> Outcome:
        """Run a state and compare its outputs with the float model's."""
        full = self.full_outcome
        return full if self.signatures(config) == self._full else StateRun(self, config).run()

    def probe(self, config: Config, keep: bool = False) -> StateRun:
        """A state that need not be run on all batches."""
        if (signatures := self.signatures(config)) == self._full:
            return self.base
        found = self._begun.get(signatures) or StateRun(self, config, keep)
        if not keep:
            self._begun = {**dict(list(self._begun.items())[1 - _BEGUN :]), signatures: found}
        return found

    def anchor(self, probe: StateRun) -> None:
        """Keep this state at its cuts for those that begin like it, in place of the previous one."""
        self._kept = [one for one in self._kept if one.signatures in (self._off, self._full)]
        if probe not in self._kept:
            self._kept.append(probe)

    def float_on(self, count: int) -> Outcome:
        """The float model's outcome on the first ``count`` batches of ``order``."""
        return self._compared.float_on(sorted(self.order[:count]))

    def price(self, config: Config, count: int | None = None, like: Config | None = None) -> float:
        """What a state costs by the graph's arithmetic, in runs of the float model over all batches.

        Args:
            config: the state.
            count: on how many batches of ``order``; on all where None.
            like: a state that is kept: states that begin like it are run from a cut on. The float model where None.
        """
        part, like = self.order[:count], like or Config()
        kept = self._cuts.first if self.joins else part
        return cost_after_cuts(self._pieces, config, like, self._sizes, part, self._cuts, kept) / self.macs

    @cached_property
    def macs(self) -> float:
        """What the float model costs on all batches, in multiply-accumulates."""
        return max(cost_on(self._pieces, range(self._count), Config(), self._sizes, self.order), 1.0)

    def rebased(self, pieces: Pieces, base: Config) -> Runner:
        """The same samples and float outputs with other scales of the base state."""
        twin = copy.copy(self)
        twin.workers, twin._begun = None, {}
        for name in ("full_outcome", "base"):
            vars(twin).pop(name, None)
        twin._pieces, twin._base, twin._full = pieces, base, twin.signatures(base)
        twin._loaded = LoadedPieces(pieces, self.memory // (_PARTS_JOINED if self.joins else _PARTS))
        twin._kept = [one for one in self._kept if one.signatures == self._off]
        return twin

    def outcome_of(self, model: Callable[[dict[str, Array]], Tensors]) -> Outcome:
        """The outcome of any other form of the model, run on the same batches: ``model`` returns outputs for inputs."""

        def one(index: int) -> tuple[BatchOutcome, Tensors]:
            outputs = model(dict(self.feeds[index].inputs))
            return self._compared.of(index, outputs), self._compared.held(outputs)

        done = self._pool(one)
        return self.summed([part for part, _ in done], range(len(done)), [outputs for _, outputs in done])

    def unload(self) -> None:
        """Free the memory of sessions; later runs load their own, and begin at the kept states."""
        self._loaded.unload()

    def forget(self, float_too: bool = True) -> None:
        """Free the memory of sessions and kept states; later runs begin at the first stage.

        Without ``float_too`` the float model's state at the cuts stays, and states that begin like it start there.
        """
        self._kept = [] if float_too else [one for one in self._kept if one.signatures == self._off]
        self._begun.clear()
        vars(self).pop("base", None)
        self._loaded.forget()

    def known(self, begins: bool) -> KnownOutputs:
        """The float outputs for another form of the same function."""
        return KnownOutputs(self._compared.floats, self.float_seconds, begins)

    # ---------------------------------------------------------------- one state

    def _start(self, known: KnownOutputs | None) -> None:
        """Run the float model, unless its outputs are known; keep what states begin with that are still it.

        One batch is run before: it tells how much is kept at the cuts, and the first run of a session allocates.
        """
        self._cuts = KeptCuts()
        if known is None or known.begins:
            off = StateRun(self, Config(), keep=True)
            apart = self._plan(Config(), off.signatures, 0, apart=True)
            largest = max(range(len(self.feeds)), key=lambda index: self._sizes[index])
            _, trail, _ = self._advance(apart, dict(self.feeds[largest].inputs), set(range(1, self._count + 1)))
            scale = sum(self._sizes) / max(self._sizes[largest], 1)
            sizes = {place: scale * sum(value.nbytes for value in state.values()) for place, state in trail.items()}
            self._cuts = KeptCuts.affordable(sizes, self.memory / 2, self.order, self.joins)
            self._loaded.reserve(self._cuts.size)
            # where outputs are known, the others are run as far as a state begins like it
            wanted = [index for index in range(len(self.feeds)) if known is None or index in self._cuts.first]
            done = self._pool(
                lambda index: self._advance(apart, dict(self.feeds[index].inputs), self._cuts.of(index)), wanted
            )
            for index, (_, states, _) in zip(wanted, done):
                for place, state in states.items():
                    off.states.setdefault(place, {})[index] = state
            self._kept.append(off)
            if known is None:
                self.float_seconds = self._timed(sum(seconds for *_, seconds in done))
                own = [{name: state[name] for name in self.outputs} for state, *_ in done]
                given = self._given
                self._compared.know(own if given is None else [given(dict(feed.inputs)) for feed in self.feeds])
        if known is not None:
            self._compared.know(known.outputs)
            self.float_seconds = known.seconds
        self.order = representative(self.order, self._compared.tellings())
        self._cuts = self._cuts.for_order(self.order)
        for one in self._kept:
            # what was not run that far is computed once a state begins there
            one.states = {place: {index: one.states.get(place, {}).get(index) for index in range(len(self.feeds))
                                  if place in self._cuts.of(index)} for place in self._cuts.places}  # fmt: skip

    def _timed(self, apart: float) -> float:
        """Seconds of one float inference of all batches, where stage by stage it took ``apart``."""
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
        """Run a state on some batches: for each its number, what differs, its outputs and its state at the cuts."""
        alike: dict[tuple[int, bool], list[int]] = {}
        for index in indices:
            alike.setdefault((self._known_until(probe, index), keep and self._keeps(index)), []).append(index)
        for (start, kept), group in alike.items():
            plan = self._plan(probe.config, probe.signatures, start, apart=kept, often=len(group) >= _OFTEN)

            def one(index: int, start: int = start, plan: Sequence[PlannedPiece] = plan, kept: bool = kept) -> Any:
                return self._from(start, probe, index, plan, kept)

            for some in in_rounds(group, self._compared.bytes_of, self.threads):
                # a comparison between two runs would drive the model out of the processor's caches
                done = self._pool(one, some)
                made = [outputs for outputs, *_ in done]
                parts = self._pool(self._compared.of, some, made)
                with _counting:
                    self.spent += sum(seconds for *_, seconds in done)
                for index, part, (outputs, states, _) in zip(some, parts, done):
                    yield index, part, self._compared.held(outputs), states

    def asked(self, probe: StateRun, index: int, keep: bool) -> tuple[int, Pending[BatchRun]] | None:
        """Have a batch of a state run elsewhere: from which cut on, and the pending result; None where work is here."""
        if self.workers is None:
            return None
        start = self._known_until(probe, index)
        anchor = next((one.config for one in self._kept if one.signatures not in (self._off, self._full)), None)
        keep = keep and self._keeps(index)
        return start, self.workers.submit(BatchRequest(probe.config, index, start, keep, anchor))

    def answered(self, pending: Pending[BatchRun]) -> tuple[BatchOutcome, Tensors]:
        """What differs in a batch that was run elsewhere, and its outputs."""
        part, outputs, seconds = pending.result()
        with _counting:
            self.spent += seconds
        return part, outputs

    def answer(self, asked: BatchRequest) -> BatchRun:
        """Run a batch for another process."""
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
        """The cuts at which a batch of a state run from ``start`` on is kept."""
        return [place for place in self._cuts.of(index) if place > start and self._keeps(index)]

    def _keeps(self, index: int) -> bool:
        """Whether states of a batch are kept; stage by stage they take up to a third longer than in one piece."""
        return not self.joins or self._keeps_all or index in self._cuts.first

    def _from(
        self, start: int, probe: StateRun, index: int, plan: Sequence[PlannedPiece], keep: bool
    ) -> tuple[Tensors, dict[int, Tensors], float]:
        """A batch's outputs, what the state is at the cuts where it is kept, and the seconds that it took."""
        state = {**self.feeds[index].inputs, **self._state(probe, start, index)}
        state, states, seconds = self._advance(plan, state, self._cuts.of(index) if keep else ())
        return {name: state[name] for name in self.outputs}, states, seconds

    def _known_until(self, probe: StateRun, index: int) -> int:
        """The last cut at which this batch of a state that begins alike is known; 0 where none is."""
        return max((place for one in (*self._kept, probe) for place, states in one.states.items()
                    if index in states and one.signatures[:place] == probe.signatures[:place]), default=0)  # fmt: skip

    def _state(self, probe: StateRun, place: int, index: int) -> Tensors:
        """The state at a cut, from one that begins alike; computed where only another process has it."""
        if not place:
            return {}
        alike = [one for one in (*self._kept, probe) if one.signatures[:place] == probe.signatures[:place]]
        known = (one.states.get(place, {}).get(index) for one in alike)
        found = next((state for state in known if state is not None), None)
        if found is None:
            # what lies before is found or computed first
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
        """The pieces that compute a state from stage ``start`` on; up to ``end``, where ``apart``.

        ``often`` says that they are run on many batches.
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

    def _advance(
        self, plan: Sequence[PlannedPiece], state: Tensors, places: Collection[int]
    ) -> tuple[Tensors, dict[int, Tensors], float]:
        """The last state, what it was at these cuts, and the seconds that it took."""
        kept, given, seconds = dict[int, Tensors](), set(self.feeds[0].inputs), 0.0
        for step in plan:
            made, took = step.run(state)
            seconds += took
            state = {name: value for name, value in {**state, **made}.items() if name in self._later[step.last]}
            if step.last + 1 in places:
                kept[step.last + 1] = {name: value for name, value in state.items() if name not in given}
        return state, kept, seconds

    def _pool(self, work: Callable[..., Any], *items: Sequence[Any]) -> list[Any]:
        """The results of ``work`` for each of the items, for each feed's index where there are none."""
        items = items or (range(len(self.feeds)),)
        if (count := min(self.threads, len(items[0]))) == 1:
            return list(map(work, *items))
        with ThreadPoolExecutor(count, "simulation") as pool:
            return list(pool.map(work, *items))

    def summed(self, parts: Sequence[BatchOutcome], indices: Sequence[int], held: Sequence[Tensors]) -> Outcome:
        """The outcome over some batches, added in order."""
        return self._compared.summed(parts, indices, held)
