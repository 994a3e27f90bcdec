"""What a search may spend and what it has spent, in float inferences of the samples that it decides on.

Decisions are based on prices, the graph's arithmetic, so that they are the same on any machine and when an
interrupted search resumes, as long as the minutes last. What was really computed is counted separately, for everything
that ran a model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toolkit.graph.sessions.meter import computed

PLENTY = 10**9
"""What is left where there is no limit."""
FLOAT_PRICE, CALIBRATION_PRICE, TRIAL_PRICE, ROUNDING_PRICE = 1.3, 2.0, 1.2, 2.0
FORM_PRICE, TYPES_PRICE, SPOTS_PRICE = 1.4, 1.3, 0.7
"""Costs in float inferences of one thread: of the first run of the float model; of the ranges of another form; of a
helper tried on a quarter of the samples, ranges included; of what says how weights are rounded; of the form of a plan,
with its ranges; of a check in the real types; and of what explains the worst layers.

By the clock, with two cores, of an image classifier (EfficientNet, 64 samples) and a text recogniser (96 samples):
1.0 and 0.9; 2.1 and 1.7; 1.2 and 1.2; 4.0 and 1.6; 1.1 and 1.5; 1.2 and 1.1; 0.7 and 0.4. To be measured by
``bench_search clock``, which prints both for each.
"""
_USUAL, _USUAL_MINUTES, _AGAIN = 20.0, 3.0, 6.0
_PRICED = 0.95
"""How much of what is allowed is spent by prices, which are the graph's arithmetic alone."""
_LEAST_MACS = 1e11
"""Some 40 milliseconds: a model with shorter inferences may have more of them."""


def at_work() -> Callable[[], float]:
    """A clock of the seconds that this process had, which stands still while others have the processor.

    A search without limits finds the same on a machine that is busy with something else. Between two readings
    the shorter of wall and processor time has passed: many threads do not make up for time spent waiting before.
    """
    shown, seen = 0.0, (time.monotonic(), time.process_time())

    def look() -> float:
        nonlocal shown, seen
        now = time.monotonic(), time.process_time()
        shown += min(now[0] - seen[0], now[1] - seen[1])
        seen = now
        return shown

    return look


class Spending:
    """One account for a search and all that belongs to it.

    Args:
        inferences: what may be spent; no limit where None.
        minutes: how long it may take; no limit where None.
        clock: seconds that only grow.

    Attributes:
        minutes: how long it may take in all; None without a limit.
        priced: what was spent, by prices.
        bought: what has been paid for and is known: nothing is paid for twice.
        first: what had been spent when a first plan within the budget was known; None where none was looked for.
    """

    def __init__(
        self, inferences: float | None = None, minutes: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.inferences, self._clock = inferences, clock
        self._at_least = self._more_minutes = 0.0
        self._again = False
        self._allowed = inferences or 0.0
        self.minutes, self._until = minutes, clock() + 60 * minutes if minutes is not None else math.inf
        self._before = computed()
        self._asked: set[str] = set()
        self.priced = 0.0
        self.bought: set[tuple[str, int]] = set()
        self.first: float | None = None

    @classmethod
    def of_search(cls, inferences: float | None, minutes: float | None) -> Spending:
        """The account of a whole search: the checks that follow the plans belong to what is allowed.

        Args:
            inferences: what is allowed; 20 where None, and more where they take no time.
            minutes: how long it may take; where None 3 of the time that the process has, and no limit where the
                inferences are given.
        """
        allowed = inferences if inferences is not None else _USUAL
        plans = max(allowed - TYPES_PRICE - SPOTS_PRICE, 0.0) * _PRICED
        usual = minutes is None and inferences is None
        made = cls(plans, _USUAL_MINUTES, at_work()) if usual else cls(plans, minutes)
        made._at_least = _LEAST_MACS if inferences is None else 0.0
        made._again = inferences is None
        made._more_minutes = _USUAL_MINUTES if usual else 0.0
        return made

    def more(self) -> bool:
        """Allow twice as much again and double the minutes, once, where no limit was set; returns whether it did.

        For a search that has nothing worth having: a model that stays float costs its user more than a longer search.
        """
        if self.inferences is None or not self._at_least or (self.over and not self._more_minutes):
            return False
        self.inferences, self._at_least = max(self.inferences, self.priced) + 2 * self._allowed, 0.0
        if self.minutes is not None:
            self.minutes += self._more_minutes
            self._until += 60 * self._more_minutes
        return True

    def again(self, why: str = "", least: float = _AGAIN) -> None:
        """Let a search look at a few more plans, where no limit was set: once for each reason.

        Args:
            why: what the plans that it has known lack.
            least: the inferences that are left then.
        """
        if self.inferences is not None and self._again and why not in self._asked:
            self.inferences = max(self.inferences, self.priced + least)
        self._asked.add(why)

    def know(self, macs: float) -> None:
        """Take in what a float inference of all samples costs, in multiply-accumulates."""
        if self.inferences is not None:
            self._allowed = max(self._allowed, self._at_least / max(macs, 1.0))
            self.inferences = max(self.inferences, self._allowed)

    @property
    def over(self) -> bool:
        """Whether the minutes are used up."""
        return self._clock() >= self._until

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, another process builds and measures engines: default minutes pass only while this one computes."""
        self._clock()
        yield
        self._clock()

    @property
    def limited(self) -> bool:
        """Whether every inference counts."""
        return self.inferences is not None

    @property
    def remaining(self) -> float:
        """What may still be spent."""
        return max(self.inferences - self.priced, 0.0) if self.inferences is not None else math.inf

    def pay(self, price: float) -> None:
        """Note what something costs."""
        self.priced += price

    def left(self, price: float, reserve: float = 0.0) -> int:
        """How many things of this price may still be bought, with as much as ``reserve`` left after them."""
        if self.over:
            return 0
        if self.inferences is None or price <= 0:
            return PLENTY
        return max(int((self.inferences - reserve - self.priced) / max(price, 1e-9) + 1e-9), 0)

    def counted(self, float_seconds: float) -> float:
        """What was really computed, in float inferences that take so many seconds each."""
        return (computed() - self._before) / float_seconds if float_seconds else 0.0
