"""A state of the simulation that is run on ever more of the batches, here or where the user wants work to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from toolkit.base.places import Pending, Workers
from toolkit.base.types import Array
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome
from toolkit.simulation.cuts import StateKey
from toolkit.simulation.switches import Config

_HELD_BYTES = 32 << 20
_SIDE_BY_SIDE = 2
Tensors = dict[str, Array]
BatchRun = tuple[BatchOutcome, Tensors, float]
"""For one batch what differs, the outputs that the metric needs, and the seconds that it took."""


@dataclass(frozen=True)
class BatchRequest:
    """One batch of a state, to be run by another process.

    Attributes:
        config: the state.
        index: the batch's number.
        start: the cut that it is run from. A process that lacks the state there computes it stage by stage: results of
            one session and of two in its place may differ in the last bits.
        keep: see ``StateRun``.
        anchor: the state that others begin like; None where there is none.
    """

    config: Config
    index: int
    start: int
    keep: bool
    anchor: Config | None


class RunsBatches(Protocol):
    """What a state asks of a ``Runner``."""

    order: list[int]
    threads: int
    workers: Workers[BatchRequest, BatchRun] | None

    def signatures(self, config: Config) -> StateKey: ...  # noqa: D102

    def run(self, config: Config) -> Outcome: ...  # noqa: D102

    def probe(self, config: Config, keep: bool = False) -> StateRun: ...  # noqa: D102

    def asked(self, probe: Any, index: int, keep: bool) -> tuple[int, Pending[BatchRun]] | None: ...  # noqa: D102

    def answered(self, pending: Pending[BatchRun]) -> tuple[BatchOutcome, Tensors]: ...  # noqa: D102

    def cuts_after(self, start: int, index: int) -> list[int]: ...  # noqa: D102

    def compute(  # noqa: D102
        self, probe: Any, indices: Sequence[int], keep: bool
    ) -> Iterable[tuple[int, BatchOutcome, Tensors, dict[int, Tensors]]]: ...

    def summed(  # noqa: D102
        self, parts: Sequence[BatchOutcome], indices: Sequence[int], held: Sequence[Tensors]
    ) -> Outcome: ...


class StateRun:
    """A state that is run on more and more of the batches; completed batches stay.

    Args:
        runner: runs it.
        config: the state.
        keep: keep the state at the cuts of the graph, for states that begin alike.

    Attributes:
        states: by cut and batch the state there; None where another process has it.
    """

    def __init__(self, runner: RunsBatches, config: Config, keep: bool = False) -> None:
        self.config, self._runner, self._keep = config, runner, keep
        self.signatures = runner.signatures(config)
        self.states: dict[int, dict[int, Tensors | None]] = {}
        self._asked: dict[int, tuple[int, Pending[BatchRun]]] = {}
        self._workers: Workers[BatchRequest, BatchRun] | None = None
        self._parts: dict[int, BatchOutcome] = {}
        self._held: dict[int, Tensors] = {}

    def ask(self, count: int | None = None) -> None:
        """Have the first ``count`` batches run elsewhere, without waiting; nothing where work is done here."""
        if self._workers is not self._runner.workers:
            # the process asked before has given up what was under way
            self._asked.clear()
            self._workers = self._runner.workers
        for index in sorted(self._runner.order[:count]):
            if index not in self._parts and index not in self._asked:
                asked = self._runner.asked(self, index, self._keep)
                if asked is not None:
                    self._asked[index] = asked

    def run(self, count: int | None = None) -> Outcome:
        """The outcome on the first ``count`` batches of ``Runner.order``; on all where None."""
        self.ask(count)
        indices = sorted(self._runner.order[:count])
        for index in [index for index in indices if index in self._asked]:
            start, pending = self._asked.pop(index)
            self._parts[index], self._held[index] = self._runner.answered(pending)
            for place in self._runner.cuts_after(start, index) if self._keep else ():
                self.states.setdefault(place, {})[index] = None
        todo = [index for index in indices if index not in self._parts]
        for index, part, outputs, states in self._runner.compute(self, todo, self._keep):
            self._parts[index], self._held[index] = part, outputs
            for place, state in states.items():
                self.states.setdefault(place, {})[index] = state
        return self._runner.summed([self._parts[i] for i in indices], indices, [self._held[i] for i in indices])


def run_each(runner: RunsBatches, configs: Sequence[Config], count: int | None) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of states, each with the state's place among ``configs``, in any order.

    On all batches, the states are run one after the other. On the first ``count``, several are run side by side where
    there are fewer batches than threads, two at least: while one loads, the other computes. Neighbours take the same
    sessions, so each thread has neighbours to itself: none waits for what another one loads.
    """
    if count is None:
        yield from enumerate(map(runner.run, configs))
        return

    def run(place: int) -> tuple[int, Outcome]:
        return place, runner.probe(configs[place]).run(count)

    places: Sequence[int] = range(len(configs))
    if runner.threads < _SIDE_BY_SIDE:
        yield from map(run, places)
        return
    threads = max(runner.threads // count, _SIDE_BY_SIDE)
    step = max(-(-len(configs) // threads), 1)
    pool = ThreadPoolExecutor(threads, "states")
    try:
        yield from pool.map(run, [place for first in range(step) for place in places[first::step]])
    finally:
        pool.shutdown(cancel_futures=True)


def in_rounds(indices: Sequence[int], size: Callable[[int], int], threads: int) -> list[list[int]]:
    """Batches in order, as many at a time as there are threads or as have 32 MB of outputs; ``size`` is a batch's."""
    rounds, held = list[list[int]](), 0
    for index in indices:
        if not rounds or (held + size(index) > _HELD_BYTES and len(rounds[-1]) >= threads):
            rounds.append([])
            held = 0
        rounds[-1].append(index)
        held += size(index)
    return rounds
