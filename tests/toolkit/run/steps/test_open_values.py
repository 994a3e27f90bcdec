"""The opened engine run on samples, with onnxruntime in the engine's place: quantized, float, lossy, or crashing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from passes.strip_qdq import StripQDQ
from tests.conftest import MODELS, said
from tests.small_digits import small_digits
from tests.toolkit.backends.payoff_stand_in import StandIn
from tests.toolkit.run.steps.test_device import FakeEngine
from toolkit import Code, Context, Model, run
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.backends.jobs import run_engine
from toolkit.backends.processes import process
from toolkit.base import gpu
from toolkit.base.errors import BackendError
from toolkit.base.gpu import Gpu
from toolkit.contract.journal import Journal
from toolkit.report.findings import sentence
from toolkit.report.page.html import render_html
from toolkit.report.terminal.report import to_text
from toolkit.run.steps import open_values as run_open_values

RECIPE = """
[model]
path = "{model}"
[[profile]]
name = "small"
shapes.image = {{ min = [1, 1, 8, 8], opt = [4, 1, 8, 8], max = [8, 1, 8, 8] }}
[[profile]]
name = "large"
shapes.image = {{ min = [16, 1, 8, 8], opt = [16, 1, 8, 8], max = [32, 1, 8, 8] }}
[calibration]
data = "{data}"
samples = 32
[[pass]]
use = "fold_constants"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "insert_qdq"
[engine]
prefer = "int8"
open = true
"""


class Opened(StandIn):
    """An "engine" that is an ONNX file; the opened one hands out its marked tensors, of either form, all opaque."""

    form, typing = "quantized", "weak"

    def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
        marked = extras.opened
        built = super().build(model_path, profiles, settings, extras=SimpleNamespace(opened=()))
        model = Model.load(model_path)
        self.opened[-1] = marked
        if marked and self.form == "float":
            StripQDQ()(model, Context())
        proto = model.to_proto()
        if self.form != "mute":
            proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in marked)
        built.engine = proto.SerializeToString()
        return built


class Runner(FakeEngine):
    """Runs it, its inner tensors in float16 as marked outputs are."""

    feeds: list = []  # noqa: RUF012

    def run(self, feeds, profile):
        assert self.profiles[profile].fits({name: values.shape for name, values in feeds.items()})
        found = self.session.run(feeds)
        if len(found) > 1:
            Runner.feeds.append((profile, len(feeds["image"])))
        return {name: values if name == "logits" else values.astype(np.float16) for name, values in found.items()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    model = small_digits()
    onnx.save(model, str(tmp_path / "digits.onnx"))
    with np.load(MODELS / "digits_calibration.npz") as stored:
        np.savez(tmp_path / "data.npz", image=stored["image"][:80])
    names = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    backend = Opened(dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.5), {"small": 1.0, "large": 2.0}, opaque=True)

    def run_job(job, request, log=None, progress=None):
        assert job == "run_engine"
        return json.loads(
            json.dumps(run_engine.run_batches(json.loads(json.dumps(request)), SimpleNamespace(progress=progress)))
        )

    monkeypatch.setattr(choose, "choose", lambda name="auto": (backend, EngineCode.BACKEND_REQUESTED()))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("NVIDIA Test", "9.0"))
    monkeypatch.setattr(process, "run_job", run_job)
    monkeypatch.setattr(run_engine, "EngineRunner", Runner)
    monkeypatch.setattr(Runner, "feeds", [])
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(model="digits.onnx", data="data.npz"))
    return backend, path, tmp_path / "out"


def opened_layers(result):
    return [x for x in result.report.layers if x.actual.opened is not None and x.actual.opened.values is not None]


def notes(folder):
    return [e for e in Journal.from_jsonl((folder / "journal.jsonl").read_text()).events if e.by == "open"]


@pytest.mark.parametrize(("form", "verdict"), [("quantized", "as quantized"), ("float", "as float")])
def test_the_verdict_is_what_the_engine_computed(place, form, verdict):
    backend, path, out = place
    backend.form = form
    result = run(path, out)
    layers = opened_layers(result)
    products = [x for x in layers if x.op in ("Conv", "Gemm")]
    assert len(products) >= 2, notes(out)
    assert {x.actual.opened.values.verdict for x in products} == {verdict}
    for layer in products:
        opened, values = layer.actual.opened, layer.actual.opened.values
        assert layer.status == "opaque" and layer.actual.precision is None
        assert (str(opened.precision), opened.source) == (
            ("int8", "values") if form == "quantized" else ("None", "inspector")
        )
        assert values.samples == 16 and values.engine.sqnr_db is not None
        nearer = values.to_quantized_db - values.to_float_db
        assert nearer >= 6 if form == "quantized" else nearer <= -6
        assert (values.engine.sqnr_db > values.simulated.sqnr_db + 6) is (form == "float")
        assert verdict in layer.reason and "to the INT8 simulation" in layer.reason
        assert layer.reason.count("marked tensors break fusions") == 1
        assert ("Q and DQ kernels would give the same" in layer.reason) is (form == "quantized")
    # what nobody asked to quantize gets no precision, whatever its values are
    assert all(x.actual.opened.precision is None for x in layers if str(x.asked.precision) != "int8")
    assert {profile for profile, _ in Runner.feeds} == {"small", "large"} and len(Runner.feeds) == 32
    (ran,) = said(notes(out), Code.OPENED_RAN)
    assert (ran["samples"], ran["runs"]) == (16, 32) and dict(zip(ran["verdicts"], ran["counts"]))[verdict] == len(
        layers
    )
    assert "by their values once opened" in to_text(result.report) and verdict in render_html(result.report)
    assert {s.status for s in run(path, out).steps} == {"reused"}


def test_a_crash_is_noted_fails_nothing_and_is_tried_again(place, monkeypatch):
    _, path, out = place
    ran = process.run_job

    def crash(job, request, log=None, progress=None):
        if request["engine"].endswith("opened.engine"):
            raise BackendError("the process that ran 'run_engine' was ended by SIGSEGV", remedy="try another version")
        return ran(job, request, log, progress)

    with monkeypatch.context() as patch:
        patch.setattr(process, "run_job", crash)
        result = run(path, out)
    assert result.exit_status == 0 and not opened_layers(result) and result.report.device.status == "ran"
    assert any(x.actual.opened is not None for x in result.report.layers)
    (failed,) = said(notes(out), Code.OPENED_RUN_FAILED)
    assert "SIGSEGV" in failed["error"]
    again = run(path, out)
    assert next(s.status for s in again.steps if s.name == "open") == "done" and opened_layers(again)


def test_an_engine_that_hands_nothing_out_is_said(place):
    backend, path, out = place
    backend.form = "mute"
    assert not opened_layers(run(path, out))
    assert [one["there"] for one in said(notes(out), Code.OPENED_NONE_COMPARABLE)] == [0]


def test_without_a_gpu_or_with_the_check_switched_off_it_is_not_run_and_that_is_said(place):
    _, path, out = place
    assert not opened_layers(run(path, out, device_check=False)) and Runner.feeds == []
    (why,) = said(notes(out), Code.OPENED_NOT_RUN)
    assert "--no-device-check" in sentence(why["why"])
    assert opened_layers(run(path, out))


def test_too_large_tensors_and_runs_are_left_out_and_said(place, monkeypatch):
    _, path, out = place
    monkeypatch.setattr(run_open_values, "_RUN_BYTES", 1024)
    result = run(path, out)
    assert opened_layers(result) and {profile for profile, _ in Runner.feeds} == {"small"}
    (ran,) = said(notes(out), Code.OPENED_RAN)
    assert ran["large"] == 16 and said(notes(out), Code.OPENED_NOT_COMPARED)
