"""Running a state of the simulation on a growing number of batches, in this process or by workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from toolkit.base.places import Pending, Workers
from toolkit.base.types import Array
from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome
from toolkit.simulation.cuts import StateKey
from toolkit.simulation.switches import Config

_HELD_BYTES = 32 << 20
_SIDE_BY_SIDE = 2
_T = TypeVar("_T")
_R = TypeVar("_R")
Tensors = dict[str, Array]
BatchRun = tuple[BatchOutcome, Tensors, float]
"""For one batch: the comparison, the outputs that the metric needs, and the seconds."""


@dataclass(frozen=True)
class BatchRequest:
    """A request to a worker to run one batch of a state.

    Attributes:
        config: the state.
        index: the batch's number.
        start: the cut to start from. A worker that lacks the state there computes it stage by stage, since one session
            for all stages may give other last bits.
        keep: see ``StateRun``.
        anchor: the kept state for states with the same beginning, see ``Runner.anchor``; None if there is none.
    """

    config: Config
    index: int
    start: int
    keep: bool
    anchor: Config | None


class RunsBatches(Protocol):
    """The part of ``Runner`` that a ``StateRun`` uses."""

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
    """A state that is run on a growing number of batches; results of completed batches are kept.

    Args:
        runner: runs the state.
        keep: whether to keep the state at the cuts, for states with the same beginning.

    Attributes:
        keeps: whether states are kept at the cuts.
        states: by cut and batch, the state there; None if only a worker has it.
        often: whether its sessions are loaded to be run on many batches, see ``session``.
    """

    often = False

    def __init__(self, runner: RunsBatches, config: Config, keep: bool = False) -> None:
        self.config, self._runner, self.keeps = config, runner, keep
        self.signatures = runner.signatures(config)
        self.states: dict[int, dict[int, Tensors | None]] = {}
        self._asked: dict[int, tuple[int, Pending[BatchRun]]] = {}
        self._workers: Workers[BatchRequest, BatchRun] | None = None
        self._parts: dict[int, BatchOutcome] = {}
        self._held: dict[int, Tensors] = {}

    @property
    def begun(self) -> bool:
        """Whether some batches have been run."""
        return bool(self._parts)

    def ask(self, count: int | None = None) -> None:
        """Send the first ``count`` batches to workers, without waiting; without workers, do nothing."""
        if self._workers is not self._runner.workers:
            # earlier workers have dropped their pending requests
            self._asked.clear()
            self._workers = self._runner.workers
        for index in sorted(self._runner.order[:count]):
            if index not in self._parts and index not in self._asked:
                asked = self._runner.asked(self, index, self.keeps)
                if asked is not None:
                    self._asked[index] = asked

    def run(self, count: int | None = None) -> Outcome:
        """The outcome on the first ``count`` batches of ``Runner.order``; None for all."""
        self.ask(count)
        indices = sorted(self._runner.order[:count])
        for index in [index for index in indices if index in self._asked]:
            start, pending = self._asked.pop(index)
            self._parts[index], self._held[index] = self._runner.answered(pending)
            for place in self._runner.cuts_after(start, index) if self.keeps else ():
                self.states.setdefault(place, {})[index] = None
        todo = [index for index in indices if index not in self._parts]
        for index, part, outputs, states in self._runner.compute(self, todo, self.keeps):
            self._parts[index], self._held[index] = part, outputs
            for place, state in states.items():
                self.states.setdefault(place, {})[index] = state
        return self._runner.summed([self._parts[i] for i in indices], indices, [self._held[i] for i in indices])


def run_each(runner: RunsBatches, configs: Sequence[Config], count: int | None) -> Iterator[tuple[int, Outcome]]:
    """Run states; yields each state's index in ``configs`` and its outcome, in any order.

    On all batches, states are run one after the other. On the first ``count``, several run in parallel if there are
    fewer batches than threads, at least two, so that one computes while the other loads. Neighbours use the same
    sessions, so each thread gets consecutive states, and none waits for a session that another one loads.
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
    yield from _in_threads(run, [place for first in range(step) for place in places[first::step]], threads)


def run_side_by_side(runner: RunsBatches, states: Sequence[StateRun], count: int) -> None:
    """Run states on the first ``count`` batches, two at a time: one computes while the other loads its sessions.

    Each state keeps its results. Those that keep their cuts are run before, one by one: where others start then depends
    neither on time nor on the number of threads. With one thread nothing is done: the states are run when their
    outcomes are asked for.
    """
    if runner.threads < _SIDE_BY_SIDE or len(states) < _SIDE_BY_SIDE:
        return
    for state in states:
        if state.keeps:
            state.run(count)
    list(_in_threads(lambda state: state.run(count), [one for one in states if not one.keeps], _SIDE_BY_SIDE))


def _in_threads(work: Callable[[_T], _R], items: Sequence[_T], threads: int) -> Iterator[_R]:
    """The results of ``work`` for all items, in order; no further item is begun once the caller stops."""
    pool = ThreadPoolExecutor(threads, "states")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def in_rounds(indices: Sequence[int], size: Callable[[int], int], threads: int) -> list[list[int]]:
    """Batches in rounds: as many as there are threads, or more up to 32 MB of outputs; ``size``: bytes by batch."""
    rounds, held = list[list[int]](), 0
    for index in indices:
        if not rounds or (held + size(index) > _HELD_BYTES and len(rounds[-1]) >= threads):
            rounds.append([])
            held = 0
        rounds[-1].append(index)
        held += size(index)
    return rounds
