"""search_precision measures layer times itself where engines can be built, here by a stand-in whose truth is known."""

from __future__ import annotations

import json

import pytest

from passes.search_precision import SearchPrecision
from tests.passes.test_search_times import notes
from tests.toolkit.analysis.planted import chain, damage, feeds
from tests.toolkit.backends.payoff_stand_in import StandIn
from toolkit import Context
from toolkit.backends.base import EngineSettings
from toolkit.calibration.provider import Calibrator
from toolkit.data import CalibrationData

NAMES = [f"layer{i}" for i in range(6)]


def searched(tmp_path, backend, **settings):
    model = chain(6)
    damage(model, "layer3")
    data = CalibrationData.open(feeds(), model)
    services = {"folder": tmp_path, "backend": backend} if backend is not None else {"folder": tmp_path}
    context = Context(provider=Calibrator(data, method="minmax"), services=services)
    SearchPrecision(**{"min_sqnr_db": 28, "prefer": "int8", **settings})(model, context)
    return context, json.loads((tmp_path / "search.json").read_text())


@pytest.mark.parametrize("opaque", [False, True])
def test_two_engines_are_built_and_the_plans_time_is_theirs(tmp_path, opaque):
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.4), opaque=opaque, noisy=False)
    context, found = searched(tmp_path, backend)
    assert [len(inside) for inside in backend.built] == [6, 0]
    first, second = notes(context, "search-times")
    assert "6 layers in int8 takes 2.4 ms, in fp16 6 ms" in first and ("multiply-accumulates" in first) == opaque
    assert "% of the chosen plan's predicted time was measured" in second
    assert 0.75 < found["measured_share"] < 1.0 and found["float"]["predicted_ms"] == pytest.approx(6.0)
    plan = found["best"]
    assert plan["kept"] == ["layer3"]
    # five layers in int8 and one in float were measured; the quantization before the next one is new, and predicted
    assert plan["predicted_ms"] * found["measured_share"] == pytest.approx(5 * 0.4 + 1.0)
    everything = next(plan for plan in found["plans"] if not plan["kept"])
    assert everything["predicted_ms"] == pytest.approx(2.4)


def test_where_int8_is_slower_by_measurement_the_search_warns_and_time_keeps_all_float(tmp_path):
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 1.5), noisy=False)
    context, found = searched(tmp_path / "int8", backend)
    assert notes(context, "search-slower") == found["warnings"] != []
    for prefer in ("time", "auto"):
        context, found = searched(tmp_path / prefer, backend, prefer=prefer)
        plan = found["best"]
        assert len(plan["kept"]) == 6 and plan["predicted_ms"] == pytest.approx(6.0)
        assert found["prefer"] == "time" and found["warnings"] == []
        assert any('prefer = "int8"' in note for note in notes(context, "search-times")) == (prefer == "auto")


def test_without_measured_times_auto_looks_for_int8(tmp_path):
    assert searched(tmp_path, None, prefer="auto")[1]["prefer"] == "int8"


def test_an_interrupted_search_does_not_build_again(tmp_path):
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.4), noisy=False)
    first = searched(tmp_path, backend)[1]
    assert len(backend.built) == 2
    again = searched(tmp_path, backend)[1]
    assert len(backend.built) == 2 and again["plans"] == first["plans"]


@pytest.mark.parametrize("broken", ["quantized", "float"])
def test_an_engine_that_fails_leaves_predictions_and_says_why(tmp_path, broken):
    backend = StandIn(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.4),
                      refuse=lambda names: "out of memory" if bool(names) == (broken == "quantized") else "")  # fmt: skip
    context, found = searched(tmp_path, backend)
    said = [event.reason for event in context.journal.of("noted")]
    assert any("out of memory" in reason for reason in said)
    assert found["measured_share"] == 0.0


def test_nothing_is_built_unasked(tmp_path):
    class Unable(StandIn):
        def cannot_measure(self):
            return "there is no GPU"

    truth = dict.fromkeys(NAMES, 1.0)
    backend = StandIn(truth, truth)
    for nothing, settings in ((None, {}), (backend, {"measure": False}), (Unable(truth, truth), {})):
        context, found = searched(tmp_path, nothing, **settings)
        assert found["measured_share"] == 0.0 and not notes(context, "search-times")
    context = Context(services={"backend": backend, "engine_settings": EngineSettings(measure=False)})
    from toolkit.search_times import measuring_bench

    assert measuring_bench(context) is None and backend.built == []
