"""Why a node without a request is not quantized, so that it runs in the type of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.backends.attribution.flow import Flow
from toolkit.backends.lowering.strong import BY_MODEL
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from toolkit.base.precision import Precision
    from toolkit.contract.journal import Journal
    from toolkit.graph.model import Model


BY_REST = "rest"
"""The name under which the float type of a node without a request is asked for."""
UNASKED = frozenset({BY_REST, BY_MODEL})
"""The names under which nodes without a request get their float type."""


class RestReasons:
    """Reasons for the nodes of one graph.

    Args:
        final: the final graph with its pairs.
        journal: what all passes declined.
        quantizers: the passes that quantize, as the journal calls them.
        rest: the type of all nodes without a request.
    """

    def __init__(self, final: Model, journal: Journal, quantizers: Collection[str], rest: Precision) -> None:
        self._flow, self._rest = Flow(final), rest
        self._requests: dict[int, Finding] = {}
        self._declined = {event.node: event.why for event in journal.of("declined") if event.by in quantizers}

    def why(self, node: str) -> Finding:
        """The rule by which a pass left the node alone, else what TensorRT's rules for pairs say about it."""
        why = self._declined.get(node)
        return why if why is not None else self._flow.verdict(self._flow.nodes[node]).reason

    def stated(self, node: str, precision: Precision) -> Finding:
        """``why`` as the reason why a node runs in the type that the model states for it."""
        return ReportCode.KEEPS_STATED_TYPE(precision=precision, why=self.why(node))

    def reason(self, node: str) -> Finding:
        """``why`` as the reason of a request; a single one for all nodes with the same cause."""
        why = self.why(node)
        if id(why) not in self._requests:
            self._requests[id(why)] = ReportCode.NOT_REQUESTED(rest=self._rest, why=why)
        return self._requests[id(why)]
