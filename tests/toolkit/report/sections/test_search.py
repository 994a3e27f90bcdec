"""The search and the weak spots in the report: joined, drawn, and in words; hostile names stay text."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from tests.toolkit.report.engine_samples import device, measured
from tests.toolkit.report.page.test_render import Page
from tests.toolkit.report.samples import HOSTILE, SEARCHING, accuracy, sample
from tests.toolkit.search.planted import chain, damage, feeds, simulation
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build
from toolkit.base.errors import QtoolError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.text import plain
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.codes import EvaluationCode
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.search_advice import rest_alone, search_advice
from toolkit.report.conclusions.search_time import slow_plan, too_slow
from toolkit.report.conclusions.verdict import verdict
from toolkit.report.findings import sentence
from toolkit.report.findings.quantization.search import search_line
from toolkit.report.join import join
from toolkit.report.page.html import render_html
from toolkit.report.page.search_chart import HEIGHT, WIDTH, axis, search_chart
from toolkit.report.schema.report import LayerInfo, RecipeInfo, Report, SearchInfo
from toolkit.report.schema.search import CauseInfo, LayerHarm, PlanPoint, WeakSpotInfo
from toolkit.report.sections.describe import model_info
from toolkit.report.sections.found import EngineFound, Graphs, Measurements, Requests
from toolkit.report.sections.search import read_search, search_info
from toolkit.report.terminal.report import to_text
from toolkit.search.causes.weak_spots import weak_spots
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plans.search import Search
from toolkit.search.stages.record import SearchRecord, record


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of a chain with a planted fragile layer, as the pass leaves it: (file, result)."""
    model = chain(8)
    damage(model, "layer3")
    sim = simulation(model, feeds())
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"))
    budget = Budget(min_sqnr_db=28.0, margin=1.0)
    found = Search(sim, budget, cost).run()
    path = tmp_path_factory.mktemp("search") / "search.json"
    record(found, cost, budget, "int8", 24, weak_spots(sim, found.sensitivity)).save(path)
    return path, found


def point(ms=1.0, noise=1e-4, **more):
    db = -10 * math.log10(noise) if noise else None
    base = {"quantized_share": 0.9, "kept": 1, "meets": True, "names": []}
    return PlanPoint(predicted_ms=ms, noise=noise, sqnr_db=db, **{**base, **more})


def info(plans, **more):
    base = {"precision": "int8", "rest": "fp16", "gpu": "A10", "met": True, "evaluations": len(plans), "float_ms": 2.0}
    return SearchInfo(plans=plans, **{**base, **more})


def test_what_the_report_reads_is_what_the_search_found(searched):
    path, found = searched
    read, spots = read_search(path)
    assert read.output == "y" and "dB SQNR of 'y' on these samples" in search_line(read)
    assert read.evaluations == len(read.plans) == found.evaluations and read.met
    assert read.chosen.names == list(found.best.kept) and "layer3" in read.chosen.names
    assert read.chosen.sqnr_db == pytest.approx(found.best.outcome.sqnr_db)
    assert sum(plan.front for plan in read.plans) == len(found.front())
    assert read.everything.kept == 0 and not read.everything.meets
    assert read.layers[0].node == "layer3" and read.layers[0].kept and read.layers[0].share > 0.5
    assert sum(layer.share for layer in read.layers) == pytest.approx(1.0)
    assert spots[0].node == "layer3" and spots[0].source == "search" and spots[0].kept
    assert "uneven-channels" in {cause.kind for cause in spots[0].causes}


def test_no_search_is_no_section_and_a_broken_file_is_an_error(tmp_path):
    assert read_search(tmp_path / "search.json") == (None, [])
    (tmp_path / "search.json").write_text('{"best": {}}')
    with pytest.raises(QtoolError, match=r"search\.json.*Run the recipe again"):
        read_search(tmp_path / "search.json")


def test_the_report_with_a_search_survives_its_own_schema(searched):
    read, spots = read_search(searched[0])
    report = sample()
    report.search, report.weak_spots = read, spots
    again = Report.from_json(report.to_json())
    assert again.search == read and again.weak_spots == spots


def test_the_chart_puts_every_plan_where_its_numbers_say():
    plans = [
        point(1.0, 1e-2, meets=False, kept=0),
        point(1.5, 1e-4, chosen=True, front=True),
        point(3.0, 1e-5, front=True),
    ]
    chart = search_chart(info(plans, budget={"min_sqnr_db": 30.0, "margin": 2.0, "max_ms": 2.5}))
    assert [dot.style for dot in chart.dots] == ["", "meets front", "meets front"]
    places = [(dot.x, dot.y) for plan in plans for dot in chart.dots if dot.plan == plan]
    xs, ys = zip(*places)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys, reverse=True)
    assert chart.chosen == places[1]
    assert chart.reference[1] == 0.0 and xs[1] < chart.reference[0] < xs[2]
    across, upright = chart.limits
    # a plan below the budget with its margin lies under the line, one above it over the line
    assert ys[0] > across[1] > ys[1] and "margin of 2" in across[4]
    assert chart.reference[0] < upright[0] < xs[2]
    assert {label.text for label in chart.labels} == {"float (fp16)", "chosen", "all int8"}
    assert all(0 <= dot.x <= WIDTH and 0 <= dot.y <= HEIGHT for dot in chart.dots)


def test_the_chart_shows_what_the_budget_is_of():
    plans = [point(1.0, 1e-2, metric=0.9, agreement=0.95, chosen=True)]
    by_metric = search_chart(info(plans, metric="top1", float_metric=0.95, budget={"max_drop": 0.01}))
    assert by_metric.title == "top1" and by_metric.dots[0].y > by_metric.limits[0][1]
    assert "agreement" in search_chart(info(plans, budget={"min_agreement": 0.9})).title
    less = info(plans, metric="mse", float_metric=0.5, higher_is_better=False, budget={"max_drop": 0.1})
    assert search_chart(less).limits[0][1] < search_chart(less).reference[1]
    assert search_chart(info([PlanPoint(predicted_ms=1, quantized_share=1, kept=0, meets=False, chosen=True)])) is None


@pytest.mark.parametrize("values", [[0.0], [5.0], [1e-6, 2e-6], [38.2, 51.7], [-20.0, 40.0], [0.9, 0.9]])
def test_axes_hold_their_values_with_round_steps(values):
    low, high, gap = axis(values)
    assert low <= min(values) and high >= max(values) and high > low
    assert round((high - low) / gap) <= 8
    assert f"{gap:e}"[0] in "125" or f"{gap:e}".startswith("1.0")


def test_no_share_is_above_100():
    assert axis([0.0, 52.0, 100.0], 100.0) == (0.0, 100.0, 50.0)
    plans = [PlanPoint(predicted_ms=1, quantized_share=share, kept=0, meets=True, sqnr_db=30.0) for share in (0.4, 1.0)]
    assert search_chart(info(plans, gpu="")).x_ticks[-1][1] == "100"


def test_the_page_shows_chart_table_and_causes(searched):
    read, spots = read_search(searched[0])
    report = sample()
    report.search, report.weak_spots = read, spots
    page = Page(render_html(report))
    text = " ".join(page.texts)
    for part in ("Precision search", "Weak spots", "budget with its margin of 1 dB", "on the front", "all INT8",
                 f"{read.chosen.sqnr_db:.1f}", f"{read.float_ms:.4g}", spots[0].causes[0].remedy, "layer3"):  # fmt: skip
        assert part in text, part
    assert sum(
        1 for tag, key, value in page.attributes if tag == "circle" and key == "class" and "plan" in value
    ) == len(read.plans)
    assert "Precision search" not in " ".join(Page(render_html(sample())).texts)


def test_hostile_names_in_the_search_are_text():
    name = HOSTILE[0]
    layers = [LayerHarm(node=n, op=n, share=0.1, kept=False) for n in HOSTILE]
    report = sample()
    report.search = info([point(kept=2, names=HOSTILE, chosen=True, front=True)], gpu=name, metric=name, float_metric=0.9,
                         layers=layers, prefer=name, notes=HOSTILE)  # fmt: skip
    report.weak_spots = [
        WeakSpotInfo(node=n, op=n, source="ranges", causes=[CauseInfo(kind=n, tensor=n, text=n, remedy=n)])
        for n in HOSTILE
    ]  # fmt: skip
    page = Page(render_html(report))
    shown = "\n".join(page.texts)
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert all(plain(n) in shown for n in HOSTILE) and "\x1b" not in shown + to_text(report)


def test_one_line_in_the_terminal():
    report = sample()
    report.search = info([point(1.25, 1e-4, chosen=True, kept=3, quantized_share=0.62)], samples=96, measured_share=0.4)
    text = " ".join(to_text(report).split())
    assert "Search: 1 plan on 96 samples" in text and "meets the budget; 3 layers in float, 62.0 % of" in text
    assert "40.0 dB SQNR; 1.25 ms predicted on the A10, float 2 ms, 40 % of it measured" in text
    report.search.gpu, report.search.measured_share = "", 0.0
    page = render_html(report)
    # a GPU that nobody named is no place for a time
    assert "ms predicted" not in search_line(report.search) and "redicted" not in page and "in float, %" in page
    report.search.unsure = "not decided on 26 samples, of which 3.8 % were lost; 300 needed to judge 1 point"
    assert "the chosen plan is not decided on 26 samples, of which 3.8 % were lost" in search_line(report.search)
    report.search.met, report.search.lacks = False, {"min_sqnr_db": 2.5}
    assert "MISSES the budget: min_sqnr_db by 2.5 dB" in search_line(report.search)
    assert "Search:" not in to_text(sample())


@pytest.mark.parametrize(
    ("lost", "said"), [(0.0385, "not decided on 26 samples, of which 3.9 % were lost; 300"), (0.0, "")]
)
def test_a_plan_that_loses_more_than_the_budget_allows_does_not_meet_it(searched, lost, said):
    few = EvaluationCode.WITHIN_ON_FEW(
        limit="min_unchanged", answers=26, samples=True, share=0.01, enough=300, lost=lost, low=0.0, high=0.2
    )
    found = search_info(replace(SearchRecord.load(searched[0]), notes=[Code.SEARCH_UNPROVEN(why=few)]))
    assert found.unsure.startswith(said) and bool(found.unsure) is bool(said)


def test_of_plans_at_one_place_of_the_chart_the_chosen_one_is_seen():
    """A plan and the same with other ranges, as exact and as large: the one that misses the budget hid it."""
    plans = [point(chosen=True), point(meets=False), point(kept=0, meets=False), point(2.0), point(2.0, meets=False)]
    dots = search_chart(info(plans)).dots
    seen = {(dot.x, dot.y): dot.plan for dot in dots}
    assert len(dots) == len(plans) and len(seen) == 2
    assert next(plan for plan in seen.values() if plan.predicted_ms == 1.0).chosen
    assert all(plan.meets for plan in seen.values())


def test_to_keep_all_layers_in_float_is_no_suggestion_where_the_result_is_usable():
    def kept(shares, result):
        layers = [LayerHarm(node=f"n{i}", op="MatMul", share=share, kept=False) for i, share in enumerate(shares)]
        layers.append(LayerHarm(node="float", op="MatMul", share=0.5, kept=True))
        found = search_advice(info([point(chosen=True)], layers=layers, budget={"margin": 1.0}), result, [])
        return [one.fragment.count('"n') for one in found if one.finding.code is ReportCode.KEEP_MORE_LAYERS]

    assert kept([0.2, 0.2, 0.1], "usable") == [2] and kept([0.2, 0.2, 0.1], "missed") == [3]
    assert kept([0.2], "usable") == [] and kept([0.2], "missed") == [1]
    # one that costs hardly anything stays quantized
    assert kept([0.2, 0.2, 0.001], "usable") == [2]
    assert kept([0.1] * 5, "usable") == [4] and kept([0.1] * 6, "usable") == [5]


def test_suggestions_use_what_the_search_measured_and_name_who_differs():
    layers = [LayerHarm(node=n, op="Conv", share=s, kept=k) for n, s, k in (
        ("kept", 0.6, True), ("second", 0.3, False), ("third", 0.09, False), ("least", 0.005, False))]  # fmt: skip
    found = info([point(chosen=True)], layers=layers, budget={"margin": 1.0}, samples=50)
    blamed = [LayerInfo(node="least", op="Conv"), LayerInfo(node="second", op="Conv")]
    (usable,) = search_advice(found, "usable", blamed)
    assert usable.finding == ReportCode.KEEP_MORE_LAYERS(
        count=2, precision="fp16", node="second", share=0.3, usable=True, other="least", other_share=0.005
    )
    assert '"second"' in usable.fragment and '"third"' in usable.fragment
    assert '"least"' not in usable.fragment and '"kept"' not in usable.fragment
    # the layer of the largest error is one of those to keep, so that of no other is the largest
    (usable,) = search_advice(found, "usable", blamed[::-1])
    assert usable.finding.values["other"] == ""
    margin, keep = search_advice(found, "missed", blamed[1:])
    assert "margin = 2" in margin.fragment and margin.finding == ReportCode.WIDEN_MARGIN(samples=50)
    values = keep.finding.values
    assert (values["count"], values["usable"], values["other"], values["other_share"]) == (2, False, "", None)
    found.met, found.lacks = False, {"max_drop": 0.02}
    unmet = search_advice(found, "missed", [])[0].finding
    assert unmet.code is ReportCode.NO_PLAN_MEETS_BUDGET
    assert (unmet.values["limits"], unmet.values["lacks"]) == (("max_drop",), (0.02,))
    assert search_advice(info([point(chosen=True)]), "usable", blamed) == []


def test_a_latency_limit_that_is_missed_is_in_the_first_line():
    found = info([point(1.25, chosen=True)], budget={"max_ms": 1.0}, met=False, lacks={"max_ms": 0.25}, prefer="int8")
    late = too_slow(found, {})
    assert late == ReportCode.LATENCY_OVER_LIMIT(ms=1.25, max_ms=1.0, gpu="A10")
    assert too_slow(found, {"p": {"opt": 1.5}}) == ReportCode.LATENCY_OVER_LIMIT(ms=1.5, max_ms=1.0, gpu="")
    assert too_slow(found, {"p": {"opt": 0.9}}) is None is too_slow(None, {"p": {"opt": 9.0}})
    usable, broken = accuracy("usable"), accuracy("broken")
    assert (
        verdict(usable, None, late) == "missed" == verdict(None, None, late) and verdict(broken, None, late) == "broken"
    )
    said = headline([], usable, late=late)
    assert said.startswith(f"MISSED ITS BUDGET: {sentence(late)}; top1") and "0 layers" in said
    missed = headline([], accuracy("missed"), late=late)
    assert missed.startswith("MISSED ITS BUDGET: ") and sentence(late) in missed
    assert "was not measured" in headline([], None, late=late)
    (faster,) = search_advice(found, "missed", [])
    assert 'prefer = "time"' in faster.fragment
    assert faster.finding == ReportCode.NO_PLAN_FAST_ENOUGH(ms=1.25, float_ms=2.0, gpu="A10", by_time=False)
    found.prefer = "time"
    assert search_advice(found, "missed", [])[0].fragment == ""


def test_helpers_that_the_recipe_tries_already_are_not_suggested():
    found = info([point(chosen=True)], met=False, lacks={"max_drop": 0.02})
    assert 'helpers = ["equalize", "shift", "smooth"]' in search_advice(found, "missed", [])[0].fragment
    helped = SEARCHING.model_copy(update={"settings": {"helpers": ["smooth"]}})
    (more,) = search_advice(found, "missed", [], passes=[helped])
    assert more.finding.values["helpers"] == () and "evaluations" in more.fragment


def test_a_plan_predicted_slower_than_float_says_so_in_the_first_line():
    slow = slow_plan(info([point(2.5, chosen=True, quantized_share=0.5)]))
    assert slow == ReportCode.PREDICTED_SLOWER(precision="fp16", ms=2.5, float_ms=2.0, gpu="A10")
    assert f"; {sentence(slow)}; " in headline([], accuracy("usable"), predicted=slow)
    assert slow_plan(info([point(2.5, chosen=True, quantized_share=0.0)])) is None is slow_plan(None)
    assert slow_plan(info([point(1.5, chosen=True, quantized_share=0.5)])) is None
    assert slow_plan(info([point(2.5, chosen=True, quantized_share=0.5)], gpu="")) is None


def test_nothing_is_to_be_kept_where_the_result_is_as_good_as_float():
    layers = [LayerHarm(node=name, op="Conv", share=share, kept=False) for name, share in (("a", 0.6), ("b", 0.0))]
    found = info([point(chosen=True)], layers=layers)
    fine, worse = (
        accuracy("usable").model_copy(update={"drop": 0.0}),
        accuracy("usable").model_copy(update={"drop": 0.001}),
    )
    assert not search_advice(found, "usable", [], fine) and search_advice(found, "usable", [], worse)


def test_where_a_search_measured_the_local_guess_is_not_offered():
    from toolkit.report.conclusions.advice import advice

    report = sample(kind="missed")
    own = (report.layers, accuracy("missed"), report.backend, [], [])
    assert ReportCode.KEEP_LAYERS in {one.finding.code for one in advice(*own)}
    assert not any("keep_precision" in one.fragment for one in advice(*own, searched=True))


def test_what_float16_gives_is_measured_on_the_engine_where_one_was_run():
    # under weak typing the simulation computes in float32, and its figure would be none of float16's
    plain = info([point(chosen=True, kept=22, quantized_share=0.0)], budget={"margin": 1.0}, samples=1)
    build, simulated = Build("tensorrt", "8.6.0", b"engine", source="network"), measured(sqnr_db=119.3)
    model = chain(2)
    report = join(
        Requests(RecipeInfo(name="r", rest="fp16"), PrecisionPlan(), Journal()),
        Graphs(model, model_info(model, Profiles(), "m.onnx"), Profiles()),
        EngineFound(build, {}, EngineCode.BACKEND_REQUESTED(), "weak"),
        Measurements({}, simulated, device(measured(met=False, sqnr_db=43.8)), plain),
    )
    (first, *_) = report.summary.next
    assert "FP16 itself has 43.8 dB" in first.text and "119" not in first.text


def test_where_nothing_quantized_misses_too_no_margin_is_asked_for():
    measured = accuracy("missed")
    plain = info([point(chosen=True, kept=22, quantized_share=0.0)], budget={"margin": 1.0}, samples=1)
    (found,) = search_advice(plain, "missed", [], measured)
    values = {"rest": "fp16", "nothing_quantized": True, "alone": None, "sqnr_db": 31.4, "metric": 0.941}
    assert found.finding == ReportCode.FLOAT_TYPE_MISSES_BUDGET(**values)
    assert found.fragment == '[engine]\nrest = "fp32"\n'
    mixed = info([point(chosen=True)], budget={"margin": 1.0}, samples=1)
    mixed.met, mixed.in_types, mixed.rest_lacks = False, True, {"min_sqnr_db": 59.21}
    (alone,) = search_advice(mixed, "missed", [], measured)
    assert alone.finding.code is ReportCode.FLOAT_TYPE_MISSES_BUDGET
    assert alone.finding.values["alone"] == Code.TYPE_MISSES(rest="fp16", limits=["min_sqnr_db"], by=[59.21])
    assert not alone.finding.values["nothing_quantized"]
    # an output that float16 makes NaN misses its limit by no number
    mixed.rest_lacks = {"min_sqnr_db": None}
    assert "unmeasured" in sentence(rest_alone(mixed)) and "no finite figure" in search_line(mixed)
    mixed.rest_lacks = {"min_sqnr_db": 59.21}
    mixed.rest_lacks, mixed.lacks = {}, {"max_drop": 0.1}
    (margin,) = search_advice(mixed, "missed", [], measured)
    assert margin.finding == ReportCode.WIDEN_MARGIN(samples=1) and "margin = 2" in margin.fragment
    plain.rest = Precision.FP32
    (loosen,) = search_advice(plain, "missed", [], measured)
    assert loosen.fragment == "" and loosen.finding.values["rest"] == "fp32"


def test_one_of_a_thing_is_said_in_the_singular():
    line = search_line(info([point(chosen=True, kept=1)], samples=1))
    assert "Search: 1 plan on 1 sample;" in line and "1 layer in float" in line
    report = sample()
    report.search = info([point(chosen=True, kept=1, names=["a"])], samples=1)
    report.accuracy.samples = 1
    page = render_html(report)
    assert "1 plan was evaluated on 1 sample;" in page and "1 layer of the chosen plan stays in float" in page
    assert "Accuracy on 1 sample (" in to_text(report)
    assert not re.search(r"\b1 (plans|samples|layers|tensors)\b", page + to_text(report))
