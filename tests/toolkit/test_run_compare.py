"""``[engine] compare`` in a run: layer times of all engines, joined, and what the report makes of them."""

from __future__ import annotations

import json
import shutil
from typing import ClassVar

import pytest

from tests.conftest import MODELS, ROOT
from toolkit import Model, run
from toolkit.backends import choose, gpu
from toolkit.backends.gpu import Gpu
from toolkit.backends.layer import Build, Layer, Port
from toolkit.backends.none import NoBackend
from toolkit.recipe import tomllib

FLOAT_MS, INT8_MS, PAIR_MS = 0.02, 0.01, 0.015


class Builder(NoBackend):
    """An "engine" of one layer a node, Q/DQ pairs of activations included; each kind of layer takes its own time."""

    name = "tensorrt"
    latency: ClassVar = {"compare": 0.3, "model": 0.4}

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
        return Build("tensorrt", "8.6.0", None, layers, "inspector", settings={"profiles": profiles.names, "typing": "strong"},
                     time_ms=times, latency={name: {"opt": self.latency[which]} for name in profiles.names})  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "choose", lambda name: (Builder(), "for the test"))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("NVIDIA Test", "9.0"))
    for name in ("digits_cnn.onnx", "digits_calibration.npz", "digits_test.npz"):
        shutil.copy(MODELS / name, tmp_path / name)
    text = (ROOT / "recipes" / "digits_int8.toml").read_text().replace("../models/", "")
    (tmp_path / "digits.toml").write_text(text.replace('"auto"', '"auto"\ncompare = ["fp32", "fp16"]'))
    return tmp_path


def test_a_run_says_group_by_group_whether_it_paid(place):
    result = run(place / "digits.toml", place / "out")
    report = result.report
    assert result.exit_status == 0 and set(report.payoff.against) == {"fp32", "fp16"}
    assert report.summary.headline.startswith(
        "SLOWER than FP16: 0.400 ms against 0.300 in profile 'single' and in 1 more. Usable"
    )
    compared = report.payoff.against["fp16"]
    stored = json.loads((place / "out" / ".qtool" / "compare.json").read_text())["fp16"]
    assert set(stored) == {"build", "runs"} and stored["build"]["latency"] == report.latency["compare"]["fp16"]
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
    convolution = next(group for group in compared.groups if group.name == "/stem/conv/Conv")
    assert convolution.paid == "slower" and convolution.times["single"].gain_ms < 0
    assert (
        convolution.times["single"].qdq_ms >= 2 * PAIR_MS - 1e-9
        and "Q/DQ kernels (pairs that did not fuse)" in convolution.why
    )
    fragments = [tomllib.loads(s.fragment) for s in report.summary.next if s.fragment]
    assert {"pass": [{"use": "insert_qdq", "only_if_faster": True}]} in fragments
    assert any("keep_precision" in s.fragment and '"/stem/conv/Conv"' in s.fragment for s in report.summary.next)
    assert any("Q/DQ kernels" in warning for warning in report.summary.warnings)
    assert "Did quantization pay?" in (place / "out" / "report.html").read_text()


def test_a_fused_engine_that_is_faster_is_told_so(place, monkeypatch):
    monkeypatch.setattr(Builder, "latency", {"compare": 0.3, "model": 0.2})
    monkeypatch.setitem(globals(), "PAIR_MS", 0.0)
    result = run(place / "digits.toml", place / "out")
    compared = result.report.payoff.against["fp16"]
    assert "; 1.50 times as fast as FP16." in result.report.summary.headline
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
