"""Values computed from each other: if one changes, only the values that depend on it are recomputed."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Making(threading.local):
    """The cells that are being computed in this thread, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Cell[Any]] = []


_making = _Making()


class Input(Generic[T]):
    """A value that is set from outside the network.

    Args:
        value: the initial value.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._readers: set[Cell[Any]] = set()

    def __call__(self) -> T:
        """The value; if a cell is being computed, it is recomputed when this value changes."""
        if _making.stack:
            self._readers.add(_making.stack[-1])
        return self._value

    def set(self, value: T) -> None:
        """Set the value; cells that depend on it are out of date until the network settles."""
        if value != self._value:
            self._value = value
            for reader in self._readers:
                reader.doubt()


class Cell(Input[T]):
    """A value computed from other cells and inputs; created by ``Network.add``."""

    def __init__(self, network: Network, rank: int, make: Callable[[], T]) -> None:
        self._network, self.rank, self._make = network, rank, make
        super().__init__(self._made())

    def doubt(self) -> None:
        """Mark this cell for recomputation because a value it depends on has changed."""
        self._network.doubted(self)

    def remake(self) -> None:
        """Recompute the value; if it changes, its readers are marked for recomputation."""
        self.set(self._made())

    def _made(self) -> T:
        _making.stack.append(self)
        try:
            return self._make()
        finally:
            _making.stack.pop()


class Network:
    """Cells in an order in which each depends only on earlier ones."""

    def __init__(self) -> None:
        self._cells: list[Cell[Any]] = []
        self._doubted: list[int] = []
        self._waiting: set[int] = set()

    def add(self, make: Callable[[], T]) -> Cell[T]:
        """Add a cell whose value ``make`` computes from earlier cells and inputs; it is computed at once."""
        cell = Cell(self, len(self._cells), make)
        self._cells.append(cell)
        return cell

    def doubted(self, cell: Cell[Any]) -> None:
        """Mark a cell for recomputation."""
        if cell.rank not in self._waiting:
            self._waiting.add(cell.rank)
            heapq.heappush(self._doubted, cell.rank)

    def close(self) -> None:
        """Free the objects that the cells hold in reference cycles; no cell may be read afterwards."""
        for cell in self._cells:
            cell.__dict__.clear()
        self._cells.clear()

    def settle(self) -> None:
        """Recompute all marked cells, in order."""
        while self._doubted:
            rank = heapq.heappop(self._doubted)
            self._waiting.discard(rank)
            self._cells[rank].remake()
