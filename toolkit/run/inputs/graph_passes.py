"""The graph after the passes that depend on the graph alone, which a rehearsal computes and the run reuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from toolkit.contract.journal import Event
from toolkit.contract.plan import PrecisionPlan

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.graph.model import Model


@dataclass(frozen=True)
class AppliedPasses:
    """The result of the first passes of a recipe.

    Attributes:
        count: how many passes were applied.
        model: the graph after them.
        plan: the precisions they requested.
        events: their journal events.
    """

    count: int
    model: Model
    plan: PrecisionPlan
    events: Sequence[Event]


def apply_graph_passes(steps: Sequence[Pass], model: Model, context: Context) -> AppliedPasses:
    """Apply the leading passes that depend on the graph alone, and keep the result; the model is changed.

    Raises:
        QtoolError: a pass failed or refused the model.
    """
    from toolkit.contract.passes import Sequence as PassSequence

    count, said = sum(1 for _ in takewhile(lambda step: step.graph_only, steps)), len(context.journal.events)
    PassSequence(passes=list(steps), end=count)(model, context)
    return AppliedPasses(count, model.copy(), context.plan.copy(), context.journal.events[said:])
