"""The cost of running a state from the cut at which it starts, by the graph's arithmetic."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from toolkit.simulation.cut import Cutter
from toolkit.simulation.cuts import KeptCuts, signatures_of
from toolkit.simulation.loaded import cost_of
from toolkit.simulation.switches import Config


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
