"""What every pass did to which node and why, and what it declined to do and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.base.files import json_encoder
from toolkit.contract.findings import BaseCode, Finding, finding

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

CHANGED, DECLINED, NOTED = "changed", "declined", "noted"


@dataclass(frozen=True)
class Event:
    """One line of the journal.

    Attributes:
        kind: ``changed``, ``declined`` or ``noted``.
        by: the writer.
        node: the node concerned; empty for the whole model.
        why: the reason for a change or a refusal; for a note, the note itself.
        what: what was done to the node; None if nothing was.
    """

    kind: str
    by: str
    node: str
    why: Finding
    what: Finding | None = None

    @property
    def rule(self) -> str:
        """The reason's short name: its code, or the name a third-party pass gives it."""
        return str(self.why.values.get("rule") or self.why.code.value)

    def to_json(self, sentence: Callable[[Finding], str] | None = None) -> dict[str, Any]:
        """``{kind, by, node, rule, values, change}`` without empty entries; ``from_json`` reads it.

        ``code`` is included if the rule is not the reason's code.

        Args:
            sentence: writes a finding as a sentence; if given, the keys ``what`` and ``reason`` hold text for people.
        """
        why, change = self.why.to_json(), self.what.to_json() if self.what is not None else None
        rule = self.rule
        found: dict[str, Any] = {"kind": self.kind, "by": self.by, "node": self.node}
        found |= {"rule": rule, "values": why["values"], "change": change}
        if rule != why["code"]:
            found["code"] = why["code"]
        if sentence is not None:
            found |= {"what": sentence(self.what) if self.what is not None else "", "reason": sentence(self.why)}
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Event:
        """Read what ``to_json`` returned.

        Raises:
            ValueError: it holds an unknown code, or is not an object.
        """
        try:
            why = Finding(BaseCode.of(content.get("code", content["rule"])), content.get("values", {}))
            change = content.get("change")
            node = content.get("node", "")
            return cls(content["kind"], content["by"], node, why, Finding.from_json(change) if change else None)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not an event: {content}") from error


class Journal:
    """A list of events; ``by`` names the current writer (the running pass).

    Writers pass findings, or plain text, which becomes a finding with code ``OWN_WORDS``, and a node or its name.

    Example:
        >>> journal = Journal()
        >>> journal.by = "my_pass"
        >>> journal.declined("/head/Gemm", "its weight is shared")
        >>> [event.node for event in journal.of("declined")]
        ['/head/Gemm']
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)
        self.by = "qtool"

    def changed(self, node: str | gs.Node, what: Finding | str, why: Finding | str) -> None:
        """Record that a node was changed: ``what`` was done to it, and ``why``."""
        self.events.append(Event(CHANGED, self.by, node_name(node), finding(why), finding(what)))

    def declined(self, node: str | gs.Node, why: Finding | str) -> None:
        """Record that a node was skipped although the pass applies to nodes like it."""
        self.events.append(Event(DECLINED, self.by, node_name(node), finding(why)))

    def noted(self, why: Finding | str, node: str | gs.Node = "") -> None:
        """Record something the user may want to find later: a fallback, truncated data, a choice made."""
        self.events.append(Event(NOTED, self.by, node_name(node), finding(why)))

    def noted_once(self, why: Finding) -> None:
        """As ``noted``, unless the journal has this note already."""
        if not any(event.why == why for event in self.of(NOTED)):
            self.noted(why)

    def of(self, kind: str, by: str | None = None, node: str | None = None) -> list[Event]:
        """Events of a kind, optionally only those by one writer or about one node, in order."""
        return [
            e for e in self.events if e.kind == kind and (by is None or e.by == by) and (node is None or e.node == node)
        ]

    def counts(self) -> Counter[tuple[str, str]]:
        """The number of events by (writer, kind)."""
        return Counter((e.by, e.kind) for e in self.events)

    def to_jsonl(self, sentence: Callable[[Finding], str] | None = None) -> str:
        """One JSON object per line; see ``Event.to_json`` for ``sentence``."""
        encode = json_encoder()
        return "".join([encode(e.to_json(sentence)) + "\n" for e in self.events])

    @classmethod
    def from_jsonl(cls, text: str) -> Journal:
        """Read what ``to_jsonl`` wrote.

        Raises:
            ValueError: a line is not JSON, or not an event.
        """
        return cls(Event.from_json(json.loads(line)) for line in text.splitlines() if line.strip())

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


def node_name(node: str | gs.Node) -> str:
    """The name of a node given as an object or by name."""
    return node if isinstance(node, str) else str(node.name)
