"""Joining a real graph with what was asked, what runs and what it costs."""

import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.conftest import build
from tests.conftest import node as op
from tests.toolkit.report import unpacked
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.precision import Precision
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Range, Ranges
from toolkit.evaluation.numerics.difference import TensorError
from toolkit.graph.model import Model
from toolkit.report import findings
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.verdict import warnings_of
from toolkit.report.findings import sentence, table
from toolkit.report.findings.commands import explanation
from toolkit.report.join import join
from toolkit.report.page import page_data
from toolkit.report.schema.report import Accuracy, BackendInfo, ProfileInfo, RecipeInfo
from toolkit.report.sections.describe import model_info
from toolkit.report.sections.found import EngineFound, Graphs, Measurements, Requests

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 10] y, int64[m] s)
<float[4, 3, 3, 3] w, float[256, 10] v, float scale = {0.1}, int8 zero = {0}, int64[2] to = {-1, 256}>
{
    q = QuantizeLinear(x, scale, zero)
    d = DequantizeLinear(q, scale, zero)
    c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d, w)
    r = Relu(c)
    f = Reshape(r, to)
    y = MatMul(f, v)
    s = Shape(y)
}
"""


@pytest.fixture
def model():
    proto = onnx.parser.parse_model(TEXT)
    for node, name in zip(proto.graph.node, ["Q", "DQ", "Conv", "Relu", "Reshape", "MatMul", "Shape"]):
        node.name = name
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((256, 10), np.float32), "v"))
    return Model.from_proto(proto)


PROFILES = Profiles((ShapeProfile("one", {"x": Extent((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}),))


def _join(model, **changes):
    plan = PrecisionPlan()
    plan.by = "insert_qdq"
    plan.ask("Conv", "int8", "input and weights have pairs")
    plan.ask("MatMul", "int8", "input and weights have pairs")
    journal = Journal()
    journal.by = "insert_qdq"
    journal.declined("MatMul", Code.OWN_WORDS(text="too small", rule="small"))
    journal.declined("MatMul", Code.OWN_WORDS(text="too small", rule="small"))
    journal.declined("folded_away", Code.EXCLUDED(pattern="f*"))
    i8, f16 = Precision.INT8, Precision.FP16
    actuals = {
        "Conv": Actual(i8, ("int8",), ("int8",), "network", "honoured", None, ("conv",)),
        "Relu": Actual(
            i8, source="network", status="fused", reason=EngineCode.IN_KERNEL_OF(node="Conv"), engine_layers=("conv",)
        ),
        "MatMul": Actual(
            f16,
            source="network",
            status="overridden",
            reason=EngineCode.NO_QUANTIZED_KERNEL(op="MatMul"),
            engine_layers=("mm",),
        ),
        "Reshape": Actual(f16, source="network", status="honoured", engine_layers=("mm",)),
        "DQ": Actual(None, source="network", status="removed"),
    }
    errors = {
        "Conv": TensorError(sqnr_db=30.0, max_abs=0.1), "Relu": TensorError(sqnr_db=31.0, max_abs=0.1),
        "MatMul": TensorError(sqnr_db=22.0, max_abs=0.4), "Reshape": TensorError(sqnr_db=31.0, max_abs=0.1),
        "Q": TensorError(sqnr_db=math.inf, max_abs=0.0),
    }  # fmt: skip
    build = Build("tensorrt_rtx", "1.1", b"engine", source="network", seconds=2.0, log=["[W] slow"],
                  time_ms={"conv": {"one": 0.5}, "mm": {"one": 0.25}, "reformat": {"one": 9.0}})  # fmt: skip
    diagnosis = {"histogram": [0.5, 0.5], "sqnr_db": math.inf}
    ranges = Ranges({"x": Range(1.0, "entropy", (-1.0, 2.0), {"one": 1.0}, 4, diagnosis)}, samples={"one": 4})
    parts = (
        Requests(RecipeInfo(name="r", rest="fp16"), plan, journal),
        Graphs(model, model_info(model, PROFILES, "m.onnx"), PROFILES, ranges=ranges),
        EngineFound(build, actuals, EngineCode.BACKEND_REQUESTED(), "strong"),
        Measurements(errors),
    )
    held = [{field.name for field in fields(part)} for part in parts]
    own = [{name: value for name, value in changes.items() if name in names} for names in held]
    rest = {name: value for name, value in changes.items() if not any(name in names for names in held)}
    return join(*(replace(part, **change) for part, change in zip(parts, own)), **rest)


def test_every_node_once_and_the_counts_add_up(model):
    report = _join(model)
    assert [layer.node for layer in report.layers] == model.node_names()
    summary = report.summary
    assert summary.nodes == sum(summary.by_asked.values()) == sum(summary.by_actual.values()) == 7
    assert sum(summary.by_status.values()) == 7
    assert summary.by_asked == {"fp16": 2, "int8": 2, "none": 3}
    assert summary.by_actual == {"fp16": 2, "int8": 2, "none": 3}
    assert summary.by_status == {"fused": 1, "honoured": 2, "overridden": 1, "removed": 1, "unknown": 2}
    assert summary.computing == 4
    json.dumps(report.to_json(), allow_nan=False)


def test_what_was_asked_of_nodes_that_nobody_asked_about(model):
    layers = {layer.node: layer for layer in _join(model).layers}
    assert layers["Conv"].asked.by == "insert_qdq"
    assert layers["Relu"].asked.precision is Precision.FP16
    assert layers["Relu"].asked.reason == sentence(
        ReportCode.NOT_REQUESTED(rest="fp16", why=EngineCode.NO_QUANTIZED_KERNEL(op="Relu"))
    )
    assert (layers["Q"].role, layers["Q"].asked.precision) == ("convert", None)
    assert (layers["Shape"].role, layers["Shape"].asked.precision) == ("other", None)
    assert layers["MatMul"].reason == sentence(EngineCode.NO_QUANTIZED_KERNEL(op="MatMul"))
    assert layers["Shape"].reason == sentence(EngineCode.NOT_IN_RECORD())
    assert layers["Shape"].status == "unknown" and layers["Shape"].actual.source == "none"


def test_each_layer_knows_what_it_adds_to_the_error_of_its_inputs(model):
    errors = {layer.node: layer.error for layer in _join(model).layers}
    assert errors["Conv"].drop_db is None and errors["Q"].identical
    assert errors["Relu"].drop_db == pytest.approx(-1)
    assert errors["MatMul"].drop_db == pytest.approx(9)
    assert errors["DQ"] is None


def test_an_ifs_error_is_held_against_what_its_branches_read():
    branch = [helper.make_graph([op("Neg", ["a"], [name])], name, [], [helper.make_tensor_value_info(name, 1, [2])])
              for name in ("t", "e")]  # fmt: skip
    nodes = [op("Exp", ["x"], ["a"]), op("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])]
    inner = Model.from_proto(build(nodes, {"x": [2], "c": []}, {"y": [2]}, types={"c": onnx.TensorProto.BOOL}))
    errors = {"a": 20.0, "y": 19.0}
    given = {name: TensorError(sqnr_db=db, max_abs=1.0) for name, db in errors.items()}
    report = join(
        Requests(RecipeInfo(name="r"), PrecisionPlan(), Journal()), Graphs(inner, model_info(inner, Profiles())),
        EngineFound(Build("none")), Measurements(given),
    )  # fmt: skip
    found = {layer.node: layer.error for layer in report.layers if layer.error is not None}
    assert found["a"].drop_db is None and found["y"].drop_db == pytest.approx(1.0)


def test_multiply_accumulates_and_the_share_that_runs_quantized(model):
    report = _join(model)
    macs = {layer.node: layer.macs for layer in report.layers}
    conv, matmul = 2 * 4 * 64 * 27, 2 * 256 * 10
    assert (macs["Conv"], macs["MatMul"], macs["Relu"]) == (conv, matmul, 0)
    assert report.model.macs == conv + matmul
    assert report.summary.quantized_share == pytest.approx(conv / (conv + matmul))
    assert (report.summary.share_of, report.summary.share_by) == ("macs", "actual")
    assert (report.summary.asked_share, report.summary.hidden_share) == (1.0, 0.0)


def test_an_engine_layers_time_goes_to_one_node(model):
    times = {layer.node: layer.time_ms for layer in _join(model).layers}
    assert times["Conv"] == {"one": 0.5} and times["Relu"] == {}
    assert times["MatMul"] == {"one": 0.25} and times["Reshape"] == {}


def test_declined_lines_come_once_and_keep_nodes_that_are_gone(model):
    assert [(d.node, d.op, d.rule, d.by) for d in _join(model).declined] == [
        ("MatMul", "MatMul", "small", "insert_qdq"),
        ("folded_away", "", "excluded", "insert_qdq"),
    ]


def test_records_of_nodes_that_are_not_in_the_graph_are_a_warning(model):
    report = _join(model, actuals={"ghost": Actual(Precision.INT8)})
    assert sentence(ReportCode.RECORD_OF_LOST_NODES(count=1, node="ghost")) in report.summary.warnings
    assert report.summary.by_status == {"unknown": 7}


def test_without_a_backend_the_share_is_what_was_asked(model):
    report = _join(model, actuals={}, build=Build("none"), ranges=None, typing="")
    assert report.summary.share_by == "asked" and report.summary.quantized_share == 1.0
    assert report.backend.engine_bytes is None and report.ranges is None
    assert sentence(ReportCode.ONLY_REQUESTS_KNOWN()) in report.summary.warnings
    assert any("tensorrt_rtx" in one.fragment for one in report.summary.next)


def test_model_profiles_and_ranges_are_described(model):
    report = _join(model, warnings=[Code.OWN_WORDS(text="by hand")])
    info = report.model
    assert (info.opset, info.nodes, info.parameters) == (17, 7, 108 + 2560 + 4)
    assert [(t.name, t.dtype, t.shape) for t in info.inputs] == [("x", "float32", ["n", 3, 8, 8])]
    assert report.profiles[0].samples == 4 and report.profiles[0].shapes["x"].opt == [2, 3, 8, 8]
    (one,) = report.ranges
    assert one.histogram == [0.5, 0.5] and one.sqnr_db is None and one.observed == (-1.0, 2.0)
    assert report.summary.warnings[0] == "by hand"


def test_a_profile_without_samples_and_accuracy_on_seen_samples_are_warned_of():
    measured = Accuracy(metric="top1", before=0.9, quantized=0.9, drop=0.0, met=True, budget=0.1, held_out=False)
    backend = BackendInfo(name="tensorrt_rtx")
    empty, full = (ProfileInfo(name=name, shapes={}, samples=samples) for name, samples in (("one", 0), ("two", 3)))
    lacking = ReportCode.PROFILE_WITHOUT_SAMPLES(profile="one")
    found = warnings_of([], measured, backend, [empty, full], None)
    assert lacking in found and ReportCode.ACCURACY_ON_SEEN_SAMPLES() in found
    # where nothing was calibrated no range is another profile's
    assert lacking not in warnings_of([], measured, backend, [empty], None)


@pytest.mark.parametrize("length", [4, 40])
def test_what_is_said_of_many_nodes_is_written_once(length, monkeypatch):
    """Of a graph of 50,000 nodes the sentences took longer than its passes."""
    names = ["x", *(f"t{number}" for number in range(length)), "y"]
    nodes = [op("Tanh", [before], [after]) for before, after in pairwise(names)]
    model = Model.from_proto(build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]}))
    written, made = [], []

    def counted(template, finding, sentence):
        written.append(finding.code)
        return table.written(template, finding, sentence)

    monkeypatch.setattr(findings, "written", counted)
    report = _join(model, plan=PrecisionPlan(), journal=Journal(), actuals={}, errors={}, ranges=None)
    codes = [ReportCode.NOT_REQUESTED, EngineCode.NO_QUANTIZED_KERNEL, EngineCode.NOT_IN_RECORD]
    assert [written.count(code) for code in codes] == [1, 1, 1]
    monkeypatch.setattr(page_data, "wording", lambda kind: made.append(kind) or explanation.wording(kind))
    data = page_data.page_data(report)
    _, _, counts, sentences = data["facts"]
    assert len(made) == 1 and counts == [counts[0]] * (length + 1)
    assert unpacked.first_seen(sentences) == [*range(counts[0])] * (length + 1)
    reason = report.layers[0].asked.reason
    assert {layer.asked.reason for layer in report.layers} == {reason} and "Tanh" in reason


def test_layers_in_float64_compute_and_are_said_to_run_in_float32():
    """They were no layers at all: «none of 0 layers» beside «all 2 layers with weights»."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (double[n, 4] x) => (double[n, 2] y, float[n, 2] z) <double[4, 2] w>
        { m = MatMul(x, w)  y = Relu(m)  z = Cast<to = 1>(y) }
    """)
    for one, name in zip(proto.graph.node, ["MatMul", "Relu", "Cast"]):
        one.name = name
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 2)), "w"))
    model = Model.from_proto(proto)
    actuals = {"MatMul": Actual(Precision.FP32, ("fp32",), ("fp32",), "network", "honoured", None, ("mm",))}
    report = _join(model, plan=PrecisionPlan(), errors={}, actuals=actuals, journal=Journal())
    layers = {layer.node: layer for layer in report.layers}
    assert [one.role for one in report.layers] == ["compute", "compute", "convert"] and report.summary.computing == 2
    for name in ("MatMul", "Relu"):
        assert layers[name].asked.precision is Precision.FP32
        assert "export the model in float32" in layers[name].asked.reason
    assert "0 of 2 layers in FP16, none quantized" in report.summary.headline
