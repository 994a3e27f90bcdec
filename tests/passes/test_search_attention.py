"""Where engines are measured, two of them say whether the products of attention are searched too."""

from __future__ import annotations

import pytest

from passes.search_precision import SearchPrecision
from tests.conftest import normal, said
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Context, Extent, Profiles, ShapeProfile
from toolkit.backends.backend import EngineSettings
from toolkit.backends.trials.bench import EngineBench
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.search.codes import AttentionCode, TrialCode
from toolkit.search.plan_search import PlanSearch

WEIGHTED, PRODUCTS = ["q", "k", "v", "o"], ["s", "c"]
FLOAT = dict.fromkeys(WEIGHTED + PRODUCTS, 1.0)


class Fused(StandIn):
    """Quantized projections cost more than float ones, unless the products between them are quantized too."""

    def truth(self, names):
        if not names:
            return {"default": 6.0}
        return {"default": 5.0 if set(PRODUCTS) <= names else 7.0}


def searched(model, backend, folder, step=None, engine=None, **settings):
    data = CalibrationData.open([{"x": normal(1, 5, 16, seed=i)} for i in range(8)], model)
    profiles = Profiles((ShapeProfile("default", {"x": Extent((1, 5, 16), (1, 5, 16), (1, 5, 16))}),))
    context = Context(provider=Calibrator(data, method="minmax"), folder=folder, profiles=profiles)
    if backend is not None:
        context.bench = EngineBench(backend, engine or EngineSettings(trial_level=3), shapes=profiles, folder=folder)
    (step or SearchPrecision(min_sqnr_db=5, **settings))(model, context)
    return context, {name for name, ask in context.plan.items() if ask.precision.quantized and name in FLOAT}


def test_products_are_searched_where_pairs_on_them_are_measured_to_be_faster(attention, tmp_path):
    backend = Fused(FLOAT, FLOAT, noisy=False)
    context, quantized = searched(attention, backend, tmp_path)
    assert quantized == {*WEIGHTED, *PRODUCTS}
    assert said(context.journal, AttentionCode.TIMED) == [
        {"products": ("c", "s"), "ratio": pytest.approx(5 / 7), "noise": pytest.approx(0.01), "taken": True}
    ]
    # the first engine of the search is the one that was measured for the question
    assert [len(inside) for inside in backend.built] == [4, 6, 0]


def test_engines_that_take_long_to_build_are_compared_as_trials(attention, tmp_path):
    backend = Fused(FLOAT, FLOAT, noisy=False, seconds=100.0)
    context, quantized = searched(attention, backend, tmp_path, engine=EngineSettings())
    assert quantized == {*WEIGHTED, *PRODUCTS} and said(context.journal, TrialCode.COMPARED) == [{"seconds": 100.0}]
    assert backend.levels == [2, 2, 2] and [len(inside) for inside in backend.built] == [4, 6, 0]


@pytest.mark.parametrize("each", [1.2, 0.5])
def test_helpers_are_tried_where_some_plan_of_a_transformer_is_faster_than_float(
    attention, tmp_path, monkeypatch, each
):
    tried = []
    monkeypatch.setattr(PlanSearch, "first_plan", lambda search: tried.append(search))
    slow = dict.fromkeys(PRODUCTS, 3.0)
    backend = StandIn(FLOAT, dict.fromkeys(WEIGHTED, each) | slow, noisy=False)
    step = SearchPrecision(min_sqnr_db=60, helpers=["equalize", "shift", "smooth"])
    _, quantized = searched(attention, backend, tmp_path, step)
    assert bool(tried) == (each < 1) and (each < 1 or not quantized)
    assert backend.built[:3] == [frozenset(WEIGHTED), frozenset(FLOAT), frozenset()]


@pytest.mark.parametrize(
    ("times", "settings", "told"),
    [
        (dict.fromkeys(WEIGHTED, 0.5) | dict.fromkeys(PRODUCTS, 1.2), {}, [False]),
        (dict.fromkeys(WEIGHTED, 0.5) | dict.fromkeys(PRODUCTS, 0.5), {"activation_matmul": False}, []),
        (dict.fromkeys(WEIGHTED, 0.5) | dict.fromkeys(PRODUCTS, 0.5), {"prefer": "int8"}, []),
        (dict.fromkeys(WEIGHTED, 0.5) | dict.fromkeys(PRODUCTS, 0.5), {"measure": False}, []),
        (None, {}, []),
    ],
)
def test_products_stay_float_where_pairs_on_them_are_slower_or_nothing_is_measured(
    attention, tmp_path, times, settings, told
):
    backend = StandIn(FLOAT, times, noisy=False) if times is not None else None
    context, quantized = searched(attention, backend, tmp_path, **settings)
    assert quantized == set(WEIGHTED)
    assert [one["taken"] for one in said(context.journal, AttentionCode.TIMED)] == told


def test_an_engine_that_cannot_be_built_leaves_products_float_and_says_why(attention, tmp_path):
    backend = StandIn(FLOAT, dict.fromkeys(FLOAT, 0.5), noisy=False, refuse=lambda names: "no" if "s" in names else "")
    context, quantized = searched(attention, backend, tmp_path)
    assert quantized == set(WEIGHTED)
    (found,) = said(context.journal, AttentionCode.NOT_TIMED)
    assert "no" in found["error"]


def test_what_one_run_measured_holds_for_no_other(attention, tmp_path):
    step, twin = SearchPrecision(min_sqnr_db=5), attention.copy()
    _, first = searched(attention, Fused(FLOAT, FLOAT, noisy=False), tmp_path, step)
    _, second = searched(twin, None, tmp_path, step)
    assert (first, second) == ({*WEIGHTED, *PRODUCTS}, set(WEIGHTED))
