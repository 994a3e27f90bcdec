"""Measured layer times in the cost model, from made-up reports."""

from __future__ import annotations

import json

import pytest

from tests.toolkit.search.planted import chain, feeds, simulation
from toolkit.base.errors import RecipeError
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.evaluation.budget import Budget
from toolkit.report.schema.report import ActualInfo, Asked, LayerInfo
from toolkit.search.cost.cost_model import LAUNCH, CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.cost.layer_times import LayerTimes, read_times
from toolkit.search.plans.search import Search

INT8, FP16 = Precision.INT8, Precision.FP16


def layer(name, precision, ms, role="compute", profile="single"):
    times = {profile: ms} if ms is not None else {}
    status = "opaque" if precision is None else "honoured"
    return {"node": name, "role": role, "actual": {"precision": precision}, "status": status, "time_ms": times}


def report(folder, *layers, fingerprint="aa", opt=(1, 16)):
    folder.mkdir(exist_ok=True)
    profiles = [{"name": "single", "shapes": {"x": {"min": [1, 16], "opt": list(opt), "max": [8, 16]}}}]
    content = {"layers": list(layers), "profiles": profiles, "model": {"fingerprint": fingerprint}}
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def read(*paths, **more):
    return read_times(paths, ["a", "b"], INT8, FP16, "single", {"x": (1, 16)}, "aa", **more)


def test_two_runs_give_both_precisions_and_what_no_plan_changes(tmp_path):
    half = report(tmp_path / "half", layer("a", "fp16", 0.4), layer("b", "fp16", 0.2), layer("soft", "fp16", 0.1))
    eight = report(
        tmp_path / "eight", layer("a", "int8", 0.3), layer("q", None, 0.05, "convert"), layer("b", "fp32", 9)
    )
    found = read(half, eight / "report.json")
    assert found.seconds == pytest.approx({("a", False): 4e-4, ("b", False): 2e-4, ("a", True): 3e-4})
    assert found.rest == pytest.approx(1e-4)
    first, second = (note.values for note in found.notes)
    assert (first["layers"], first["others"], second["others"], second["precisions"]) == (2, 0, 1, ("int8", "fp16"))
    held = json.loads((half / "report.json").read_text())
    (half / "report.json").write_text(json.dumps({**held, "device": {"gpu": "NVIDIA H200"}}))
    assert (
        read(half, gpu="A10").notes[0].values["gpu"] == "NVIDIA H200"
        and not read(half, gpu="H200").notes[0].values["gpu"]
    )
    # the report named first counts
    other = report(tmp_path / "other", layer("a", "fp16", 7.0), fingerprint="bb")
    found = read(half, other)
    assert found.seconds["a", False] == pytest.approx(4e-4) and [
        note.values["other_model"] for note in found.notes
    ] == [False, True]


def test_reports_that_cannot_be_used_are_refused_with_the_reason(tmp_path):
    with pytest.raises(RecipeError, match="no layer of this report has a measured time"):
        read(report(tmp_path / "unmeasured", layer("a", "fp16", None)))
    with pytest.raises(RecipeError, match="no measured time of any quantizable layer"):
        read(report(tmp_path / "strange", layer("c", "fp16", 1.0)))
    with pytest.raises(RecipeError, match="in int8 or fp16; 2 layers ran in bf16"):
        read(report(tmp_path / "bfloat", layer("a", "bf16", 1.0), layer("b", "bf16", 1.0)))
    with pytest.raises(RecipeError, match="its 2 quantizable layers inside blocks that are timed only as a whole"):
        read(report(tmp_path / "blocks", layer("a", None, 1.0), layer("b", None, None), layer("c", "fp16", 1.0)))
    some = read(report(tmp_path / "mixed", layer("a", None, 1.0), layer("b", "int8", 1.0)))
    assert (some.notes[0].values["in_blocks"], some.notes[0].values["others"]) == (1, 0)
    with pytest.raises(RecipeError, match=r"shape \[4, 16\].*\[1, 16\]"):
        read(report(tmp_path / "large", layer("a", "fp16", 1.0), opt=(4, 16)))
    with pytest.raises(RecipeError, match="not a number of milliseconds"):
        read(report(tmp_path / "negative", layer("a", "fp16", -1.0)))
    (tmp_path / "no.json").write_text("[1]")
    for name in ("no.json", "nowhere"):
        with pytest.raises(RecipeError, match=name):
            read(tmp_path / name)


def cost(sim, seconds, rest=0.0):
    return CostModel(sim.switches, sim.facts, gpu_spec("A10"), FP16, LayerTimes(seconds, rest))


def test_a_float_layer_that_tensorrt_runs_in_fp32_has_its_time_all_the_same(tmp_path):
    asked = LayerInfo(
        node="a", op="Conv", role="compute", status="overridden", time_ms={"single": 0.4},
        asked=Asked(precision=FP16, reason="nobody asked", by="rest"), actual=ActualInfo(precision=Precision.FP32),
    ).model_dump(mode="json")  # fmt: skip
    assert read(report(tmp_path / "half", asked)).seconds == pytest.approx({("a", False): 4e-4})
    quantized = {**asked, "node": "b", "asked": {"precision": "int8", "reason": "", "by": "insert_qdq"}}
    assert ("b", False) not in read(report(tmp_path / "eight", asked, quantized)).seconds


def test_measured_layers_replace_the_roofline_and_scale_what_was_not_measured():
    sim = simulation(chain(4), feeds())
    plain = cost(sim, {})
    assert plain.scale == 1.0 and plain.measured_share() == 0.0
    assert plain.time() == CostModel(sim.switches, sim.facts, gpu_spec("A10"), FP16).time()
    whole = {(name, quantized): 1e-3 if quantized else 2e-3 for name in sim.names for quantized in (True, False)}
    measured = cost(sim, whole, rest=5e-4)
    assert measured.time(sim.names) == pytest.approx(4 * 2e-3 + 5e-4)
    assert measured.measured_share(sim.names) == 1.0
    # the border's quantization was not measured: a kernel of its own
    assert measured.time() - (4 * 1e-3 + 5e-4) == pytest.approx(LAUNCH, rel=0.01)
    assert 0.99 < measured.measured_share() < 1.0
    one = {("layer0", False): 10 * (plain.time(sim.names) / 4)}
    partly = cost(sim, one)
    assert partly.scale == pytest.approx(10, rel=0.01)
    assert partly.time(sim.names) == pytest.approx(10 * plain.time(sim.names), rel=0.02)
    assert partly.measured_share(sim.names) == pytest.approx(0.25, rel=0.05)


def test_the_latency_limit_is_judged_by_measured_times():
    sim = simulation(chain(4), feeds())
    fast = {(name, quantized): 1e-4 if quantized else 1.2e-4 for name in sim.names for quantized in (True, False)}
    budget = Budget(min_sqnr_db=1.0, max_ms=1.5)
    assert Search(sim, budget, cost(sim, fast)).run().best.kept == ()
    found = Search(sim, budget, cost(sim, {**fast, ("layer2", True): 3e-3}), prefer="time").run()
    assert found.plans[0].lacks["max_ms"] > 1.0
    # the layer that was measured slow in INT8 stays float
    assert found.best.meets and "layer2" in found.best.kept


@pytest.mark.parametrize("slow", [("layer1",), ("layer0", "layer1", "layer2", "layer3"), ()])
def test_where_time_counts_only_what_pays_is_quantized_although_all_of_it_keeps_the_budget(slow):
    sim = simulation(chain(4), feeds())
    times = {(name, False): 1.2e-4 for name in sim.names}
    times |= {(name, True): 3e-3 if name in slow else 5e-5 for name in sim.names}
    found = Search(sim, Budget(min_sqnr_db=1.0), cost(sim, times), prefer="time").run()
    assert found.best.meets and found.plans[0].meets and set(slow) <= set(found.best.kept)
    assert found.best.kept == slow or len(slow) == 1  # the borders around one island cost time of their own
    assert found.best.seconds == min(plan.seconds for plan in found.plans)
    every = len(found.best.kept) == len(sim.names)
    assert (Code.SEARCH_ALL_FLOAT(by_time=True, faster=0) in found.notes) is every
    by_int8 = Search(sim, Budget(min_sqnr_db=1.0), cost(sim, times)).run()
    assert by_int8.best.kept == ()
