"""The three questions about a run: why float, whether it is faster, what costs the accuracy."""

import json

from tests.toolkit.report.samples import sample
from toolkit.base.precision import Precision
from toolkit.cli.main import invoke
from toolkit.report.conclusions.overview import overview
from toolkit.report.schema.analysis import SensitivityInfo
from toolkit.report.schema.prediction import PredictionInfo
from toolkit.report.schema.report import Asked, Declined
from toolkit.report.schema.search import LayerHarm


def test_every_layer_in_float_is_in_one_group_with_a_reason():
    report = sample()
    found = overview(report)
    grouped = [node for group in found.floats for node in group.nodes]
    in_float = {
        layer.node for layer in report.computing if not (layer.actual.precision or layer.asked_precision).quantized
    }
    assert sorted(grouped) == sorted(in_float) and found.computing == len(report.computing)
    assert all(group.reason for group in found.floats)
    assert [len(group.nodes) for group in found.floats] == sorted((len(g.nodes) for g in found.floats), reverse=True)
    declined = {entry.node: entry.rule for entry in report.declined}
    for group in found.floats:
        rules = {declined.get(node) for node in group.nodes}
        assert len(rules) == 1 and (rules == {None} or rules.pop() in group.rule)


def test_the_rule_that_left_a_layer_alone_gives_the_reason():
    """A layer may be asked for in float16, and stay in float32 for another reason."""
    report = sample()
    layer = next(one for one in report.computing if not (one.actual.precision or one.asked_precision).quantized)
    left = Declined(node=layer.node, op=layer.op, rule="stays-fp32", reason="its constant vanishes", by="lowering")
    found = overview(report.model_copy(update={"declined": [left]}))
    (group,) = (one for one in found.floats if layer.node in one.nodes)
    assert group.reason == "its constant vanishes" and "by lowering, rule stays-fp32" in found.text


def test_requests_of_one_pass_are_one_group():
    report = sample()
    floats = [one for one in report.computing if not (one.actual.precision or one.asked_precision).quantized]
    asked = Asked(precision=Precision.FP32, reason="it overflows", by="guard_fp16")
    layers = [one.model_copy(update={"asked": asked}) if one in floats else one for one in report.layers]
    found = overview(report.model_copy(update={"layers": layers, "declined": []}))
    assert [(group.rule, len(group.nodes)) for group in found.floats] == [("guard_fp16", len(floats))]
    assert len({one.op for one in floats}) > 1


def test_a_prediction_is_called_one_and_without_any_time_the_commands_are_named():
    report = sample().model_copy(update={"payoff": None})
    said = overview(report.model_copy(update={"prediction": PredictionInfo(gpu="L4", ms=2.0, float_ms=3.0)})).speed
    assert len(said) == 1 and said[0].startswith("PREDICTED for L4")
    (nothing,) = overview(report.model_copy(update={"prediction": None})).speed
    assert "qtool time" in nothing


def test_what_was_measured_at_the_output_decides_what_costs_the_accuracy():
    report = sample()
    assert not overview(report).measured
    harms = [LayerHarm(node=layer.node, op=layer.op, share=0.7, kept=True) for layer in report.computing[3:4]]
    measured = SensitivityInfo.model_construct(layers=harms)
    found = overview(report.model_copy(update={"sensitivity": measured}))
    assert found.measured and found.costs == [harms[0].node] and "stays in float" in found.text


def test_explain_answers_for_a_run(place, capsys):
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) in (0, 1)
    capsys.readouterr()
    assert invoke(["explain", str(place / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["computing"] == 2 and [group["nodes"] for group in found["floats"]] == [["y"]] and found["speed"]


def test_a_folder_without_a_report_is_refused(tmp_path, capsys):
    assert invoke(["explain", str(tmp_path)]) == 2 and "report.json" in capsys.readouterr().err
