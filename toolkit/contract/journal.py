"""What every pass did to which node and why, and what it declined to do and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

CHANGED, DECLINED, NOTED = "changed", "declined", "noted"


@dataclass(frozen=True)
class Event:
    """One line of the journal. ``node`` is empty where the event concerns the whole model."""

    kind: str
    by: str
    node: str
    reason: str
    rule: str = ""
    what: str = ""


class Journal:
    """A list of events; ``by`` names whoever is writing (the pass under way).

    Example:
        >>> journal = Journal()
        >>> journal.by = "insert_qdq"
        >>> journal.declined("/head/Gemm", "excluded by '/head/*'", rule="excluded")
        >>> [event.rule for event in journal.of("declined")]
        ['excluded']
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)
        self.by = "qtool"

    def changed(self, node: str, what: str, why: str) -> None:
        """A node was changed: ``what`` was done to it and ``why``."""
        self.events.append(Event(CHANGED, self.by, node, why, what=what))

    def declined(self, node: str, why: str, rule: str = "") -> None:
        """A node was left alone although the pass concerns its kind; ``rule`` is the short name of the reason."""
        self.events.append(Event(DECLINED, self.by, node, why, rule=rule or "declined"))

    def noted(self, why: str, node: str = "", rule: str = "") -> None:
        """Something the user should be able to find later: a fallback, data that was cut, a choice made."""
        self.events.append(Event(NOTED, self.by, node, why, rule=rule))

    def of(self, kind: str, by: str | None = None, node: str | None = None) -> list[Event]:
        """Events of a kind, optionally of one writer or one node, in the order they happened."""
        return [
            e for e in self.events if e.kind == kind and (by is None or e.by == by) and (node is None or e.node == node)
        ]

    def counts(self) -> Counter[tuple[str, str]]:
        """How many events of each (writer, kind)."""
        return Counter((e.by, e.kind) for e in self.events)

    def to_jsonl(self) -> str:
        """One JSON object a line; empty fields are left out."""
        return "".join(json.dumps({k: v for k, v in asdict(e).items() if v}) + "\n" for e in self.events)

    @classmethod
    def from_jsonl(cls, text: str) -> Journal:
        """Read what ``to_jsonl`` wrote."""
        fields = {"kind": "", "by": "", "node": "", "reason": ""}
        return cls(Event(**{**fields, **json.loads(line)}) for line in text.splitlines() if line.strip())

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)
