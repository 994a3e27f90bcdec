"""The result of lowering: the graph for a backend, its plan, and a reason for each node's precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from toolkit.backends.lowering.node_types import Types
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model


@dataclass
class Lowered:
    """A model lowered for a backend.

    Attributes:
        model: the graph; the metadata of its nodes holds their precision (``qtool.precision``).
        plan: the plan, with the changes made by lowering.
        reasons: per node name, why it has its precision.
        types: the decision for every node; empty for weak typing, since TensorRT then decides.
    """

    model: Model
    plan: PrecisionPlan
    reasons: Mapping[str, Finding]
    types: Types = field(default_factory=Types)

    def say(self, sentence: Callable[[Finding], str]) -> None:
        """Write the reasons into the nodes' metadata (``qtool.reason``), as sentences."""
        for name, reason in self.reasons.items():
            self.model.metadata.setdefault(name, {})["qtool.reason"] = sentence(reason)
