"""One instruction about an engine in a command line or a script, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from toolkit.contract.findings import Finding
from toolkit.run.migrate.orders.terms import Term

Fate = Literal["written", "implied", "unrelated", "lost", "look", "overruled"]
"""In the recipe; needs no entry; does not concern the engine; has no equivalent; for the user to read; without
effect, since something else decides."""


@dataclass(frozen=True)
class Order:
    """One instruction.

    Attributes:
        term: what it is about; None for an unknown flag, or where a script only shows a place to look at.
        value: by term, see ``toolkit.run.migrate.orders.values``.
        said: its wording there.
        line: the line of the script; 0 where there is none.
        why: what keeps it from being taken.
    """

    term: Term | None
    value: Any = None
    said: str = ""
    line: int = 0
    why: Finding | None = None


@dataclass(frozen=True)
class OrderOutcome:
    """What became of an order.

    Attributes:
        order: the order.
        fate: its outcome, in a word.
        became: its equivalent in the recipe; empty where there is none.
        why: why there is none, or what else there is to say.
    """

    order: Order
    fate: Fate
    became: str = ""
    why: Finding | None = None

    def to_json(self) -> dict[str, Any]:
        """The machine form, with the reason in words."""
        from toolkit.report.findings import sentence

        why = None if self.why is None else {**self.why.to_json(), "text": sentence(self.why)}
        return {
            "said": self.order.said,
            "line": self.order.line or None,
            "fate": self.fate,
            "became": self.became,
            "why": why,
        }
