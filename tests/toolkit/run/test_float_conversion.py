"""float16 or bfloat16 alone: nothing is quantized, what cannot be converted is named, and the result is judged."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, residual_proto
from toolkit import Code, Context, Journal, Model, Precision, run
from toolkit.backends.lowering.strong import lower
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Range, Ranges
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.left_out import left_out
from toolkit.report.schema.report import PassInfo

RTX = "tensorrt_rtx" if importlib.util.find_spec("tensorrt_rtx") is not None else "none"
RECIPE = """
[model]
path = "m.onnx"
[[profile]]
name = "d"
shapes.x = {{ min = [1, 3, 8, 8], opt = [4, 3, 8, 8], max = [8, 3, 8, 8] }}
[calibration]
data = "data.npz"
{passes}
[engine]
backend = "{backend}"
rest = "{rest}"
[evaluation]
data = "data.npz"
"""
GUARD = '[[pass]]\nuse = "guard_fp16"\n'


def done(folder, proto, rest="fp16", passes=GUARD, backend=RTX):
    onnx.save(proto, str(folder / "m.onnx"))
    np.savez(folder / "data.npz", x=normal(32, 3, 8, 8, seed=9))
    (folder / "r.toml").write_text(RECIPE.format(rest=rest, passes=passes, backend=backend))
    return run(folder / "r.toml", folder / "out", device_check=False)


def types(result):
    """The element types of the model's float tensors, weights among them."""
    model = Model.load(result.folder / "model.onnx")
    return {name: kind for name, kind in model.facts().types.items() if kind in (1, 10, 16)}


@pytest.mark.parametrize(("rest", "kind", "least", "backend"), [("fp16", 10, 50, "none"), ("bf16", 16, 30, RTX)])
def test_every_layer_is_converted_and_the_result_is_judged(tmp_path, rest, kind, least, backend):
    result = done(tmp_path, residual_proto(), rest, backend=backend)
    report = result.report
    found = left_out(report.layers, report.declined, report.recipe.passes, report.recipe.rest)
    assert found.code is ReportCode.FLOAT_CONVERTED and found.values["islands"] == ()
    assert (found.values["count"], found.values["precision"]) == (len(report.computing), rest)
    if backend != "none":
        assert {layer.actual.precision for layer in report.computing} == {Precision(rest)}
        assert (result.folder / "model.engine").stat().st_size > 10_000
    floats = types(result)
    # convolutions take bfloat16 from opset 22 on
    assert {name for name, own in floats.items() if own == 1} <= {"x", "y"} and kind in floats.values()
    assert least < report.accuracy.outputs["y"].sqnr_db < 90
    assert result.exit_status == 0 and not [one for one in report.layers if one.op == "QuantizeLinear"]


def test_what_float16_cannot_carry_stays_in_float32_and_is_named(tmp_path):
    loud = np.full((8, 1, 1), 3e4, np.float32)
    proto = build(
        [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "loud"], ["m"]), node("Mul", ["m", "quiet"], ["q"]),
         node("Conv", ["q", "v"], ["y"])],
        {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 8, 8]},
        {"w": normal(8, 3, 1, 1), "loud": loud, "quiet": 1 / loud, "v": normal(2, 8, 1, 1, seed=2)},
    )  # fmt: skip
    report = done(tmp_path, proto, backend="none").report
    found = left_out(report.layers, report.declined, report.recipe.passes, report.recipe.rest)
    assert set(found.values["islands"]) == {"m", "q"} and found.values["count"] == len(report.computing) - 2
    assert {layer.node for layer in report.computing if layer.asked_precision is Precision.FP32} >= {"m"}
    assert "'m'" in report.summary.headline and report.accuracy.outputs["y"].sqnr_db > 50
    # bfloat16 carries them
    (tmp_path / "bf16").mkdir()
    report = done(tmp_path / "bf16", proto, "bf16", "", "none").report
    assert left_out(report.layers, report.declined, [], report.recipe.rest).values["islands"] == ()


def test_the_float_rest_of_a_model_that_comes_with_pairs_is_lowered_too(tmp_path):
    model = Model.from_proto(residual_proto())
    known = Ranges({name: Range(4.0, "manual") for name in ("x", "r0", "r1", "r2", "a", "c2", "g", "f")})
    InsertQDQ()(model, Context(known_ranges=known))
    result = done(tmp_path, model.to_proto(), passes="")
    floats = types(result)
    assert {name for name, own in floats.items() if own == 1 and not name.startswith("x")} <= {"y"}
    final = Model.load(result.folder / "model.onnx")
    scales = {n.inputs[0].name: float(final.constant(n.inputs[1]).reshape(-1)[0]) for n in final.nodes
              if n.op == "QuantizeLinear" and n.inputs[0].name.startswith("r0")}  # fmt: skip
    assert scales and list(scales.values()) == pytest.approx([4.0 / 127] * len(scales), rel=2e-3)
    report = result.report
    assert report.accuracy.outputs["y"].sqnr_db > 50
    if RTX != "none":
        runs = {layer.op: layer.actual.precision for layer in report.computing}
        assert runs["Conv"] is Precision.INT8 and runs["GlobalAveragePool"] is not Precision.FP32


def test_a_backend_that_takes_no_newer_opset_is_named():
    journal = Journal()
    lowered = lower(
        Model.from_proto(residual_proto()), PrecisionPlan(), rest=Precision.BF16, journal=journal, newest=20
    )
    (told,) = [event.why.values for event in journal.of("noted") if event.why.code is Code.BFLOAT16_OPSET]
    assert told == {"newest": 20, "wanted": 22} and lowered.model.opset == 17
    assert {lowered.types.node[n.name] for n in lowered.model.nodes if n.op == "Conv"} == {Precision.FP32}


def test_float32_alone_says_that_nothing_is_quantized():
    assert left_out([], [], [PassInfo(use="fold_constants")], Precision.FP32).code is ReportCode.NO_PASS_QUANTIZES
