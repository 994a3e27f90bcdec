"""Values made of each other: where one changes, those made of it are made anew, and no others."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Making(threading.local):
    """The cells that are being made in this thread, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[Cell[Any]] = []


_making = _Making()


class Input(Generic[T]):
    """A value that is set from outside.

    Args:
        value: what it is at first.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._readers: set[Cell[Any]] = set()

    def __call__(self) -> T:
        """The value; a cell that is being made is made anew once it changes."""
        if _making.stack:
            self._readers.add(_making.stack[-1])
        return self._value

    def set(self, value: T) -> None:
        """Change it; what was made of it is out of date until its network settles."""
        if value != self._value:
            self._value = value
            for reader in self._readers:
                reader.doubt()


class Cell(Input[T]):
    """A value that is made of others. ``Network.add`` makes one."""

    def __init__(self, network: Network, rank: int, make: Callable[[], T]) -> None:
        self._network, self.rank, self._make = network, rank, make
        super().__init__(self._made())

    def doubt(self) -> None:
        """Note that something it was made of has changed."""
        self._network.doubted(self)

    def remake(self) -> None:
        """Make it anew; its readers are doubted where it is another value now."""
        self.set(self._made())

    def _made(self) -> T:
        _making.stack.append(self)
        try:
            return self._make()
        finally:
            _making.stack.pop()


class Network:
    """Cells in an order in which each is made of earlier ones alone."""

    def __init__(self) -> None:
        self._cells: list[Cell[Any]] = []
        self._doubted: list[int] = []
        self._waiting: set[int] = set()

    def add(self, make: Callable[[], T]) -> Cell[T]:
        """A cell whose value ``make`` gives, from earlier cells and from inputs; made at once."""
        cell = Cell(self, len(self._cells), make)
        self._cells.append(cell)
        return cell

    def doubted(self, cell: Cell[Any]) -> None:
        """Note that a cell is to be made anew."""
        if cell.rank not in self._waiting:
            self._waiting.add(cell.rank)
            heapq.heappush(self._doubted, cell.rank)

    def close(self) -> None:
        """Give back what the cells hold, which they do in circles; none is to be asked afterwards."""
        for cell in self._cells:
            cell.__dict__.clear()
        self._cells.clear()

    def settle(self) -> None:
        """Make all doubted cells anew, in their order."""
        while self._doubted:
            rank = heapq.heappop(self._doubted)
            self._waiting.discard(rank)
            self._cells[rank].remake()
