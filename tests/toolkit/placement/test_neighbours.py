from __future__ import annotations

from itertools import combinations

import pytest

from passes.insert_qdq import InsertQDQ
from tests.benchmarks.bench_graph import concats, residual, transformer
from tests.toolkit.placement.test_sums import bottleneck, leaky, silu
from toolkit import TARGETS, Code, Context, Model, Range, Ranges, free_neighbours, keep_float, place
from toolkit.placement import neighbours
from toolkit.placement.pairs import Use


def placed_anew(model: Model, quantized: set[str]) -> tuple[set[Use], dict]:
    found = place(model, model.facts(), lambda node: None if node.name in quantized else Code.NOT_INCLUDED(), True)
    uses = {use for pair in found.pairs.values() for use in pair.uses}
    return uses, {refusal.node: refusal.why for refusal in found.refusals}


MODELS = {
    "residual": Model.from_proto(residual(10)),
    "concats": Model.from_proto(concats(34)),
    "transformer": Model.from_proto(transformer(23)),
    "bottleneck, silu": bottleneck(silu),
    "bottleneck, leaky": bottleneck(leaky),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_kept_layers_leave_alone_is_as_if_each_state_were_placed_anew(name: str) -> None:
    model = MODELS[name]
    names = set(model.node_names())
    layers = [node.name for node in model.nodes if node.op in TARGETS]
    some_lost = False
    for kept in [*combinations(layers[:6], 1), *combinations(layers[:4], 2), layers]:
        (before, _), (after, why) = placed_anew(model, names), placed_anew(model, names - set(kept))
        lost = neighbours._lost(model, model.facts(), names - set(kept), kept)
        assert lost == (before - after, why)
        some_lost |= any(use.node not in kept for use in lost[0])
    assert some_lost


def test_kept_layers_are_given_as_nodes_or_by_name() -> None:
    freed = []
    for by_name in (True, False):
        model = MODELS["bottleneck, silu"].copy()
        context = Context(model=model, known_ranges=Ranges({t: Range(1.0, "by hand") for t in model.graph.tensors()}))
        InsertQDQ()(model, context)
        layers = [node for node in model.nodes if node.op in TARGETS]
        for node in layers:
            keep_float(context, node, "fp16", "a test")
        freed.append(free_neighbours(context, [node.name for node in layers] if by_name else layers))
    assert freed[0] == freed[1] and freed[0]
