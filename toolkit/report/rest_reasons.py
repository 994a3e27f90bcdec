"""Why a node that nobody asked about is not quantized, so that it runs in the type of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.backends.flow import Flow
from toolkit.backends.lowering import BY_MODEL
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal
    from toolkit.graph.model import Model


BY_REST = "rest"
"""Who asks for the float type of a node that no pass asked about."""
UNASKED = frozenset({BY_REST, BY_MODEL})
"""Who gives their float type to the nodes that no pass asked about."""


class RestReasons:
    """Reasons for the nodes of one graph.

    Args:
        final: the final graph with its pairs.
        journal: what all passes declined.
        quantizers: the passes that quantize, as the journal calls them.
        rest: the type of all that nobody asked about.
    """

    def __init__(self, final: Model, journal: Journal, quantizers: Collection[str], rest: Precision) -> None:
        self._flow, self._rest = Flow(final), rest
        self._requests: dict[int, Finding] = {}
        self._declined = {event.node: event.why for event in journal.of("declined") if event.by in quantizers}

    def why(self, node: str) -> Finding:
        """The rule by which a pass left the node alone, else what TensorRT's rules for pairs say of it."""
        why = self._declined.get(node)
        return why if why is not None else self._flow.verdict(self._flow.nodes[node]).reason

    def stated(self, node: str, precision: Precision) -> Finding:
        """The same as the reason why a node runs in the type that the model states for it."""
        return ReportCode.KEEPS_STATED_TYPE(precision=precision, why=self.why(node))

    def reason(self, node: str) -> Finding:
        """The same as the reason of a request; one for all nodes that share what it is from."""
        why = self.why(node)
        if id(why) not in self._requests:
            self._requests[id(why)] = ReportCode.NOT_REQUESTED(rest=self._rest, why=why)
        return self._requests[id(why)]
