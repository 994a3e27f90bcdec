from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest

from tests.toolkit.search.planted import chain, damage, feeds, racing_search, simulation, trained
from toolkit.base.errors import RecipeError
from toolkit.base.precision import Precision
from toolkit.base.progress import Activity
from toolkit.contract.findings import Code
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.report.findings import sentence
from toolkit.search.budget.spending import FLOAT_PRICE, SINGLE_LAYER, Spending
from toolkit.search.codes import SearchEndCode
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import GPUS, gpu_spec
from toolkit.search.plans.range_methods import alternatives, methods_of, whole_model
from toolkit.search.plans.search import Search
from toolkit.simulation import runner
from toolkit.simulation.runner import Runner


def search(sim, budget, **settings):
    return Search(sim, budget, CostModel(sim.switches, sim.facts, gpu_spec("A10")), **settings).run()


@pytest.mark.parametrize(
    ("name", "data", "layer", "least"),
    [
        ("digits_cnn", "digits", "/block1/second/conv/Conv", 30.0),
        ("digits_cnn", "digits", "/head/Gemm", 30.0),
        ("strip_reader", "strip", "/encoder/2/ffn/reduce/MatMul", 33.0),
    ],
)
def test_a_damaged_layer_is_found(samples, name, data, layer, least):
    model = trained(name)
    damage(model, layer)
    sim = simulation(model, samples / f"{data}_calibration.npz", metric="top1")
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


def test_the_method_that_suits_the_whole_model_comes_before_any_layer():
    sim = simulation(chain(), feeds())
    right = dict(sim.switches.amax)
    for name, amax in right.items():
        sim.ranges.tensors[name].diagnosis["amax"] = {"minmax": 60 * amax, "entropy": 0.02 * amax, "mse": amax}
    wrong = sim.rebased({name: 60 * amax for name, amax in right.items()})
    found = search(wrong, Budget(min_sqnr_db=25))
    assert not found.plans[0].meets and found.best.meets and found.best.kept == ()
    assert found.best.amax == pytest.approx(right) and set(found.methods.values()) == {"mse"}
    assert found.sensitivity is None and found.evaluations == 3


@pytest.mark.parametrize("inferences", [None, 14.0])
def test_a_method_that_one_layer_speaks_for_is_not_forced_on_the_others(inferences):
    model = chain(8)
    damage(model, "layer3")
    sim = simulation(model, feeds(), batch=3)
    for name, known in sim.ranges.tensors.items():
        ruined = name == "layer3 damaged"
        known.diagnosis["amax"] = {"minmax": known.amax, "entropy": known.amax * (0.3 if ruined else 0.2)}
    found = search(sim, Budget(min_sqnr_db=28), spending=Spending(inferences))
    assert found.best.meets and found.best.kept == ("layer3",)


def test_ranges_that_are_quieter_on_few_samples_alone_lose_the_race():
    rare = feeds(64)
    rare[-1]["x"] = rare[-1]["x"] * 12
    sim = simulation(chain(), rare, batch=8)
    for known in sim.ranges.tensors.values():
        # finer steps for all batches but the last, which is cut off
        known.diagnosis["amax"] = {"minmax": known.amax, "entropy": known.amax / 3.5}
    tried = Search(sim, Budget(min_sqnr_db=20), CostModel(sim.switches, sim.facts, gpu_spec("A10")),
                   spending=Spending(50.0))  # fmt: skip
    tried._begin()
    tried._evaluate((), until=1)
    assert tried._best_method().amax == {}
    few, whole = (sim.runner.probe(sim.config((), dict(whole_model(sim))["entropy"])).run(n) for n in (1, None))
    assert few.noise < sim.runner.base.run(1).noise and whole.noise > sim.runner.full_outcome.noise


@pytest.mark.parametrize(("louder", "tried_on"), [(3.0, 1), (1.8, 8)])
def test_ranges_that_miss_no_answer_of_few_samples_are_not_taken_for_better_where_they_are_far_noisier(
    louder, tried_on, monkeypatch
):
    racing, seen = racing_search(Budget(min_agreement=0.9), narrower=3.5)

    def on(key, kept, config, count):
        noise = 0.01 * (louder if racing.amax else 1.0)
        outcome = replace(seen.outcome, noise=noise, parts=(noise,) * count)
        lacks = {"min_agreement": 0.02 + noise} if count == 8 else {}
        return replace(seen, amax=dict(racing.amax), outcome=outcome, lacks=lacks, batches=count, clear=None)

    monkeypatch.setattr(racing, "_on", on)
    taken = racing._best_method()
    # one answer of all samples is missed with each: the quieter one is what layers are measured with
    assert racing.amax == taken.amax == {} and taken.whole
    assert {bool(plan.amax): plan.batches for plan in racing.plans} == {False: 8, True: tried_on}


@pytest.mark.parametrize(("lack", "rounds"), [(0.05, 2), (0.005, 4)])
def test_a_race_ends_early_where_every_range_misses_the_budget_by_far(lack, rounds, monkeypatch):
    """On a quarter of the samples as far from the budget as no layer makes up for: what more cost goes to plans."""
    (racing, seen), asked = racing_search(Budget(min_agreement=0.9), narrower=1.05), []

    def on(key, kept, config, count):
        asked.append(count)
        noise = 0.0105 if racing.amax else 0.01
        outcome = replace(seen.outcome, noise=noise, parts=(noise,) * count)
        return replace(seen, amax=dict(racing.amax), outcome=outcome, lacks={"min_agreement": lack}, batches=count,
                       clear=None)  # fmt: skip

    monkeypatch.setattr(racing, "_on", on)
    taken = racing._best_method()
    assert racing._rounds == [1, 2, 4, 8] and sorted(set(asked)) == [1, 2, 4, 8][:rounds]
    # the quieter ranges are used from here on all the same
    assert racing.amax == taken.amax == {} and taken.whole is (rounds == 4)


def test_a_batch_whose_float_output_is_zero_does_not_decide_the_race():
    """Its noise is infinite in every plan; what is infinite in one plan alone says that this one is broken."""
    sim = simulation(chain(), feeds(64), batch=16)
    racing = Search(sim, Budget(min_sqnr_db=20), CostModel(sim.switches, sim.facts, gpu_spec("A10")))
    racing._begin()
    plan = racing._evaluate(())

    def with_parts(*parts):
        return replace(plan, outcome=replace(plan.outcome, parts=parts), batches=len(parts))

    every = len(sim.runner.order)
    rest = (0.2,) * (every - 2)
    plans = [with_parts(math.inf, noise, *rest) for noise in (0.3, 0.1, math.inf)]
    loud, quiet, broken = racing._noises(plans, every)
    assert quiet < loud < broken == math.inf


@pytest.mark.parametrize("least", [10.0, 26.0, 34.0, 45.0])
def test_no_plan_that_was_tried_is_better_than_the_one_chosen(least):
    model = chain(8)
    damage(model, "layer2")
    damage(model, "layer6", channel=3)
    sim, budget = simulation(model, feeds()), Budget(min_sqnr_db=least)
    found = search(sim, budget)
    nearest = min(budget.distance(dict(plan.lacks)) for plan in found.plans)
    assert budget.distance(dict(found.best.lacks)) == nearest
    same = [plan for plan in found.plans if budget.distance(dict(plan.lacks)) == nearest]
    assert found.best.quantized == max(plan.quantized for plan in same)
    assert found.plans[0].kept == () and found.plans[0].amax == {}


def test_the_choice_does_not_depend_on_threads():
    model = chain(8)
    damage(model, "layer3")
    one, two = (search(simulation(model, feeds(64), threads=n, batch=16), Budget(min_sqnr_db=34)) for n in (1, 2))
    assert one.plans == two.plans and one.best == two.best


def test_the_budget_that_cannot_be_met_gives_the_nearest_plan(tmp_path):
    sim = simulation(chain(), feeds())
    found = search(sim, Budget(min_sqnr_db=45.0, max_ms=1e-9), best=tmp_path / "best.json")
    assert not found.best.meets and "max_ms" in found.best.lacks
    assert all(
        found.best.outcome.noise <= plan.outcome.noise or not plan.lacks.get("min_sqnr_db") for plan in found.plans
    )
    assert Code.SEARCH_NEAREST() in found.notes
    assert json.loads((tmp_path / "best.json").read_text())["met"] is False


def test_a_killed_search_goes_on_and_decides_the_same(tmp_path, monkeypatch):
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
    run: list[object] = []
    plain = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, config: run.append(config) or plain(self, config))
    second = search(sim, Budget(min_sqnr_db=30), log=log, best=best)
    assert second.best == first.best and run
    run.clear()
    third = search(sim, Budget(min_sqnr_db=30), log=log)
    assert third.best == first.best and not run


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
    # batches that differ say less of other samples: 20 percent of the mean to one standard error
    uneven = replace(outcome, parts=(0.002, 0.006, 0.002, 0.006, 0.002, 0.006, 0.002, 0.006, 0.004))
    assert 0.7 < Budget(min_sqnr_db=20, margin=1.0).spare_db(uneven) - 1.0 < 1.2
    assert Budget(min_sqnr_db=20).spare_db(uneven) == 0
    with pytest.raises(RecipeError, match="no accuracy budget"):
        Budget()
    with pytest.raises(RecipeError, match="metric"):
        Budget(max_drop=0.1).lacks(Outcome(0.1), Outcome(0.0))


def test_cost_of_islands_and_gpus():
    sim = simulation(chain(6, 16), feeds())
    cost = CostModel(sim.switches, sim.facts, gpu_spec("NVIDIA A10"))
    alternating = cost.time(sim.names[::2])
    block = cost.time(sim.names[:3])
    assert alternating > block
    assert cost.share([]) == 1.0 and cost.share(sim.names) == 0.0
    assert gpu_spec("NVIDIA H200").name == "H200" and gpu_spec("rtx 4090").name == "RTX 4090"
    assert GPUS["T4"].rate(Precision.FP8) == GPUS["T4"].rate(Precision.FP16)
    with pytest.raises(RecipeError, match="Voodoo"):
        gpu_spec("Voodoo 2")


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_no_more_plans_are_evaluated_than_allowed(limit):
    sim = simulation(chain(), feeds())
    for known in sim.ranges.tensors.values():
        known.diagnosis["amax"] = {name: known.amax * part for name, part in (("entropy", 0.9), ("mse", 0.8))}
    found = search(sim, Budget(min_sqnr_db=60), evaluations=limit)
    assert found.evaluations <= limit
    # the last one is for what keeps the most
    assert found.best.meets is (limit > 1)
    assert (Code.SEARCH_NEAREST() in found.notes) is not found.best.meets


def test_the_method_named_is_the_one_that_gives_the_best_plan_its_range():
    sim = simulation(chain(), feeds())
    for known in sim.ranges.tensors.values():
        known.diagnosis["amax"] = {"entropy": known.amax * 0.9, "mse": known.amax * 0.8, "percentile": known.amax * 0.8}
    names = list(sim.switches.amax)
    amax = {name: sim.switches.amax[name] * (0.9 if name == names[0] else 0.8) for name in names}
    amax[names[1]] = 123.0
    assert methods_of(sim, amax) == {names[0]: "entropy", **dict.fromkeys(names[2:], "mse")}
    found = search(sim, Budget(min_sqnr_db=45))
    for tensor, value in found.best.amax.items():
        assert sim.ranges.tensors[tensor].diagnosis["amax"][found.methods[tensor]] == value


def test_a_range_of_zeros_is_no_trouble():
    sim = simulation(chain(), feeds())
    name = next(iter(sim.switches.amax))
    sim.switches.amax[name] = 0.0
    sim.ranges.tensors[name].diagnosis["amax"] = {"minmax": 2.0, "mse": 0.0}
    assert dict(whole_model(sim))["minmax"][name] == 2.0 and alternatives(sim, name, 0.0) == [2.0]


def limited(sim, budget, inferences=14.0, **settings):
    account = Spending(inferences)
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    return Search(sim, budget, cost, try_ranges=False, spending=account, **settings).run(), account


def uneven(**settings):
    """Eight layers, three of them damaged by unlike amounts, in eight batches."""
    model = chain(8)
    for layer, factor in (("layer1", 40.0), ("layer4", 8.0), ("layer6", 15.0)):
        damage(model, layer, factor=factor)
    return simulation(model, feeds(64), batch=8, **settings)


@pytest.fixture(scope="module")
def every_plan():
    """The noise and the share in INT8 of every plan of ``uneven``."""
    sim = uneven()
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    plans = [kept for count in range(9) for kept in itertools.combinations(sim.names, count)]
    return {kept: (sim.without(kept).sqnr_db, cost.share(kept)) for kept in plans}


def test_the_first_run_of_the_float_model_and_the_layers_one_by_one_are_paid_for():
    fresh, sim = Spending(14.0), uneven()
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    begun = Search(sim, Budget(min_sqnr_db=26), cost, try_ranges=False, spending=fresh)
    begun.run(first=True)
    again = Spending(14.0)
    Search(sim, Budget(min_sqnr_db=26), cost, try_ranges=False, spending=again).run(first=True)
    # the float model's outputs are known from the first search
    assert fresh.priced - again.priced == pytest.approx(FLOAT_PRICE)
    runner = sim.runner
    alone = sum(runner.price(sim.switches.only([name]), begun.batches) for name in sim.names)
    paid = Spending(14.0)
    sensing = Search(sim, Budget(min_sqnr_db=26), cost, try_ranges=False, spending=paid)
    sensing._begin()
    sensing._everything()
    before = paid.priced
    sensing._sense()
    every = runner.price(sim.config(()), begun.batches)
    assert paid.priced - before == pytest.approx(SINGLE_LAYER * alone + every)


@pytest.mark.parametrize("least", [20.0, 26.0, 31.0, 36.0])
def test_few_inferences_find_nearly_the_best_of_all_plans(every_plan, least):
    found, account = limited(uneven(), Budget(min_sqnr_db=least))
    best = max(share for level, share in every_plan.values() if level >= least)
    assert found.best.meets and found.best.quantized >= 0.95 * best
    assert account.priced <= account.inferences + 1.0
    # whoever stops it then has a plan
    # up to 3.3 of it are the float model and the layers one by one
    assert found.first is not None and found.first <= 7.0
    assert any(not plan.whole for plan in found.plans) or len(found.plans) <= 3


def test_a_limited_search_does_not_depend_on_threads_and_goes_on_where_it_was_killed(tmp_path):
    budget = Budget(min_sqnr_db=31)
    one, two = (limited(uneven(threads=n), budget)[0] for n in (1, 2))
    assert one.plans == two.plans and one.best == two.best

    def kill(what: str, done: int, total: int) -> None:
        if what == "search" and done == 3:
            raise KeyboardInterrupt

    log, best = tmp_path / "search.jsonl", tmp_path / "best.json"
    with pytest.raises(KeyboardInterrupt):
        limited(uneven(), budget, log=log, best=best, progress=kill)
    assert json.loads(best.read_text())["best"]["kept"] is not None
    again = limited(uneven(), budget, log=log, best=best)[0]
    assert again.best.kept == one.best.kept and [p.kept for p in again.plans] == [p.kept for p in one.plans]


def test_what_is_best_so_far_says_on_how_many_samples_it_is():
    """A plan that holds on an eighth of the samples is not said to hold; what ran on all needs no such words."""
    told = []

    def follow(what, done, total):
        if isinstance(what, Activity):
            told.append(what.best)

    found, _ = limited(uneven(), Budget(min_sqnr_db=31), progress=follow)
    parts = [one for one in told if "samples" in one.values]
    whole = [one for one in told if "samples" not in one.values]
    assert parts and whole and {one.values["all"] for one in parts} == {64}
    assert all(0 < one.values["samples"] < one.values["all"] for one in parts)
    words = sentence(parts[0])
    assert words.endswith(f" on {parts[0].values['samples']} of {parts[0].values['all']} samples")
    assert not sentence(whole[-1]).endswith("samples") and found.best.whole


def test_a_search_that_goes_on_decides_by_the_same_prices_where_states_are_kept_at_the_cuts(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_JOINED_BYTES", 0)
    log = tmp_path / "search.jsonl"
    (one, first), (again, second) = (limited(uneven(), Budget(min_sqnr_db=31), log=log) for _ in range(2))
    assert second.priced == first.priced and [plan.kept for plan in again.plans] == [plan.kept for plan in one.plans]


def test_a_plan_that_meets_the_budget_is_taken_where_cheaper_ones_only_seemed_to(monkeypatch):
    sim = uneven()
    tried = Search(sim, Budget(min_sqnr_db=31), CostModel(sim.switches, sim.facts, gpu_spec("A10")),
                   spending=Spending(14.0))  # fmt: skip
    tried._begin()
    met = tried._evaluate(sim.names, sure=True)
    seeming = [replace(met, kept=tuple(sim.names[:n]), batches=1, clear=True) for n in range(6)]
    tried.plans += seeming
    monkeypatch.setattr(tried, "_on", lambda key, kept, *rest: replace(met, kept=kept, lacks={"min_sqnr_db": 1.0}))
    tried._hold(seeming[0])
    tried._settle()
    assert tried.best == met and met.meets


def test_a_search_whose_minutes_are_over_takes_the_best_plan_so_far():
    sim, now = uneven(), itertools.count(step=20.0)
    account = Spending(14.0, minutes=2.0, clock=lambda: float(next(now)))
    found = Search(sim, Budget(min_sqnr_db=31), CostModel(sim.switches, sim.facts, gpu_spec("A10")), try_ranges=False,
                   spending=account).run()  # fmt: skip
    assert found.best.whole and found.evaluations < limited(uneven(), Budget(min_sqnr_db=31))[0].evaluations


def test_a_search_whose_minutes_end_while_layers_are_measured_says_how_many_are_not():
    sim, account = uneven(), Spending(14.0, minutes=2.0, clock=lambda: 0.0)
    measured = []

    def count(activity, done, total):
        if activity == "sensitivity":
            measured.append(done)
            account._clock = lambda: 180.0 if done >= 3 else 0.0

    found = Search(sim, Budget(min_sqnr_db=31), CostModel(sim.switches, sim.facts, gpu_spec("A10")), try_ranges=False,
                   spending=account, progress=count).run()  # fmt: skip
    layers = len(sim.names)
    assert measured == [1, 2, 3] and layers > 3
    assert SearchEndCode.UNMEASURED(layers=layers - 3, of=layers) in found.notes
    assert found.best.whole and found.best in found.plans


def test_where_nothing_is_left_the_float_model_still_meets_the_budget():
    found, account = limited(uneven(), Budget(min_sqnr_db=60), inferences=1.5)
    assert found.best.meets and account.left(1.0) == 0
