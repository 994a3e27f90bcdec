"""Where Q/DQ pairs can go if ranges are given and none can be calibrated."""

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
    """Nodes that stay float because a tensor has no range for the quantized type, each with the reason.

    Args:
        place: decides where pairs go.
        precision: the type of the pairs.
        model: the graph.
        context: has the given ranges.
        judge: returns other reasons to keep a node float.

    Raises:
        RangesError: no tensor that a layer needs has a range.
    """
    facts = model.facts(context.profiles)
    everything = place(model, facts, lambda node: None)
    wanted = everything.activations
    if not wanted or not place(model, facts, judge).activations:
        # nodes that the recipe keeps float need no ranges
        return {}
    try:
        ranges = context.ranges(model, wanted, precision)
    except RangesError:
        if not everything.complete:
            raise
        # layers that already have pairs are quantized as they are; only new pairs would need ranges
        ranges = Ranges()

    def refusal(tensor: str) -> Finding | None:
        known = ranges.tensors.get(tensor)
        if known is None:
            return Code.NO_RANGE(tensor=tensor)
        fits = known.holds_for(precision)
        return None if fits else Code.RANGE_OF_OTHER_TYPE(tensor=tensor, has=known.dtype, wanted=precision)

    return place_ranged(place, model, facts, judge, refusal)[1]


def in_form(place: PlacementRule, model: Model, context: Context, judge: Judge) -> Model:
    """A copy of the model with the queries of attention scaled: given ranges refer to the tensors of this form."""
    trial = model.copy()
    scale_queries(trial, place(trial, trial.facts(context.profiles), judge).layers)
    return trial
