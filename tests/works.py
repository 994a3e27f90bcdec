"""Works that other processes open: these import this module, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.mapped import FilePlace, place_of


@dataclass(frozen=True)
class Powers:
    base: int

    def open(self) -> Callable[[int], int]:
        return lambda item: self.base**item


@dataclass(frozen=True)
class Held:
    """Says of its arrays where they lie, and what they hold."""

    arrays: list[Any]

    def open(self) -> Callable[[int], tuple[FilePlace | None, float]]:
        return lambda item: (place_of(self.arrays[item]), float(self.arrays[item].sum()))


@dataclass(frozen=True)
class Ends:
    """Work whose process ends at the first item."""

    def open(self) -> Callable[[int], int]:
        return lambda item: os._exit(3)


@dataclass(frozen=True)
class Closed:
    """Work that a process cannot open."""

    def open(self) -> Callable[[int], int]:
        raise FileNotFoundError("labels.npz")


@dataclass(frozen=True)
class Fragile:
    """A work whose worker is killed in the middle: once, or whenever its second item comes."""

    work: Any
    folder: Path
    once: bool = True
    at: int = 2

    def open(self) -> Callable[[Any], Any]:
        answer, done = self.work.open(), 0

        def fragile(item: Any) -> Any:
            nonlocal done
            done += 1
            if done == self.at and not (self.once and self._killed.exists()):
                self._killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(item)

        return fragile

    @property
    def _killed(self) -> Path:
        return self.folder / "killed"


@dataclass(frozen=True)
class Strict:
    """Refuses two items, and takes a minute for all others where there is a folder to say who does."""

    folder: Path | None = None

    def open(self) -> Callable[[int], int]:
        def answer(item: int) -> int:
            if item == 3:
                raise DataError("3 is refused", where="item 3", remedy="leave it out", value="3")
            if item == 5:
                raise KeyError("five")
            if self.folder is not None:
                (self.folder / f"{os.getpid()}").touch()
                time.sleep(60)
            return item

        return answer
