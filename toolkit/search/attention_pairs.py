"""Whether an engine is faster with pairs on the products of attention than without: both are built and measured."""

from __future__ import annotations

from toolkit.base.errors import QtoolError
from toolkit.contract.bench import Bench, Measurement, ratio_in_turn
from toolkit.contract.context import Context
from toolkit.graph.model import Model
from toolkit.search.codes import AttentionCode
from toolkit.search.quantizer import Quantizer


def attention_pays(without: Quantizer, both: Quantizer, model: Model, context: Context) -> bool:
    """Whether all that ``both`` quantizes runs faster than all that ``without`` does, by more than their noise.

    TensorRT takes a transformer as one block, in which a quantized layer beside float attention can cost more than it
    saves: on an H100 with 8.6.0 and batch 1, BERT-6 took 0.191 ms in float16, 0.216 with its projections quantized, and
    0.177 with the products of attention too.

    Args:
        without: quantizes layers with constant weights alone.
        both: the same, and products of two activations.
        model: the float graph; it is not changed.
        context: gets a note of the latencies, or of why they are not known.

    Returns:
        False where nothing is measured, and where the two are one.
    """
    bench = context.bench
    if bench is None or bench.cannot_measure() or bench.implicit:
        return False
    few, more = (set(one.placement(model, context).layers) for one in (without, both))
    if not more - few:
        return False
    try:
        engines = [_measured(one, model, context, bench) for one in (without, both)]
        names = [one.engine for one in engines]
        turns = bench.in_turn(*names) if all(names) else None
    except QtoolError as error:
        context.journal.noted(AttentionCode.NOT_TIMED(error=str(error)))
        return False
    ratios = {}
    for profile in bench.profiles:
        if turns is not None and profile in turns.turns:
            ratios[profile] = ratio_in_turn(turns.turns[profile][names[1]], turns.turns[profile][names[0]])
        elif all(profile in one.latency for one in engines):
            plain, own = (one.latency[profile] for one in engines)
            ratios[profile] = own.ms / plain.ms, (own.noise + plain.noise) / plain.ms
    weights = {profile: both.profile_weights.get(profile, 1.0) for profile in ratios}
    total = sum(weights.values())
    if not total:
        lacks = next((why for one in engines for why in one.lacks.values()), "no profile was measured")
        context.journal.noted(AttentionCode.NOT_TIMED(error=lacks))
        return False
    ratio = sum(weights[profile] * ratios[profile][0] for profile in ratios) / total
    noise = max(ratios[profile][1] for profile in ratios if weights[profile])
    pays = ratio + noise < 1
    context.journal.noted(AttentionCode.TIMED(products=sorted(more - few), ratio=ratio, noise=noise, taken=pays))
    return pays


def _measured(quantizer: Quantizer, model: Model, context: Context, bench: Bench) -> Measurement:
    """The engine with everything quantized that the pass quantizes."""
    trial, apart = model.copy(), context.fork()
    placement = quantizer.prepare(trial, apart)
    ranges = quantizer.ranges(trial, placement, apart)
    made, plan = quantizer.candidate(trial, apart)({})
    return bench.measure(made, plan, list(placement.layers), ranges)
