"""``[engine] compare`` in a run: layer times of all engines, joined, and what the report makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest

from tests.conftest import build, digits_recipe
from tests.conftest import node as op
from toolkit import Model, run
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build, Layer, Port
from toolkit.backends.none import NoBackend
from toolkit.backends.processes import process
from toolkit.backends.tensorrt import TensorRTBackend
from toolkit.base import gpu
from toolkit.base.errors import BackendError, RecipeError
from toolkit.base.gpu import Gpu
from toolkit.base.toml import tomllib
from toolkit.cli.main import invoke
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence

FLOAT_MS, INT8_MS, PAIR_MS = 0.02, 0.01, 0.015


class Builder(NoBackend):
    """An "engine" of one layer a node, Q/DQ pairs of activations included; each kind of layer takes its own time."""

    name = "tensorrt"
    in_turn = TensorRTBackend.in_turn
    latency: ClassVar = {"compare": 0.3, "model": 0.4}
    silent: ClassVar = ""

    def cannot_measure(self):
        return ""

    def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
        model = Model.load(model_path)
        layers, times = [], {}
        for node in model.nodes:
            data = [t for t in node.inputs if t.inputs or t.name in {i.name for i in model.graph.inputs}]
            if not data or node.op == "Cast":
                continue
            pair = node.op in ("QuantizeLinear", "DequantizeLinear")
            quantized = any(m.op == "DequantizeLinear" for t in data for m in t.inputs)
            kind = "int8" if quantized and not pair else "fp16"
            ports = [tuple(Port(t.name, kind) for t in side) for side in (data, node.outputs)]
            layers.append(
                Layer(
                    node.name,
                    "Reformat" if pair else "Kernel",
                    *ports,
                    nodes=(node.name,),
                    origin="QDQ" if pair else "",
                )
            )
            value = PAIR_MS if pair else INT8_MS if quantized else FLOAT_MS
            times[node.name] = dict.fromkeys(profiles.names, value)
        which = "compare" if "compare" in model_path.name else "model"
        latency = {name: {"opt": self.latency[which]} for name in profiles.names if name != self.silent}
        lacks = {}
        if self.silent:
            lacks = {self.silent: "the size of 'y' is not known in advance"}
        return Build("tensorrt", "8.6.0", None, layers, "inspector", settings={"profiles": profiles.names, "typing": "strong"},
                     time_ms=times, latency=latency, lacks=lacks)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "choose", lambda name: (Builder(), EngineCode.BACKEND_REQUESTED()))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("NVIDIA Test", "9.0"))
    text = digits_recipe(tmp_path)
    (tmp_path / "digits.toml").write_text(text.replace('"auto"', '"auto"\nprefer = "int8"\ncompare = ["fp32", "fp16"]'))
    return tmp_path


def test_a_run_says_group_by_group_whether_it_paid(place):
    result = run(place / "digits.toml", place / "out")
    report = result.report
    assert result.exit_status == 0 and set(report.payoff.against) == {"fp32", "fp16"}
    assert report.summary.headline.startswith(
        "SLOWER than FP16: 0.400 ms against 0.300 ms in profile 'single' and in 1 more. Within the budget on"
    )
    compared = report.payoff.against["fp16"]
    stored = json.loads((place / "out" / ".qtool" / "compare.json").read_text())["engines"]["fp16"]
    assert set(stored) == {"build", "runs", "lacks"} and not stored["lacks"]
    assert stored["build"]["latency"] == report.latency["compare"]["fp16"]
    for profile in ("single", "batch"):
        total = sum(times[profile] for times in stored["build"]["time_ms"].values())
        rest = compared.rest.get(profile)
        assert sum(g.times[profile].other_ms for g in compared.groups) + (
            rest.other_ms if rest else 0
        ) == pytest.approx(total)
        ours = sum(g.times[profile].ours_ms for g in compared.groups) + (rest.ours_ms if rest else 0)
        spent = report.payoff.overhead[profile]
        assert ours == pytest.approx(spent.layers_ms) and spent.qdq_kernels > 4 and spent.reformats == 0
        assert spent.qdq_ms == pytest.approx(spent.qdq_kernels * PAIR_MS)
    convolution = next(group for group in compared.groups if group.name == "stem")
    assert convolution.paid == "slower" and convolution.times["single"].gain_ms < 0
    assert (
        convolution.times["single"].qdq_ms >= 2 * PAIR_MS - 1e-9
        and "Q/DQ kernels (pairs that did not fuse)" in convolution.why
    )
    fragments = [tomllib.loads(s.fragment) for s in report.summary.next if s.fragment]
    assert {"pass": [{"use": "insert_qdq", "only_if_faster": True}]} in fragments
    assert any("keep_precision" in s.fragment and '"stem"' in s.fragment for s in report.summary.next)
    assert any("Q/DQ kernels" in warning for warning in report.summary.warnings)
    assert "Did quantization pay?" in (place / "out" / "report.html").read_text()


def timer(answer, asked):
    """Stands in for the child process that measures engines in turn."""

    def run_job(job, request, **rest):
        asked.append((job, request))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return run_job


@pytest.fixture
def engines(monkeypatch):
    """Builds give engines."""
    plain = Builder.build

    def build(self, model_path, profiles, settings, *rest, **more):
        return replace(plain(self, model_path, profiles, settings, *rest, **more), engine=model_path.name.encode())

    monkeypatch.setattr(Builder, "build", build)


def test_engines_are_measured_in_turn_and_that_decides(place, engines, monkeypatch):
    """By their builds' own numbers the engine is slower; side by side it is faster in one profile."""
    asked = []
    turns = {"single": {"ours": [0.25] * 5, "fp16": [0.3] * 5, "fp32": [0.5] * 5}}
    answer = {"turns": turns, "lacks": {"batch": "the GPU has no memory left"}}
    monkeypatch.setattr(process, "run_job", timer(answer, asked))
    report = run(place / "digits.toml", place / "out", device_check=False).report
    ((job, request),) = asked
    assert job == "measure_in_turn" and list(request["engines"]) == ["ours", "fp32", "fp16"]
    held = [Path(path).read_bytes().decode() for path in request["engines"].values()]
    assert held == ["model.onnx", "compare_fp32.onnx", "compare_fp16.onnx"]
    times = report.payoff.against["fp16"].profiles
    assert (times["single"].paid, times["single"].turns, times["single"].ours_ms) == ("faster", 5, 0.25)
    assert (times["batch"].paid, times["batch"].turns) == ("slower", 0)
    said = ReportCode.NOT_MEASURED_IN_TURN(profile="batch", why="the GPU has no memory left")
    assert sentence(said) in report.summary.warnings
    again = run(place / "digits.toml", place / "out", device_check=False)
    assert len(asked) == 1 and {step.status for step in again.steps} == {"reused"}


def test_without_turns_each_builds_own_latency_counts_with_a_warning(place, engines, monkeypatch):
    monkeypatch.setattr(process, "run_job", timer(BackendError("the child died"), []))
    report = run(place / "digits.toml", place / "out", device_check=False).report
    assert {times.turns for times in report.payoff.against["fp16"].profiles.values()} == {0}
    assert sum("the child died" in warning for warning in report.summary.warnings) == 2


def test_a_fused_engine_that_is_faster_is_told_so(place, monkeypatch):
    monkeypatch.setattr(Builder, "latency", {"compare": 0.3, "model": 0.2})
    monkeypatch.setitem(globals(), "PAIR_MS", 0.0)
    result = run(place / "digits.toml", place / "out")
    compared = result.report.payoff.against["fp16"]
    assert "; 1.50 times as fast as FP16; " in result.report.summary.headline
    quantized = [group for group in compared.groups if group.quantized]
    assert quantized and {group.paid for group in quantized} == {"faster"} and not any(group.why for group in quantized)
    assert not any("only_if_faster" in s.fragment or "compare" in s.fragment for s in result.report.summary.next)


def test_without_compare_the_overhead_is_told_and_the_comparison_suggested(place):
    text = (place / "digits.toml").read_text().replace('compare = ["fp32", "fp16"]\n', "")
    (place / "digits.toml").write_text(text)
    report = run(place / "digits.toml", place / "out").report
    assert not report.payoff.against and report.payoff.overhead["batch"].qdq_kernels > 4
    assert any('compare = ["fp16"]' in s.fragment for s in report.summary.next)
    assert not report.summary.headline.startswith("SLOWER")


def test_a_latency_that_is_missing_is_told_with_its_reason(place, monkeypatch):
    monkeypatch.setattr(Builder, "silent", "batch")
    report = run(place / "digits.toml", place / "out").report
    assert set(report.payoff.against["fp16"].profiles) == {"single"}
    why = "the size of 'y' is not known in advance"
    for engine in ("", "fp16", "fp32"):
        warning = ReportCode.LATENCY_NOT_MEASURED(profile="batch", why=why, engine=engine)
        assert sentence(warning) in report.summary.warnings


def test_a_backend_that_does_not_measure_is_refused_before_anything_is_built(place, monkeypatch):
    monkeypatch.setattr(
        Builder, "cannot_measure", lambda self: "the tensorrt_rtx backend builds engines without measuring"
    )
    with pytest.raises(RecipeError, match="builds engines without measuring"):
        run(place / "digits.toml", place / "out")
    assert not (place / "out" / "model.onnx").exists()


def test_stored_int8_weights_are_float_in_the_plain_engines(tmp_path, place, monkeypatch):
    """They have a DequantizeLinear and no QuantizeLinear."""
    weights = np.random.default_rng(0).integers(-127, 128, (3, 4), np.int8)
    proto = build(
        [op("DequantizeLinear", ["q", "s"], ["w"]), op("Gemm", ["x", "w"], ["y"], transB=1)],
        {"x": [1, 4]}, {"y": [1, 3]}, {"q": weights, "s": np.float32(0.01)},
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "m.onnx"))
    built = {}

    class Keeper(Builder):
        def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
            built[model_path.name] = [n.op for n in Model.load(model_path).nodes]
            return Build("tensorrt", "8.6.0", latency={"default": {"opt": 1.0}})

    monkeypatch.setattr(choose, "choose", lambda name: (Keeper(), EngineCode.BACKEND_REQUESTED()))
    (tmp_path / "r.toml").write_text('[model]\npath = "m.onnx"\n[engine]\ncompare = ["fp32"]\n')
    run(tmp_path / "r.toml", tmp_path / "plain")
    assert "DequantizeLinear" in built["model.onnx"] and built["compare_fp32.onnx"] == ["Gemm"]


def test_the_engines_of_runs_are_measured_again_in_turn(place, engines, monkeypatch, capsys):
    asked = []
    turns = {"single": {"ours": [0.25] * 5, "fp16": [0.3] * 5, "fp32": [0.5] * 5}}
    monkeypatch.setattr(process, "run_job", timer({"turns": turns, "lacks": {}}, asked))
    for name in ("one", "two"):
        run(place / "digits.toml", place / name, device_check=False)
    one, two = place / "one", place / "two"
    names = [f"{folder}{plain}" for folder in (one, two) for plain in ("", ", unquantized fp32", ", unquantized fp16")]
    again = {"turns": {"single": {name: [0.3, 0.1, 0.2] for name in names}}, "lacks": {"batch": "no memory"}}
    monkeypatch.setattr(process, "run_job", timer({**again, "time_ms": {"k": {"single": 0.1}}}, asked))
    assert invoke(["time", str(one), str(two), "--rounds", "3", "--layers", "--json"]) == 0
    job, request = asked[2]
    assert job == "measure_in_turn" and list(request["engines"]) == names and request["rounds"] == 3
    assert [job for job, _ in asked[3:]] == ["examine_tensorrt"] * 2 and not request["host_code"]
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"] == "NVIDIA Test" and found["lacks"]["batch"] == "no memory"
    assert found["times"][0] == {
        "engine": str(one), "profile": "single", "median": 0.2, "least": 0.1, "most": 0.3, "before": 0.4
    }  # fmt: skip
    assert found["times"][1]["before"] == 0.3
    assert invoke(["time", str(one)]) == 0


def test_what_cannot_be_measured_in_turn_is_refused(place, monkeypatch, capsys):
    run(place / "digits.toml", place / "none", device_check=False)
    assert invoke(["time", str(place / "none")]) == 3
    said = capsys.readouterr().err
    assert "built no engine (requested" in said and "--backend auto" in said
    assert invoke(["time", str(place)]) == 2 and "not a run folder" in capsys.readouterr().err
