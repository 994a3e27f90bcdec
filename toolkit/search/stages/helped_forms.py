"""The form of a model in which helpers changed only quantized layers: changes for INT8 cost float16 layers accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from toolkit.base.precision import Precision
from toolkit.contract.context import Context, RangesProvider
from toolkit.contract.findings import Code
from toolkit.contract.journal import Event
from toolkit.contract.passes import Pass
from toolkit.graph.model import Model
from toolkit.search.budget.spending import FORM_PRICE

_MADE = 2
"""How many forms are cached."""


@dataclass
class HelperModels:
    """The forms of a model that its helpers produce, by the layers that stay float.

    A search uses the model with all changes of its helpers: in float32 it is the same function whichever layers a plan
    keeps float. A plan's own form is the original model with the helpers applied again under a plan that says which
    layers stay float (see ``Helper.kept_float``); each helper makes the same changes to a layer as before.

    Attributes:
        before: the model without helpers.
        context: the context of ``before``.
        provider: provides the samples that the helpers learn from; it has cached them.
        helpers: the helpers that the search applies, in order.
        changed: the nodes that they changed.
        dtype: the type that layers are quantized to.
        events: the journal's entries of their changes, with all layers quantized.
        pay: called with the price of each form that is not cached.
    """

    before: Model
    context: Context
    provider: RangesProvider | None
    helpers: tuple[Pass, ...]
    changed: frozenset[str]
    dtype: str
    events: list[Event]
    pay: Callable[[float], None] = lambda price: None
    _made: dict[frozenset[str], tuple[Model, list[Event]]] = field(default_factory=dict)

    def take(self, quantized: Collection[str], model: Model, context: Context) -> bool:
        """Change a model from the form with all layers quantized to that of a plan; returns whether they differ.

        Args:
            quantized: the layers that the plan quantizes.
            model: changed in place.
            context: its journal gets the helpers' changes in place of the earlier entries; the ranges that it knew are
                discarded.

        Raises:
            DataError: a sample does not fit the model.
        """
        idle = self.changed - set(quantized)
        if not idle:
            return False
        if idle not in self._made:
            self.pay(FORM_PRICE)
            self._made[idle] = self._form(idle)
        # a plan's form is needed again after the form without pairs: for the check and then for the result
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
        # nodes that a helper left unchanged with all layers quantized need not be considered again
        others = {node.name for node in model.nodes} - (self.changed - idle)
        for helper in self.helpers:
            context = with_helper(helper, model, context, self.provider, others, self.dtype)
            events += [replace(event, by=by) for event in context.journal.of("changed")]
        return model, events


def with_helper(
    helper: Pass, model: Model, context: Context, provider: RangesProvider | None, idle: Iterable[str] = (),
    dtype: str = "",
) -> Context:  # fmt: skip
    """Apply a helper to a model, in place; returns the context used, with a separate journal.

    The helper is given the ranges that are known of the model before; the context used does not keep them.

    Args:
        helper: the pass.
        model: the model that it is applied to; changed in place.
        context: the context of the model before.
        provider: provides the samples that the helper learns from.
        idle: the nodes that will stay float.
        dtype: the type that the other nodes are quantized to.
    """
    apart = replace(context.fork(), judges_helpers=False, provider=provider)
    for name in idle:
        apart.plan.ask(name, Precision.FP32, Code.KEPT_MISSES(precision=dtype))
    helper(model, apart)
    # whether it found anything to change differs between forms, and the next helper takes the same samples in all
    apart.known_ranges = None
    return apart
