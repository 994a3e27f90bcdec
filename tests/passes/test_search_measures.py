"""search_precision measures layer times itself where engines can be built, here by a stand-in whose truth is known."""

from __future__ import annotations

import json

import pytest

from passes.correct_bias import CorrectBias
from passes.guard_fp16 import GuardFP16
from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from tests.conftest import said
from tests.passes.test_search_times import TIMES, notes
from tests.toolkit.backends.payoff_stand_in import StandIn
from tests.toolkit.search.planted import chain, damage, feeds
from toolkit import Code, Context, Extent, Profiles, Sequence, ShapeProfile
from toolkit.backends.backend import EngineSettings
from toolkit.backends.layers.layer import Layer, Port
from toolkit.backends.trials.bench import EngineBench
from toolkit.base.errors import ModelError, RecipeError
from toolkit.base.gpu import Gpu
from toolkit.base.precision import Precision
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.search.budget.spending import FLOAT_PRICE, TYPES_PRICE
from toolkit.search.codes import TrialCode

NAMES = [f"layer{i}" for i in range(6)]
EVEN = dict.fromkeys(NAMES, 1.0)
SMALL = dict.fromkeys(NAMES, 0.4)


def searched(folder, backend, damaged="layer3", profiles=None, following=(), engine=None, **settings):
    model = chain(6)
    if damaged:
        damage(model, damaged)
    data = CalibrationData.open(feeds(), model)
    context = Context(provider=Calibrator(data, method="minmax"), folder=folder, profiles=profiles or Profiles())
    if backend is not None:
        context.bench = EngineBench(
            backend, engine or EngineSettings(trial_level=3), shapes=context.profiles, folder=folder
        )
    Sequence(passes=[SearchPrecision(**{"min_sqnr_db": 28, **settings}), *following])(model, context)
    return context, json.loads((folder / "search.json").read_text())


def predicted(found, *kept):
    """The predicted milliseconds of a plan that was evaluated."""
    return next(plan["predicted_ms"] for plan in found["plans"] if plan["kept"] == list(kept))


def stand_in(plain=EVEN, quantized=SMALL, **more):
    return StandIn(plain, quantized, noisy=False, **more)


class Half(StandIn):
    """Its float engine is one block, its quantized ones show their layers."""

    def _layers(self, nodes, inside, profile, number, opaque):
        return super()._layers(nodes, inside, profile, number, not inside)


class Front(StandIn):
    """Three milliseconds before the first layer belong to no layer that can be quantized."""

    def truth(self, names):
        return {profile: milliseconds + 3 for profile, milliseconds in super().truth(names).items()}

    def _layers(self, nodes, inside, profile, number, opaque):
        yield "front", 3.0, Layer("front", "X", (Port("a", "fp16"),), (Port("b", "fp16"),), profile=number)
        yield from super()._layers(nodes, inside, profile, number, opaque)


class SecondOpaque(StandIn):
    """What its second profile runs is one block, and is not timed."""

    def _layers(self, nodes, inside, profile, number, opaque):
        return super()._layers(nodes, inside, profile, number, number == 1)

    def build(self, *given, **more):
        build = super().build(*given, **more)
        del build.latency["big"]
        return build


@pytest.mark.parametrize("opaque", [False, True])
def test_two_engines_are_built_and_the_plan_that_is_chosen_is_measured_too(tmp_path, opaque):
    backend = stand_in(opaque=opaque)
    context, found = searched(tmp_path, backend)
    assert [len(inside) for inside in backend.built] == [6, 0, 5]
    (measured,) = said(context.journal, Code.TIMES_MEASURED)
    assert (measured["layers"], measured["quantized"], measured["rest"]) == (6, "int8", "fp16")
    assert measured["ms"] == pytest.approx(2.4) and measured["rest_ms"] == pytest.approx(6.0)
    assert (measured["sharing"] > 0) == opaque
    (timed,) = said(context.journal, Code.PLAN_TIMED)
    assert timed["ms"] == pytest.approx(3.0) and "taken_ms" not in timed
    (share,) = said(context.journal, Code.TIMES_SHARE)
    assert share["share"] == pytest.approx(1.0)
    assert found["best"]["kept"] == ["layer3"] and found["best"]["predicted_ms"] == pytest.approx(5 * 0.4 + 1)
    assert found["float"]["predicted_ms"] == pytest.approx(6.0) and predicted(found) == pytest.approx(2.4)


@pytest.mark.parametrize(
    ("seconds", "each", "levels", "sizes"),
    [
        # quick builds: after the first, which shows it, all are the run's own
        (30, 0.4, [2, None, None, None], [6, 6, 0, 5]),
        # five quantized layers are clearly faster than none: the run's own engine alone is built at its level
        (200, 0.4, [2, 2, 2], [6, 0, 5]),
        # here a higher level could turn it: both are measured as they will be built
        (200, 0.93, [2, 2, 2, None, None], [6, 0, 5, 0, 5]),
        # five quantized layers are predicted to gain less than a higher level may: their engine is not built
        (200, 0.95, [2, 2], [6, 0]),
        # float is taken among trials already
        (200, 1.3, [2, 2], [6, 0]),
    ],
)
def test_where_building_takes_long_engines_are_compared_as_trials(tmp_path, seconds, each, levels, sizes):
    backend = stand_in(quantized=dict.fromkeys(NAMES, each), seconds=seconds)
    context, found = searched(tmp_path, backend, engine=EngineSettings())
    assert [len(inside) for inside in backend.built] == sizes and backend.levels == levels
    told = said(context.journal, TrialCode.COMPARED)
    assert told == ([{"seconds": seconds}] if seconds > 60 else [])
    assert found["best"]["kept"] == (["layer3"] if each < 0.95 else NAMES)
    not_built = said(context.journal, TrialCode.PLAN_NOT_BUILT)
    assert [one["predicted_ms"] for one in not_built] == ([pytest.approx(5.75, rel=1e-3)] if each == 0.95 else [])
    # TensorRT refuses the kernel times of another level
    names = {level: f"engines{f'-level{level}' if level else ''}.timing" for level in levels}
    assert [cache.name for cache in backend.caches] == [names[level] for level in levels]


def test_where_no_plan_is_faster_than_float_no_accuracy_is_looked_at(tmp_path):
    backend = stand_in(quantized=dict.fromkeys(NAMES, 1.2))
    context, found = searched(tmp_path, backend)
    assert [len(inside) for inside in backend.built] == [6, 0]
    assert found["best"]["kept"] == NAMES and len(found["plans"]) == 1
    # the float model is run, and once more in the types that it will have: no layer is looked at or explained
    assert found["inferences"] == pytest.approx(FLOAT_PRICE + TYPES_PRICE)
    assert said(context.journal, Code.SEARCH_ALL_FLOAT) == [{"by_time": True, "faster": 0}]
    assert {name: context.plan.get(name).precision for name in NAMES} == dict.fromkeys(NAMES, Precision.FP16)
    # one layer that is faster is worth a search
    mixed = stand_in(quantized={**dict.fromkeys(NAMES, 1.2), "layer1": 0.3})
    _, found = searched(tmp_path / "mixed", mixed)
    assert found["best"]["kept"] == [name for name in NAMES if name != "layer1"] and len(found["plans"]) > 1


@pytest.mark.parametrize(
    ("seconds", "settings", "sizes", "kept"),
    [
        # a gain of 3 %: found by a search where an engine is built in half a minute
        (30, {}, [6, 6, 0, 1], 5),
        # not worth minutes
        (200, {}, [6, 0], 6),
        # but for a limit that float misses
        (200, {"max_ms": 5.9}, [6, 0, 1], 5),
    ],
)
def test_a_small_gain_in_time_is_worth_no_engine_that_takes_minutes(tmp_path, seconds, settings, sizes, kept):
    backend = stand_in(quantized={**dict.fromkeys(NAMES, 1.2), "layer1": 0.8}, seconds=seconds)
    found = searched(tmp_path, backend, engine=EngineSettings(), damaged="", min_sqnr_db=5, **settings)[1]
    assert [len(inside) for inside in backend.built][: len(sizes)] == sizes and len(found["best"]["kept"]) == kept


def test_engines_are_built_once_of_the_model_that_helpers_leave(tmp_path):
    backend = stand_in()
    context, _ = searched(tmp_path, backend, helpers=["equalize", "smooth"])
    assert True in [one["applied"] for one in said(context.journal, Code.SEARCH_HELPER)]
    assert [len(inside) for inside in backend.built] == [6, 0]
    assert len(said(context.journal, Code.TIMES_MEASURED)) == 1


def test_what_later_passes_do_is_not_measured_and_the_journal_says_so(tmp_path):
    context, _ = searched(tmp_path, stand_in(), following=[CorrectBias(measure=False), GuardFP16()])
    assert said(context.journal, Code.LATER_PASSES) == [{"passes": ("correct_bias",)}]


def test_where_int8_is_slower_the_fastest_plan_is_all_float(tmp_path):
    backend = stand_in(quantized=dict.fromkeys(NAMES, 1.5))
    for prefer in ("time", "auto"):
        context, found = searched(tmp_path / prefer, backend, prefer=prefer)
        assert found["best"]["kept"] == NAMES and found["best"]["predicted_ms"] == pytest.approx(6.0)
        assert found["prefer"] == "time" and found["warnings"] == []
        assert bool(notes(context, Code.SEARCH_FOR_TIME)) == (prefer == "auto")
        assert Code.SEARCH_ALL_FLOAT(by_time=True, faster=0).to_json() in found["notes"]
    context, found = searched(tmp_path / "limited", backend, prefer="int8", max_ms=100)
    (slower,) = notes(context, Code.SEARCH_SLOWER)
    assert found["warnings"] == [slower.to_json()] and found["best"]["kept"] == ["layer3"]


def test_a_budget_that_nothing_faster_meets_is_named_as_the_reason(tmp_path):
    found = searched(tmp_path, stand_in(), min_sqnr_db=150, try_ranges=False)[1]
    assert found["best"]["kept"] == NAMES
    (note,) = [one for one in found["notes"] if one["code"] == Code.SEARCH_ALL_FLOAT]
    assert note["values"]["by_time"] and note["values"]["faster"] > 0


def test_a_plan_in_between_is_left_for_an_end_that_is_faster_in_truth(tmp_path):
    class Islands(StandIn):
        """One float layer among quantized ones costs a border that no layer's time shows."""

        def truth(self, names):
            mixed = 0 < len(names) < len(self.plain)
            return {profile: milliseconds + 5 * mixed for profile, milliseconds in super().truth(names).items()}

    quantized = {**SMALL, "layer5": 1.2}
    backend = Islands(EVEN, quantized, noisy=False)
    context, found = searched(tmp_path, backend, damaged="", min_sqnr_db=5)
    assert [len(inside) for inside in backend.built] == [6, 0, 5]
    assert found["best"]["kept"] == [] and found["best"]["predicted_ms"] == pytest.approx(3.2)
    (timed,) = said(context.journal, Code.PLAN_TIMED)
    assert timed["all_quantized"] and timed["taken_ms"] == pytest.approx(3.2)
    context, found = searched(tmp_path / "damaged", backend)
    assert found["best"]["kept"] == NAMES  # all quantized misses the budget, and the plan in between takes 8 ms
    (timed,) = said(context.journal, Code.PLAN_TIMED)
    assert not timed["all_quantized"] and timed["taken_ms"] == pytest.approx(6.0)


def test_layers_that_one_engine_hides_share_their_time_in_both(tmp_path):
    plain, quantized = {**dict.fromkeys(NAMES, 0.2), "layer0": 5.0}, {**dict.fromkeys(NAMES, 0.1), "layer0": 4.0}
    found = searched(tmp_path, Half(plain, quantized, noisy=False), damaged="", min_sqnr_db=5)[1]
    assert found["best"]["kept"] == [] and found["best"]["predicted_ms"] == pytest.approx(4.5)


@pytest.mark.parametrize("out", [1, 3])
def test_layers_that_are_not_searched_count_once(tmp_path, out):
    backend = stand_in()
    found = searched(tmp_path, backend, damaged="", min_sqnr_db=5, exclude=NAMES[:out])[1]
    assert found["float"]["predicted_ms"] == pytest.approx(6.0)
    assert predicted(found) == pytest.approx(out + (6 - out) * 0.4) and found["warnings"] == []


def test_time_that_belongs_to_no_layer_is_in_every_plan(tmp_path):
    plain, quantized = {**dict.fromkeys(NAMES, 0.2), "layer0": 2.0}, dict.fromkeys(NAMES, 0.2)
    backend = Front(plain, quantized, noisy=False)
    found = searched(tmp_path, backend, damaged="layer0", prefer="int8", max_ms=100)[1]
    assert found["best"]["kept"] == ["layer0"] and found["float"]["predicted_ms"] == pytest.approx(6.0)
    assert found["best"]["predicted_ms"] * found["measured_share"] == pytest.approx(3 + 2 + 5 * 0.2)


def test_the_first_profile_counts_and_what_others_hide_does_not(tmp_path):
    extents = {"x": Extent((1, 16), (1, 16), (8, 16))}, {"x": Extent((8, 16), (8, 16), (8, 16))}
    both = Profiles((ShapeProfile("one", extents[0]), ShapeProfile("big", extents[1])))
    quantized = {**SMALL, "layer1": 1.4}
    backend = SecondOpaque(EVEN, quantized, {"one": 1.0, "big": 4.0}, noisy=False)
    context, found = searched(tmp_path, backend, damaged="", profiles=both, min_sqnr_db=5)
    assert found["best"]["kept"] == ["layer1"] and found["best"]["predicted_ms"] == pytest.approx(3.0)
    assert said(context.journal, Code.TIMES_MEASURED)[0]["profile"] == "one"


def test_without_layer_times_the_latencies_are_shared_and_it_is_said(tmp_path):
    context, found = searched(tmp_path, stand_in(timed=False))
    (measured,) = said(context.journal, Code.TIMES_MEASURED)
    assert measured["sharing"] == 6 and not measured["by_layer"]
    assert found["float"]["predicted_ms"] == pytest.approx(6.0) and predicted(found) == pytest.approx(2.4)


def test_an_interrupted_search_does_not_build_again(tmp_path):
    backend = stand_in()
    first = searched(tmp_path, backend)[1]
    assert len(backend.built) == 3
    again = searched(tmp_path, backend)[1]
    assert len(backend.built) == 3 and again["plans"] == first["plans"]


@pytest.mark.parametrize("broken", ["quantized", "float"])
def test_an_engine_that_fails_leaves_predictions_and_says_why(tmp_path, broken):
    backend = stand_in(refuse=lambda names: "out of memory" if bool(names) == (broken == "quantized") else "")
    context, found = searched(tmp_path, backend)
    (only,) = notes(context, *TIMES)
    assert only.code is Code.TIMES_PREDICTED and "out of memory" in only.values["why"]
    assert found["measured_share"] == 0.0 and found["prefer"] == "int8"


def test_a_model_that_cannot_be_lowered_for_a_trial_is_searched_all_the_same(tmp_path, monkeypatch):
    def refuse(*given, **more):
        raise ModelError("ONNX refuses it", remedy="report it")

    monkeypatch.setattr("toolkit.backends.trials.bench.lower_for", refuse)
    context, found = searched(tmp_path, stand_in())
    assert "ONNX refuses it" in said(context.journal, Code.TIMES_PREDICTED)[0]["why"] and found["measured_share"] == 0.0


def test_nothing_is_built_where_times_decide_nothing_or_cannot_be_had(tmp_path, monkeypatch):
    # what is built to hold the plan against float is another matter
    monkeypatch.setattr(SearchPrecision, "guards_speed", lambda self, context: False)

    class Unable(StandIn):
        def cannot_measure(self):
            return "there is no GPU"

    backend = stand_in()
    for at, (one, settings) in enumerate((
        (None, {}), (backend, {"measure": False}), (Unable(EVEN, EVEN), {}), (backend, {"prefer": "int8"}),
        (backend, {"also": "fp8"}), (backend, {"engine": EngineSettings(prefer="int8")}),
    )):  # fmt: skip
        context, found = searched(tmp_path / str(at), one, **settings)
        assert found["measured_share"] == 0.0 and found["prefer"] == "int8" and not notes(context, *TIMES)
    context, _ = searched(tmp_path / "asked", Unable(EVEN, EVEN), measure=True)
    assert notes(context, *TIMES) == [Code.TIMES_PREDICTED(why="there is no GPU")]
    switched_off = EngineBench(backend, EngineSettings(measure=False))
    assert switched_off.cannot_measure() == "[engine] measure is false" and backend.built == []


def test_a_wrong_budget_is_refused_before_any_engine_is_built(tmp_path, monkeypatch):
    def refuse(*given, **more):
        raise RecipeError("no output of the model holds floats", remedy="give min_agreement")

    monkeypatch.setattr("toolkit.search.plan_search.budget_for", refuse)
    backend = stand_in()
    with pytest.raises(RecipeError, match="holds floats"):
        searched(tmp_path, backend)
    assert backend.built == []


@pytest.mark.parametrize(
    ("here", "settings", "code"),
    [
        ("NVIDIA A10", {"gpu": "L4"}, Code.TIMES_PREDICTED),
        ("NVIDIA A10", {"keep": "fp32"}, Code.TIMES_PREDICTED),
        ("Tesla T4", {"gpu": "T4"}, Code.TIMES_MEASURED),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", {}, Code.GPU_UNKNOWN),
        ("Tesla T4", {}, Code.TIMES_MEASURED),
    ],
)
def test_times_are_of_the_gpu_that_is_named(tmp_path, monkeypatch, here, settings, code):
    monkeypatch.setattr("toolkit.search.stages.times.find_gpu", lambda: Gpu(here, "8.6"))
    monkeypatch.setattr("toolkit.search.stages.timed_search.find_gpu", lambda: Gpu(here, "8.6"))
    context, found = searched(tmp_path, stand_in(), **settings)
    first = notes(context, *TIMES)[0]
    assert len(notes(context, code)) == 1
    assert first.code is code and first.values.get("gpu", here) == here
    assert (found["measured_share"] > 0) == (code is not Code.TIMES_PREDICTED)
    # times that nobody asked for and that were not measured are of no GPU
    assert found["gpu"] == (here if found["measured_share"] else settings.get("gpu", ""))


def test_a_run_is_done_again_on_another_gpu_only_where_it_measures():
    assert SearchPrecision().measures_engines() and not SearchPrecision(measure=False).measures_engines()
    assert not SearchPrecision(times="runs").measures_engines()
    assert InsertQDQ(only_if_faster=True).measures_engines() and not InsertQDQ().measures_engines()
