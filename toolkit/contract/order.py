"""Passes in the wrong order: layers already have the Q/DQ pairs or requests that the pass needs or removes."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from toolkit.contract.context import Context
from toolkit.contract.findings import BaseCode, Code
from toolkit.contract.journal import CHANGED, Event
from toolkit.contract.roles import Role
from toolkit.graph.model import Model

BEFORE_PAIRS = frozenset({Role.HELP, Role.FOLD_NORMALIZATION})
"""The roles of passes that only change layers without pairs."""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_LEFT_OUT = (Code.EXCLUDED, Code.NOT_INCLUDED)


class OrderCode(BaseCode):
    """What is wrong with the order of passes."""

    AFTER_PAIRS = "after-pairs"
    ALL_PAIRED = "all-paired"
    REQUESTS_LOST = "requests-lost"


def note_after_pairs(
    title: str, model: Model, context: Context, quantized: Collection[str], events: Iterable[Event]
) -> None:
    """Note that a pass changed nothing because an earlier pass had already given the layers their pairs.

    Not if only a run can tell whether it changes anything. Pairs of the source model are a different finding.

    Args:
        title: the pass.
        model: the graph after it.
        context: its journal is written to.
        quantized: names of the nodes that were quantized before it.
        events: what the pass reported.
    """
    _note(OrderCode.AFTER_PAIRS, title, model, context, quantized, events)


def note_all_paired(
    title: str, model: Model, context: Context, quantized: Collection[str], events: Iterable[Event]
) -> None:
    """Note that a quantizing pass inserted no pairs because earlier passes had already given the layers theirs.

    Layers that its own settings exclude do not count. For the arguments see ``note_after_pairs``.
    """
    if quantized_by_now(context) <= set(quantized):
        told = list(events)
        left_out = {event.node for event in told if event.why.code in _LEFT_OUT}
        _note(OrderCode.ALL_PAIRED, title, model, context, set(quantized) - left_out, told)


def quantized_by_now(context: Context) -> set[str]:
    """Names of the nodes that the plan quantizes."""
    return {name for name, ask in context.plan.items() if ask.precision.quantized}


def _note(
    code: OrderCode, title: str, model: Model, context: Context, quantized: Collection[str], events: Iterable[Event]
) -> None:
    if any(event.kind == CHANGED or event.why.code is Code.DRY_RUN for event in events):
        return
    paired = [node.name for node, _ in model.walk() if node.op in _WEIGHTED and node.name in quantized]
    if paired:
        context.journal.noted(code(by=title, layers=len(paired), node=paired[0]))
