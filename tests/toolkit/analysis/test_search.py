from __future__ import annotations

import itertools
import json
import math

import pytest

from tests.conftest import MODELS
from tests.toolkit.analysis.planted import chain, damage, feeds, simulation, trained
from toolkit.analysis.budget import Budget
from toolkit.analysis.cost import CostModel
from toolkit.analysis.gpus import GPUS, find
from toolkit.analysis.outcome import Outcome
from toolkit.analysis.search import Search
from toolkit.errors import RecipeError
from toolkit.precision import Precision


def search(sim, budget, **settings):
    return Search(sim, budget, CostModel(sim.switches, sim.facts, find("A10")), **settings).run()


@pytest.mark.parametrize(
    ("name", "data", "layer", "least"),
    [
        ("digits_cnn", "digits", "/block1/second/conv/Conv", 30.0),
        ("digits_cnn", "digits", "/head/Gemm", 30.0),
        ("strip_reader", "strip", "/encoder/2/ffn/reduce/MatMul", 33.0),
    ],
)
def test_a_damaged_layer_is_found(name, data, layer, least):
    model = trained(name)
    damage(model, layer)
    sim = simulation(model, str(MODELS / f"{data}_calibration.npz"), metric="top1")
    found = search(sim, Budget(min_sqnr_db=least), try_ranges=False)
    assert not found.plans[0].meets and found.best.meets
    assert layer in found.best.kept and len(found.best.kept) <= 2
    assert found.evaluations <= 2 * math.log2(len(sim.names)) + 8


def test_two_layers_that_are_bad_and_hide_each_other():
    model = chain(8)
    damage(model, "layer1", factor=30_000)
    damage(model, "layer5", channel=3)
    found = search(simulation(model, feeds()), Budget(min_sqnr_db=26), try_ranges=False)
    assert found.best.meets and set(found.best.kept) == {"layer1", "layer5"}


def test_better_ranges_come_before_float_layers():
    samples = feeds(64)
    for sample in samples[:2]:
        sample["x"] = sample["x"] * 1.0
    samples[0]["x"][0, 0] = 3000.0
    sim = simulation(chain(), samples, method="minmax")
    with_ranges = search(sim, Budget(min_sqnr_db=-50))
    assert with_ranges.best.kept == () and with_ranges.evaluations == 1


def test_the_budget_that_cannot_be_met_gives_the_nearest_plan(tmp_path):
    sim = simulation(chain(), feeds())
    found = search(sim, Budget(min_sqnr_db=45.0, max_ms=1e-9), best=tmp_path / "best.json")
    assert not found.best.meets and "max_ms" in found.best.lacks
    assert all(
        found.best.outcome.noise <= plan.outcome.noise or not plan.lacks.get("min_sqnr_db") for plan in found.plans
    )
    assert "nearest" in found.notes[0]
    assert json.loads((tmp_path / "best.json").read_text())["met"] is False


def test_a_killed_search_goes_on_and_decides_the_same(tmp_path):
    model = chain(8)
    damage(model, "layer3")
    sim = simulation(model, feeds())
    log, best = tmp_path / "search.jsonl", tmp_path / "best.json"

    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what == "search" and done == 2:
            raise Killed

    with pytest.raises(Killed):
        search(sim, Budget(min_sqnr_db=30), log=log, best=best, progress=kill)
    assert json.loads(best.read_text())["best"]["kept"] is not None
    first = search(sim, Budget(min_sqnr_db=30))
    spent = sim.runner.spent
    second = search(sim, Budget(min_sqnr_db=30), log=log, best=best)
    assert second.best == first.best
    third = search(sim, Budget(min_sqnr_db=30), log=log)
    assert third.best == first.best and sim.runner.spent > spent
    spent = sim.runner.spent
    search(sim, Budget(min_sqnr_db=30), log=log)
    assert sim.runner.spent == spent


def test_the_front_holds_no_plan_that_another_beats():
    model = chain(8)
    damage(model, "layer3")
    front = search(simulation(model, feeds()), Budget(min_sqnr_db=45)).front()
    for a, b in itertools.pairwise(front):
        assert a.seconds < b.seconds and a.outcome.noise > b.outcome.noise


def test_budget_units_and_margin():
    reference = Outcome(0.0, metric=0.95)
    outcome = Outcome(0.01, agreement=0.98, metric=0.93, positions=100)
    assert Budget(max_drop=0.03).lacks(outcome, reference) == {}
    assert Budget(max_drop=0.01).lacks(outcome, reference)["max_drop"] == pytest.approx(0.01)
    assert Budget(max_drop=0.03, margin=1.0).lacks(outcome, reference)["max_drop"] == pytest.approx(0.004)
    assert Budget(min_sqnr_db=20, margin=1.0).lacks(outcome, reference)["min_sqnr_db"] == pytest.approx(1.0)
    with pytest.raises(RecipeError, match="no budget"):
        Budget()
    with pytest.raises(RecipeError, match="metric"):
        Budget(max_drop=0.1).lacks(Outcome(0.1), Outcome(0.0))


def test_cost_of_islands_and_gpus():
    sim = simulation(chain(6, 16), feeds())
    cost = CostModel(sim.switches, sim.facts, find("NVIDIA A10"))
    alternating = cost.time(sim.names[::2])
    block = cost.time(sim.names[:3])
    assert alternating > block
    assert cost.share([]) == 1.0 and cost.share(sim.names) == 0.0
    assert find("NVIDIA H200").name == "H200" and find("rtx 4090").name == "RTX 4090"
    assert GPUS["T4"].rate(Precision.FP8) == GPUS["T4"].rate(Precision.FP16)
    with pytest.raises(RecipeError, match="Voodoo"):
        find("Voodoo 2")
