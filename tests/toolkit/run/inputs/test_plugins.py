"""Models with nodes that onnxruntime does not know: calibrated and measured up to them, and said so everywhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal, said
from toolkit.cli.main import invoke
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.ranges import Ranges
from toolkit.report.schema.report import Report

RECIPE = """\
[model]
path = "model.onnx"
[[profile]]
name = "all"
shapes.x = {{ min = [1, 3, 8, 8], opt = [8, 3, 8, 8], max = [16, 3, 8, 8] }}
[calibration]
data = "data.npz"
{calibration}
[[pass]]
use = "fold_constants"
[[pass]]
use = "{quantizer}"
[[pass]]
use = "guard_fp16"
[engine]
backend = "none"
[evaluation]
{evaluation}
"""
WEIGHTS = {"w0": normal(8, 3, 3, 3, scale=0.3), "w1": normal(8, 8, 3, 3, seed=1, scale=0.2), "w2": normal(8, 4, seed=2)}
FRONT = [node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"])]
REAR = [
    node("Conv", ["p", "w1"], ["b"], pads=[1, 1, 1, 1]),
    node("GlobalAveragePool", ["b"], ["g"]),
    node("Flatten", ["g"], ["f"]),
    node("MatMul", ["f", "w2"], ["y"]),
]


def network(place, nodes, outputs, domain="", types=None, opset=17):
    proto = build(nodes, {"x": ["n", 3, 8, 8]}, dict.fromkeys(outputs), WEIGHTS, opset, types=types)
    used = {name for one in nodes for name in one.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(proto, str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(24, 3, 8, 8))


def run(place, quantizer="insert_qdq", calibration="", evaluation="budget = { min_sqnr_db = 20 }", command="run"):
    recipe = place / "recipe.toml"
    recipe.write_text(RECIPE.format(quantizer=quantizer, calibration=calibration, evaluation=evaluation))
    assert invoke(["check", str(recipe)]) == 0
    status = invoke(["run", str(recipe), "--out", str(place / "out")])
    report = Report.load(place / "out" / "report.json")
    journal = Journal.from_jsonl((place / "out" / "journal.jsonl").read_text())
    return status, report, Ranges.load(place / "out" / "ranges.json") if report.ranges else None, journal


@pytest.mark.parametrize("domain", ["", "TRT"])
@pytest.mark.parametrize("quantizer", ["insert_qdq", "search_precision"])
def test_up_to_a_plugin_at_the_end(tmp_path, domain, quantizer):
    nms = helper.make_node("EfficientNMS_TRT", ["r", "b"], ["num", "det"], "nms", domain=domain, plugin_version="1")
    conv = node("Conv", ["r", "w1"], ["b"], pads=[1, 1, 1, 1])
    network(tmp_path, [*FRONT, conv, nms], ["num", "det"], domain, {"num": TensorProto.INT32})
    status, report, ranges, journal = run(tmp_path, quantizer)
    assert status == 0
    assert report.summary.verdict == "unmeasured"
    assert report.accuracy.not_compared == ["num", "det"] and report.accuracy.in_place == ["r", "b"]
    assert min(report.accuracy.outputs[name].sqnr_db for name in ("r", "b")) > 25
    assert {"x", "r"} <= ranges.tensors.keys()
    (told,) = said(journal, Code.NOT_RUN)
    assert told["plugins"] == ("nms",) and told["outputs"] == ("num", "det") and told["feeds"] == ("r", "b")
    layers = {layer.node: layer for layer in report.layers}
    assert str(layers["a"].asked_precision) == str(layers["b"].asked_precision) == "int8"
    assert layers["a"].error is not None and layers["nms"].error is None
    assert not report.summary.headline.startswith("Usable") and "'num' and 'det'" in report.summary.headline
    assert invoke(["sensitivity", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("quantizer", ["insert_qdq", "search_precision"])
def test_what_is_after_a_plugin_stays_float_unless_its_range_is_given(tmp_path, quantizer):
    plug = helper.make_node("Plug", ["r"], ["p"], "plug", domain="my.ops")
    network(tmp_path, [*FRONT, plug, *REAR], ["y"], "my.ops")
    _, report, _, journal = run(tmp_path, quantizer)
    asked = {layer.node: str(layer.asked_precision) for layer in report.layers}
    assert asked["a"] == "int8" and "int8" not in (asked["b"], asked["y"])
    refused = {event.node: event.why for event in journal.of("declined") if event.why.code is Code.UNRANGED}
    assert refused.keys() == {"b", "y"}
    assert refused["b"].values["tensor"] == "p" and refused["b"].values["why"].code is Code.BEHIND_PLUGIN
    assert report.summary.verdict == "unmeasured"
    _, report, ranges, _ = run(tmp_path, quantizer, "manual = { p = 3.0, f = 2.0 }")
    asked = {layer.node: str(layer.asked_precision) for layer in report.layers}
    assert asked["a"] == asked["b"] == asked["y"] == "int8" and ranges.amax("p") == 3.0
    assert report.summary.verdict == "unmeasured"


def test_a_plugin_at_the_beginning_leaves_nothing_to_measure(tmp_path):
    pre = helper.make_node("Pre_TRT", ["x"], ["p"], "pre")
    network(tmp_path, [pre, *REAR], ["y"])
    status, report, _, _ = run(tmp_path)
    assert status == 1 and report.summary.verdict == "missed" and not report.accuracy.outputs
    _, report, _, _ = run(tmp_path, calibration="manual = { p = 3.0, f = 2.0 }")
    assert {str(layer.asked_precision) for layer in report.layers if layer.node in "by"} == {"int8"}
    assert run(tmp_path, evaluation="")[1].summary.verdict == "unmeasured"


def test_an_output_that_needs_no_plugin_is_judged(tmp_path):
    plug = helper.make_node("Plug", ["r"], ["p"], "plug", domain="my.ops")
    network(tmp_path, [*FRONT, plug, *REAR, node("ReduceMean", ["r"], ["z"], axes=[2, 3])], ["y", "z"], "my.ops")
    _, report, _, _ = run(tmp_path)
    # what is compared is within the task's own budget, as far as few samples tell
    assert (report.summary.verdict, report.accuracy.standing) == ("doubtful", "unproven")
    assert report.accuracy.not_compared == ["y"]
    assert list(report.accuracy.outputs) == ["z", "r"] and "'y'" in report.summary.headline


def test_a_metric_of_what_is_not_computed_is_not_judged(tmp_path):
    plug = helper.make_node("Plug", ["r"], ["y"], "plug", domain="my.ops")
    network(tmp_path, [*FRONT, plug], ["y"], "my.ops")
    np.savez(tmp_path / "test.npz", x=normal(8, 3, 8, 8), label=np.zeros(8, np.int64))
    status, report, _, _ = run(tmp_path, evaluation='data = "test.npz"\nmetric = "top1"\nbudget = { max_drop = 0.01 }')
    assert status == 1 and report.accuracy.metric is None and report.accuracy.met is False


def test_an_old_opset_and_two_plugins_of_which_one_reads_the_other(tmp_path):
    nodes = [
        *FRONT,
        helper.make_node("One_TRT", ["r"], ["p", "q"], "one"),
        helper.make_node("Two", ["r", "q"], ["y"], "two", domain="my.ops"),
    ]
    network(tmp_path, nodes, ["y", "p"], "my.ops", opset=11)
    _, report, _, journal = run(tmp_path)
    assert said(journal, Code.NOT_RUN)[0]["plugins"] == ("one", "two")
    assert list(report.accuracy.outputs) == ["r"]


def test_new_says_what_will_happen(tmp_path, capsys):
    plug = helper.make_node("Plug", ["r"], ["p"], "plug", domain="my.ops")
    network(tmp_path, [*FRONT, plug, *REAR], ["y"], "my.ops")
    made = tmp_path / "made.toml"
    assert invoke(["new", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"), "--out", str(made)]) == 0
    text = made.read_text().replace('"auto"', '"none"')
    made.write_text(text)
    assert "# onnxruntime cannot run 'plug'" in text
    assert "\nWarning: onnxruntime cannot run 'plug'" in capsys.readouterr().out
    assert invoke(["check", str(made)]) == 0
    assert invoke(["run", str(made), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("quantizer", ["insert_qdq", "search_precision"])
@pytest.mark.parametrize("task", ["detection", "classification", "regression", ""])
def test_a_task_may_be_named_though_a_plugin_computes_all_outputs(tmp_path, task, quantizer):
    """As for a detector that ends in EfficientNMS: the advice on an unsure guess is to name it."""
    front = [*FRONT, node("Conv", ["r", "w1"], ["z"])]
    network(tmp_path, [*front, node("EfficientNMS_TRT", ["z"], ["y"])], ["y"])
    named = f'task = "{task}"\n' if task else ""
    _, report, _, _ = run(tmp_path, quantizer, evaluation=f"{named}budget = {{ min_sqnr_db = 10 }}")
    assert report.accuracy is not None and not report.accuracy.parts
    as_task = f" as {task}" if task else ""
    assert report.accuracy.task.why.startswith(f"No output is judged{as_task}: onnxruntime computes none")
    assert report.accuracy.outputs["z"].sqnr_db > 10
