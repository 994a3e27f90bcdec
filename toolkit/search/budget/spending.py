"""How much a search may spend and has spent, in float inferences of the samples that it decides on.

Decisions are based on prices, which are computed from the graph's arithmetic, so they are the same on any machine and
when an interrupted search resumes, unless the time limit is reached. The real computing time is counted separately, for
everything that runs a model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toolkit.graph.sessions.meter import computed

PLENTY = 10**9
"""The number of purchases left if there is no limit."""
FLOAT_PRICE, CALIBRATION_PRICE, TRIAL_PRICE, ROUNDING_PRICE = 1.3, 2.0, 1.2, 2.0
FORM_PRICE, TYPES_PRICE, SPOTS_PRICE = 1.4, 1.3, 0.7
"""Prices in float inferences of one thread: of the first run of the float model; of calibrating another form; of
trying a helper on a quarter of the samples, calibration included; of choosing how weights are rounded; of the form of a
plan, calibration included; of a check in the real types; and of explaining the worst layers.

Measured times on two cores for an image classifier (EfficientNet, 64 samples) and a text recognizer (96 samples):
1.0 and 0.9; 2.1 and 1.7; 1.2 and 1.2; 4.0 and 1.6; 1.1 and 1.5; 1.2 and 1.1; 0.7 and 0.4. To measure them again, run
``bench_search clock``, which prints prices and times.
"""
SINGLE_LAYER = 2.0
"""The time of states with a single layer quantized, or with a single one left float, relative to their arithmetic: many
short runs, each compared with the float outputs, and sessions of their own. Measured like the others for all layers
alone: 2.6 and 2.1.
"""
_USUAL, _USUAL_MINUTES, _AGAIN = 24.0, 3.0, 6.0
"""The inferences and minutes of a search whose user sets neither, and the inferences for a few more plans. Of the 20.9
that prices may use up, 1.3 pay for the float model and up to 4.6 for layers one by one and their ranges.
"""
_PRICED = 0.95
"""The share of the allowed inferences that prices may use up, since they count the graph's arithmetic alone."""
_LEAST_MACS = 1e11
"""Multiply-accumulates, some 40 milliseconds: a model with shorter inferences may have more of them."""


def at_work() -> Callable[[], float]:
    """Create a clock of the seconds that this process was running, which stops while others have the processor.

    With it a search without limits finds the same on a busy machine. Between two readings the clock advances by the
    shorter of wall and processor time: processor time of many threads does not make up for earlier waiting.
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
    """The account of a search and everything that belongs to it.

    Args:
        inferences: how many may be spent; no limit if None.
        minutes: how long the search may take; no limit if None.
        clock: returns seconds that never decrease.

    Attributes:
        minutes: how long the search may take in all; None without a limit.
        priced: the price of everything so far.
        bought: the purchases whose results are known: nothing is paid for twice.
        first: the price at which the first plan within the budget was known; None if none was searched for.
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
        """Create the account of a whole search; the checks that follow the plans are included in the allowance.

        Args:
            inferences: the allowance; 24 if None, and more if an inference takes little time.
            minutes: how long the search may take. If None, 3 minutes of this process's running time, or no limit if
                ``inferences`` is given.
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
        """Allow twice as much again and double the minutes, once, if no limit was set; returns whether it did.

        For a search that found nothing useful: a model that stays float costs its user more than a longer search.
        """
        if self.inferences is None or not self._at_least or (self.over and not self._more_minutes):
            return False
        self.inferences, self._at_least = max(self.inferences, self.priced) + 2 * self._allowed, 0.0
        if self.minutes is not None:
            self.minutes += self._more_minutes
            self._until += 60 * self._more_minutes
        return True

    def again(self, why: str = "", least: float = _AGAIN) -> None:
        """Allow a few more plans if no limit was set, once for each reason.

        Args:
            why: what the plans known so far lack.
            least: the inferences that are left afterwards.
        """
        if self.inferences is not None and self._again and why not in self._asked:
            self.inferences = max(self.inferences, self.priced + least)
        self._asked.add(why)

    def know(self, macs: float) -> None:
        """Set the multiply-accumulates of a float inference of all samples; short inferences raise the allowance."""
        if self.inferences is not None:
            self._allowed = max(self._allowed, self._at_least / max(macs, 1.0))
            self.inferences = max(self.inferences, self._allowed)

    @property
    def over(self) -> bool:
        """Whether the time limit is reached."""
        return self._clock() >= self._until

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the block another process builds and measures engines: default minutes count only this process's work."""
        self._clock()
        yield
        self._clock()

    @property
    def limited(self) -> bool:
        """Whether inferences are limited."""
        return self.inferences is not None

    @property
    def remaining(self) -> float:
        """The price that may still be spent; infinite without a limit."""
        return max(self.inferences - self.priced, 0.0) if self.inferences is not None else math.inf

    def pay(self, price: float) -> None:
        """Add a price to the account."""
        self.priced += price

    def left(self, price: float, reserve: float = 0.0) -> int:
        """How many purchases at this price are still possible, with ``reserve`` left afterwards."""
        if self.over:
            return 0
        if self.inferences is None or price <= 0:
            return PLENTY
        return max(int((self.inferences - reserve - self.priced) / max(price, 1e-9) + 1e-9), 0)

    def counted(self, float_seconds: float) -> float:
        """The computing time so far, in float inferences of this many seconds each."""
        return (computed() - self._before) / float_seconds if float_seconds else 0.0
