"""A model run on one batch after the other, two at a time: threads within one operator of a small batch wait for each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeVar

from toolkit.base.cpu import session_threads
from toolkit.base.threads import prefetched
from toolkit.base.types import Array
from toolkit.graph.model import Model
from toolkit.graph.sessions.session import session

T = TypeVar("T")
_AT_ONCE = 2
"""Whoever asks for inner tensors holds those of one batch while these are computed: more would take much memory."""
BATCHES_HELD = _AT_ONCE + 1
"""How many batches' tensors are held at most: those being computed, or waiting, and those being looked at."""


def run_side_by_side(
    model: Model, outputs: Sequence[str], items: Iterable[T], inputs: Callable[[T], Mapping[str, Array]]
) -> Generator[tuple[T, dict[str, Array]], None, None]:
    """Each item with what a model gives for it, in order; the next ones are computed meanwhile.

    Args:
        model: the model.
        outputs: the tensors to return, see ``session``.
        items: batches, or whatever holds inputs.
        inputs: returns an item's inputs.

    Raises:
        DataError: a sample does not fit.
        ModelError: onnxruntime refuses the model, or cannot run it.
    """
    workers = min(_AT_ONCE, session_threads())
    loaded = session(model, outputs, threads=session_threads() // workers)
    if loaded.is_partitioned:
        # each item would load all partitions for itself
        workers, loaded = 1, session(model, outputs)
    yield from prefetched(items, lambda item: loaded.run(inputs(item)), workers)
