"""A search has the engine without pairs begun before all others, as the run would build it; it is built but once."""

from __future__ import annotations

import threading

import pytest

from passes.guard_fp16 import GuardFP16
from passes.search_precision import SearchPrecision
from tests.conftest import HANG, normal, said
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Context, Extent, Profiles, ShapeProfile
from toolkit.backends.backend import EngineSettings
from toolkit.backends.trials import prebuilds
from toolkit.backends.trials.bench import EngineBench
from toolkit.base.errors import ModelError
from toolkit.calibration.provider import Calibrator
from toolkit.contract.findings import Code
from toolkit.contract.passes import Sequence
from toolkit.contract.plan import PrecisionPlan
from toolkit.data.dataset import CalibrationData
from toolkit.graph.surgery.tensors import make_constant
from toolkit.search.codes import AttentionCode, TrialCode

WEIGHTED, PRODUCTS = ["q", "k", "v", "o"], ["s", "c"]
FLOAT = dict.fromkeys(WEIGHTED + PRODUCTS, 1.0)
ROOM = 64 << 30


class Levels(StandIn):
    """Weakly typed; a float engine of a lower level takes longer."""

    typing = "weak"

    def __init__(self, each, seconds=100.0, room=ROOM, **settings):
        super().__init__(FLOAT, dict.fromkeys(FLOAT, each), noisy=False, seconds=seconds, **settings)
        self.room = room


def searched(model, backend, folder, passes=(), engine=None):
    data = CalibrationData.open([{"x": normal(1, 5, 16, seed=i)} for i in range(8)], model)
    profiles = Profiles((ShapeProfile("default", {"x": Extent((1, 5, 16), (1, 5, 16), (1, 5, 16))}),))
    context = Context(provider=Calibrator(data, method="minmax"), folder=folder, profiles=profiles)
    context.bench = EngineBench(backend, engine or EngineSettings(), shapes=profiles, folder=folder)
    Sequence(passes=[SearchPrecision(min_sqnr_db=5), *passes])(model, context)
    return context, {name for name, ask in context.plan.items() if ask.precision.quantized and name in FLOAT}


def built(backend):
    return [(len(inside), level) for inside, level in zip(backend.built, backend.levels)]


def own(model, context):
    """The run's own engine, where it is among those that were measured."""
    bench = context.bench
    lowered, plan = bench.lowered(model, context.plan, context.known_ranges)
    return bench.built(lowered, plan, context.known_ranges)


def test_the_engine_without_pairs_is_the_runs_own_where_it_wins(attention, tmp_path):
    backend = Levels(1.3)
    context, quantized = searched(attention, backend, tmp_path)
    assert not quantized and built(backend) == [(0, None), (4, 2), (6, 2)]
    assert own(attention, context) is not None
    assert said(context.journal, TrialCode.AHEAD) == [{"seconds": 100.0, "beside": 0}]
    assert said(context.journal, TrialCode.COMPARED) == [{"seconds": 100.0}]
    # its kernels' times are the run's, those of trials are of another level
    assert [cache.name for cache in backend.caches] == ["engines.timing", *["engines-level2.timing"] * 2]


def test_nothing_is_built_as_a_trial_where_it_shows_that_building_is_quick(attention, tmp_path):
    backend = Levels(1.3, seconds=20.0)
    context, _ = searched(attention, backend, tmp_path)
    assert built(backend) == [(0, None), (4, None), (6, None)] and said(context.journal, TrialCode.COMPARED) == []


def test_what_later_guards_ask_for_is_in_the_engine(attention, tmp_path):
    backend = Levels(1.3)
    context, quantized = searched(attention, backend, tmp_path, passes=[GuardFP16(margin=60000)])
    assert not quantized and [node for node, ask in context.plan.items() if ask.by == "guard_fp16"]
    assert own(attention, context) is not None and said(context.journal, Code.LATER_PASSES) == []


@pytest.mark.parametrize(("each", "levels"), [(1.3, [2, 2]), (1.03, [2, 2, None])])
def test_a_trial_that_is_hardly_slower_is_built_as_the_run_would_build_it(attention, tmp_path, each, levels):
    backend = Levels(each)
    _, quantized = searched(attention, backend, tmp_path)
    assert not quantized and backend.levels[1:] == levels


def test_it_is_given_up_where_products_of_attention_are_searched_too_whose_queries_are_scaled(attention, tmp_path):
    backend = Levels(0.5)
    context, quantized = searched(attention, backend, tmp_path)
    assert quantized == FLOAT.keys() and [one["taken"] for one in said(context.journal, AttentionCode.TIMED)] == [True]
    assert built(backend) == [(0, None), (4, 2), (6, 2), (0, 2)] and said(context.journal, TrialCode.AHEAD) == []


def test_trials_are_compared_with_a_trial_where_the_float_engine_is_one(attention, tmp_path):
    backend = Levels(1.03)
    bench = EngineBench(backend, EngineSettings(), folder=tmp_path)
    changed, (node,) = attention.copy(), [node for node in attention.nodes if node.name == "q"]
    weight = next(t for t in node.inputs if attention.constant(t) is not None)
    values = attention.constant(weight)
    own = next(node for node in changed.nodes if node.name == "q")
    own.inputs[node.inputs.index(weight)] = make_constant(weight.name, values * 2)
    plan = PrecisionPlan()
    bench.measure(attention, plan, [], float_only=True)
    # the same graph's trial would be the engine that is there
    bench.measure(attention, plan, [], float_only=True, trial=True)
    bench.measure(changed, plan, [], float_only=True, trial=True)
    bench.measure(changed, plan, [], trial=True)
    assert backend.levels == [None, 2]


class Gated(Levels):
    """The engine without pairs is not done before two others are."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.others, self.enough = 0, threading.Event()

    def build(self, *arguments, **settings):
        made = super().build(*arguments, **settings)
        if made.engine == b"[]":
            assert self.enough.wait(HANG)
        else:
            self.others += 1
            if self.others == 2:
                self.enough.set()
        return made


def test_trials_are_built_beside_it_where_it_takes_long(attention, tmp_path, monkeypatch):
    monkeypatch.setattr(prebuilds, "LONG", 0.0)
    backend = Gated(1.3)
    context, quantized = searched(attention, backend, tmp_path)
    assert not quantized and built(backend) == [(0, None), (4, 2), (6, 2)]
    assert said(context.journal, TrialCode.AHEAD) == [{"seconds": 100.0, "beside": 2}]


@pytest.mark.parametrize(("room", "engine"), [(8 << 30, {}), (ROOM, {"side_by_side": False})])
def test_one_engine_at_a_time_where_memory_is_short_or_the_recipe_says_so(
    attention, tmp_path, monkeypatch, room, engine
):
    monkeypatch.setattr(prebuilds, "LONG", 0.0)
    backend = Levels(1.3, room=room)
    context, _ = searched(attention, backend, tmp_path, engine=EngineSettings(**engine))
    assert said(context.journal, TrialCode.AHEAD) == [{"seconds": 100.0, "beside": 0}]
    assert built(backend)[0] == (0, None)


def test_nothing_is_begun_where_the_backend_has_no_room_or_nothing_is_measured(attention, tmp_path):
    backend = Levels(1.3, room=0)
    context, _ = searched(attention, backend, tmp_path)
    assert built(backend) == [(4, 2), (6, 2), (0, 2)] and said(context.journal, TrialCode.AHEAD) == []


def test_a_search_goes_on_where_the_engine_cannot_be_begun(attention, tmp_path, monkeypatch):
    lowered, tried = EngineBench.lowered, []

    def refuse(*arguments):
        tried.append(arguments)
        if len(tried) == 1:
            raise ModelError("no such graph")
        return lowered(*arguments)

    monkeypatch.setattr(EngineBench, "lowered", refuse)
    backend = Levels(1.3)
    context, _ = searched(attention, backend, tmp_path)
    assert built(backend) == [(4, 2), (6, 2), (0, 2)] and said(context.journal, TrialCode.AHEAD) == []


def test_an_engine_that_cannot_be_built_beside_others_is_built_anew(attention, tmp_path):
    tried = []

    def refuse(names):
        if not names:
            tried.append(names)
        return "no memory is left" if len(tried) == 1 and not names else ""

    backend = Levels(1.3, refuse=refuse)
    context, quantized = searched(attention, backend, tmp_path)
    # as the trial that it would have been: what is built in vain is no reason to take the time of the run's own
    assert not quantized and built(backend) == [(0, None), (4, 2), (6, 2), (0, 2)] and len(tried) == 2
    assert own(attention, context) is None
    assert said(context.journal, TrialCode.AHEAD) == []
    (why,) = said(context.journal, Code.TRIAL_BUILT_ANEW)
    assert "no memory is left" in why["why"]


def test_a_search_that_fails_gives_it_up(attention, tmp_path, monkeypatch):
    backend = Gated(1.3)
    monkeypatch.setattr(prebuilds, "LONG", 0.0)
    given_up = []
    monkeypatch.setattr(
        prebuilds.BackgroundBuild, "give_up", lambda beside: (given_up.append(beside), backend.enough.set())
    )
    monkeypatch.setattr(SearchPrecision, "decides", lambda *arguments, **settings: 1 / 0)
    with pytest.raises(Exception, match="division"):
        searched(attention, backend, tmp_path)
    assert len(given_up) == 1
