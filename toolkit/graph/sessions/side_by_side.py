"""Run a model on two batches at a time, since threads within one operator of a small batch wait for each other."""

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
"""More batches would need much memory, since callers hold the inner tensors of one while others are computed."""
BATCHES_HELD = _AT_ONCE + 1
"""Largest number of batches whose tensors are in memory: those computed or waiting, and the one in use."""


def run_side_by_side(
    model: Model, outputs: Sequence[str], items: Iterable[T], inputs: Callable[[T], Mapping[str, Array]]
) -> Generator[tuple[T, dict[str, Array]], None, None]:
    """Each item with the model's outputs for it, in order; the next items are computed in the meantime.

    Args:
        outputs: the tensors to return, see ``session``.
        items: batches, or any objects with inputs.
        inputs: returns an item's inputs.

    Raises:
        DataError: a sample does not fit the model.
        ModelError: onnxruntime refuses the model, or cannot run it.
    """
    workers = min(_AT_ONCE, session_threads())
    loaded = session(model, outputs, threads=session_threads() // workers)
    if loaded.is_partitioned:
        # each worker would load all partitions for its item
        workers, loaded = 1, session(model, outputs)
    yield from prefetched(items, lambda item: loaded.run(inputs(item)), workers)
