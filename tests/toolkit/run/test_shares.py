"""One share of the arithmetic: terminal, page, report.json, search and sensitivity say the same number."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import run
from toolkit.backends.layers.layer import Actual
from toolkit.base.precision import Precision
from toolkit.cli.analysis import sensitivity
from toolkit.report.findings.words import share_percent, work_share
from toolkit.report.page.html import render_html
from toolkit.report.sections.shares import quantized_shares, share_words
from toolkit.report.terminal.report import to_text

RECIPE = """
[model]
path = "m.onnx"
[calibration]
data = "calib.npz"
method = "minmax"
[[pass]]
use = "{use}"
{more}
[engine]
backend = "none"
[evaluation]
task = "regression"
budget = {{ min_sqnr_db = 10.0 }}
"""
WORK = {"in": 6 * 2 * 3 * 8, "rec": 6 * 2 * (32 * 8 + 32 * 8), "out": 6 * 2 * 8 * 4}


def recurrent(kind="LSTM"):
    """A product, an LSTM that does nearly all of the work, and a product."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = {
        "w": normal(3, 8, seed=1), "W": normal(1, gates * 8, 8, seed=2, scale=0.3),
        "R": normal(1, gates * 8, 8, seed=3, scale=0.3), "v": normal(8, 4, seed=4), "one": np.array([1]),
    }  # fmt: skip
    parts = [
        node("MatMul", ["x", "w"], ["a"], name="in"), node(kind, ["a", "W", "R"], ["h"], name="rec", hidden_size=8),
        node("Squeeze", ["h", "one"], ["s"]), node("MatMul", ["s", "v"], ["y"], name="out"),
    ]  # fmt: skip
    return build(parts, {"x": [6, 2, 3]}, {"y": [6, 2, 4]}, weights)


def attending():
    """Two products around ONNX's Attention, which onnxruntime computes by its definition."""
    weights = {"w": normal(8, 8, seed=1, scale=0.3), "v": normal(8, 4, seed=4)}
    parts = [
        node("MatMul", ["x", "w"], ["a"], name="in"),
        node("Attention", ["a", "a", "a"], ["h"], name="rec", q_num_heads=2, kv_num_heads=2),
        node("MatMul", ["h", "v"], ["y"], name="out"),
    ]
    return build(parts, {"x": [2, 6, 8]}, {"y": [2, 6, 4]}, weights, opset=23, ir_version=11)


def summing():
    weights = {"w": normal(3, 8, seed=1), "e": normal(8, 16, 8, seed=2, scale=0.1), "v": normal(8, 4, seed=4)}
    parts = [
        node("MatMul", ["x", "w"], ["a"], name="in"),
        node("Einsum", ["a", "e"], ["h"], name="rec", equation="tbi,ijk->tbk"),
        node("MatMul", ["h", "v"], ["y"], name="out"),
    ]
    return build(parts, {"x": [6, 2, 3]}, {"y": [6, 2, 4]}, weights)


MODELS = {
    "LSTM": (recurrent(), WORK), "GRU": (recurrent("GRU"), {**WORK, "rec": 12 * 3 * 128}),
    "RNN": (recurrent("RNN"), {**WORK, "rec": 12 * 128}),
    "Attention": (attending(), {"in": 12 * 64, "rec": 2 * 6 * 6 * 16, "out": 12 * 32}),
    "Einsum": (summing(), {"in": 12 * 24, "rec": 12 * 8 * 16 * 8, "out": 12 * 32}),
}  # fmt: skip


def written(folder, proto, use, more=""):
    onnx.save(proto, str(folder / "m.onnx"))
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    np.savez(folder / "calib.npz", x=np.stack([normal(*shape, seed=i) for i in range(6)]).reshape(-1, *shape[1:]))
    (folder / "r.toml").write_text(RECIPE.format(use=use, more=more))
    return folder / "r.toml"


@pytest.mark.parametrize("kind", MODELS)
def test_everybody_says_the_same_share(tmp_path, kind, capsys):
    proto, work = MODELS[kind]
    path = written(tmp_path, proto, "search_precision", 'exclude = ["out"]')
    report = run(path, tmp_path / "out").report
    share = work["in"] / sum(work.values())
    assert {layer.node: layer.macs for layer in report.layers if layer.macs} == work
    summary = report.summary
    assert (summary.share_of, summary.share_by, summary.hidden_share) == ("macs", "asked", None)
    assert (
        summary.quantized_share == summary.asked_share == report.search.chosen.quantized_share == pytest.approx(share)
    )
    said = work_share(share)
    assert said in to_text(report, width=400) and said in render_html(report)
    sensitivity(path, tmp_path / "s", fast=True)
    assert said in capsys.readouterr().out
    kept = json.loads((tmp_path / "s" / "sensitivity.json").read_text())
    assert kept["quantized_share"] == pytest.approx(share) and kept["groups"][0]["share"] == pytest.approx(share)


def layers(*precisions):
    """Layers of 60, 30 and 10 that were all asked to run in INT8, and what each runs in."""
    return [
        SimpleNamespace(node=str(number), role="compute", macs=macs, asked_precision=Precision.INT8, status=status,
                        actual=Actual(precision))
        for number, (macs, (precision, status)) in enumerate(zip((60, 30, 10), precisions))
    ]  # fmt: skip


RUNS, FLOAT, HIDDEN = (Precision.INT8, "honoured"), (Precision.FP16, "overridden"), (None, "opaque")


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        ((RUNS, RUNS, RUNS), (1.0, 1.0, 0.0, "actual")), ((FLOAT, RUNS, RUNS), (0.4, 1.0, 0.0, "actual")),
        ((RUNS, FLOAT, HIDDEN), (0.6, 1.0, 0.1, "actual")), ((FLOAT, RUNS, (None, "removed")), (0.3, 1.0, 0.0, "actual")),
        ((HIDDEN, HIDDEN, HIDDEN), (1.0, 1.0, None, "asked")),
    ],
)  # fmt: skip
def test_what_runs_is_counted_and_what_was_asked_is_said_beside_it(runs, wanted):
    found = quantized_shares(layers(*runs))
    assert (found["quantized_share"], found["asked_share"], found["hidden_share"]) == pytest.approx(wanted[:3])
    assert found["share_by"] == wanted[3]
    words = share_words(SimpleNamespace(**found))
    assert share_percent(found["quantized_share"]) in words
    assert ("requested" in words) == (found["quantized_share"] != found["asked_share"] or wanted[3] == "asked")
    assert ("hides" in words) == bool(found["hidden_share"])


def test_shares_that_are_hardly_anything_or_nearly_all_are_said_as_such():
    assert [share_percent(one) for one in (0.0, 0.0035, 0.00001, 0.5, 0.9999, 1.0)] == [
        "0.0 %", "0.35 %", "0.001 %", "50.0 %", "99.9 %", "100.0 %",
    ]  # fmt: skip


def test_shapes_that_are_lost_behind_an_operator_are_no_matter_of_profiles(tmp_path):
    # two of its outputs are left out, and have no shape to lose
    nodes = [node("SkipLayerNormalization", ["x", "x", "one"], ["n", "", "", "s"], "skip"),
             node("Reshape", ["n", "sizes"], ["x4"]), node("Conv", ["x4", "w"], ["a"], "in"),
             node("GridSample", ["a", "grid"], ["b"], "sampled"), node("Conv", ["b", "v"], ["y"], "out")]  # fmt: skip
    weights = {"w": normal(4, 3, 1, 1), "v": normal(2, 4, 1, 1), "grid": np.zeros((1, 4, 4, 2), np.float32),
               "one": np.ones(36, np.float32), "sizes": np.array([1, 3, 6, 6])}  # fmt: skip
    proto = build(nodes, {"x": [1, 3, 36]}, {"y": None}, weights)
    proto.graph.node[0].domain = proto.graph.node[3].domain = "com.microsoft"
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    report = run(written(tmp_path, proto, "insert_qdq"), tmp_path / "out").report
    assert report.summary.share_of == "nodes"
    (told,) = (text for text in report.summary.warnings if "is not known" in text)
    assert told.startswith("The work of 'out' is not known, since shapes behind com.microsoft::GridSample are not. ")
    assert "[[profile]]" not in told


def test_a_model_of_unknown_shapes_has_one_share_of_its_layers(tmp_path):
    proto = recurrent()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_param = "batch"
    path = written(tmp_path, recurrent(), "search_precision", 'exclude = ["out"]')
    onnx.save(proto, str(tmp_path / "m.onnx"))
    report = run(path, tmp_path / "out").report
    assert report.summary.share_of == report.search.share_of == "nodes"
    assert report.summary.quantized_share == pytest.approx(report.search.chosen.quantized_share) == pytest.approx(1 / 4)
    (remedy,) = (text for text in report.summary.warnings if "is not known" in text)
    assert remedy.endswith("give the inputs shapes in a [[profile]].")
    shaped = '\n[[profile]]\nname = "one"\nshapes.x = { min = SHAPE, opt = SHAPE, max = SHAPE }\n'
    dims = str([d.dim_value for d in recurrent().graph.input[0].type.tensor_type.shape.dim])
    path.write_text(path.read_text() + shaped.replace("SHAPE", dims))
    again = run(path, tmp_path / "shaped").report
    assert again.summary.share_of == "macs" and not [text for text in again.summary.warnings if "is not known" in text]
