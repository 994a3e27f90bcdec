from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper

from passes.equalize import Equalize
from passes.guard_fp16 import GuardFP16
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from passes.search_precision import SearchPrecision
from tests.conftest import MODELS, build, node, normal, said
from tests.toolkit.search.planted import chain, damage, feeds, trained
from toolkit import Code, Context, Model, Precision, Sequence
from toolkit.backends.lowering.strong import lower
from toolkit.base.errors import RangesError, RecipeError
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.arithmetic.rounding import with_rounding
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.surgery.tensors import make_constant, make_node, onnx_type
from toolkit.placement.qdq import without_pairs
from toolkit.report.findings import sentence
from toolkit.report.sections.search import read_search
from toolkit.search.budget.spending import Spending
from toolkit.search.causes.helpers import Helpers
from toolkit.search.codes import KeptCode, SearchEndCode
from toolkit.search.plan_search import PlanSearch
from toolkit.simulation.channels import sqnr_against
from toolkit.simulation.simulation import Simulation


def context_for(model, source, folder=None, evaluation=None):
    data = CalibrationData.open(source, model)
    return Context(provider=Calibrator(data, method="minmax"), folder=folder, evaluation=evaluation)


IN_TYPES = (Code.SEARCH_IN_TYPES, Code.SEARCH_TYPE_ALONE, Code.SEARCH_TYPE_UNCHECKED)


def kept(context):
    return {name for name, ask in context.plan.items() if ask.precision in (Precision.FP16, Precision.FP32)}


def test_the_damaged_layer_stays_float_with_its_reason(tmp_path):
    model = chain(8)
    damage(model, "layer3")
    context = context_for(model, feeds(), tmp_path)
    SearchPrecision(min_sqnr_db=28)(model, context)
    assert kept(context) == {"layer3"}
    why = context.plan.get("layer3").reason
    assert why.code is Code.KEPT_ALONE_MISSES and why.values["alone_db"] < why.values["without_db"]
    assert {e.rule for e in context.journal.of("declined", node="layer3")} == {"kept"}
    assert context.plan.get("layer4").precision is Precision.INT8
    found = json.loads((tmp_path / "search.json").read_text())
    assert found["met"] and found["best"]["kept"] == ["layer3"] and found["front"]
    assert context.files == [tmp_path / "search.json"]


def test_the_ranges_that_a_search_takes_have_their_own_diagnosis():
    """What calibration says of the range it chose (values clipped, SQNR) holds for no other range of the tensor."""
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_t(2.5, one["x"].shape).astype(np.float32)} for one in feeds()]
    model = chain()
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), "entropy"))
    SearchPrecision(min_sqnr_db=20)(model, context)
    taken = {name: one for name, one in context.known_ranges.tensors.items() if one.method != "entropy"}
    apart = Calibrator(context.provider.data, "minmax")(chain(), list(taken)).tensors
    assert taken and taken == {name: apart[name] for name in taken} and not kept(context)
    assert all(one.diagnosis["clipped"] == 0 for one in taken.values())


def test_a_helper_that_cures_it_comes_first():
    model = trained("digits_uneven")
    reference = model.copy()
    context = context_for(model, str(MODELS / "digits_calibration.npz"))
    at_work: dict[str, tuple[str, bool]] = {}

    def follow(what, done, total):
        at_work[str(what)] = getattr(what, "part", ""), done < total

    context.progress = follow
    SearchPrecision(min_sqnr_db=20, helpers=["equalize", "smooth"])(model, context)
    assert not kept(context)
    # nothing is shown as being done after it has ended
    assert {"helpers", "search"} <= at_work.keys() and not any(still for _, still in at_work.values())
    applied = [one for one in said(context.journal, Code.SEARCH_HELPER) if one["applied"]]
    assert applied and all(one["after_db"] > one["before_db"] for one in applied)
    assert sqnr_against(reference, model, context.provider.data) > 20


def test_a_first_plan_comes_before_the_helpers_and_stays_where_they_leave_no_minutes(monkeypatch, tmp_path):
    model, ended = trained("digits_uneven"), []
    context = context_for(model, str(MODELS / "digits_calibration.npz"), tmp_path)
    helps = PlanSearch.helps
    monkeypatch.setattr(PlanSearch, "helps", lambda self, *given: ended.append(self) or helps(self, *given))
    monkeypatch.setattr(Spending, "over", property(lambda self: bool(ended)))
    SearchPrecision(min_sqnr_db=7, helpers=["equalize", "smooth"])(model, context)
    (tried,) = said(context.journal, Code.SEARCH_HELPER)
    assert not tried["applied"] and tried["after_db"] > tried["before_db"] + 1
    found = json.loads((tmp_path / "search.json").read_text())
    assert found["met"] and kept(context) == set(found["best"]["kept"]) and 0.1 < found["best"]["quantized_macs"] < 0.9
    # up to 3.3 of it are the float model and the layers one by one
    assert found["first_within_budget"] < 8.5 < found["inferences"]


def test_within_budget_it_is_insert_qdq():
    model = chain()
    other = model.copy()
    SearchPrecision(min_sqnr_db=1)(model, context_for(model, feeds()))
    InsertQDQ()(other, context_for(other, feeds()))
    assert model.fingerprint() == other.fingerprint()


def test_it_says_which_data_it_decides_on_and_what_it_misses():
    model = chain()
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=45, max_ms=1e-9)(model, context)
    assert said(context.journal, Code.SEARCH_DATA) == [{"samples": 24, "data": "the iterable"}]
    assert "max_ms" in said(context.journal, Code.SEARCH_MISSED)[0]["limits"]


@pytest.mark.parametrize("limits", [{"evaluations": 1}, {"inferences": 0.001}])
def test_where_no_plan_tried_is_within_the_budget_all_float_is_taken_and_said(limits, tmp_path):
    model = chain()
    before = model.copy()
    context = context_for(model, feeds(), tmp_path)
    SearchPrecision(min_sqnr_db=48, try_ranges=False, **limits)(model, context)
    assert kept(context) == set(before.node_names()) - {n.name for n in before.nodes if n.op == "Relu"}
    assert not [node for node in model.nodes if "QuantizeLinear" in node.op]
    (note,) = said(context.journal, SearchEndCode.NO_PLAN)
    assert note["limits"] == ("min_sqnr_db",) and note["by"][0] > 0 and note["dtype"] == "int8"
    assert not said(context.journal, Code.SEARCH_NEAREST, Code.SEARCH_MISSED)
    found = read_search(tmp_path / "search.json")[0]
    assert found.met and not found.chosen.quantized_share
    assert any("No plan with INT8 is within the budget" in one for one in found.warnings)
    codes = {context.plan.get(name).reason.code for name in kept(context)}
    assert codes <= {KeptCode.NO_PLAN, Code.KEPT_ALONE_MISSES, Code.KEPT_MISSES}


@pytest.mark.parametrize("tried", [[], ["smooth"]])
def test_helpers_are_advised_that_find_a_layer_and_were_not_tried(tried):
    """All were, among them those that find nothing to work on and those that the recipe names already."""
    model = chain()
    assert Helpers(model).able() == ["smooth"]
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=48, try_ranges=False, evaluations=1, helpers=tried)(model, context)
    (note,) = said(context.journal, SearchEndCode.NO_PLAN)
    words = sentence(SearchEndCode.NO_PLAN(**note))
    assert ("To try next: more inferences" if tried else 'To try next: helpers = ["smooth"], more inferences') in words


def test_where_no_plan_is_found_it_tells_the_layers_that_stay_in_float32():
    model = offset_chain(8000.0)
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=48, evaluations=1, try_ranges=False)(model, context)
    (note,) = said(context.journal, SearchEndCode.NO_PLAN)
    assert 0 < note["wide"] <= note["of"] == len(model.nodes)
    assert note["wide"] == len(said(context.journal, KeptCode.WIDE)[0]["nodes"])


def test_where_all_float_misses_too_the_nearest_plan_stays():
    model = chain()
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=48, max_ms=1e-9, evaluations=1, try_ranges=False)(model, context)
    assert not kept(context) and not said(context.journal, SearchEndCode.NO_PLAN)
    assert set(said(context.journal, Code.SEARCH_MISSED)[0]["limits"]) == {"min_sqnr_db", "max_ms"}


def test_a_journal_of_an_earlier_release_says_that_there_is_no_plan():
    """Its values have whether helpers were tried in place of those to try."""
    words = sentence(
        SearchEndCode.NO_PLAN(dtype="int8", plans=3, limits=["sqnr_db"], by=[1.0], rest="fp16", helped=False)
    )
    assert words.startswith("No plan with INT8 is within the budget (3 plans tried") and "helpers" not in words


def test_a_second_type_that_finds_no_plan_leaves_the_first():
    model = chain(8)
    damage(model, "layer3")
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=28, also="fp8", evaluations=1, try_ranges=False)(model, context)
    assert all(context.plan.get(name) is not None for name in ("layer0", "layer3"))


def test_float16_is_looked_at_with_what_a_later_guard_keeps_in_float32(tmp_path):
    """A value above 65504 between two layers: float16 alone gives infinities, and a guard after the search mends it."""
    model = offset_chain(1e5)
    context = context_for(model, feeds(), tmp_path)
    guarded = Sequence(passes=[SearchPrecision(min_sqnr_db=20), GuardFP16()])
    guarded(model, context)
    assert not said(context.journal, *IN_TYPES)
    assert read_search(tmp_path / "search.json")[0].met
    assert lowered_sqnr(model, context, context.provider.data) > 20


def test_a_dry_run_searches_nothing():
    model = chain()
    context = context_for(model, feeds())
    context.dry_run = True
    SearchPrecision(min_sqnr_db=90)(model, context)
    assert not kept(context)
    assert any(e.rule == "dry-run" for e in context.journal.of("noted"))


@pytest.mark.parametrize("dry_run", [True, False])
def test_layers_that_have_pairs_are_not_decided_on(dry_run):
    """A search after insert_qdq would find nothing to do and keep what misses the budget."""
    model, some = chain(), ["layer0"]
    context = context_for(model, feeds())
    context.dry_run = dry_run
    InsertQDQ(include=some)(model, context)
    SearchPrecision(min_sqnr_db=20)(model, context)
    assert said(context.journal, Code.SEARCH_PAIRED) == [{"nodes": tuple(some)}]
    # what a search left is for the next one, of another type
    SearchPrecision(min_sqnr_db=20)(model, context)
    model = chain()
    context = context_for(model, feeds())
    context.dry_run = dry_run
    InsertQDQ()(model, context)
    with pytest.raises(RecipeError, match="nothing to decide on"):
        SearchPrecision(min_sqnr_db=90)(model, context)


def test_no_data_and_unknown_gpu_are_errors():
    with pytest.raises(RangesError):
        SearchPrecision()(chain(), Context())
    model = chain()
    with pytest.raises(RecipeError, match="A100"):
        SearchPrecision(gpu="A1000")(model, context_for(model, feeds()))


def offset_chain(by):
    """chain(), offset."""
    model = chain()
    offset(model, by)
    return model


def offset(model, by):
    """A constant is added to the output and taken away again: float16 rounds what is between."""
    y = model.graph.outputs[0]
    last = y.inputs[0]
    inner = gs.Variable("inner", dtype=y.dtype, shape=y.shape)
    there = gs.Variable("there", dtype=y.dtype, shape=y.shape)
    last.outputs[0] = inner
    constant = make_constant("offset", np.float32(by).reshape(1))
    model.graph.nodes.append(make_node("Add", "there", [inner, constant], [there]))
    model.graph.nodes.append(make_node("Sub", "back", [there, constant], [y]))


def lowered_sqnr(model, context, data):
    lowered = lower(model, context.plan, rest=context.rest, observed=context.known_ranges.observed).model
    return sqnr_against(without_pairs(model), with_rounding(lowered), data)


def test_the_layers_that_float16_breaks_stay_in_float32(tmp_path):
    """Those between which values are large although their difference matters, and no others; no layer is blamed."""
    model = offset_chain(8000.0)
    context = context_for(model, feeds(), tmp_path)
    plain = model.copy()
    apart = context_for(plain, feeds())
    apart.ranges(plain)
    assert lowered_sqnr(plain, apart, apart.provider.data) < 20
    SearchPrecision(min_sqnr_db=20)(model, context)
    assert kept(context) == {"there", "back"}
    found = read_search(tmp_path / "search.json")[0]
    assert found.met and not found.in_types and not found.rest_lacks
    wide = {node: ask for node, ask in context.plan.items() if ask.precision is Precision.FP32}
    assert set(wide) == {"there", "back"}
    assert {ask.reason.code for ask in wide.values()} == {Code.TYPE_MISSES}
    assert lowered_sqnr(model, context, context.provider.data) > 20
    (told,) = said(context.journal, KeptCode.WIDE)
    assert list(told["nodes"]) == ["there", "back"] and told["of"] == len(plain.nodes)
    words = sentence(KeptCode.WIDE(**told))
    assert (
        "With 2 of" in words and "'there' to 'back'" in words and "FP16 alone, with nothing quantized, misses" in words
    )


def test_a_layer_that_stays_float_is_declined_in_the_type_that_it_gets(tmp_path):
    """The first line said that the search keeps layers in FP16, of a model that runs in FP32 as a whole."""
    model = chain(3)
    context = context_for(model, feeds(), tmp_path)
    SearchPrecision(min_sqnr_db=120)(model, context)
    wide = {node for node, ask in context.plan.items() if ask.precision is Precision.FP32}
    layers = {node.name for node in model.nodes if node.op == "MatMul"}
    assert layers & wide and {context.plan.get(name).reason.code for name in wide} == {Code.TYPE_MISSES}
    told = {event.node: event.why.values for event in context.journal.of("declined") if event.why.code is Code.KEPT}
    assert set(told) == layers
    in_fp32 = {name for name, values in told.items() if Precision.named(values["precision"]) is Precision.FP32}
    assert in_fp32 == layers & wide
    assert all(values["why"].code is not Code.TYPE_MISSES for values in told.values())


def test_a_float_type_that_the_user_asked_for_is_not_replaced(tmp_path):
    """The search keeps its hands off these layers, and says so where nothing else mends the result."""
    model = offset_chain(8000.0)
    context = context_for(model, feeds(), tmp_path)
    Sequence(passes=[KeepPrecision(nodes=["there"], precision="fp16"), SearchPrecision(min_sqnr_db=20)])(model, context)
    asked = context.plan.get("there")
    assert asked is not None and (asked.precision, asked.by) == (Precision.FP16, "keep_precision")
    assert Precision.FP32 not in {ask.precision for _, ask in context.plan.items()}
    (told,) = said(context.journal, KeptCode.WIDE_REFUSED)
    assert list(told["nodes"]) == ["there"] and told["by"] == "keep_precision"
    words = sentence(KeptCode.WIDE_REFUSED(**told))
    assert "'there' stays as keep_precision requested" in words and "leave it out of keep_precision" in words
    # a layer that does no harm may be asked for beside those that float16 breaks
    model = offset_chain(8000.0)
    context = context_for(model, feeds(), tmp_path)
    name = model.nodes[0].name
    Sequence(passes=[KeepPrecision(nodes=[name], precision="fp16"), SearchPrecision(min_sqnr_db=20)])(model, context)
    assert context.plan.get(name).by == "keep_precision"
    assert {n for n, ask in context.plan.items() if ask.precision is Precision.FP32} == {"there", "back"}
    assert not said(context.journal, KeptCode.WIDE_REFUSED)
    # without a type by name, only quantizing is ruled out
    model = offset_chain(8000.0)
    context = context_for(model, feeds(), tmp_path)
    Sequence(passes=[KeepPrecision(nodes=["there"]), SearchPrecision(min_sqnr_db=20)])(model, context)
    assert {n for n, ask in context.plan.items() if ask.precision is Precision.FP32} == {"there", "back"}


def test_engines_that_are_timed_have_what_float16_breaks_in_float32(tmp_path):
    """The run's own engine has: else another one decides."""
    model = offset_chain(8000.0)
    context = context_for(model, feeds(), tmp_path)
    search, plans = SearchPrecision(min_sqnr_db=20), []
    candidate = type(search).candidate

    def watched(self, model, context):
        made = candidate(self, model, context)
        for slow in ({}, {"layer0": Code.TRIAL()}):
            plans.append(made(slow)[1])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchPrecision, "guards_speed", lambda self, context: True)
        patch.setattr(SearchPrecision, "_no_slower", lambda self, m, c, bench: watched(self, m, c) and {})
        patch.setattr(context, "bench", SimpleNamespace(prefers_speed=False, cannot_measure=lambda: None))
        patch.setattr(SearchPrecision, "measures_engines", lambda self: False)
        search(model, context)
    assert plans
    for plan in plans:
        assert {name for name, ask in plan.items() if ask.precision is Precision.FP32} == {"there", "back"}


def test_a_type_that_misses_the_budget_alone_is_named_with_what_mends_it():
    missed = Code.TYPE_MISSES(rest="fp16", limits=["min_sqnr_db"], by=[9.0])
    words = sentence(Code.SEARCH_TYPE_ALONE(why=missed, guarded=False, mends=False))
    assert "guard_fp16 does not fix" in words and "--set engine.rest=fp32" in words and "bf16" not in words


def test_a_guard_that_would_mend_float16_is_said_to_only_where_it_was_tried():
    """Values within float16 by less than the guard's margin: with it after the search, the plan meets the budget."""
    model = offset_chain(6e4)
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=20)(model, context)
    (alone,) = said(context.journal, *IN_TYPES)
    assert (alone["guarded"], alone["mends"]) == (False, True) and not context.guards
    assert "With guard_fp16 after the search it is met" in sentence(Code.SEARCH_TYPE_ALONE(**alone))
    # trying it asks for nothing
    assert all(ask.by != "guard_fp16" for _, ask in context.plan.history)
    assert lowered_sqnr(model, context, context.provider.data) < 20
    model = offset_chain(6e4)
    context = context_for(model, feeds())
    Sequence(passes=[SearchPrecision(min_sqnr_db=20), GuardFP16()])(model, context)
    assert not said(context.journal, *IN_TYPES) and lowered_sqnr(model, context, context.provider.data) > 20


def test_with_rest_fp32_float16_is_not_looked_at():
    model = offset_chain(8000.0)
    context = context_for(model, feeds())
    context.rest = Precision.FP32
    SearchPrecision(min_sqnr_db=20)(model, context)
    assert not said(context.journal, *IN_TYPES)


def test_a_plan_that_misses_only_in_float16_is_searched_again():
    def searched(least):
        model = offset_chain(90.0)
        context = context_for(model, feeds())
        SearchPrecision(min_sqnr_db=least, margin=0, try_ranges=False)(model, context)
        return model, context

    model, context = searched(1.0)
    data = context.provider.data
    simulated = sqnr_against(without_pairs(model), model, data)
    real = lowered_sqnr(model, context, data)
    assert simulated > real + 0.5 and not kept(context)
    least = (simulated + real) / 2
    model, context = searched(least)
    assert kept(context) and lowered_sqnr(model, context, data) >= least
    assert not said(context.journal, Code.SEARCH_IN_TYPES)[0]["last"]


def test_a_plan_whose_margin_float16_takes_is_searched_again():
    """Its limit holds in float16, and on other samples it may not: the margin is for these, and float16 is not one."""
    model = offset_chain(90.0)
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=1.0, margin=0, try_ranges=False)(model, context)
    data = context.provider.data
    simulated, real = sqnr_against(without_pairs(model), model, data), lowered_sqnr(model, context, data)
    assert simulated > real + 0.5 and not kept(context)
    model = offset_chain(90.0)
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=real - 1.0, margin=1.0, try_ranges=False)(model, context)
    assert kept(context) and lowered_sqnr(model, context, data) > real + 0.3
    assert not said(context.journal, Code.SEARCH_IN_TYPES)[0]["last"]


def test_too_few_samples_for_the_budget_are_named():
    def few(count):
        model = chain()
        context = context_for(model, feeds(count))
        SearchPrecision(min_agreement=0.9, margin=0)(model, context)
        return said(context.journal, Code.SEARCH_UNPROVEN)

    found = few(24)[0]["why"].values
    assert (found["limit"], found["answers"], found["enough"]) == ("min_agreement", 24, 30)
    assert found["low"] < found["lost"] <= found["share"] < found["high"]
    assert not few(30)


def test_unchanged_answers_need_a_task_that_says_what_they_are():
    model = chain()
    with pytest.raises(RecipeError, match="min_unchanged cannot be judged"):
        SearchPrecision(min_unchanged=0.9)(model, context_for(model, feeds()))


def test_entries_that_swap_after_a_topk_are_named():
    model = chain()
    y = model.graph.outputs[0]
    top = gs.Variable("top", dtype=np.float32, shape=["n", 8])
    index = gs.Variable("index", dtype=np.int64, shape=["n", 8])
    eight = make_constant("eight", np.array([8], np.int64))
    model.graph.nodes.append(make_node("TopK", "sort", [y, eight], [top, index]))
    model.graph.outputs = [top]
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=45)(model, context)
    assert kept(context)
    assert said(context.journal, Code.SEARCH_ORDERING) == [{"ops": ("TopK",)}]


def test_a_limit_finer_than_one_answer_keeps_no_layer_float():
    from toolkit.evaluation.budget import Budget
    from toolkit.evaluation.comparison.outcome import Outcome

    budget, float_model = Budget(max_drop=0.01, margin=1.0), Outcome(0.0, metric=0.9, metric_answers=96)
    # argmax changes that are to be expected are no reason either where the answers are too few to say so
    one = Outcome(0.01, agreement=0.97, flips=0.03, positions=96, metric=0.9 - 1 / 96, metric_answers=96)
    two = replace(one, metric=0.9 - 2 / 96)
    assert not budget.lacks(one, float_model) and "max_drop" in budget.lacks(two, float_model)
    found = budget.unproven(one, float_model)
    assert found is not None and found.code is EvaluationCode.WITHIN_ON_FEW
    assert (found.values["answers"], found.values["enough"]) == (96, 300)
    # «within the budget» is not said of what misses another limit
    assert replace(budget, min_sqnr_db=60.0).unproven(one, float_model) is None
    many = replace(one, metric=0.9 - 1 / 400, metric_answers=400, positions=400, agreement=1.0, flips=0.0)
    assert not budget.lacks(many, float_model) and budget.unproven(many, float_model) is None


def with_end(op, kind, shape, *constants, **attrs):
    """The chain with a node after it, whose result is the only output."""
    model = chain()
    out = gs.Variable("end", dtype=kind, shape=shape)
    more = [make_constant(f"constant {number}", value) for number, value in enumerate(constants)]
    model.graph.nodes.append(make_node(op, op, [model.graph.outputs[0], *more], [out], **attrs))
    model.graph.outputs = [out]
    return model


def test_a_model_whose_outputs_are_integers_is_judged_by_those_that_stay():
    model = with_end("ArgMax", np.int64, ["n"], axis=-1, keepdims=0)
    damage(model, "layer3", factor=3000.0)
    context = context_for(model.copy(), feeds(200))
    SearchPrecision(min_agreement=0.95, margin=0.0)(model.copy(), context)
    assert kept(context) == {"layer3"}
    with pytest.raises(RecipeError, match="no output of the model holds floats"):
        SearchPrecision(min_sqnr_db=20)(model.copy(), context_for(model, feeds()))


def test_agreement_that_no_output_can_have_is_refused():
    model = with_end("Reshape", np.float32, ["n", 4, 2, 2], np.array([-1, 4, 2, 2], np.int64))
    with pytest.raises(RecipeError, match="min_agreement cannot be judged"):
        SearchPrecision(min_agreement=0.95)(model, context_for(model, feeds()))


def test_a_float16_model_is_checked_in_float16(monkeypatch):
    proto = chain().to_proto()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    half = Model.from_proto(proto)
    samples = [{"x": sample["x"].astype(np.float16)} for sample in feeds()]
    context = context_for(half, samples)
    checked: list[str] = []
    plain = Simulation.outcome_of
    monkeypatch.setattr(Simulation, "outcome_of", lambda *given: checked.append("") or plain(*given))
    SearchPrecision(min_sqnr_db=20)(half, context)
    assert checked and not said(context.journal, Code.SEARCH_TYPE_UNCHECKED)


def test_a_helper_that_changes_the_float_model_is_not_applied(monkeypatch):
    def wrong(self, model, context):
        made = model.node("layer5")
        made.inputs[1] = make_constant("wrong", model.constant(made.inputs[1]) * 1.1)
        context.journal.changed("layer5", "scaled", "a planted error")

    model = chain()
    damage(model, "layer3")
    before = model.constant(model.node("layer5").inputs[1]).copy()
    monkeypatch.setattr(Equalize, "apply", wrong)
    context = context_for(model, feeds())
    SearchPrecision(min_sqnr_db=34, helpers=["equalize"], exclude=["layer5"])(model, context)
    (unlike,) = said(context.journal, Code.SEARCH_HELPER, Code.SEARCH_HELPER_UNLIKE)
    assert unlike["helper"] == "equalize" and unlike["float_db"] < 40
    assert np.array_equal(model.constant(model.node("layer5").inputs[1]), before)


@pytest.mark.parametrize(("least", "applied"), [(45.0, False), (18.0, True)])
def test_a_helper_that_costs_layers_in_float16_more_than_the_budget_is_not_applied(monkeypatch, least, applied):
    """What equalize gains in INT8 is of use where INT8 is what most layers end in, and float16 has to bear it else."""

    def louder(self, model, context):
        cured(self, model, context)
        offset(model, 90.0)

    cured = Equalize.apply
    monkeypatch.setattr(Equalize, "apply", louder)
    model = trained("digits_uneven")
    context = context_for(model, str(MODELS / "digits_calibration.npz"))
    SearchPrecision(min_sqnr_db=least, helpers=["equalize"])(model, context)
    (tried,) = said(context.journal, Code.SEARCH_HELPER)
    assert tried["applied"] is applied and tried["after_db"] > tried["before_db"] + 5
    if not applied:
        assert tried["rest_db"] < 45 + 3 < tried["rest_before_db"] and tried["rest"] == "fp16"
        assert "there" not in {node.name for node in model.nodes}


def test_a_plan_that_still_misses_in_float16_after_all_searches_is_said_to(monkeypatch, tmp_path):
    monkeypatch.setattr(PlanSearch, "check_in_types", lambda self, found: found.lacks_in_types.update(min_sqnr_db=0.1))
    few = EvaluationCode.WITHIN_ON_FEW(
        limit="min_unchanged", answers=8, samples=True, share=0.01, enough=300, lost=0.0, low=0.0, high=0.3
    )
    monkeypatch.setattr(Budget, "unproven", lambda *given: few)
    model = chain()
    context = context_for(model, feeds(), tmp_path)
    SearchPrecision(min_sqnr_db=10)(model, context)
    found = said(context.journal, *IN_TYPES)
    assert [(one["limits"], one["by"]) for one in found] == [(("min_sqnr_db",), (0.1,))] * 3
    assert [one["last"] for one in found] == [False, False, True]
    info = read_search(tmp_path / "search.json")[0]
    assert (info.met, info.in_types, info.lacks, info.rest_lacks) == (False, True, {"min_sqnr_db": 0.1}, {})
    # what misses the budget is not within it, on however few samples
    assert not said(context.journal, Code.SEARCH_UNPROVEN)


@pytest.mark.parametrize("limits", [False, True])
def test_where_every_plan_misses_in_float16_and_float_does_not_nothing_is_quantized(monkeypatch, tmp_path, limits):
    """But for what only lacks some of its margin: that is worth more than nothing quantized."""

    def check(self, found):
        if len(found.best.kept) < len(self.simulation.names):
            found.lacks_in_types, found.limits_in_types = {"min_sqnr_db": 0.1}, limits

    monkeypatch.setattr(PlanSearch, "check_in_types", check)
    context = context_for(chain(), feeds(), tmp_path)
    SearchPrecision(min_sqnr_db=10)(chain(), context)
    info = read_search(tmp_path / "search.json")[0]
    assert (info.chosen.quantized_share > 0, info.met) == ((True, False) if limits else (False, True))


def test_a_layer_that_int8_damages_runs_in_fp8_where_that_is_asked(tmp_path):
    """One channel is 400 times the others: INT8's one scale leaves them nothing, FP8's exponent does."""
    rng = np.random.default_rng(0)
    gain = np.ones(8, np.float32)
    gain[3] = 400
    first, second, last = (normal(8, 8, 1, 1, seed=i, scale=0.4) for i in (1, 2, 3))
    proto = build(
        [node("Conv", ["x", "w1"], ["a"]), node("Relu", ["a"], ["r"]), node("Conv", ["r", "w2"], ["hurt"]),
         node("Conv", ["hurt", "w3"], ["y"])],
        {"x": ["n", 8, 6, 6]}, {"y": ["n", 8, 6, 6]},
        {"w1": first * gain[:, None, None, None], "w2": second / gain[None, :, None, None], "w3": last},
    )  # fmt: skip
    samples = [{"x": rng.standard_normal((1, 8, 6, 6)).astype(np.float32)} for _ in range(24)]
    found = {}
    for also in (None, "fp8"):
        model = Model.from_proto(proto)
        plain = model.copy()
        data = CalibrationData.open(samples, model)
        context = Context(provider=Calibrator(data, "minmax"), folder=tmp_path)
        SearchPrecision(min_sqnr_db=24.0, try_ranges=False, also=also)(model, context)
        found[also] = {name: str(context.plan.get(name).precision) for name in ("a", "hurt", "y")}
        types = {onnx_type(n.inputs[2].dtype) for n in model.nodes if n.op == "QuantizeLinear"}
        assert types == {TensorProto.INT8} if also is None else types == {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
        assert sqnr_against(plain, model, data) > 24
        model.check()
    assert found[None] == {"a": "int8", "hurt": "fp16", "y": "int8"}
    assert found["fp8"] == {"a": "int8", "hurt": "fp8", "y": "int8"}
    assert (tmp_path / "search_fp8.json").exists()
    notes = json.loads((tmp_path / "search.json").read_text())["notes"]
    assert Code.SEARCH_SECOND_TYPE(taken=["hurt"], total=1, dtype="int8", also="fp8").to_json() in notes
