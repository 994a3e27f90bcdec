"""What a rehearsal makes that the run would make again: the graph after the passes that depend on the graph alone."""

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
class Begun:
    """What the first passes of a recipe made of its model.

    Attributes:
        done: how many passes these are.
        model: the graph after them.
        plan: what they asked for.
        events: what they noted.
    """

    done: int
    model: Model
    plan: PrecisionPlan
    events: Sequence[Event]


def begin(steps: Sequence[Pass], model: Model, context: Context) -> Begun:
    """Apply the first passes that depend on the graph alone, and keep the result; the model is changed.

    Raises:
        QtoolError: a pass failed or refused.
    """
    from toolkit.contract.passes import Sequence as PassSequence

    done, said = sum(1 for _ in takewhile(lambda step: step.graph_only, steps)), len(context.journal.events)
    PassSequence(passes=list(steps), end=done)(model, context)
    return Begun(done, model.copy(), context.plan.copy(), context.journal.events[said:])
