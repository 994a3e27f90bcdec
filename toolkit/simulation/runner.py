"""Runs states of the simulation: only the stages after the first change are computed again."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from toolkit.base.spread import spread
from toolkit.base.types import Array
from toolkit.data.dataset import Batch
from toolkit.data.faults import at_fault
from toolkit.evaluation.answers import Answers
from toolkit.evaluation.metrics import Metric, answers_of
from toolkit.evaluation.outcome import BatchOutcome, Outcome, compare, summed, varying_shares
from toolkit.evaluation.outputs import widened
from toolkit.simulation.cut import FIXED, FLOAT, FULL, SWITCHED
from toolkit.simulation.loaded import LoadedPiece, LoadedPieces, Pieces, cost_of
from toolkit.simulation.switches import Config

Tensors = dict[str, Array]
StateKey = tuple[Any, ...]
MetricMaker = Callable[[], Metric]
MEMORY = 1 << 30
"""Bytes that a simulation keeps."""
_JOINED_BYTES = 256 << 20
_HELD_BYTES = 32 << 20
_MIXED_STAGES = 3
_STATES = 4
_TIMED, _BEGUN = 8, 3


class StateRun:
    """A state that is run on more and more of the batches; what was run stays.

    Args:
        runner: runs it.
        config: the state.
        keep: keep what it is at the cuts of the graph, for states that begin alike.
    """

    def __init__(self, runner: Runner, config: Config, keep: bool = False) -> None:
        self.config, self._runner, self._keep = config, runner, keep
        self.signatures = runner.signatures(config)
        self.states: dict[int, dict[int, Tensors]] = {}
        self._parts: dict[int, BatchOutcome] = {}
        self._held: dict[int, Tensors] = {}

    def run(self, count: int | None = None) -> Outcome:
        """The outcome on the first ``count`` batches of ``Runner.order``; on all where None."""
        indices = sorted(self._runner.order[:count])
        todo = [index for index in indices if index not in self._parts]
        for index, part, outputs, states in self._runner.compute(self, todo, self._keep):
            self._parts[index], self._held[index] = part, outputs
            for place, state in states.items():
                self.states.setdefault(place, {})[index] = state
        return self._runner.summed([self._parts[i] for i in indices], indices, [self._held[i] for i in indices])


class Runner:
    """The stages of one model with sessions, batches, and what is kept of states run before.

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
        memory: bytes for what is kept: half of it at the cuts of states, half of it the weights of sessions.
        reference: gives the outputs that states are compared with, for a batch of inputs; the state with nothing
            quantized where None. For a model part of which is quantized already.
        answers: reads outputs as the task says; None without a task.

    Attributes:
        joins: whether states are run in one piece, so that keeping them at the cuts costs more than it saves.
        order: the batches' numbers such that the first few are spread evenly over all.
    """

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
    ) -> None:
        self._pieces, self._base, self.feeds = pieces, base, list(feeds)
        self.outputs, self.classes = list(outputs), list(classes)
        self.metric, self._given = metric, reference
        self.memory, self.answers = memory, answers
        self.spent = 0.0
        self._threads = threads or os.cpu_count() or 1
        self._count = len(pieces.stages)
        # small models run as few pieces as can be: a call costs more than its layers
        self.joins = pieces.weight_bytes * self._count <= _JOINED_BYTES
        self._loaded = LoadedPieces(pieces, memory // 2)
        self._kept: list[StateRun] = []
        self._float_on: dict[int, Outcome] = {}
        self._begun: dict[StateKey, StateRun] = {}
        self._later = self._needed_later()
        self._off, self._full = self.signatures(Config()), self.signatures(base)
        self._sizes = [sum(value.size for value in feed.inputs.values()) for feed in self.feeds]
        self.order = spread(len(self.feeds))
        self.float_seconds = 0.0
        self.float_outcome = self._start()

    @cached_property
    def full_outcome(self) -> Outcome:
        """Of the base state, which is kept at the cuts for states that begin like it."""
        return self.base.run()

    @cached_property
    def base(self) -> StateRun:
        """The base state, as far as it was run."""
        self._kept.append(probe := StateRun(self, self._base, keep=True))
        return probe

    @property
    def inferences(self) -> float:
        """What all states so far cost, in float inferences."""
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
        """Keep this state at its cuts for those that begin like it, in place of the one before."""
        self._kept = [one for one in self._kept if one.signatures in (self._off, self._full)]
        if probe not in self._kept:
            self._kept.append(probe)

    def float_on(self, count: int) -> Outcome:
        """The float model's outcome on the first ``count`` batches of ``order``."""
        if count not in self._float_on:
            indices = sorted(self.order[:count])
            held = [self._held(self._reference[index]) for index in indices]
            self._float_on[count] = summed([BatchOutcome()] * len(indices), self._score(indices, held))
        return self._float_on[count]

    def price(self, config: Config, count: int | None = None, like: Config | None = None) -> float:
        """What a state costs by the graph's arithmetic, in runs of the float model over all batches.

        Args:
            config: the state.
            count: on how many batches of ``order``; on all where None.
            like: a state that is kept at the cuts: what begins like it costs nothing. The float model where None.
        """
        own, other = self.signatures(config), self.signatures(like if like is not None else Config())
        start = next((k for k, (a, b) in enumerate(zip(own, other)) if a != b), self._count)
        return self._cost(range(start, self._count), config, self.order[:count]) / self.macs

    @cached_property
    def macs(self) -> float:
        """What the float model costs on all batches, in multiply-accumulates."""
        return max(self._cost(range(self._count), Config(), self.order), 1.0)

    def _cost(self, stages: Iterable[int], config: Config, part: Sequence[int]) -> float:
        return cost_of(self._pieces, stages, config, sum(self._sizes[index] for index in part), len(part))

    def rebased(self, pieces: Pieces, base: Config) -> Runner:
        """The same samples and float outputs with other scales of the base state."""
        twin = copy.copy(self)
        for name in ("full_outcome", "base"):
            vars(twin).pop(name, None)
        twin._begun = {}
        twin._pieces, twin._base, twin._full = pieces, base, twin.signatures(base)
        twin._loaded = LoadedPieces(pieces, self.memory // 2)
        twin._kept = [one for one in self._kept if one.signatures == self._off]
        return twin

    def outcome_of(self, model: Callable[[dict[str, Array]], Tensors]) -> Outcome:
        """The outcome of any other form of the model, run on the same batches: ``model`` gives outputs for inputs."""

        def one(index: int) -> tuple[BatchOutcome, Tensors]:
            outputs = model(dict(self.feeds[index].inputs))
            return self._compared(index, outputs), self._held(outputs)

        done = self._pool(one)
        return self.summed([part for part, _ in done], range(len(done)), [outputs for _, outputs in done])

    def forget(self) -> None:
        """Give back the memory of sessions and kept states; what is run after this begins at the first stage."""
        self._kept.clear()
        self._begun.clear()
        vars(self).pop("base", None)
        self._loaded.forget()

    # ---------------------------------------------------------------- one state

    def _start(self) -> Outcome:
        """Run the float model; one batch before, since the first run of a session allocates."""
        off = StateRun(self, Config(), keep=True)
        apart = self._plan(Config(), off.signatures, 0, apart=True)
        largest = max(range(len(self.feeds)), key=lambda index: self._sizes[index])
        _, trail, _ = self._advance(apart, dict(self.feeds[largest].inputs), set(range(1, self._count + 1)))
        self._places = self._affordable(trail, largest)
        done = self._pool(lambda index: self._advance(apart, dict(self.feeds[index].inputs), self._places))
        self.float_seconds = self._timed(sum(seconds for *_, seconds in done))
        self._reference = [{name: state[name] for name in self.outputs} for state, *_ in done]
        for index, (_, states, _) in enumerate(done):
            for place, state in states.items():
                off.states.setdefault(place, {})[index] = state
        self._kept.append(off)
        if self._given is not None:
            self._reference = [self._given(dict(feed.inputs)) for feed in self.feeds]
        self._varying = varying_shares(self._reference)
        return self.float_on(len(self.feeds))

    def _timed(self, apart: float) -> float:
        """Seconds of one float inference of all batches, where stage by stage it took ``apart``."""
        if not self.joins:
            return apart
        whole = self._plan(Config(), self._off, 0, apart=False)
        part = self.order[: -(-len(self.feeds) // _TIMED)]
        for _ in range(2):
            # the first run of a session allocates
            seconds = sum(self._advance(whole, dict(self.feeds[i].inputs), set())[2] for i in part)
        return seconds * sum(self._sizes) / max(sum(self._sizes[i] for i in part), 1)

    def compute(
        self, probe: StateRun, indices: Sequence[int], keep: bool
    ) -> Iterable[tuple[int, BatchOutcome, Tensors, dict[int, Tensors]]]:
        """Run a state on some batches: for each its number, what differs, its outputs and what it is at the cuts."""
        by_start: dict[int, list[int]] = {}
        for index in indices:
            by_start.setdefault(self._known_until(probe, index), []).append(index)
        for start, group in by_start.items():
            plan = self._plan(probe.config, probe.signatures, start, apart=keep)

            def one(index: int, start: int = start, plan: Sequence[LoadedPiece] = plan) -> Any:
                state = {**self.feeds[index].inputs, **self._state(probe, start, index)}
                state, states, seconds = self._advance(plan, state, self._places if keep else set())
                return {name: state[name] for name in self.outputs}, states, seconds

            for some in self._in_rounds(group):
                # a comparison between two runs would drive the model out of the processor's caches
                done = self._pool(one, some)
                made = [outputs for outputs, *_ in done]
                parts = self._pool(self._compared, some, made)
                self.spent += sum(seconds for *_, seconds in done)
                for index, part, (outputs, states, _) in zip(some, parts, done):
                    yield index, part, self._held(outputs), states

    def _known_until(self, probe: StateRun, index: int) -> int:
        """The last cut at which this batch of a state that begins alike is kept; 0 where none is."""
        return max((place for one in (*self._kept, probe) for place, states in one.states.items()
                    if index in states and one.signatures[:place] == probe.signatures[:place]), default=0)  # fmt: skip

    def _state(self, probe: StateRun, place: int, index: int) -> Tensors:
        alike = (one for one in (*self._kept, probe) if one.signatures[:place] == probe.signatures[:place])
        return next(one.states[place][index] for one in alike if index in one.states.get(place, ())) if place else {}

    def _plan(self, config: Config, signatures: StateKey, start: int, apart: bool) -> list[LoadedPiece]:
        """The pieces that compute a state from stage ``start`` on."""
        kinds = [
            FLOAT if own == off else FULL if own == full else SWITCHED
            for own, off, full in zip(signatures, self._off, self._full)
        ]
        based = self._base.scales.items() >= {pair for _, scales in signatures[start:] for pair in scales}
        if not apart and self.joins and start < self._count:
            groups = [(start, self._shared(kinds, start, FIXED if based else SWITCHED))]
        else:
            groups = [(number, [kinds[number]]) for number in range(start, self._count)]
        return [LoadedPiece(first + len(of) - 1, *self._loaded.open(first, of), config) for first, of in groups]

    def _shared(self, kinds: list[str], start: int, switched: str) -> list[str]:
        """The kinds of one piece from stage ``start`` on that computes this state and others like it.

        One more session for every mixture would cost more than switches that are not needed: what comes before the
        last change is switched, unless it is all of a stage that has one layer.
        """
        stages = self._pieces.stages[start:]
        rest = [switched if kind == SWITCHED else kind for kind in kinds[start:]]
        tail = next((kind for kind, stage in zip(rest[::-1], stages[::-1]) if stage), FLOAT)
        # a stage without switches is the same in any kind
        rest = [kind if stage else tail for kind, stage in zip(rest, stages)]
        changed = max((number + 1 for number, kind in enumerate(rest) if kind != tail), default=0)
        layers = sum("#" not in switch for switch in stages[0])
        if changed <= 1 and layers == 1:
            return rest
        if changed > _MIXED_STAGES:
            return [switched] * len(rest)
        return [switched] * changed + [tail] * (len(rest) - changed)

    def _advance(
        self, plan: Sequence[LoadedPiece], state: Tensors, places: set[int]
    ) -> tuple[Tensors, dict[int, Tensors], float]:
        """The last state, what it was at these cuts, and the seconds that it took."""
        kept, given, seconds = dict[int, Tensors](), set(self.feeds[0].inputs), 0.0
        for step in plan:
            feed = {**step.choices, **{name: state[name] for name in step.piece.inputs}}
            begin = time.thread_time()
            made = step.session.run(feed)
            seconds += time.thread_time() - begin
            state = {name: value for name, value in {**state, **made}.items() if name in self._later[step.last]}
            if step.last + 1 in places:
                kept[step.last + 1] = {name: value for name, value in state.items() if name not in given}
        return state, kept, seconds

    def _pool(self, work: Callable[..., Any], *items: Sequence[Any]) -> list[Any]:
        """What ``work`` gives for each of the items, for each feed's index where there are none."""
        items = items or (range(len(self.feeds)),)
        count = min(self._threads, len(items[0]))
        if count == 1:
            return list(map(work, *items))
        with ThreadPoolExecutor(count, "simulation") as pool:
            return list(pool.map(work, *items))

    def _in_rounds(self, indices: Sequence[int]) -> list[list[int]]:
        """Batches in order, as many at a time as there are threads or as have outputs of 32 MB."""
        rounds, held = list[list[int]](), 0
        for index in indices:
            size = sum(value.nbytes for value in self._reference[index].values())
            if not rounds or (held + size > _HELD_BYTES and len(rounds[-1]) >= self._threads):
                rounds.append([])
                held = 0
            rounds[-1].append(index)
            held += size
        return rounds

    def _held(self, outputs: Tensors) -> Tensors:
        """What is kept of a state's outputs until all batches are done."""
        return outputs if self.metric is not None else {}

    def _compared(self, index: int, outputs: Tensors) -> BatchOutcome:
        return compare(self._reference[index], outputs, self.classes, self.answers)

    def summed(self, parts: Sequence[BatchOutcome], indices: Sequence[int], held: Sequence[Tensors]) -> Outcome:
        """The outcome over some batches, added in order."""
        return summed(parts, self._score(indices, held), self._varying, self.answers)

    def _score(self, indices: Sequence[int], outputs: Sequence[Tensors]) -> tuple[float | None, int]:
        if self.metric is None:
            return None, 0
        metric = self.metric()
        for index, values in zip(indices, outputs):
            with at_fault(self.feeds[index]) as feed:
                metric.update({n: widened(v) for n, v in values.items()}, feed.labels or {})
        return metric.value(), answers_of(metric)

    # ---------------------------------------------------------------- what is kept

    def signatures(self, config: Config) -> StateKey:
        """For every stage what is on in it; two states with equal beginnings hand on equal tensors."""
        found = []
        for stage in self._pieces.stages:
            on = sorted(switch for switch in stage if switch in config.on)
            scales = sorted({(tensor, config.scales[tensor]) for switch in on for tensor in stage[switch]})
            found.append((tuple(on), tuple(scales)))
        return tuple(found)

    def _needed_later(self) -> list[set[str]]:
        """For every stage the tensors that later stages read or the model gives out."""
        needed, later = [set(self.outputs)], set(self.outputs)
        for reads in reversed(self._pieces.reads[1:]):
            later = later | reads
            needed.append(later)
        return needed[::-1]

    def _affordable(self, trail: dict[int, Tensors], index: int) -> set[int]:
        """The cuts at which states can be kept within the memory, evenly spread; three states are kept.

        Args:
            trail: what one state of one batch is at all cuts.
            index: the batch.
        """
        scale = _STATES * sum(self._sizes) / max(self._sizes[index], 1)
        size = [scale * sum(v.nbytes for v in trail[k + 1].values()) for k in range(self._count)]
        for step in range(1, len(size) + 1):
            places = {k + 1 for k in range(len(size) - 1, -1, -step)}
            if sum(size[k - 1] for k in places) <= self.memory / 2:
                return places
        return {len(size)}
