"""States at the cuts between stages: what identifies them, which tensors they need, which to keep in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.simulation.cut import Cutter
from toolkit.simulation.piece_builder import FIXED, FLOAT, SWITCHED, OwnState, StageKind
from toolkit.simulation.switches import Config

StateKey = tuple[Any, ...]
_MIXED_STAGES = 3
_STATES, _STATES_JOINED = 4, 3
"""The number of states in memory, with the one being run; without that one if states are run in one piece."""
_FINE, _FOR_FINE = 16, 0.25
"""One in 16 batches gets finer cuts, in this share of the memory."""


def signatures_of(pieces: Cutter, config: Config) -> StateKey:
    """By stage, the active switches and scales of a state; equal beginnings mean equal tensors up to there."""
    found = []
    for stage in pieces.stages:
        on = sorted(switch for switch in stage if switch in config.on)
        scales = sorted({(tensor, config.scales[tensor]) for switch in on for tensor in stage[switch]})
        found.append((tuple(on), tuple(scales)))
    return tuple(found)


def needed_later(pieces: Cutter, outputs: Sequence[str]) -> list[set[str]]:
    """By stage, the tensors that later stages read or the model outputs."""
    needed, later = [set(outputs)], set(outputs)
    for reads in reversed(pieces.reads[1:]):
        later = later | reads
        needed.append(later)
    return needed[::-1]


def kept_bytes(sizes: Mapping[int, float], places: Iterable[int], states: int = _STATES) -> int:
    """Bytes of the states kept at these cuts."""
    return int(states * sum(sizes[place] for place in places))


def affordable_cuts(sizes: Mapping[int, float], memory: float, states: int = _STATES) -> set[int]:
    """The cuts at which to keep states within the memory: the last one, then those that save most work per byte.

    It assumes that states are equally likely to differ first in any stage, and that all stages cost the same: running a
    state from cut k saves k stages.

    Args:
        sizes: bytes of one state of all batches, by cut from 1 on.
        memory: the most bytes of all states together.
        states: number of states to keep.
    """
    count = len(sizes)
    places = {count}

    def saved(kept: set[int]) -> int:
        return sum(max((place for place in kept if place <= stage), default=0) for stage in range(count))

    while True:
        fits = [one for one in sizes if one not in places and kept_bytes(sizes, places | {one}, states) <= memory]
        if not fits:
            return places
        before = saved(places)
        places.add(max(fits, key=lambda one: ((saved(places | {one}) - before) / max(sizes[one], 1.0), one)))


@dataclass(frozen=True)
class KeptCuts:
    """The cuts at which states are kept, finer for the few batches on which layers are measured one by one.

    Attributes:
        first: the numbers of these batches, a representative subset.
        fine: the cuts for these batches.
        rest: the cuts for the others.
        size: bytes of the states kept at these cuts.
    """

    first: frozenset[int] = frozenset()
    fine: frozenset[int] = frozenset()
    rest: frozenset[int] = frozenset()
    size: int = 0

    @classmethod
    def affordable(cls, sizes: Mapping[int, float], memory: float, order: Sequence[int], joins: bool) -> KeptCuts:
        """The cuts at which states can be kept within the memory.

        Args:
            sizes: bytes of one state of all batches, by cut from 1 on.
            memory: the most bytes of all states together.
            order: the batches' numbers, the first few spread over all.
            joins: whether states are run in one piece.
        """
        first = order[: -(-len(order) // _FINE)]
        part = len(first) / len(order)
        few = {place: size * part for place, size in sizes.items()}
        others = {place: size - few[place] for place, size in sizes.items()}
        states = _STATES_JOINED if joins else _STATES
        fine = affordable_cuts(few, memory * _FOR_FINE, states)
        size = kept_bytes(few, fine, states)
        rest = affordable_cuts(others, memory - size, states)
        return cls(frozenset(first), frozenset(fine), frozenset(rest), size + kept_bytes(others, rest, states))

    @property
    def places(self) -> frozenset[int]:
        """The cuts at which states of some batch are kept."""
        return self.fine | self.rest

    def for_order(self, order: Sequence[int]) -> KeptCuts:
        """The same cuts, with finer ones for the first batches of another order."""
        return replace(self, first=frozenset(order[: len(self.first)]))

    def of(self, index: int) -> frozenset[int]:
        """The cuts at which states of a batch are kept."""
        return self.fine if index in self.first else self.rest

    def before(self, stage: int, index: int) -> int:
        """The cut from which to run a state that first differs in ``stage``; 0 for the beginning."""
        return max((place for place in self.of(index) if place <= stage), default=0)


def joined_kinds(
    kinds: Sequence[str], stages: Sequence[Collection[str]], on: frozenset[str], fixed: bool
) -> list[StageKind]:
    """The kinds of stages for a single piece that computes a state, and similar ones if few stages are mixed.

    A new session for every state that differs in one stage would cost more than superfluous switches: so the stages up
    to the last change are switched, unless that is only one stage with one layer. A state with many mixed stages is a
    plan, which is run on many samples: it gets a session of its own.

    Args:
        kinds: the kind of each stage in the state.
        stages: the switches of each stage.
        on: the state's active switches.
        fixed: whether its scales are the base state's.
    """
    switched = FIXED if fixed else SWITCHED
    rest = [switched if kind == SWITCHED else kind for kind in kinds]
    tail = next((kind for kind, stage in zip(rest[::-1], stages[::-1]) if stage), FLOAT)
    # a stage without switches is the same for all kinds
    rest = [kind if stage else tail for kind, stage in zip(rest, stages)]
    changed = max((number + 1 for number, kind in enumerate(rest) if kind != tail), default=0)
    layers = sum("#" not in switch for switch in stages[0])
    if changed <= 1 and layers == 1:
        return list[StageKind](rest)
    if max(changed, rest.count(switched)) > _MIXED_STAGES:
        return [
            OwnState(on.intersection(stage), fixed) if kind == switched else kind for kind, stage in zip(rest, stages)
        ]
    return [*[switched] * changed, *rest[changed:]]
