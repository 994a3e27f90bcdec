"""The requested precision of each node, with a reason and the pass that requested it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding, finding
from toolkit.contract.journal import node_name

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Ask:
    """One node's request: the precision, the reason, and the pass that made it.

    ``free`` marks an expectation rather than an order: weak typing sets no constraint for it. ``wider`` marks a
    default precision: a search may request float32 instead if it breaks the result.
    """

    precision: Precision
    reason: Finding
    by: str
    free: bool = False
    wider: bool = False


class PrecisionPlan:
    """Requests by node name. A later request replaces an earlier one; both stay in ``history``."""

    def __init__(self, asks: Mapping[str, Ask] | None = None) -> None:
        self._asks: dict[str, Ask] = dict(asks or {})
        self.history: list[tuple[str, Ask]] = list(self._asks.items())
        self.by = "qtool"

    def ask(
        self,
        node: str | gs.Node,
        precision: Precision | str,
        why: Finding | str,
        free: bool = False,
        wider: bool = False,
    ) -> None:
        """Request that ``node`` (or the node of that name) computes in ``precision``; for the flags see ``Ask``."""
        name, ask = node_name(node), Ask(Precision.named(precision), finding(why), self.by, free, wider)
        self._asks[name] = ask
        self.history.append((name, ask))

    def release(self, node: str) -> None:
        """Turn the request for ``node`` into an expectation, without a constraint."""
        self._asks[node] = replace(self._asks[node], free=True)

    def withdraw(self, node: str) -> None:
        """Remove the request for ``node``, if there is one."""
        self._asks.pop(node, None)

    def get(self, node: str) -> Ask | None:
        """The request for ``node``, or None."""
        return self._asks.get(node)

    def rename(self, old: str, new: str) -> None:
        """Carry a request over to a node's new name."""
        if old in self._asks:
            self._asks[new] = self._asks.pop(old)

    def copy(self) -> PrecisionPlan:
        """An independent copy, history included."""
        twin = PrecisionPlan(self._asks)
        twin.history = list(self.history)
        return twin

    def to_json(self) -> dict[str, dict[str, Any]]:
        """``{node: {precision, reason, by}}``, with ``free`` and ``wider`` where they are true."""
        return {
            n: {
                "precision": str(a.precision),
                "reason": a.reason.to_json(),
                "by": a.by,
                **({"free": True} if a.free else {}),
                **({"wider": True} if a.wider else {}),
            }
            for n, a in self._asks.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> PrecisionPlan:
        """Read what ``to_json`` returned."""
        return cls(
            {
                n: Ask(
                    Precision(a["precision"]),
                    Finding.from_json(a["reason"]),
                    a["by"],
                    a.get("free", False),
                    a.get("wider", False),
                )
                for n, a in data.items()
            }
        )

    def __contains__(self, node: str) -> bool:
        return node in self._asks

    def __iter__(self) -> Iterator[str]:
        return iter(self._asks)

    def __len__(self) -> int:
        return len(self._asks)

    def items(self) -> Iterator[tuple[str, Ask]]:
        """Pairs of node name and request."""
        return iter(self._asks.items())
