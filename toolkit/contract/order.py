"""Passes that come too late: they change layers without Q/DQ pairs, and the layers have theirs already."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.contract.context import Context
from toolkit.contract.findings import BaseCode, Code
from toolkit.contract.journal import CHANGED, Event
from toolkit.contract.roles import Role
from toolkit.graph.model import Model

BEFORE_PAIRS = frozenset({Role.HELP, Role.FOLD_NORMALIZATION})
"""The roles of passes that change layers without pairs only."""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class OrderCode(BaseCode):
    """What is wrong with the order of passes."""

    AFTER_PAIRS = "after-pairs"


def note_after_pairs(title: str, model: Model, context: Context, events: Iterable[Event]) -> None:
    """Note that a pass changed nothing where a pass before it gave layers their pairs, and leaves these as they are.

    Not where only a run can tell whether it does. Pairs that a model came with are another finding.

    Args:
        title: the pass.
        model: the graph after it.
        context: its plan tells which layers were quantized; its journal is written to.
        events: what the pass reported.
    """
    if any(event.kind == CHANGED or event.why.code is Code.DRY_RUN for event in events):
        return
    asked = (node.name for node, _ in model.walk() if node.op in _WEIGHTED)
    paired = [name for name in asked if (ask := context.plan.get(name)) is not None and ask.precision.quantized]
    if paired:
        context.journal.noted(OrderCode.AFTER_PAIRS(by=title, layers=len(paired), node=paired[0]))
