"""Why a node without a request is not quantized, and so runs in the recipe's ``rest`` type."""

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
"""The ``by`` of a node without a request, which gets the ``rest`` type."""
UNASKED = frozenset({BY_REST, BY_MODEL})
"""All values of ``by`` for nodes without a request."""


class RestReasons:
    """Reasons for the nodes of one graph.

    Args:
        final: the final graph with its pairs.
        journal: for the nodes that passes declined.
        quantizers: the passes that quantize, by their names in the journal.
        rest: the type of all nodes without a request.
    """

    def __init__(self, final: Model, journal: Journal, quantizers: Collection[str], rest: Precision) -> None:
        self._flow, self._rest = Flow(final), rest
        self._requests: dict[int, Finding] = {}
        self._declined = {event.node: event.why for event in journal.of("declined") if event.by in quantizers}

    def why(self, node: str) -> Finding:
        """The reason for which a pass declined the node; else the one by TensorRT's rules for Q/DQ pairs."""
        why = self._declined.get(node)
        return why if why is not None else self._flow.verdict(self._flow.nodes[node]).reason

    def stated(self, node: str, precision: Precision) -> Finding:
        """The reason for the type that the model states for a node, with ``why``."""
        return ReportCode.KEEPS_STATED_TYPE(precision=precision, why=self.why(node))

    def reason(self, node: str) -> Finding:
        """The reason for a node's ``rest`` type, with ``why``; one object for all nodes with the same cause."""
        why = self.why(node)
        if id(why) not in self._requests:
            self._requests[id(why)] = ReportCode.NOT_REQUESTED(rest=self._rest, why=why)
        return self._requests[id(why)]
