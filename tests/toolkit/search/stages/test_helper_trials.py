from __future__ import annotations

import json
from dataclasses import replace

import pytest

from passes.equalize import Equalize
from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS
from tests.toolkit.search.planted import chain, damage, feeds, simulation, trained
from toolkit import Code, Context, Ranges
from toolkit.calibration.provider import Calibrator
from toolkit.contract.journal import Journal
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.budget import Budget
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.budget.spending import CALIBRATION_PRICE, ROUNDING_PRICE, Spending
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plan_search import PlanSearch
from toolkit.search.plans.search import Search
from toolkit.search.stages.helped_forms import HelperModels, with_helper
from toolkit.search.with_helpers import with_helpers
from toolkit.simulation import simulation as simulation_module
from toolkit.simulation.runner import Runner
from toolkit.simulation.switches import Switches


def search_of(model, samples, least=20.0, **pairs):
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    settings = SearchSettings(limits={"max_drop": None, "min_sqnr_db": least, "min_agreement": None})
    return PlanSearch(InsertQDQ(**pairs), settings, model, context, lambda *given: given[0])


def test_a_trial_on_few_samples_is_paid_in_inferences_of_all_that_are_decided_on():
    model = chain()
    search = search_of(model, feeds(64))
    part = replace(search.context, provider=search.context.provider.on_subset(), known_ranges=None)
    trial = search.on(model.copy(), part, 0.25)
    # a trial needs ranges, and what float16 holds is asked of the model that is taken
    seen, all_seen = part.known_ranges, search.context.known_ranges
    assert set(seen.observed) == set(seen.tensors) < set(all_seen.observed)
    assert sum(feed.count for feed in trial.simulation.feeds) == search.decided_on == trial.decided_on == 64
    before = search.spending.priced
    few = trial.on_few()
    trial.standing(few)
    # the float model and a few methods on 8 of 64 samples
    assert 1.3 * 8 / 64 < search.spending.priced - before < 10 * 8 / 64


@pytest.mark.parametrize(("samples", "calibrated"), [(52, 52), (63, 63), (64, 16), (128, 32)])
def test_a_trial_is_calibrated_on_so_many_samples_that_others_are_hardly_clipped(samples, calibrated):
    """With the ranges of 13 of 52, on others, a face net's helper that wins 6 dB seemed to cost 11."""
    model = chain()
    provider = Calibrator(CalibrationData.open(feeds(samples), model), method="minmax")
    part = provider.on_subset()
    assert len(part.data) == calibrated and (part is provider) == (calibrated == samples)


def test_the_samples_are_read_once_for_all_forms_of_a_model(monkeypatch):
    model = chain()
    search = search_of(model, feeds(64))
    part = replace(search.context, provider=search.context.provider.on_subset(), known_ranges=None)
    read, reads = list[int](), simulation_module.feeds_of
    monkeypatch.setattr(simulation_module, "feeds_of", lambda data, own: (read.append(len(data)), reads(data, own))[1])
    assert search.on(model.copy(), part, 0.25).plain.feeds is search.plain.feeds and not read


def test_a_trial_is_compared_on_the_samples_that_the_model_before_it_ran_on_without_running_the_float_model_again():
    model = chain()
    search = search_of(model, feeds(64))
    part = replace(search.context, provider=search.context.provider.on_subset(), known_ranges=None)
    trial = search.on(model.copy(), part, 0.25)
    assert trial.simulation.feeds is search.simulation.feeds
    few, own, like = search.on_few(), trial.on_few(), trial.on_few()
    assert all((a.inputs["x"] == b.inputs["x"]).all() for a, b in zip(few.feeds, own.feeds, strict=True))
    reference = few.runner.float_outcome
    before = search.spending.priced
    alone = trial.standing(own)
    paid = search.spending.priced - before
    like.compared_like(few)
    assert not like.runner.spent and like.runner.float_outcome == reference
    beside = trial.standing(like)
    assert search.spending.priced - before - paid == pytest.approx(paid - 1.3 * 8 / 64)
    assert beside.outcome.noise == pytest.approx(alone.outcome.noise, rel=1e-5) and beside.amax == alone.amax


@pytest.mark.parametrize("changes", [True, False])
def test_a_helper_takes_the_ranges_known_of_the_model_and_leaves_none_to_the_next(changes):
    model = chain()
    context = search_of(model, feeds(64)).context
    known, calibrated = context.known_ranges.amax("x"), []

    def helper(form, apart):
        assert apart.ranges(form, ["x"]).amax("x") == known
        if changes:
            apart.journal.changed("layer1", Code.TRIAL(), Code.TRIAL())

    after = with_helper(helper, model, context, lambda *given: calibrated.append(given) or Ranges())
    assert not calibrated and context.known_ranges.amax("x") == known
    after.ranges(model, ["x"])
    assert len(calibrated) == 1


def test_a_helper_takes_the_ranges_of_the_same_samples_in_every_form_of_the_helpers_that_are_kept():
    """If an earlier helper had nothing to change in a plan's form, it took those of all samples instead of a part's."""
    context, taken = search_of(chain(), feeds(64)).context, []

    def first(form, apart):
        if "layer1" not in apart.plan:
            apart.journal.changed("layer1", Code.TRIAL(), Code.TRIAL())

    def second(form, apart):
        taken.append(apart.ranges(form, ["x"]).amax("x"))
        apart.journal.changed("layer2", Code.TRIAL(), Code.TRIAL())

    named, part = frozenset({"layer1", "layer2"}), context.provider.on_subset()
    forms = HelperModels(chain(), context, part, (first, second), named, "int8", [])
    for quantized in (["layer1"], ["layer2"]):
        forms.take(quantized, chain(), replace(context, journal=Journal()))
    assert taken == [part(chain(), ["x"]).amax("x")] * 2 != [context.known_ranges.amax("x")] * 2


def test_another_process_compares_a_helped_form_with_the_same_float_outputs():
    search = search_of(trained("digits_uneven"), str(MODELS / "digits_calibration.npz"))
    assert search.plain.runner.float_seconds
    form = search.model.copy()
    Equalize()(form, search.context.fork())
    helped_form = search.on(form, replace(search.context.fork(), known_ranges=None), CALIBRATION_PRICE)
    base = helped_form.plain.config(())
    here, there = helped_form.plain.runner.run(base), helped_form.plain.job().open()((base, None))[0]
    # of the form itself the float outputs differ in their last bits
    assert here.noise == there.noise


def test_the_search_that_follows_a_first_plan_measures_and_pays_nothing_twice():
    apart, both = (search_of(trained("digits_uneven"), str(MODELS / "digits_calibration.npz")) for _ in range(2))
    first = both.first_plan()
    # up to 3.3 of it are the float model and the layers one by one
    assert first is not None and first.meets and both.spending.first == both.spending.priced < 8
    found, alone = both.run(), apart.run()
    assert found.best.kept == alone.best.kept and found.first == both.spending.first
    assert both.spending.priced < 1.3 * apart.spending.priced


def test_a_plan_that_is_known_counts_as_it_stands_against_this_budget():
    model = chain(8)
    damage(model, "layer3")
    sim = simulation(model, feeds())
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    known = Search(sim, Budget(min_sqnr_db=28), cost, try_ranges=False).run().best
    assert known.meets
    nothing = Spending(inferences=0.1)
    again = Search(sim.on(sim.settings), Budget(min_sqnr_db=28), cost, try_ranges=False, spending=nothing, known=known)
    assert again.run().best.kept == known.kept
    strict = Budget(min_sqnr_db=known.outcome.sqnr_db + 1)
    search = Search(sim.on(sim.settings), strict, cost, try_ranges=False, known=known)
    assert search.run().best.kept != known.kept
    assert next(plan.lacks for plan in search.plans if plan.kept == known.kept)


def test_a_plan_that_met_the_budget_in_another_form_is_run_before_nothing_is_quantized():
    model = chain(12)
    damage(model, "layer3")
    sim = simulation(model, feeds())
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))

    def found(inferences, **more):
        # the float model and the layers one by one take 36.7 inferences
        spending = Spending(inferences=inferences)
        search = Search(sim.on(sim.settings), Budget(min_sqnr_db=28), cost, try_ranges=False, spending=spending, **more)
        return search.run().best

    likely = ("layer3", "layer5", "layer6", "layer7", "layer8")
    assert len(found(37.0).kept) == 12 and found(37.0, likely=likely).kept == likely
    # where there are inferences for better ones, these are looked for without it
    assert found(48.0, likely=likely) == found(48.0) and len(found(48.0).kept) < len(likely)


def test_that_plan_is_run_on_all_samples_where_few_do_not_tell_and_no_inferences_are_left():
    model = chain(12)
    damage(model, "layer3")
    likely = ("layer1", "layer3", "layer5", "layer6", "layer7", "layer8")
    sim = simulation(model, feeds(), batch=3)
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    budget = Budget(min_sqnr_db=sim.without(likely).sqnr_db - 0.2)
    found = Search(sim, budget, cost, try_ranges=False, spending=Spending(2.0), likely=likely).run()
    assert found.best.kept == likely and found.best.whole and found.best.meets


@pytest.mark.parametrize(("least", "tried"), [(20.0, 0), (60.0, 1)])
def test_no_helper_is_tried_where_every_layer_is_safely_quantized(least, tried):
    search = search_of(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"), least)
    made = []

    class Tried(Equalize):
        def apply(self, model, context):
            made.append(model)

    found = with_helpers(search, {"equalize": Tried()}, search.model, search.context)
    assert found is search and len(made) == tried
    assert search.needs_no_help == (not tried)


@pytest.mark.parametrize(("least", "needless"), [(30.0, True), (32.4, False)])
def test_helpers_are_tried_where_a_plan_of_all_layers_has_hardly_its_margin(least, needless):
    search = search_of(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"), least)
    first = search.first_plan()
    assert first is not None and not first.kept
    assert search.needs_no_help == needless


@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_first_plan_is_there_before_weights_are_rounded_on_samples(all_of_them, monkeypatch, tmp_path):
    """Of all layers quantized, and of some of them too: choosing how weights are rounded takes several inferences."""
    search, nearest = (
        search_of(chain(), feeds(64), 20.0, weights=weights) if all_of_them else uneven(12.0, weights)
        for weights in ("output", "mse")
    )
    search.context.folder = tmp_path
    seen, rounder = [], InsertQDQ.rounder

    def rounding(own, *given):
        seen.append(json.loads((tmp_path / "search_best.json").read_text()))
        return rounder(own, *given)

    monkeypatch.setattr(InsertQDQ, "rounder", rounding)
    first = search.first_plan()
    assert first.meets and bool(first.kept) is not all_of_them
    # it is what a search finds that never rounds otherwise, at the same price but for the rounding: a plan of all
    # layers is looked at in its types too
    paid = ROUNDING_PRICE if all_of_them else 0.0
    assert first == nearest.first_plan() and search.spending.priced == pytest.approx(nearest.spending.priced + paid)
    found = search.run()
    assert seen[0]["met"] and seen[0]["best"]["kept"] == list(first.kept)
    # and what is taken is measured with the weights that it will have
    assert found.best.meets and found.best.quantized >= first.quantized
    again = [plan.outcome for plan in found.plans if plan.kept == first.kept and plan.whole]
    assert all(outcome.noise < first.outcome.noise for outcome in again) and bool(again) is all_of_them
    assert search.spending.first == nearest.spending.first
    assert search.simulation.runner.float_outcome is search.plain.runner.float_outcome


def test_what_single_layers_did_before_rounding_is_measured_again_only_where_that_is_told(monkeypatch):
    search = uneven(12.0, "output")
    runs, only = [], Switches.only
    monkeypatch.setattr(Switches, "only", lambda own, names, *given: only(own, runs.extend(names) or names, *given))
    search.first_plan()
    assert set(runs) == set(search.plain.names) == set(search.alone.outcomes)
    runs.clear()
    found = search.run()
    told = {one.name: one for one in found.sensitivity.groups}
    same = set(search.alone.of_same(search._searches().judged))
    worst = {name for name, one in told.items() if one.without is not None}
    assert worst and all(one.alone is not None for one in told.values())
    kept = {name for name, one in told.items() if one.alone == search.alone.outcomes[name]}
    assert kept == same - worst and kept


def test_a_layer_with_another_range_or_that_a_helper_changed_is_not_taken_to_do_as_before():
    search = uneven(12.0, "mse")
    search.first_plan()
    known, (changed, other) = search.alone, search.plain.names[2:4]
    # a first plan may have found other ranges for the whole model
    base = search.plain.rebased({tensor: amax for own in known.ranges.values() for tensor, amax in own.items()})
    assert set(known.of_same(base)) == set(base.names)
    (tensors,) = (
        [t for t in one.tensors if t in base.switches.amax] for one in base.switches.groups if one.name == other
    )
    ranged = base.rebased({tensor: 2 * base.switches.amax[tensor] for tensor in tensors})
    readers = {one.name for one in base.switches.groups if set(one.tensors) & set(tensors)}
    assert readers and set(known.of_same(ranged)) == set(base.names) - readers
    assert set(known.without([changed]).of_same(base)) == set(base.names) - {changed}


def uneven(least, weights):
    return search_of(trained("digits_uneven"), str(MODELS / "digits_calibration.npz"), least, weights=weights)


@pytest.mark.parametrize("least", [20.0, 60.0])
def test_whether_all_layers_quantized_meet_the_budget_is_known_of_the_first_plan_and_not_paid_again(least):
    known, new = (search_of(chain(), feeds(64), least) for _ in range(2))
    known.first_plan()
    before = known.spending.priced
    assert known.all_quantized_meets({}) is new.all_quantized_meets({}) is (least == 20.0)
    assert known.spending.priced == before and new.spending.priced > 0


def test_of_the_methods_that_a_first_plan_has_compared_only_the_quietest_is_run_again_for_the_helpers():
    known, new = (uneven(60.0, "mse") for _ in range(2))
    known.first_plan()
    assert known.quietest and new.quietest is None
    own, others = [], []
    for search, prices in ((known, own), (new, others)):
        few = search.on_few()
        assert few.runner.float_outcome
        pay = search.spending.pay
        search.spending.pay = lambda price, prices=prices, pay=pay: (prices.append(price), pay(price))
        search.standing(few)
    # the float model, the recipe's own ranges, and one method or all
    assert len(own) == 3 < len(others) and own == others[:3]


def test_a_trial_that_ran_is_not_run_again_after_an_interruption(tmp_path, monkeypatch):
    """What it costs counts all the same, so that the search decides as it would have."""
    model, runs = chain(), []

    def tried():
        search = search_of(model, feeds(64), 60.0)
        search.context.folder = tmp_path
        few = search.on_few()
        before = search.spending.priced
        found = search.standing(few)
        alone = found.only(few.names[:1])
        return few, found, alone, search.spending.priced - before

    _, first, alone, paid = tried()
    (log,) = tmp_path.glob("*_helpers.jsonl")
    kept = log.read_text()
    assert len(kept.splitlines()) > 3

    own = Runner.run
    monkeypatch.setattr(Runner, "run", lambda runner, config: runs.append(config) or own(runner, config))
    _, again, same, as_much = tried()
    assert not runs and as_much == pytest.approx(paid) and log.read_text() == kept
    assert (again.method, again.amax, again.distance) == (first.method, first.amax, first.distance)
    assert again.outcome == first.outcome and same == alone
    # another model's are its own
    damage(model, "layer3")
    tried()
    assert runs
