"""The cost of running a state from the cut at which it starts, by the graph's arithmetic."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from toolkit.simulation.cut import Cutter
from toolkit.simulation.cuts import KeptCuts, signatures_of
from toolkit.simulation.loaded import cost_of
from toolkit.simulation.switches import Config

_REORDERED_NS, _LONGER_NS, _AGAIN_NS = 1.2, 300e3, 700e3
"""Nanoseconds of a run for each element that a session reorders needlessly; and of loading a session without reordering
for each node: those that it takes longer and, for a state that is loaded already, all of them. Measured on an
EfficientNet-Lite and a text recognizer.
"""


def cost_on(pieces: Cutter, stages: Iterable[int], config: Config, sizes: Sequence[int], part: Sequence[int]) -> float:
    """The cost of stages in a state on some batches, in multiply-accumulates.

    Args:
        stages: the numbers of the stages.
        sizes: by batch, the number of elements of all inputs.
        part: the batches' numbers.
    """
    return cost_of(pieces, stages, config, sum(sizes[index] for index in part), len(part))


def cost_after_cuts(
    pieces: Cutter, config: Config, like: Config, sizes: Sequence[int], part: Sequence[int], cuts: KeptCuts,
    kept: Container[int],
) -> float:  # fmt: skip
    """The cost in multiply-accumulates of a state on some batches, run from the last cut where an equal state is kept.

    Args:
        like: a state that is kept for some batches.
        sizes: by batch, the number of elements of all inputs.
        part: the batches' numbers.
        cuts: the cuts at which states are kept; the float model for all batches.
        kept: the batches for which ``like`` is kept.
    """
    count, own = len(pieces.stages), signatures_of(pieces, config)

    def change(other: Config) -> int:
        alike = zip(own, signatures_of(pieces, other))
        return next((stage for stage, (one, another) in enumerate(alike) if one != another), count)

    of_float, of_like, by_start = change(Config()), change(like), dict[int, list[int]]()
    for index in part:
        stage = max(of_float, of_like) if index in kept else of_float
        by_start.setdefault(cuts.before(stage, index), []).append(index)
    return sum(cost_on(pieces, range(start, count), config, sizes, some) for start, some in by_start.items())


def pays_to_reorder_less(
    pieces: Cutter, config: Config, start: int, sizes: Sequence[int], part: Sequence[int], again: bool
) -> bool:
    """Whether a session that is loaded to run often makes up for its longer loading; see ``session``.

    Args:
        start: the first stage to run.
        sizes: by batch, the number of elements of all inputs.
        part: the numbers of the batches to run.
        again: whether the state is loaded already, to run on few batches.
    """
    samples = sum(sizes[index] for index in part) / max(pieces.input_elements, 1)
    elements = samples * pieces.paired_elements(range(start, len(pieces.stages)), config)
    return elements * _REORDERED_NS > len(pieces.graph.nodes) * (_AGAIN_NS if again else _LONGER_NS)
