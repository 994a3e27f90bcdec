"""A model whose helpers changed only what a plan quantizes: what they do for INT8 costs layers in float16 accuracy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from toolkit.base.precision import Precision
from toolkit.contract.context import Context, RangesProvider
from toolkit.contract.findings import Code
from toolkit.contract.journal import Event
from toolkit.contract.passes import Pass
from toolkit.graph.model import Model

_MADE = 2
"""How many forms are kept."""


@dataclass
class HelpedForms:
    """The forms of a model that its helpers make of it, by what stays float.

    A search looks at the model with all that its helpers do: in float32 that is the function it had, whatever layers a
    plan leaves float. A plan's own form is the model as it was, with the helpers asked again under a plan that says
    which layers those are (see ``Helper.kept_float``); each does for a layer what it did before.

    Attributes:
        before: the model without helpers.
        context: its context.
        provider: what the helpers learnt from; it has kept that.
        helpers: those that stay, in their order.
        changed: the nodes that they changed.
        dtype: the type that layers are quantized to.
        events: what the journal says that they changed, with all layers quantized.
    """

    before: Model
    context: Context
    provider: RangesProvider | None
    helpers: tuple[Pass, ...]
    changed: frozenset[str]
    dtype: str
    events: list[Event]
    _made: dict[frozenset[str], tuple[Model, list[Event]]] = field(default_factory=dict)

    def take(self, quantized: Collection[str], model: Model, context: Context) -> bool:
        """Give a model, with the form of all layers quantized, that of a plan; whether that is another one.

        Args:
            quantized: the layers that the plan quantizes.
            model: changed in place.
            context: its journal is told what the helpers changed, in place of what it was told; what it knew of ranges
                is forgotten.

        Raises:
            DataError: a sample does not fit.
        """
        idle = self.changed - set(quantized)
        if not idle:
            return False
        if idle not in self._made:
            self._made[idle] = self._form(idle)
        # that of the last plan is wanted again, after one without pairs was looked at: it is checked, and then taken
        made = form, events = self._made.pop(idle)
        self._made = {**dict(list(self._made.items())[1 - _MADE :]), idle: made}
        model.become(form.copy())
        context.known_ranges = None
        told = {id(event) for event in self.events}
        context.journal.events[:] = [event for event in context.journal.events if id(event) not in told] + events
        return True

    def _form(self, idle: frozenset[str]) -> tuple[Model, list[Event]]:
        model, context, events = self.before.copy(), self.context, list[Event]()
        by = self.events[0].by if self.events else ""
        # what a helper left as it was with all layers quantized it need not look at again
        others = {node.name for node in model.nodes} - (self.changed - idle)
        for helper in self.helpers:
            context = with_helper(helper, model, context, self.provider, others, self.dtype)
            events += [replace(event, by=by) for event in context.journal.of("changed")]
        return model, events


def with_helper(
    helper: Pass, model: Model, context: Context, provider: RangesProvider | None, idle: Iterable[str] = (),
    dtype: str = "",
) -> Context:  # fmt: skip
    """Apply a helper to a model, in place; the context of that, with a journal of its own.

    Args:
        helper: the pass.
        model: what it is applied to.
        context: of the model as it is.
        provider: what the helper learns from.
        idle: nodes that are going to stay float.
        dtype: the type that the others are quantized to.
    """
    apart = replace(context.fork(ranges=False), judges_helpers=False, provider=provider)
    for name in idle:
        apart.plan.ask(name, Precision.FP32, Code.KEPT_MISSES(precision=dtype))
    helper(model, apart)
    return apart
