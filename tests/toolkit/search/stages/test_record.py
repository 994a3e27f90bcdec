"""search.json, and the plan that is slower than no quantization at all."""

from __future__ import annotations

import json

import pytest

from tests.toolkit.search.planted import chain, damage, feeds, simulation
from toolkit.base.errors import QtoolError
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.evaluation.budget import Budget
from toolkit.report.findings import sentence
from toolkit.search.causes.weak_spots import weak_spots
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.cost.layer_times import LayerTimes
from toolkit.search.plans.search import Search
from toolkit.search.stages.record import SearchRecord, record, slower_than_float


def searched(quantized_ms, float_ms, least=28.0, prefer="int8"):
    model = chain(6)
    damage(model, "layer3")
    sim = simulation(model, feeds())
    times = {(n, q): (quantized_ms if q else float_ms) / 1e3 for n in sim.names for q in (True, False)}
    cost = CostModel(sim.switches, sim.facts, gpu_spec("A10"), Precision.FP16, LayerTimes(times))
    budget = Budget(min_sqnr_db=least)
    return Search(sim, budget, cost, prefer=prefer).run(), cost, budget, sim


def test_a_slower_plan_is_called_so_with_both_numbers_and_the_remedy():
    found, cost, budget, _ = searched(2.0, 1.0)
    slower = slower_than_float(found, cost, "int8")
    assert slower is not None and slower.code is Code.SEARCH_SLOWER
    values = slower.values
    assert values["ms"] == found.best.seconds * 1e3 and values["float_ms"] == cost.time(cost.switches.names) * 1e3
    assert values["prefer"] == "int8" and values["measured_share"] > 0
    text = sentence(slower)
    assert f"{values['ms']:.4g} ms against {values['float_ms']:.4g} ms" in text and 'prefer = "time"' in text
    assert 'prefer = "time"' not in sentence(slower_than_float(found, cost, "time"))
    assert record(found, cost, budget, "int8", 24).warnings == [slower]
    # without a GPU that anybody named, and nothing measured, predictions only order plans
    unnamed = CostModel(cost.switches, cost.facts, gpu_spec("A10"), Precision.FP16, named=False)
    assert unnamed.place == "" and slower_than_float(found, unnamed, "int8") is None
    assert record(found, unnamed, budget, "int8", 24).gpu == ""


def test_a_faster_plan_gets_no_warning_and_a_faster_one_that_meets_is_named():
    found, cost, *_ = searched(0.5, 1.0)
    assert slower_than_float(found, cost, "int8") is None
    found, cost, *_ = searched(2.0, 1.0)
    fast = next(plan for plan in found.plans if plan.meets)
    found.plans.append(type(fast)(fast.kept, fast.amax, fast.outcome, {}, 1e-6, fast.quantized))
    values = slower_than_float(found, cost, "int8").values
    assert values["other_ms"] == pytest.approx(1e-3) and values["other_kept"] == len(fast.kept)


def test_the_record_holds_every_plan_and_is_json():
    found, cost, budget, sim = searched(0.5, 1.0)
    content = json.loads(json.dumps(record(found, cost, budget, "int8", 24).to_json(), allow_nan=False))
    assert len(content["plans"]) == found.evaluations == content["evaluations"]
    assert content["budget"]["min_sqnr_db"] == 28.0 and content["gpu"] == "A10" and content["samples"] == 24
    assert content["float"]["predicted_ms"] == cost.time(sim.names) * 1e3 and content["measured_share"] > 0.5
    assert content["best"]["kept"] == list(found.best.kept)
    assert set(content["budget"]) == {"min_sqnr_db", "margin"}


def test_a_record_reads_back(tmp_path):
    found, cost, budget, sim = searched(2.0, 1.0)
    written = record(found, cost, budget, "int8", 24, weak_spots(sim, found.sensitivity))
    written.save(tmp_path / "search.json")
    again = SearchRecord.load(tmp_path / "search.json")
    assert again.to_json() == written.to_json() and again.weak_spots and again.warnings == written.warnings


def test_a_record_with_the_former_key_of_the_squashing_operator_is_read():
    found, cost, budget, _ = searched(2.0, 1.0)
    content = record(found, cost, budget, "int8", 24).to_json()
    content["behind"] = "Softmax"
    del content["squashed_by"]
    assert SearchRecord.from_json(content).to_json()["squashed_by"] == "Softmax"


@pytest.fixture(scope="module")
def content():
    """What a search's record holds."""
    found, cost, budget, _ = searched(0.5, 1.0)
    return record(found, cost, budget, "int8", 24).to_json()


@pytest.mark.parametrize(
    "name", ["best", "plans", "float", "sensitivity", "weak_spots", "budget", "precision", "share_of"]
)
@pytest.mark.parametrize("value", [None, 3, ["x"], {"a": 1}])
def test_what_is_no_record_is_refused_by_name(content, tmp_path, name, value):
    path = tmp_path / "search.json"
    path.write_text(json.dumps({**content, name: value}))
    if (name, value) not in (("sensitivity", None), ("budget", {"a": 1})):
        with pytest.raises(QtoolError, match=r"search\.json"):
            SearchRecord.load(path)
