"""A predicted time in the report: apart from what was measured, named by its GPU."""

from __future__ import annotations

import json

import pytest
from onnx import TensorProto

from tests.conftest import build, node
from toolkit import Model
from toolkit.base.precision import Precision
from toolkit.cli.main import invoke
from toolkit.report.findings.engine.prediction import prediction_words, uncounted_words
from toolkit.report.page.html import render_html
from toolkit.report.schema.prediction import PredictionInfo, predicted_time
from toolkit.report.schema.report import Report
from toolkit.report.terminal.report import to_text


@pytest.fixture
def ran(place):
    """The folder of a run with a GPU named."""
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--gpu", "nvidia l4"]) == 0
    return place / "out"


def test_it_is_apart_and_says_what_it_is(ran):
    report = Report.load(ran / "report.json")
    found = report.prediction
    assert found.gpu == "L4" and report.latency is None and report.recipe.given == {"report.gpu": "nvidia l4"}
    assert found.ms == pytest.approx(sum(layer.ms for layer in found.layers)) and not found.uncounted
    assert found.ms == pytest.approx(sum(found.bounded(bound) for bound in ("arithmetic", "memory", "launches")))
    # two kernels of a pair in front cost a launch each, which a layer so small does not win back
    assert found.pair_kernels == sum(layer.node.endswith("Linear") or "_to_" in layer.node for layer in found.layers)
    assert (found.ms >= found.float_ms) is ("does not pay" in prediction_words(found)) and found.pair_ms > 0
    assert all(layer.ms >= max(layer.arithmetic_ms, layer.memory_ms, layer.launch_ms) for layer in found.layers)
    text, page = to_text(report), render_html(report)
    assert "PREDICTED time on L4" in text and "Predicted for L4" in page
    nothing = report.model_copy(update={"prediction": PredictionInfo(gpu="L4", uncounted=["plugin"])})
    said = uncounted_words(nothing.prediction)
    assert "'plugin'" in said and said in to_text(nothing) and "Predicted for L4" in render_html(nothing)
    silent = report.model_copy(update={"prediction": None})
    assert "redicted" not in to_text(silent) and "Predicted for" not in render_html(silent)


def test_time_lists_every_layer_where_layers_are_asked_for(ran, monkeypatch, capsys):
    monkeypatch.setattr("toolkit.report.terminal.engine._MOST_PREDICTED", 1)
    layers = Report.load(ran / "report.json").prediction.layers
    capsys.readouterr()
    assert invoke(["time", str(ran), "--gpu", "L4", "--layers"]) == 0
    text = capsys.readouterr().out
    assert len(layers) > 1 and all(layer.node in text for layer in layers)


def test_time_predicts_where_a_gpu_is_named(ran, capsys):
    capsys.readouterr()
    assert invoke(["time", str(ran), "--gpu", "H100", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predicted"].values()
    assert found["gpu"] == "H100" and found["ms"] < Report.load(ran / "report.json").prediction.ms + 1
    assert invoke(["time", str(ran), "--gpu", "T4"]) == 0 and "PREDICTED" in capsys.readouterr().out
    assert invoke(["time", str(ran), "--gpu", "L5"]) == 2 and "'L4'" in capsys.readouterr().err


def test_a_graph_without_pairs_is_not_compared_with_itself():
    """Its Casts at inputs and outputs are those that a float16 graph has."""
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Neg", ["h"], ["n"]),
             node("Cast", ["n"], ["y"], to=TensorProto.FLOAT)]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": [1, 8]}, {"y": [1, 8]}))
    found = predicted_time("L4", model, model.facts(), {}, Precision.FP16, "default")
    assert found.ms and found.float_ms is None and found.pair_kernels == 1
    assert "pair" not in prediction_words(found) and "Quantizing" not in prediction_words(found)


def test_a_gpu_that_is_not_known_is_refused_beforehand(place, capsys):
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out"), "--gpu", "L5"]) == 2
    said = capsys.readouterr().err
    assert "--set report.gpu" in said and "'L4'" in said and not (place / "out" / "report.json").exists()
