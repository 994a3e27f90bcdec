"""``qtool export``: what builds a run's engine elsewhere, and a model that any runtime opens."""

from __future__ import annotations

import json
import shlex

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.conftest import build, node
from tests.control_flow import subgraph, switch
from tests.toolkit.conftest import GOOD
from toolkit import Model, Precision
from toolkit.backends.none import NoBackend
from toolkit.cli.main import invoke
from toolkit.evaluation.evaluate import first_samples
from toolkit.graph.sessions.session import session
from toolkit.run.migrate.migrate import MigrationRequest, migrate
from toolkit.run.pipeline import run
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.results.export import export
from toolkit.run.results.finished_run import FinishedRun


@pytest.fixture
def ran(place):
    """The folder of a run."""
    run(place / "recipe.toml", place / "out")
    return place / "out"


def test_the_float32_model_gives_by_default_what_the_pairs_say(ran, capsys):
    assert invoke(["export", str(ran), "--to", "onnxruntime", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    path = ran / "export" / "onnxruntime" / "model_qdq.onnx"
    assert found["files"] == [path.name] and found["checked"] == {"samples": 2, "made_up": False}
    onnx.checker.check_model(str(path), full_check=True)
    model = Model.load(path)
    assert {node.op for node in model.nodes} >= {"QuantizeLinear", "DequantizeLinear"}
    assert set(model.facts().types.values()) <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for part in first_samples(FinishedRun.of(ran).inputs.calibration_data(model), 4, None):
        wanted = session(path).run(part.inputs)["y"]
        np.testing.assert_allclose(plain.run(None, part.inputs)[0], wanted, atol=0.03 * np.abs(wanted).max())


def test_the_command_lies_beside_all_that_it_reads(ran):
    made = export(FinishedRun.of(ran), "polygraphy", ran.parent / "there")
    assert {path.name for path in (ran.parent / "there").iterdir()} == set(made.files) == {"build.sh", "model.onnx"}
    assert (ran.parent / "there" / "model.onnx").read_bytes() == (ran / "model.onnx").read_bytes()
    script = (ran.parent / "there" / "build.sh").read_text()
    assert shlex.split(made.command)[:3] == ["polygraphy", "convert", "model.onnx"] and made.command in script
    assert "'x:[2,3,4,4]'" in made.command and "--strongly-typed" in made.command
    (note,) = made.notes
    assert "built no engine" in note
    assert export(FinishedRun.of(ran), "trtexec").command.startswith("trtexec --onnx=model.onnx ")


def test_neither_the_runs_inputs_nor_its_own_files_are_written_over(ran, capsys):
    before = {path: path.read_bytes() for path in (ran.parent / "model.onnx", ran / "model.onnx")}
    for folder in (ran.parent, ran):
        assert invoke(["export", str(ran), "--to", "trtexec", "--out", str(folder)]) == 2
        said = capsys.readouterr().err
        assert str(folder / "model.onnx") in said and "--out" in said
        assert not (folder / "build.sh").exists()
    assert all(path.read_bytes() == content for path, content in before.items())


BUILT = """
workspace_mb = 64
optimization_level = 2
avg_timing_iterations = 4
tactic_sources = ["edge_mask_convolutions", "cudnn"]
refit = true
sparse_weights = true
version_compatible = true
hardware_compatible = true
"""


def test_what_is_exported_migrates_back_to_the_same_settings(place, monkeypatch):
    (place / "recipe.toml").write_text(GOOD.replace('backend = "none"', f'backend = "none"{BUILT}'))
    run(place / "recipe.toml", place / "out")
    monkeypatch.chdir(place)
    kept = (
        "workspace_mb",
        "optimization_level",
        "refit",
        "sparse_weights",
        "version_compatible",
        "hardware_compatible",
    )
    before = Recipe.load(place / "recipe.toml")
    for to, lost in (("trtexec", []), ("polygraphy", ["--trt-config-postprocess-script config.py"])):
        made = export(FinishedRun.of(place / "out"), to)
        # the script that was written, and its line as it is printed
        for given in ([str(made.folder / "build.sh")], shlex.split(made.command)):
            monkeypatch.chdir(made.folder)
            found = migrate(MigrationRequest(given, out=place / "back", force=True))
            after = Recipe.load(found.recipe)
            assert [turn.order.said for turn in found.turns if turn.fate == "lost"] == lost, to
            assert {key: getattr(after.engine, key) for key in kept} == {
                key: getattr(before.engine, key) for key in kept
            }
            # newer TensorRTs have no kernels of cuDNN
            assert set(after.engine.tactic_sources) == set(before.engine.tactic_sources) - {"cudnn"}
            assert after.engine.avg_timing_iterations == (None if lost else 4)
            assert [one.shapes for one in after.profile] == [one.shapes for one in before.profile]


def test_weak_typing_takes_its_types_ranges_and_flags_along(place, monkeypatch):
    weak = GOOD.replace('backend = "none"', 'backend = "none"\ntyping = "weak"\nrest = "fp32"')
    keep = '[[pass]]\nuse = "keep_precision"\nops = ["Relu"]\nprecision = "fp16"\n\n[[pass]]\nuse = "insert_qdq"'
    (place / "recipe.toml").write_text(weak.replace('[[pass]]\nuse = "insert_qdq"', keep, 1))
    run(place / "recipe.toml", place / "out")
    made = export(FinishedRun.of(place / "out"), "trtexec").command
    relu = next(n.name for n in Model.load(place / "out" / "model.onnx").nodes if n.op == "Relu")
    assert "--fp16" in made and "--int8" in made and f"{relu}:fp16" in made
    assert "precisions.py" in export(FinishedRun.of(place / "out"), "polygraphy").files
    monkeypatch.setattr(NoBackend, "typing_for", lambda self, settings: "weak")
    (place / "recipe.toml").write_text(weak.replace('rest = "fp32"', 'quantization = "implicit"'))
    run(place / "recipe.toml", place / "implicit")
    made = export(FinishedRun.of(place / "implicit"), "trtexec")
    assert "--calib=calibration.cache" in made.command
    cache = (made.folder / "calibration.cache").read_text()
    assert cache.startswith("TRT-") and "x: " in cache


def test_a_model_that_onnxruntime_computes_otherwise_is_not_written(ran, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr("toolkit.run.checks.gpu_types.types_of_pairs", lambda model: {Precision.NVFP4, Precision.INT8})
        assert invoke(["export", str(ran), "--to", "onnxruntime"]) == 2
        assert "no operators for NVFP4" in capsys.readouterr().err
    monkeypatch.setattr("toolkit.evaluation.default_optimizations._FAIR_DB", 500.0)
    monkeypatch.setattr("toolkit.evaluation.default_optimizations._WORSE_DB", -500.0)
    for saturate in (False, True):
        monkeypatch.setattr(
            "toolkit.evaluation.default_optimizations.sums_saturate", lambda saturate=saturate: saturate
        )
        assert invoke(["export", str(ran), "--to", "onnxruntime"]) == 2
        told = capsys.readouterr().err
        assert "default optimizations" in told and ("on another processor" in told) is saturate
        assert "They first differ at 'c'. Exclude this layer, or use model.onnx" in told
        assert not (ran / "export").exists()
    monkeypatch.setattr("toolkit.evaluation.default_optimizations.changed_layers", lambda model, samples: list("abcde"))
    assert invoke(["export", str(ran), "--to", "onnxruntime"]) == 2
    assert "'a', 'b', 'c', 'd' and 'e'. Exclude these layers, or use" in capsys.readouterr().err
    monkeypatch.setattr("toolkit.evaluation.default_optimizations.changed_layers", lambda model, samples: [])
    assert invoke(["export", str(ran), "--to", "onnxruntime"]) == 2
    assert "dB. Use model.onnx with session.disable_quant_qdq" in capsys.readouterr().err
    assert invoke(["export", str(ran), "--to", "trtexe"]) == 2 and "'trtexec'" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [False, True])
def test_attention_may_take_several_kernels_wherever_it_is(place, inside):
    attention = node("Attention", ["r", "r", "r"], ["y"], "attention")
    shape = {"y": ["N", 3, "h", "w"]}
    nodes = [node("Relu", ["x"], ["r"], "relu"), attention]
    if inside:
        nodes[1:] = [
            node("ReduceMax", ["x"], ["m"], "max", keepdims=0),
            node("Greater", ["m", "zero"], ["some"], "greater"),
            switch("if", "some", ["y"], subgraph([attention], shape), subgraph([node("Neg", ["r"], ["y"], "neg")], shape)),
        ]  # fmt: skip
    proto = build(nodes, {"x": ["N", 3, "h", "w"]}, shape, {"zero": np.float32(0)}, opset=23, ir_version=10)
    onnx.save(proto, place / "model.onnx")
    (place / "recipe.toml").write_text(GOOD.split("[[pass]]")[0] + '[engine]\nbackend = "none"\n')
    run(place / "recipe.toml", place / "out")
    assert "--decomposableAttentions=*" in export(FinishedRun.of(place / "out"), "trtexec").command
