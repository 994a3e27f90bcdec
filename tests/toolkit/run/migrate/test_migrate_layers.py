"""Types of single layers in `qtool migrate`: those that folding removes, those said twice, weights in four bits."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, ops
from tests.passes.test_int4 import INT4, layers
from tests.toolkit.run.migrate.test_migrate import fates, migrated, whys
from toolkit import Context
from toolkit.cli.main import invoke
from toolkit.report.findings import sentence
from toolkit.report.migrate_codes import MigrateCode


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normalized():
    """A convolution with a BatchNormalization that folds into it, and a product of constants."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="norm"), node("Mul", ["b", "g"], ["k"], name="fixed"),
        node("Add", ["n", "m"], ["a"], name="add"), node("Relu", ["a"], ["r"], name="relu"), node("Add", ["r", "k"], ["y"], name="last"),
    ]  # fmt: skip
    values = {name: np.abs(normal(4, seed=i)) + np.float32(0.5) for i, name in enumerate("gbmv")}
    weights = {"w": normal(4, 3, 3, 3, scale=0.2), **values}
    return build(nodes, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 4, 4]}, weights, opset=17)


def test_layers_that_are_folded_away_may_have_types(here):
    onnx.save(normalized(), "net.onnx")
    line = ("trtexec", "--onnx=net.onnx", "--fp16", "--precisionConstraints=obey")
    # the pattern takes in the layers that the names take out of it, so that all are named
    found, recipe, model = migrated(*line, "--layerPrecisions=*:fp16,relu:fp32,fixed:fp32")
    assert "norm" not in model.node_names() and "fixed" not in model.node_names()
    kept = {entry["precision"]: entry["nodes"] for entry in recipe.passes if entry["use"] == "keep_precision"}
    assert set(kept["fp32"]) == {"relu", "fixed"} and {"conv", "norm", "add", "last"} == set(kept["fp16"])
    assert set(fates(found).values()) == {"written", "implied"}
    assert migrated(*line, "--layerPrecisions=norm:fp32")[2] is not None


def test_a_layer_whose_type_is_said_again(here):
    onnx.save(normalized(), "net.onnx")
    first, second = "--layerPrecisions=relu:fp32,add:fp32", "--layerPrecisions=add:fp16,relu:fp16,conv:fp32"
    found, _, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", "--precisionConstraints=obey", first, second)
    assert fates(found)[first] == "overruled" and whys(found)[first] == str(MigrateCode.SAID_AGAIN)
    assert fates(found)[second] == "written"


def test_weights_in_four_bits_stay(here):
    model, x = layers(), normal(16, 32, seed=8)
    InsertQDQ(**INT4)(model, Context())
    model.save("net.onnx")
    np.savez("test.npz", x=x)
    line = ("trtexec", "--onnx=net.onnx", "--int4", "--fp16", "--shapes=x:8x32", "--test", "test.npz")
    found, _, made = migrated(*line)
    stored = [t for t in made.to_proto().graph.initializer if t.data_type == onnx.TensorProto.INT4 and t.dims]
    assert ops(made)["DequantizeLinear"] == 3 and sum(math.prod(t.dims) > 100 for t in stored) == 3
    assert whys(found)["--int4"] == str(MigrateCode.INT4_IN_GRAPH) and fates(found)["--int4"] == "implied"
    before, after = (found["forms"][form]["sqnr_db"] for form in ("before", "after"))
    assert after == pytest.approx(before, abs=0.3)
    # the way back has no form for them
    assert invoke(["migrate", "net.onnx", "--to", "implicit", "--out", "back"]) == 0


def test_a_form_that_changes_nothing_is_told(here, capsys):
    onnx.save(normalized(), "net.onnx")
    said = MigrateCode.FORMS_MEASURED(
        pairs=True, before_db=math.inf, after_db=30.0, before=None, after=None, float_value=None
    )
    assert "nan" not in sentence(said).lower() and "30.0 dB" in sentence(said)
    assert invoke(["migrate", "trtexec", "--loadEngine=built.engine"]) == 2
    assert "built.engine" in capsys.readouterr().err


def test_kernels_of_libraries_are_left_out_and_named(here):
    onnx.save(normalized(), "net.onnx")
    both, one = "--tacticSources=-CUDNN,+CUBLAS", "--tacticSources=-EDGE_MASK_CONVOLUTIONS"
    found, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", both)
    assert (fates(found)[both], whys(found)[both]) == ("written", str(MigrateCode.LIBRARY_TACTICS))
    assert recipe.engine.tactic_sources == ["edge_mask_convolutions", "jit_convolutions"]
    found, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", one)
    assert one not in whys(found) and recipe.engine.tactic_sources == ["jit_convolutions"]


def test_kinds_of_layers_that_a_model_lacks_are_no_loss(here):
    onnx.save(normalized(), "net.onnx")
    (here / "build.py").write_text("""import tensorrt as trt
parser.parse_from_file("net.onnx")
config.set_flag(trt.BuilderFlag.FP16)
for layer in network:
    if layer.type in (trt.LayerType.SOFTMAX, trt.LayerType.LRN):
        layer.precision = trt.float32
""")
    found, recipe, _ = migrated("build.py")
    assert fates(found)["layer.precision = trt.float32"] == "implied"
    assert "keep_precision" not in {one["use"] for one in recipe.passes}


def test_a_script_that_builds_nothing_is_refused(here, capsys):
    """Others' exporters build inside of themselves: what they set would be lost without a word."""
    onnx.save(normalized(), "net.onnx")
    (here / "export.py").write_text("model.export(format='engine', int8=True, data='coco.yaml')\n")
    assert invoke(["migrate", "export.py", "--model", "net.onnx"]) == 2
    assert "export.py" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--builderOptimizationLevel=6", "--avgTiming=0", "--memPoolSize=workspace:abc"])
def test_values_that_tensorrt_does_not_take_are_named(here, flag):
    onnx.save(normalized(), "net.onnx")
    found, _, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", flag)
    assert whys(found)[flag] == str(MigrateCode.VALUE_UNREADABLE) and fates(found)[flag] == "lost"
