"""The engine on a GPU, with onnxruntime in the engine's place: what is fed, what is compared, what a crash leaves."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import pytest

from tests.conftest import OLD_ONNXRUNTIME, build, digits_recipe, node, normal
from toolkit import Model, run
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.backends.jobs import run_engine
from toolkit.backends.layers.layer import Build
from toolkit.backends.none import NoBackend
from toolkit.backends.processes import process
from toolkit.backends.processes.exchange import load_arrays, store_arrays
from toolkit.base import gpu
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.gpu import Gpu
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.cli.main import invoke
from toolkit.data.dataset import CalibrationData
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import judged_accuracy
from toolkit.report.findings import sentence
from toolkit.run.inputs.feeds import Feed, Tally, own_rows, split


class FakeEngine:
    """An "engine" that is an ONNX file, run by onnxruntime; refuses shapes outside the profile as TensorRT does."""

    fed: ClassVar[list] = []
    spoil = staticmethod(lambda outputs, profile: outputs)

    def __init__(self, engine, backend, profiles):
        self.session, self.profiles = session(engine), profiles

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, feeds, profile):
        shapes = {name: values.shape for name, values in feeds.items()}
        assert profile is None or self.profiles[profile].fits(shapes)
        FakeEngine.fed.append((profile, next(iter(shapes.values()))))
        return FakeEngine.spoil(self.session.run(feeds), profile)


class Builder(NoBackend):
    """Gives the model itself for an engine."""

    name = "tensorrt"

    def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
        return Build("tensorrt", "8.6.0", engine=model_path.read_bytes(), latency={"single": {"opt": 0.5}})


@pytest.fixture
def on_gpu(monkeypatch):
    """A machine with a GPU whose child process runs in this one."""

    def run_job(job, request, log=None, progress=None):
        assert job == "run_engine"
        request = json.loads(json.dumps(request))
        return json.loads(json.dumps(run_engine.run_batches(request, SimpleNamespace(progress=progress))))

    monkeypatch.setattr(FakeEngine, "fed", [])
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: outputs))
    monkeypatch.setattr(choose, "choose", lambda name: (Builder(), EngineCode.BACKEND_REQUESTED()))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("NVIDIA Test", "9.0"))
    monkeypatch.setattr(process, "run_job", run_job)
    monkeypatch.setattr(run_engine, "EngineRunner", FakeEngine)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "digits.toml").write_text(digits_recipe(tmp_path))
    return tmp_path


def status(result, name):
    return {step.name: step.status for step in result.steps}.get(name)


def warned(result):
    return [w for w in result.report.summary.warnings if "GPU" in w]


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="the stand-in engine is onnxruntime, which quantizes float16 inexactly")
def test_every_profile_runs_real_samples_and_the_metric_is_the_recipes(place, on_gpu):
    result = run(place / "digits.toml", place / "out")
    device, simulated = result.report.device, result.report.accuracy
    assert result.exit_status == 0 and device.status == "ran" and device.gpu == "NVIDIA Test"
    assert set(device.profiles) == {"single", "batch"} and device.samples == simulated.samples
    assert all(one.samples == simulated.samples for one in device.profiles.values())
    # the "engine" is the simulated model itself in onnxruntime, so its figures are the simulation's but for the
    # rounding of float16, which the simulation writes out
    assert device.accuracy.quantized == simulated.quantized and device.accuracy.before == simulated.before
    assert (
        device.accuracy.budget == 0.005
        and device.accuracy.met
        and device.accuracy.source == "the engine on NVIDIA Test"
    )
    for one in device.profiles.values():
        assert one.quantized == simulated.quantized
        assert one.outputs["logits"].sqnr_db == pytest.approx(simulated.outputs["logits"].sqnr_db, abs=0.3)
        assert one.outputs["logits"].agreement == simulated.outputs["logits"].agreement
    shapes = {profile: {shape[0] for name, shape in FakeEngine.fed if name == profile} for profile in device.profiles}
    assert max(shapes["single"]) == 4 and min(shapes["batch"]) >= 4
    assert "on the GPU" in result.report.summary.headline and not warned(result)


def test_it_is_found_again_and_made_again_when_the_engine_changes(place, on_gpu):
    run(place / "digits.toml", place / "out")
    count = len(FakeEngine.fed)
    again = run(place / "digits.toml", place / "out")
    assert {step.status for step in again.steps} == {"reused"} and len(FakeEngine.fed) == count
    (place / "digits.toml").write_text((place / "digits.toml").read_text().replace('"mse"', '"minmax"'))
    changed = run(place / "digits.toml", place / "out")
    assert status(changed, "device") == "done" and len(FakeEngine.fed) > count


def test_an_engine_that_misses_the_budget_is_told_in_the_first_line(place, on_gpu, monkeypatch):
    def wrong(outputs, profile):
        scores = outputs["logits"].copy()
        scores[::10] = -scores[::10]
        return {"logits": scores}

    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(wrong))
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 1 and result.report.accuracy.met and not result.report.device.accuracy.met
    assert result.report.summary.headline.startswith(("MISSED ITS BUDGET on the GPU", "BROKEN: on the GPU"))


def test_one_profile_that_computes_nonsense_is_broken(place, on_gpu, monkeypatch):
    def nonsense(outputs, profile):
        return {"logits": outputs["logits"] * (np.nan if profile == "single" else 1)}

    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(nonsense))
    result = run(place / "digits.toml", place / "out")
    assert result.report.summary.verdict == "broken"
    assert "on the GPU in profile 'single', output 'logits' holds NaN or infinity" in result.report.summary.headline


def test_a_crash_loses_nothing_but_the_check(place, on_gpu, monkeypatch):
    def crash(job, request, log=None, progress=None):
        raise BackendError("the process that ran 'run_engine' was ended by SIGSEGV", remedy="try another version")

    with monkeypatch.context() as patch:
        patch.setattr(process, "run_job", crash)
        result = run(place / "digits.toml", place / "out")
        assert result.exit_status == 3 and result.report.summary.verdict == "broken"
        assert result.report.summary.headline.startswith(
            "BROKEN: the engine failed on its own GPU (NVIDIA Test): the process that ran 'run_engine' was ended by SIGSEGV"
        )
        for name in ("model.engine", "report.html", "report.json", "journal.jsonl"):
            assert (place / "out" / name).stat().st_size
        assert ReportCode.DEVICE_RUN_FAILED.value in (place / "out" / "journal.jsonl").read_text()
        # tried again, not found again
        assert status(run(place / "digits.toml", place / "out"), "device") == "done"
    mended = run(place / "digits.toml", place / "out")
    assert mended.exit_status == 0 and mended.report.device.status == "ran"
    assert {step.name for step in mended.steps if step.status == "done"} == {"device", "report"}


def test_a_lost_output_is_a_failure(place, on_gpu, monkeypatch):
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {}))
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 3 and "the engine has no output 'logits'" in result.report.summary.headline


def test_switched_off_it_is_not_run_and_that_is_noted(place, on_gpu):
    run(place / "digits.toml", place / "out")
    result = run(place / "digits.toml", place / "out", device_check=False)
    assert result.report.device.status == "skipped" and status(result, "device") is None
    assert not (place / "out" / ".qtool" / "device.json").exists()
    assert "switched off by --no-device-check" in (place / "out" / "journal.jsonl").read_text()


def test_what_an_interrupted_run_left_is_not_taken_for_this_ones(place, on_gpu):
    left = place / "out" / ".qtool" / "device.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"status": "failed", "why": "of another engine", "gpu": "another"}')
    result = run(place / "digits.toml", place / "out", device_check=False)
    assert result.exit_status == 0 and result.report.device.status == "skipped"


def test_a_metric_that_cannot_take_the_engines_outputs_is_a_failure_of_the_check(place, on_gpu, monkeypatch):
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {"logits": np.float32(1)}))
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 3 and "the metric does not accept the engine's outputs" in result.report.device.why
    assert (place / "out" / "report.html").is_file()


def test_without_a_gpu_it_is_left_out_or_refused(place, capsys):
    text = (place / "digits.toml").read_text().replace('"auto"', '"none"')
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 0 and result.report.device.why == "this machine has no GPU to run the engine"
    assert not warned(result) and "no GPU to run" in (place / "out" / "journal.jsonl").read_text()
    assert invoke(["run", str(place / "digits.toml"), "--out", str(place / "new"), "--device-check"]) == 3
    said = capsys.readouterr().err
    assert (
        "no GPU to run" in said and "leave out --device-check" in said and not (place / "new" / "model.onnx").exists()
    )


def test_an_engine_for_another_gpu_is_not_run(place, monkeypatch):
    from toolkit.backends import rtx
    from toolkit.backends.rtx import RtxBackend
    from toolkit.run.checks.device import refusal

    monkeypatch.setattr(choose, "choose", lambda name: (RtxBackend(), EngineCode.BACKEND_REQUESTED()))
    for module in (gpu, rtx):
        monkeypatch.setattr(module, "find_gpu", lambda: Gpu("NVIDIA H200", "9.0"))
    from toolkit.run.recipe.recipe import Recipe

    found = refusal(Recipe.load(place / "digits.toml"))
    assert isinstance(found, BackendError) and "compute capability 8.9" in found.what and "has 9.0" in found.what


def test_no_samples_no_check(place, on_gpu):
    text = (place / "digits.toml").read_text()
    text = text[: text.index("[calibration]")] + '[[pass]]\nuse = "fold_constants"\n'
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.report.device.why == "there are no samples to run the engine on" and result.exit_status == 0
    with pytest.raises(QtoolError, match="no samples to run the engine on") as caught:
        run(place / "digits.toml", place / "out", device_check=True)
    assert caught.value.exit_status == 2


# ---------------------------------------------------------------- batches within profiles


def batched(low, high, count, profiles=1):
    """Data of ``count`` samples [1, 3] for a model [n, 3], with a profile of batches from ``low`` to ``high``."""
    proto = build([node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, {"y": ["n", 3]})
    named = [ShapeProfile(f"p{i}", {"x": Extent((low * 2**i, 3), (high, 3), (high, 3))}) for i in range(profiles)]
    samples = [{"x": normal(1, 3, seed=i), "label": np.array([i])} for i in range(count)]
    return CalibrationData.open(samples, Model.from_proto(proto), Profiles(tuple(named)), labels=True)


@pytest.mark.parametrize(
    ("low", "high", "count", "rows"),
    [(1, 4, 10, [4, 4, 2]), (4, 8, 18, [8, 8, 4]), (16, 16, 3, [16]), (1, 1, 3, [1, 1, 1])],
)
def test_batches_are_cut_and_filled_to_fit(low, high, count, rows):
    data, tally = batched(low, high, count), Tally()
    feeds = [feed for batch in data.batches(32) for feed in split(batch, data, tally)]
    assert [feed.rows for feed in feeds] == [len(feed.inputs["x"]) for feed in feeds] == rows
    assert [origin for feed in feeds for origin in feed.origins] == list(range(count))
    assert np.concatenate([feed.labels["label"] for feed in feeds]).tolist() == list(range(count))
    for feed in feeds:
        for row, origin in enumerate(feed.origins):
            assert np.array_equal(feed.inputs["x"][row], normal(1, 3, seed=origin)[0])
    assert tally.left_out == 0 and tally.filled == sum(feed.count < feed.rows for feed in feeds)


def test_rows_that_filled_a_batch_up_are_cut_off_along_the_axis_that_counts_samples():
    feed = Feed("p", {"x": np.zeros((4, 3))}, None, 3, 4, (0, 1, 2))
    found = {"rows": normal(4, 3), "columns": normal(4, 4, 2), "both": normal(4, 5)}
    wanted = {"rows": found["rows"][:3], "columns": found["columns"][:, :3], "both": found["both"][:3]}
    own = own_rows(wanted, found, feed)
    assert own is not None and all(np.array_equal(own[name], values) for name, values in wanted.items())
    for lost in (np.float32(1), normal(7), normal(3, 3)):
        assert own_rows({**wanted, "mean": lost}, {**found, "mean": lost}, feed) is None
    assert own_rows({"y": normal(3, 3)}, {"y": normal(4, 4)}, feed) is None


MIXING = """[model]
path = "m.onnx"
[[profile]]
name = "large"
shapes.x = { min = [8, 4], opt = [8, 4], max = [8, 4] }
[calibration]
data = "data.npz"
[[pass]]
use = "insert_qdq"
"""


@pytest.mark.parametrize(("count", "runs"), [(80, True), (12, False)])
def test_an_output_that_mixes_samples_is_judged_on_full_batches_only(tmp_path, on_gpu, count, runs):
    proto = build(
        [node("MatMul", ["x", "w"], ["y"]), node("ReduceMean", ["y"], ["mean"], keepdims=0)],
        {"x": ["n", 4]}, {"y": ["n", 3], "mean": []}, {"w": normal(4, 3)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(count, 4, seed=5))
    (tmp_path / "r.toml").write_text(MIXING)
    if not runs:
        with pytest.raises(BackendError, match="an output without a batch axis mixes them"):
            run(tmp_path / "r.toml", tmp_path / "out", device_check=True)
    result = run(tmp_path / "r.toml", tmp_path / "out")
    device = result.report.device
    assert (device.status, device.samples) == (("ran", 16) if runs else ("skipped", 0))
    assert runs or device.why == sentence(ReportCode.SAMPLES_MIXED())


def test_a_sample_runs_in_every_profile_it_counts_for():
    data, tally = batched(2, 8, 5, profiles=2), Tally()
    feeds = [feed for batch in data.batches(32) for feed in split(batch, data, tally)]
    assert {(feed.profile, feed.count, feed.rows) for feed in feeds} == {("p0", 5, 5), ("p1", 5, 5)}


def test_rows_that_belong_together_are_left_out_where_they_do_not_fit():
    proto = build([node("Softmax", ["x"], ["y"], axis=0)], {"x": ["n", 3]}, {"y": ["n", 3]})
    profiles = Profiles((ShapeProfile("p", {"x": Extent((1, 3), (2, 3), (4, 3))}),))
    data = CalibrationData.open([{"x": normal(6, 3)}, {"x": normal(3, 3)}], Model.from_proto(proto), profiles)
    tally = Tally()
    feeds = [feed for batch in data.batches(4) for feed in split(batch, data, tally)]
    assert [feed.origins for feed in feeds] == [(1,)] and tally.left_out == 1


def test_a_fixed_model_without_profiles_and_an_odd_output(tmp_path, on_gpu):
    proto = build(
        [node("MatMul", ["x", "w"], ["y"]), node("ReduceMax", ["y"], ["top"], keepdims=0), node("ArgMax", ["y"], ["best"])],
        {"x": [1, 4]}, {"y": [1, 3], "top": [], "best": [1, 3]}, {"w": normal(4, 3)}, types={"best": onnx.TensorProto.INT64},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(12, 4, seed=5))
    (tmp_path / "r.toml").write_text(
        '[model]\npath = "m.onnx"\n[calibration]\ndata = "data.npz"\n[[pass]]\nuse = "insert_qdq"\n'
    )
    result = run(tmp_path / "r.toml", tmp_path / "out")
    device = result.report.device
    assert device.status == "ran" and list(device.profiles) == ["default"] and device.samples == 2
    assert set(device.accuracy.outputs) == {"y", "top", "best"} and {p for p, _ in FakeEngine.fed} == {None}
    assert device.accuracy.outputs["best"].agreement is not None


def test_arrays_travel_in_order_whatever_their_names(tmp_path):
    import ml_dtypes

    arrays = [normal(2, 3), np.array(7, np.int64), np.array([True, False]), normal(2).astype(ml_dtypes.bfloat16)]
    store_arrays(tmp_path / "a.npz", arrays)
    again = load_arrays(tmp_path / "a.npz")
    assert [a.dtype for a in again] == [np.float32, np.int64, np.bool_, np.float32]
    assert all(np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(arrays, again))


def test_the_real_child_process_says_that_no_gpu_is_here(tmp_path):
    if gpu.find_gpu() is not None:
        pytest.skip("a GPU is here")
    (tmp_path / "e").write_bytes(b"engine")
    request = {"engine": str(tmp_path / "e"), "backend": "tensorrt", "profiles": [], "batches": []}
    with pytest.raises(BackendError, match="this machine has no GPU"):
        process.run_job("run_engine", request)


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="the stand-in engine is onnxruntime, which quantizes float16 inexactly")
def test_the_accuracy_of_an_engine_is_measured_again(place, on_gpu, monkeypatch, capsys):
    device = run(place / "digits.toml", place / "out").report.device
    assert invoke(["accuracy", str(place / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] is None and found["device"] == device.model_dump(mode="json", by_alias=True)
    # what the engine gave is measured, and judged as a run's figures are
    assert found["verdict"] == judged_accuracy(device.accuracy, None) != "unmeasured"
    assert invoke(["accuracy", str(place / "out")]) == 0 and "measured on the GPU" in capsys.readouterr().out
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {n: -v for n, v in outputs.items()}))
    assert invoke(["accuracy", str(place / "out"), "--on", "engine", "--samples", "20"]) == 1
    monkeypatch.setattr(gpu, "find_gpu", lambda: None)
    capsys.readouterr()
    assert invoke(["accuracy", str(place / "out"), "--on", "engine"]) == 3
    assert "no GPU to run" in capsys.readouterr().err
    assert invoke(["accuracy", str(place / "out"), "--samples", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["samples"] == 20
