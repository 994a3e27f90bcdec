"""Where pairs can go if ranges are given and none can be calibrated."""

from __future__ import annotations

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model
from toolkit.placement.attention import scale_queries
from toolkit.placement.place import Judge, PlacementRule
from toolkit.placement.ranged import place_ranged


def without_ranges(
    place: PlacementRule, precision: Precision, model: Model, context: Context, judge: Judge
) -> dict[str, Finding]:
    """Nodes that stay float because a tensor has no range for the type that is inserted, each with the reason.

    Args:
        place: decides where pairs go.
        precision: their type.
        model: the graph.
        context: has the given ranges.
        judge: what else keeps nodes float.

    Raises:
        RangesError: no tensor that any layer needs has one.
    """
    facts = model.facts(context.profiles)
    everything = place(model, facts, lambda node: None)
    wanted = everything.activations
    if not wanted or not place(model, facts, judge).activations:
        # what is kept float by the recipe needs no range
        return {}
    try:
        ranges = context.ranges(model, wanted, precision)
    except RangesError:
        if not everything.complete:
            raise
        # layers that came with their pairs are quantized as they are; more pairs would need ranges
        ranges = Ranges()

    def refusal(tensor: str) -> Finding | None:
        known = ranges.tensors.get(tensor)
        if known is None:
            return Code.NO_RANGE(tensor=tensor)
        fits = known.holds_for(precision)
        return None if fits else Code.RANGE_OF_OTHER_TYPE(tensor=tensor, has=known.dtype, wanted=precision)

    return place_ranged(place, model, facts, judge, refusal)[1]


def in_form(place: PlacementRule, model: Model, context: Context, judge: Judge) -> Model:
    """A copy of the model in the form that attention takes: given ranges are those of its tensors."""
    trial = model.copy()
    scale_queries(trial, place(trial, trial.facts(context.profiles), judge).layers)
    return trial
