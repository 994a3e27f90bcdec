"""A build instruction in a command line or script (an order), and its outcome in the migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from toolkit.contract.findings import Finding
from toolkit.run.migrate.orders.terms import Term

Fate = Literal["written", "implied", "unrelated", "lost", "look", "overruled"]
"""Respectively: in the recipe; needs no entry; does not concern the engine; has no equivalent; to be checked by the
user;
without effect because of another instruction."""


@dataclass(frozen=True)
class Order:
    """One build instruction.

    Attributes:
        term: its subject; None for an unknown flag, or for a place in a script that the user must check.
        value: its value, in the form of ``toolkit.run.migrate.orders.values`` for the term.
        said: its original wording.
        line: the line in the script; 0 if there is none.
        why: the reason why it is not migrated.
    """

    term: Term | None
    value: Any = None
    said: str = ""
    line: int = 0
    why: Finding | None = None


@dataclass(frozen=True)
class OrderOutcome:
    """The outcome of an instruction.

    Attributes:
        order: the instruction.
        fate: the kind of outcome.
        became: its equivalent in the recipe; empty if there is none.
        why: why there is none, or a remark on the equivalent.
    """

    order: Order
    fate: Fate
    became: str = ""
    why: Finding | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary, with the reason as a sentence."""
        from toolkit.report.findings import sentence

        why = None if self.why is None else {**self.why.to_json(), "text": sentence(self.why)}
        return {
            "said": self.order.said,
            "line": self.order.line or None,
            "fate": self.fate,
            "became": self.became,
            "why": why,
        }
