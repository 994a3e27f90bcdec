"""Public models that come quantized, through commands: what is stripped, counted, compared with and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.conftest import run as infer
from toolkit import Model
from toolkit.cli.main import invoke
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.recipe import Recipe

DATA = Path(__file__).parent.parent.parent / "passes" / "data"
RUN = """\
[model]
path = "model.onnx"
{profile}
[calibration]
data = "data.npz"
method = "minmax"
{passes}
[engine]
backend = "none"
"""


def placed(folder, model, data):
    shutil.copy(DATA / model, folder / "model.onnx")
    shutil.copy(DATA / data, folder / "data.npz")


def made(folder, capsys):
    """The recipe that ``new`` writes, with no backend, and what a run of it leaves."""
    recipe = folder / "recipe.toml"
    assert invoke(["new", str(folder / "model.onnx"), "--data", str(folder / "data.npz"), "--out", str(recipe)]) == 0
    recipe.write_text(recipe.read_text().replace('backend = "auto"', 'backend = "none"'))
    assert invoke(["check", str(recipe)]) == 0
    assert invoke(["run", str(recipe), "--out", str(folder / "out")]) == 0
    capsys.readouterr()
    report = json.loads((folder / "out" / "report.json").read_text())
    journal = [json.loads(line) for line in (folder / "out" / "journal.jsonl").read_text().splitlines()]
    return Recipe.load(recipe), report, journal


def quantized(report):
    return {layer["node"] for layer in report["layers"] if layer["op"] in ("MatMul", "Gemm", "Conv")
            and layer["asked"]["precision"] == "int8"}  # fmt: skip


def test_weights_read_through_a_pair_and_a_transpose_are_all_quantized(tmp_path, capsys):
    placed(tmp_path, "qat_transpose.onnx", "qat_transpose_calibration.npz")
    recipe, report, _ = made(tmp_path, capsys)
    assert [entry["use"] for entry in recipe.passes][:2] == ["strip_qdq", "fold_constants"]
    assert quantized(report) == {f"/{name}/MatMul" for name in ("q", "k", "v", "o", "f1", "f2")}
    assert not [entry for entry in report["declined"] if entry["rule"] == "computed-weights"]


def test_a_recipe_that_folds_too_early_is_told_in_the_first_line(tmp_path):
    placed(tmp_path, "qat_transpose.onnx", "qat_transpose_calibration.npz")
    profile = '[[profile]]\nname = "all"\nshapes.x = { min = [1, 16, 32], opt = [2, 16, 32], max = [8, 16, 32] }\n'
    uses = "".join(f'[[pass]]\nuse = "{use}"\n' for use in ("fold_constants", "strip_qdq", "insert_qdq"))
    (tmp_path / "recipe.toml").write_text(RUN.format(profile=profile, passes=uses))
    assert invoke(["run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out")]) in (0, 1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not quantized(report)
    assert "all 6 layers" in report["summary"]["headline"] and "'computed-weights'" in report["summary"]["headline"]


@pytest.mark.parametrize("name", ["apart_emb_sym.onnx", "apart_emb_u8.onnx"])
def test_a_model_with_a_quantized_table_is_called_quantized_and_stripped(name, tmp_path, capsys):
    placed(tmp_path, name, "apart_calibration.npz")
    assert invoke(["inspect", str(tmp_path / "model.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    _, report, journal = made(tmp_path, capsys)
    # the search may keep one float for the budget; none is left out for what the table was stored in
    kept = {entry["node"] for entry in report["declined"] if entry["rule"] == "kept"}
    assert quantized(report) | kept == {"/l1/MatMul", "/l2/MatMul"}
    assert not [entry for entry in report["declined"] if entry["rule"] in ("foreign-pair", "no-pair")]
    assert [e["values"]["sqnr_db"] for e in journal if e.get("rule") == "strip-measured"] == ["inf"]
    # without strip_qdq it is no float model
    (tmp_path / "plain.toml").write_text(RUN.format(profile="", passes='[[pass]]\nuse = "insert_qdq"\n'))
    assert invoke(["check", str(tmp_path / "plain.toml"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1


def test_results_are_compared_with_the_model_that_samples_show(tmp_path):
    """A clamp from below that no name and no width tells: the reference has it, as the passes' model does."""
    grid = {"s": np.float32(0.0173), "z": np.int8(-107)}
    proto = build(
        [node("Conv", ["x", "w"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
         node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("Conv", ["d", "v"], ["y"])],
        {"x": ["n", 3, 4, 4]}, {"y": ["n", 2, 4, 4]},
        {"w": normal(8, 3, 1, 1, seed=1, scale=0.5), "v": normal(2, 8, 1, 1, seed=2), **grid},
    )  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    np.savez(tmp_path / "data.npz", x=normal(12, 3, 4, 4))
    profile = '[[profile]]\nname = "all"\nshapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 4, 4] }\n'
    strip = '[[pass]]\nuse = "strip_qdq"\n[[pass]]\nuse = "insert_qdq"\n'
    (tmp_path / "recipe.toml").write_text(RUN.format(profile=profile, passes=strip))
    inputs = Inputs(Job(Recipe.load(tmp_path / "recipe.toml"), RunFolder(tmp_path / "out")))
    assert [n.op for n in inputs.reference().nodes if n.op == "Clip"] == ["Clip"]
    x = {"x": normal(4, 3, 4, 4, seed=5)}
    wanted, found = infer(Model.from_proto(proto), x)[0], infer(inputs.reference(), x)[0]
    assert np.abs(wanted - found).max() < 0.2
    assert invoke(["run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out")]) in (0, 1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["outputs"]["y"]["sqnr_db"] > 25


def test_what_cannot_be_stripped_is_named_and_no_strip_is_advised(tmp_path, capsys):
    proto = build(
        [
            node("Relu", ["x"], ["h"]), node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            node("Cast", ["q"], ["wide"], to=TensorProto.INT32), node("CumSum", ["wide", "axis"], ["sum"]),
            node("Cast", ["sum"], ["m"], to=TensorProto.INT8),
            node("DequantizeLinear", ["m", "s", "z"], ["d"]), node("MatMul", ["d", "w"], ["y"], "mm"),
        ],
        {"x": ["n", 4]}, {"y": ["n", 3]},
        {"s": np.float32(0.05), "z": np.int8(-3), "w": normal(4, 3), "axis": np.asarray(1, np.int32)},
    )  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    np.savez(tmp_path / "data.npz", x=normal(12, 4))
    profile = '[[profile]]\nname = "all"\nshapes.x = { min = [1, 4], opt = [2, 4], max = [8, 4] }\n'
    strip = '[[pass]]\nuse = "strip_qdq"\n[[pass]]\nuse = "insert_qdq"\n'
    (tmp_path / "recipe.toml").write_text(RUN.format(profile=profile, passes=strip))
    assert invoke(["check", str(tmp_path / "recipe.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["node"] for entry in found["declined"] if entry["rule"] == "no-pair"} == {"d", "q"}
    (declined,) = [entry for entry in found["declined"] if entry["node"] == "mm"]
    assert declined["rule"] == "foreign-pair" and "'sum'" in declined["reason"] and "before" not in declined["reason"]
    (warning,) = found["warnings"]
    assert "'d'" in warning and "strip_qdq" not in warning
