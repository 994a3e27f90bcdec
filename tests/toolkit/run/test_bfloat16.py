"""A model that is bfloat16 in part or throughout: measured as its float32 twin, built in bfloat16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.fold_constants import FoldConstants
from tests.conftest import node, normal
from tests.conftest import run as run_model
from toolkit import Context, Model, onnx_type, values_of
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Ranges
from toolkit.evaluation.default_optimizations import sums_saturate
from toolkit.report.schema.report import Report

BF16, FP32 = TensorProto.BFLOAT16, TensorProto.FLOAT
RECIPE = """\
[model]
path = "{name}.onnx"
[[profile]]
name = "all"
shapes.x = {{ min = [1, 16], opt = [8, 16], max = [32, 16] }}
[calibration]
data = "data.npz"
method = "mse"
[[pass]]
use = "insert_qdq"
{settings}
[engine]
backend = "none"
"""


def stored(values, name, kind):
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def network(inner, outer):
    """Three MatMuls, the middle one of type ``inner`` and the others of type ``outer``."""
    nodes = [node("MatMul", ["x", "w1"], ["a"], name="in"), node("Relu", ["a"], ["b"], name="r")]
    before, after = "b", "c"
    if inner != outer:
        nodes.append(node("Cast", ["b"], ["b16"], to=inner))
        before, after = "b16", "c16"
    nodes.append(node("MatMul", [before, "w2"], [after], name="rec"))
    if inner != outer:
        nodes.append(node("Cast", ["c16"], ["c"], to=outer))
    nodes += [node("Tanh", ["c"], ["d"], name="t"), node("MatMul", ["d", "w3"], ["y"], name="out")]
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", outer, ["n", 16])], [helper.make_tensor_value_info("y", outer, ["n", 6])],
        [
            stored(normal(16, 32, seed=1) * 0.3, "w1", outer),
            # rounded in any case: the values of all forms are equal
            stored(rounded(normal(32, 32, seed=2) * 0.2), "w2", inner),
            stored(normal(32, 6, seed=3) * 0.3, "w3", outer),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rounded(values):
    return values.astype(helper.tensor_dtype_to_np_dtype(BF16)).astype(np.float32)


@pytest.fixture
def place(tmp_path):
    for name, kinds in {"part": (BF16, FP32), "full": (BF16, BF16), "twin": (FP32, FP32)}.items():
        onnx.save(network(*kinds), str(tmp_path / f"{name}.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(40, 16))
    return tmp_path


def run(place, name, settings=""):
    recipe = place / f"{name}.toml"
    recipe.write_text(RECIPE.format(name=name, settings=settings))
    assert invoke(["check", str(recipe)]) == 0
    assert invoke(["run", str(recipe), "--out", str(place / name)]) in (0, 1)
    out = place / name
    return Ranges.load(out / "ranges.json"), Report.load(out / "report.json"), Model.load(out / "model.onnx")


def test_a_part_in_bfloat16_is_calibrated_like_its_twin_and_lowered_to_bfloat16(place):
    ranges, report, final = run(place, "part")
    wanted, twin, _ = run(place, "twin")
    for mine, theirs in (("x", "x"), ("b16", "b"), ("d", "d")):
        assert ranges.amax(mine) == pytest.approx(wanted.amax(theirs), rel=1e-5)
    assert report.accuracy.outputs["y"].sqnr_db == pytest.approx(twin.accuracy.outputs["y"].sqnr_db, abs=1.0)
    types = final.facts().types
    assert [types[name] for name in ("b16_dequantized", "w2_dequantized", "c16")] == [BF16] * 3
    assert types["x"] == types["y"] == FP32


@pytest.mark.parametrize(("name", "stated"), [("full", "bf16"), ("part", "fp32")])
def test_the_type_that_the_model_states_is_what_was_asked_and_the_report_says_by_whom(place, name, stated):
    """``rest`` is float16 by default: nothing here computes in it, so nothing is said to be asked to."""
    _, report, _ = run(place, name)
    layers = {layer.node: layer for layer in report.layers}
    for layer in ("r", "t"):
        assert (layers[layer].asked.precision, layers[layer].asked.by) == (stated, "the model")
        assert f"the model states {stated} for it" in layers[layer].asked.reason
        assert "has no quantized kernel" in layers[layer].asked.reason
    assert {layers[layer].asked.precision for layer in ("in", "rec", "out")} == {"int8"}
    assert any("(by the model), such as 'r'" in line for line in report.summary.floats)


def test_nothing_is_said_of_a_float32_model_whose_rest_runs_in_float16(place):
    _, report, _ = run(place, "twin")
    assert {layer.asked.by for layer in report.layers if layer.node in ("r", "t")} == {"rest"}
    assert not report.summary.floats


def test_what_tensorrts_parser_refuses_in_bfloat16_stays_float32_and_the_recipe_keeps_bfloat16(tmp_path):
    """x (Conv k) -> HardSwish -> y, all in bfloat16 at opset 22, in which ONNX has both."""
    nodes = [node("Conv", ["x", "k"], ["c"], name="conv"), node("HardSwish", ["c"], ["y"], name="swish")]
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", BF16, [1, 4, 6, 6])], [helper.make_tensor_value_info("y", BF16, [1, 8, 4, 4])],
        [stored(normal(8, 4, 3, 3) * 0.2, "k", BF16)],
    )  # fmt: skip
    # as exporters write it, which know that no checker is strict about it
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path, data, recipe = (str(tmp_path / name) for name in ("m.onnx", "data.npz", "m.toml"))
    onnx.save(proto, path)
    np.savez(data, x=normal(20, 1, 4, 6, 6))
    assert invoke(["new", path, "--data", data, "--out", recipe]) == 0
    text = (tmp_path / "m.toml").read_text()
    assert 'rest = "bf16"' in text and "stay in bfloat16" in text and "guard_fp16" not in text
    assert invoke(["run", recipe, "--out", str(tmp_path / "run"), "--set", "engine.backend=none"]) in (0, 1)
    final, report = Model.load(tmp_path / "run" / "model.onnx"), Report.load(tmp_path / "run" / "report.json")
    # raised, so that the float side of the convolution need not be float32
    assert final.opset == 22 and final.facts().types["c"] == BF16
    (casts,) = [[one.attrs["to"] for one in final.nodes if one.op == "Cast"]]
    assert casts == [FP32, BF16]
    (declined,) = [entry for entry in report.declined if entry.node == "swish" and entry.by == "lowering"]
    assert declined.reason == "stays fp32: TensorRT's parser does not support HardSwish in bf16"


def test_a_layer_that_stays_float_stays_bfloat16(place):
    _, _, final = run(place, "part", 'exclude = ["rec"]')
    types = final.facts().types
    assert types["w2"] == types["c16"] == BF16


def test_a_model_in_bfloat16_takes_float32_samples(place, monkeypatch):
    monkeypatch.chdir(place)
    ranges, report, final = run(place, "full")
    wanted, _, _ = run(place, "twin")
    assert ranges.amax("b") == pytest.approx(wanted.amax("b"), rel=0.02)
    assert report.accuracy.outputs["y"].sqnr_db > 25
    assert {kind for name, kind in final.facts().types.items() if kind in (FP32, TensorProto.FLOAT16)} == set()
    assert invoke(["sensitivity", str(place / "full.toml")]) == 0


def test_bfloat16_constants_are_folded_as_such(tmp_path):
    """x (Cast w)  with w in bfloat16, and b (Transpose (Cast k)) with k in float32."""
    nodes = [
        node("Cast", ["w"], ["wide"], to=FP32),
        node("MatMul", ["x", "wide"], ["a"]),
        node("Cast", ["a"], ["b"], to=BF16),
        node("Cast", ["k"], ["narrow"], to=BF16),
        node("Transpose", ["narrow"], ["turned"], perm=[1, 0]),
        node("MatMul", ["b", "turned"], ["c"]),
        node("Cast", ["c"], ["y"], to=FP32),
    ]
    weight, kernel = normal(8, 8), normal(4, 8, seed=1)
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", FP32, ["n", 8])], [helper.make_tensor_value_info("y", FP32, ["n", 4])],
        [stored(weight, "w", BF16), numpy_helper.from_array(kernel, "k")],
    )  # fmt: skip
    model = Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    before = run_model(model, {"x": normal(3, 8)})
    FoldConstants()(model, Context())
    model.check()
    tensors = {tensor.name: tensor for one in model.nodes for tensor in one.inputs}
    assert {one.op for one in model.nodes} == {"MatMul", "Cast"} and len(model.nodes) == 4
    assert onnx_type(tensors["turned"].dtype) == BF16 and onnx_type(tensors["wide"].dtype) == FP32
    np.testing.assert_array_equal(values_of(tensors["turned"]).astype(np.float32), rounded(kernel).T)
    np.testing.assert_array_equal(values_of(tensors["wide"]), rounded(weight))
    np.testing.assert_allclose(run_model(model, {"x": normal(3, 8)}), before, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("name", ["part", "full"])
def test_what_is_exported_to_onnxruntime_opens_there_and_is_float32(place, capsys, name):
    """The run's own sessions widen bfloat16, so that they opened a file that nothing else did."""
    run(place, name)
    capsys.readouterr()
    assert invoke(["export", str(place / name), "--to", "onnxruntime", "--out", str(place / "elsewhere")]) == 0
    assert "What is bfloat16 in the model is float32 in this one" in capsys.readouterr().out
    path = str(place / "elsewhere" / "model_qdq.onnx")
    onnx.checker.check_model(path, full_check=True)
    feeds = {"x": np.load(place / "data.npz")["x"][:8]}
    (wanted,) = onnxruntime.InferenceSession(str(place / "twin.onnx")).run(None, feeds)
    # the kernels of processors without VNNI saturate, which says nothing of the file
    for rewritten, least in ((False, 25), (True, 10 if sums_saturate() else 25)):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "01"[not rewritten])
        (found,) = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)
        assert found.dtype == np.float32 and 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()) > least
