"""Requested types of individual layers; the last request for a name applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from toolkit.base.text import literal_glob, matching
from toolkit.contract.findings import Finding
from toolkit.graph.model import Model
from toolkit.placement.ops import TARGETS
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.terms import Term

_FLOATS = ("fp32", "fp16", "bf16")
_QUANTIZED = ("int8", "fp8")
_NODE_OF = "node_of_"
"""Prefix of the names that TensorRT's parser gives to layers of unnamed nodes, followed by the first output."""


@dataclass
class LayerTypes:
    """The requested types of layers.

    Attributes:
        asked: precision by node, with later requests replacing earlier ones.
        outputs: output type by node.
        ops: precision by operator.
        patterns: globs and names by precision, as far as no later request changes a node that they match.
        quantized: nodes with a requested quantized type.
    """

    asked: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    ops: dict[str, str] = field(default_factory=dict)
    patterns: dict[str, list[str]] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)
    _said: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, model: Model, term: Term, value: Sequence[tuple[str, str]]) -> Finding | None:
        """Record requested types; returns a finding about requests that cannot be fulfilled.

        Args:
            model: the graph, whose nodes are identified with layers by name.
            term: LAYERS or TYPES.
            value: names or glob patterns, each with a type.
        """
        nodes = {node.name: node for node, _ in model.walk()}
        made = {f"{_NODE_OF}{node.outputs[0].name}": name for name, node in nodes.items() if node.outputs}
        strange, unquantized = [], []
        for said, kind in value:
            pattern = made.get(said, said)
            found = matching(pattern, nodes)
            if not found:
                strange.append(said)
            elif term is Term.LAYERS:
                self.asked.update(dict.fromkeys(found, kind))
                self._said.append((pattern, kind))
                unquantized += [name for name in found if kind in _QUANTIZED and nodes[name].op not in TARGETS]
            elif kind in _FLOATS:
                self.outputs.update(dict.fromkeys(found, kind))
        kept = [name for name, kind in self.outputs.items() if self.asked.get(name, kind) != kind]
        if strange:
            return MigrateCode.NO_SUCH_LAYER(layers=strange)
        if kept and term is Term.TYPES:
            return MigrateCode.OUTPUT_TYPE_LOST(layers=kept)
        return MigrateCode.NO_QUANTIZED_FORM(layers=unquantized) if unquantized else None

    def ask_of_operators(self, model: Model, value: Sequence[tuple[str, str]]) -> Finding | None:
        """Record the types of all nodes of an operator; returns a finding about operators that the model lacks.

        Args:
            value: operators, each with a type.
        """
        present = {node.op for node, _ in model.walk()}
        self.ops.update({op: kind for op, kind in value if op in present and kind in _FLOATS})
        strange = [op for op, _ in value if op not in present]
        return MigrateCode.NO_SUCH_LAYER(layers=strange) if strange else None

    def settle(self, model: Model) -> None:
        """Determine the patterns for the recipe: the original ones if they still match the same nodes, else names."""
        for name, kind in self.outputs.items():
            self.asked.setdefault(name, kind)
        self.quantized = [name for name, kind in self.asked.items() if kind in _QUANTIZED]
        names = set(model.node_names())
        for kind in _FLOATS:
            wanted = {name for name, asked in self.asked.items() if asked == kind}
            patterns = list(dict.fromkeys(pattern for pattern, asked in self._said if asked == kind))
            covered = {name for pattern in patterns for name in matching(pattern, names)}
            if not covered <= wanted:
                patterns, covered = [], set()
            patterns += [literal_glob(name) for name in self.asked if name in wanted - covered]
            if patterns:
                self.patterns[kind] = patterns
