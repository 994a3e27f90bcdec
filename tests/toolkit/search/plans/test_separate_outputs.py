"""Models whose outputs are made by layers of their own: each output has its own limit."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from tests.toolkit.search.planted import damage, feeds, heads, simulation
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.tasks import AnswerTally, OutputPart
from toolkit.search.budget.spending import Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plans.demands import Demand, Demands
from toolkit.search.plans.judged_parts import judged_parts
from toolkit.search.plans.plan_noise import NoiseLimit, PlanNoise
from toolkit.search.plans.search import Search

HEADS, LAYERS = 40, 3


def head_and_layer(name: str) -> tuple[int, int]:
    head, layer = name.removeprefix("head").split("_layer")
    return int(head), int(layer)


@pytest.fixture(scope="module")
def forty():
    """Forty outputs, some of whose layers are damaged, and the noise of each with the same layers of all quantized."""
    model = heads(HEADS, LAYERS)
    for head in range(0, HEADS, 5):
        damage(model, f"head{head}_layer{head % LAYERS}", factor=30.0)
    sim, noises = simulation(model, feeds(64), batch=8), {}
    for quantized in product((False, True), repeat=LAYERS):
        kept = [name for name in sim.names if not quantized[head_and_layer(name)[1]]]
        noises[quantized] = sim.without(kept).noises
    return sim, noises


def best_share(noises, least_db: float) -> float:
    """The most layers that may be quantized: the outputs do not share any, so each has its own best plan of eight."""
    most = dict.fromkeys(range(HEADS), 0)
    for quantized, found in noises.items():
        for output, noise in found:
            if noise <= 10 ** (-least_db / 10):
                head = int(output.removeprefix("y"))
                most[head] = max(most[head], sum(quantized))
    return sum(most.values()) / (HEADS * LAYERS)


@pytest.mark.parametrize("least_db", [35.0, 38.0])
def test_a_plan_is_found_for_each_of_forty_outputs_at_the_price_of_one(forty, least_db):
    sim, noises = forty
    best = best_share(noises, least_db)
    fresh, account = sim.on(sim.settings), Spending(20.0)
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    found = Search(fresh, Budget(min_sqnr_db=least_db), cost, try_ranges=False, spending=account).run()
    assert 0 < best < 1 and found.best.meets and found.best.quantized >= 0.95 * best
    # up to 3.3 of it are the float model and the layers one by one
    assert account.priced <= 20 and found.first is not None and found.first <= 9


def test_what_a_layer_does_alone_is_seen_while_layers_of_other_outputs_are_quantized_too():
    from toolkit.search.sensitivity.measure import exact

    sim = simulation(heads(4, 2), feeds(16), batch=8)
    apart, once = (exact(sim, modes=("alone",), batches=2, together=together) for together in (False, True))
    assert once.inferences < apart.inferences
    for one, other in zip(apart.groups, once.groups):
        assert dict(one.alone.noises) == dict(other.alone.noises) and one.output == other.output
        assert sum(noise > 0 for _, noise in other.alone.noises) == 1


def test_what_layers_do_alone_does_not_depend_on_where_a_measurement_was_interrupted(tmp_path):
    from toolkit.search.sensitivity.measure import exact

    sim, log = simulation(heads(4, 2), feeds(16), batch=8), tmp_path / "groups.jsonl"
    whole = exact(sim, modes=("alone",), batches=2, together=True, log=log)
    lines = log.read_text().splitlines()
    # the layers of the first head are left to measure
    log.write_text("".join(line + "\n" for line in lines if "head0_" not in line))
    again = exact(sim.on(sim.settings), modes=("alone",), batches=2, together=True, log=log)
    assert log.read_text().count("head0_") > 0 and again.groups == whole.groups


def two_outputs(first: float, second: float) -> Demands:
    """Four layers, two for each of two outputs; the noise of the outputs with all quantized, and a limit of 1."""
    parts = []
    for columns, noise in (([0, 1], first), ([2, 3], second)):
        names = [f"layer{column}" for column in columns]
        known = PlanNoise({names[0]: 0.6 * noise, names[1]: 0.4 * noise})
        known.observe([], noise)
        parts.append(Demand(known, NoiseLimit(noise, 1.0, False), np.asarray(columns)))
    return Demands([f"layer{column}" for column in range(4)], parts)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_an_output_all_of_whose_layers_are_float_asks_for_none_whatever_its_limit(limit):
    parts = [
        Demand(PlanNoise({f"layer{one}": 1.0 + one for one in own}), NoiseLimit(3.0, limit, False), np.asarray(own))
        for own in ([0, 1], [2, 3])
    ]
    harm = Demands([f"layer{one}" for one in range(4)], parts).harm(np.asarray([False, False, True, True]))
    assert np.isfinite(harm).all() and harm[2:].min() > 1e6 * harm[:2].max()


def test_once_an_output_is_within_its_limit_the_layers_of_another_are_kept():
    whole, price = np.ones(4, bool), np.ones(4)
    assert two_outputs(8.0, 0.5).orders(whole, price, [1.0])[0].tolist()[:2] == [0, 1]
    # neither is far over: a layer of each comes before the second one of either
    assert {one // 2 for one in two_outputs(1.5, 1.4).orders(whole, price, [1.0])[0].tolist()[:2]} == {0, 1}
    # the quieter output's layers are dearer by the same factor: its worst layer still is no bargain
    assert two_outputs(8.0, 0.5).harm(whole)[:2].min() > two_outputs(8.0, 0.5).harm(whole)[2:].max()


def test_a_plan_meets_the_budget_where_every_output_does():
    demands = two_outputs(2.0, 2.0)
    all_on, one_off, both_off = (demands.quantized(kept)[None] for kept in ([], ["layer0"], ["layer0", "layer2"]))
    assert demands.chance(all_on)[0] < 1e-3
    assert demands.chance(one_off)[0] < 1e-3 < demands.chance(both_off)[0]
    assert demands.chance(np.concatenate([all_on, both_off]))[1] == pytest.approx(demands.chance(both_off)[0])


def test_demands_on_layers_that_nothing_ties_are_apart():
    names = [f"layer{number}" for number in range(6)]

    def demand(*columns: int) -> Demand:
        return Demand(PlanNoise({names[one]: 1.0 for one in columns}), NoiseLimit(1.0, 1.0, False), np.asarray(columns))

    tied = Demands(names, [demand(0, 1), demand(3, 4), demand(1, 2)]).apart()
    assert [(places, own.names) for places, own in tied] == [([0, 2], names[:3]), ([1], names[3:5])]
    assert tied[0][1].chance(np.zeros((1, 3), bool))[0] == pytest.approx(1.0)
    whole = Demands(names, [demand(0, 1), Demand(PlanNoise(dict.fromkeys(names, 1.0)), NoiseLimit(1.0, 1.0, False))])
    assert [places for places, _ in whole.apart()] == [[0, 1]]


def outcome(**noises: float) -> Outcome:
    tallies = [AnswerTally(OutputPart("classification", (name,)), 9.0, 10, 0.99, expected=1.0) for name in noises]
    return Outcome(max(noises.values()), noises=tuple(noises.items()), tallies=tuple(tallies), output="b")


def test_outputs_are_judged_apart_where_each_has_its_limit():
    seen = outcome(a=0.1, b=0.2)
    assert [part.outputs for part in judged_parts(Budget(min_sqnr_db=20.0), seen)] == [("a",), ("b",)]
    by_answers = judged_parts(Budget(min_unchanged=0.99), seen)
    assert [(part.outputs, part.tally) for part in by_answers] == [(("a",), 0), (("b",), 1)]
    assert by_answers[0].of(seen).noise == by_answers[0].noise(seen) == 0.1
    assert by_answers[1].of(seen).tallies == seen.tallies[1:]
    # a metric is of the whole model, and one output is all of it
    assert [part.outputs for part in judged_parts(Budget(min_sqnr_db=20.0, max_drop=0.01), seen)] == [
        ("a",),
        ("b",),
        (),
    ]
    assert [part.outputs for part in judged_parts(Budget(max_drop=0.01), seen)] == [()]
    assert [part.outputs for part in judged_parts(Budget(min_sqnr_db=20.0), outcome(b=0.2))] == [()]


def test_the_limit_of_an_output_lies_where_it_is_as_likely_met_as_not():
    assert NoiseLimit(1.0, 0.01, False).middle == pytest.approx(math.log(0.01))
    learnt = NoiseLimit(1.0, None, True)
    learnt.observe(0.1, meets=False)
    learnt.observe(0.01, meets=True)
    assert learnt.chance(np.asarray([learnt.middle]), np.zeros(1))[0] == pytest.approx(0.5, abs=0.06)
