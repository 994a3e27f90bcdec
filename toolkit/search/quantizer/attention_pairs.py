"""Whether Q/DQ pairs on the matrix products of attention make an engine faster: both are built and measured."""

from __future__ import annotations

from toolkit.base.errors import QtoolError
from toolkit.contract.bench import Bench, Measurement
from toolkit.contract.context import Context
from toolkit.graph.model import Model
from toolkit.search.codes import AttentionCode
from toolkit.search.quantizer.quantizer import Quantizer
from toolkit.search.trial_engines.quick_builds import compared
from toolkit.search.trial_engines.ratios import ProfileWeights, ratios, ratios_in_turn


def attention_pays(without: Quantizer, both: Quantizer, model: Model, context: Context) -> bool:
    """Whether the engine with everything that ``both`` quantizes is faster than the one of ``without``.

    It must be faster by more than the noise, and slower in no profile. TensorRT takes a transformer as one block, in
    which a quantized layer next to float attention can cost more than it saves: on an H100 with 8.6.0 and batch 1,
    BERT-6 took 0.191 ms in float16, 0.216 with its projections quantized, and 0.177 with the products of attention too.

    Args:
        without: quantizes only layers with constant weights.
        both: quantizes these and products of two activations.
        model: the float graph; it is not changed.
        context: its journal gets the latencies, or why they are unknown.

    Returns:
        False if nothing is measured, or if both quantize the same layers.
    """
    bench = context.bench
    if bench is None or bench.cannot_measure() or bench.implicit:
        return False
    try:
        few, more = (set(one.placement(model, context).layers) for one in (without, both))
        if not more - few:
            return False
        plain, own = (_measured(one, model, context, bench) for one in (without, both))

        def again() -> None:
            for one in (without, both):
                _measured(one, model, context, bench, rebuild=True)

        turns = ratios_in_turn(bench, own.engine, plain.engine, again, context.journal)
    except QtoolError as error:
        context.journal.noted(AttentionCode.NOT_TIMED(error=str(error)))
        return False
    timed = {profile: one for profile, one in plain.latency.items() if profile in own.latency}
    found, weights = ratios(own.latency, timed, turns), ProfileWeights(both.profile_weights)
    if not any(map(weights.of, found)):
        lacks = next((why for one in (plain, own) for why in one.lacks.values()), "no profile was measured")
        context.journal.noted(AttentionCode.NOT_TIMED(error=lacks))
        return False
    (ratio, noise), pays = weights.score(found), weights.faster(found)
    context.journal.noted(AttentionCode.TIMED(products=sorted(more - few), ratio=ratio, noise=noise, taken=pays))
    return pays


def _measured(quantizer: Quantizer, model: Model, context: Context, bench: Bench, rebuild: bool = False) -> Measurement:
    """Build and measure the engine with everything quantized that the pass quantizes."""
    trial, apart = model.copy(), context.fork()
    placement = quantizer.prepare(trial, apart)
    ranges = quantizer.ranges(trial, placement, apart)
    made, plan = quantizer.candidate(trial, apart)({})
    return compared(bench, made, plan, list(placement.layers), ranges, context.journal, rebuild=rebuild)
