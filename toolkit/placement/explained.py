"""Why a candidate was skipped, including what was reported earlier about the node that blocks it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.placement.dequantized import dequantizer
from toolkit.placement.pairs import SkippedCandidate


def earlier_findings(journal: Journal) -> dict[str, Finding]:
    """For each node, why an earlier pass left its pair or constant in place."""
    return {e.node: e.why for e in journal.of("declined") if e.why.code in (Code.NO_PAIR, Code.LARGE)}


def explained(node: gs.Node, refusal: SkippedCandidate, said: Mapping[str, Finding]) -> Finding:
    """The reason, with what was ``said`` about the blocking node, so that advice is not repeated."""
    why = refusal.why
    if why.code not in (Code.FOREIGN_PAIR, Code.COMPUTED_WEIGHTS):
        return why
    for tensor in node.inputs if said else ():
        maker = dequantizer(tensor) or (tensor.inputs[0] if tensor.inputs else None)
        if maker is not None and maker.name in said and why.values.get("tensor", tensor.name) == tensor.name:
            return Finding(why.code, {**why.values, "left": said[maker.name]})
    return why
