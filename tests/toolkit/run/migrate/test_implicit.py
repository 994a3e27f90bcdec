"""The way back: a float model, ranges and a calibration cache out of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node
from tests.conftest import run as infer
from tests.toolkit.run.migrate.test_migrate import asymmetric, network, tensors
from toolkit import Context, Model, Precision
from toolkit.base.errors import RangesError
from toolkit.calibration.interchange import read_ranges
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.tensors import scales_of
from toolkit.run.recipe.recipe import Recipe

AMAX = {"x": 3.0, "p1": 2.0, "f": 1.5, "r3": 4.0}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def back(*words):
    assert invoke(["migrate", *words, "--to", "implicit", "--out", "back", "--force"]) == 0
    return json.loads(Path("back/migration.json").read_text())


def paired(**settings):
    model = Model.from_proto(network())
    InsertQDQ(**settings)(model, Context(known_ranges=Ranges({n: Range(v, "manual") for n, v in AMAX.items()})))
    return model


def test_there_and_back_the_scales_are_the_same(here):
    model = paired()
    model.save("net.onnx")
    found = back("net.onnx")
    ranges = read_ranges("back/calibration.cache")
    assert Path("back/calibration.cache").read_text().startswith("TRT-8600-EntropyCalibration2\n")
    scales = dict(scales_of(model))
    assert {name: ranges.amax(name) / 127 for name in AMAX} == pytest.approx(scales, rel=1e-6)
    assert read_ranges("back/ranges.txt").amax("p1") == pytest.approx(ranges.amax("p1"), rel=1e-6)
    # what runs in one kernel with a tensor, and what holds its values, has its range
    assert ranges.amax("c1") == ranges.amax("r1") == ranges.amax("p1") and ranges.amax("r2") == ranges.amax("f")
    told = tensors(found)
    assert told["p1"] == str(MigrateCode.RANGE_OF_PAIR) and told["c1"] == str(MigrateCode.RANGE_FOLLOWS)
    # MatMul and bias are two nodes: the product has a range of its own, which no pair tells
    assert told["m3"] == told["m4"] == str(MigrateCode.RANGE_UNKNOWN)
    bare, x = (
        Model.load("back/float.onnx"),
        {"x": np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)},
    )
    assert np.allclose(infer(bare, x)[0], infer(Model.from_proto(network()), x)[0], atol=1e-6)
    assert Recipe.load("back/net.toml").engine.quantization == "implicit"
    assert invoke(["migrate", "back/trtexec.sh", "--out", "again"]) == 0
    again = Model.load("again/explicit/model.onnx")
    assert dict(scales_of(again)) == pytest.approx(scales, rel=2e-3)


def test_layers_without_pairs_stay_out_of_int8(here):
    paired(exclude=["conv2"]).save("net.onnx")
    found = back("net.onnx", "--tensorrt", "10.3")
    assert Path("back/calibration.cache").read_text().startswith("TRT-100300-")
    assert "--layerPrecisions=conv2:fp16 --precisionConstraints=obey" in Path("back/trtexec.sh").read_text()
    (floats,) = [one for one in found["findings"] if one["code"] == str(MigrateCode.FLOAT_LAYERS)]
    assert floats["values"]["layers"] == ["conv2"]
    assert invoke(["migrate", "back/trtexec.sh", "--out", "again"]) == 0
    assert [entry for entry in Recipe.load("again/float.toml").passes if entry["use"] == "keep_precision"] == [
        {"use": "keep_precision", "nodes": ["conv2"], "precision": "fp16"}
    ]


def test_zero_points_are_named(here):
    onnx.save(asymmetric(), "net.onnx")
    told = tensors(back("net.onnx"))
    assert told["x"] == told["r"] == str(MigrateCode.OFFSET_LOST) and told["f"] == str(MigrateCode.RANGE_FOLLOWS)
    ranges = read_ranges("back/calibration.cache")
    assert ranges.amax("x") == pytest.approx(0.03 * 128, rel=1e-6) and ranges.amax("f") == pytest.approx(
        0.02 * 255, rel=1e-6
    )
    assert not any(node.op == "DequantizeLinear" for node in Model.load("back/float.onnx").nodes)


def test_fp8_has_no_way_back(here):
    model = Model.from_proto(network())
    model.raise_opset(19)
    InsertQDQ(dtype="fp8")(model, Context(known_ranges=Ranges({n: Range(v, "manual") for n, v in AMAX.items()})))
    model.save("net.onnx")
    found = back("net.onnx")
    assert set(tensors(found).values()) == {
        str(MigrateCode.NO_IMPLICIT_FORM),
        str(MigrateCode.RANGE_UNKNOWN),
    }
    assert [one["code"] for one in found["findings"]] == [MigrateCode.NOTHING_IMPLICIT]
    assert "--int8" not in Path("back/trtexec.sh").read_text()
    assert Recipe.load("back/net.toml").rest is Precision.FP16


@pytest.mark.parametrize("kind", [ml_dtypes.float4_e2m1fn, ml_dtypes.int4])
def test_four_bits_of_a_whole_tensor_have_no_way_back(here, kind):
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("QuantizeLinear", ["w", "s", "z"], ["p"]), node("DequantizeLinear", ["p", "s", "z"], ["v"]),
             node("MatMul", ["d", "v"], ["y"], name="m")]  # fmt: skip
    weights = {"s": np.array(0.5, np.float32), "w": np.ones((16, 4), np.float32), "z": np.zeros((), kind)}
    proto = build(nodes, {"x": ["n", 16]}, {"y": ["n", 4]}, weights, opset=23, ir_version=11)
    onnx.save(proto, "net.onnx")
    assert tensors(back("net.onnx")) == {
        "x": str(MigrateCode.NO_IMPLICIT_FORM),
        "y": str(MigrateCode.RANGE_UNKNOWN),
    }
    assert not json.loads(Path("back/net.ranges.json").read_text())["tensors"]
    with pytest.raises(RangesError, match="holds no ranges"):
        read_ranges("back/net.ranges.json")


def test_a_layer_in_float32_is_so_on_the_way_back(here):
    onnx.save(network(), "net.onnx")
    table = "".join(f"{name}: {value}\n" for name, value in AMAX.items())
    Path("net.ranges").write_text(table)
    line = [
        "--onnx=net.onnx",
        "--int8",
        "--fp16",
        "--calib=net.ranges",
        "--layerPrecisions=fc2:fp32,fc1:fp16",
        "--precisionConstraints=obey",
    ]
    assert invoke(["migrate", "trtexec", *line, "--out", "there"]) == 0
    back("there/explicit")
    said = Path("back/trtexec.sh").read_text()
    assert "fc2:fp32" in said and "fc1:fp16" in said
    kept = {one["precision"]: one["nodes"] for one in Recipe.load("back/explicit.toml").passes if "precision" in one}
    assert kept == {"fp16": ["fc1"], "fp32": ["fc2"]}


def test_a_run_without_float16_has_none_on_the_way_back(here):
    onnx.save(network(), "net.onnx")
    Path("net.ranges").write_text("".join(f"{name}: {value}\n" for name, value in AMAX.items()))
    shapes = ["--minShapes=x:1x1x28x28", "--optShapes=x:4x1x28x28", "--maxShapes=x:9x1x28x28"]
    line = ["--onnx=net.onnx", "--int8", "--calib=net.ranges", *shapes]
    assert invoke(["migrate", "trtexec", *line, "--out", "there"]) == 0
    back("there/explicit")
    said = Path("back/trtexec.sh").read_text().split()
    assert "--fp16" not in said and set(shapes) <= set(said)
    again = Recipe.load("back/explicit.toml")
    assert again.rest is Precision.FP32
    assert list(again.profiles()) == list(Recipe.load("there/net.toml").profiles())


def test_what_cannot_go_back_is_named(here, capsys):
    onnx.save(network(), "net.onnx")
    for words, part in (
        (["net.onnx"], "no Q/DQ pairs"), (["no.onnx"], "no such model"), (["net.onnx", "--tensorrt", "11.0"], "--tensorrt"),
        (["net.onnx", "--tensorrt", "x"], "--tensorrt"), (["net.onnx", "--tensorrt", "8.²"], "--tensorrt"),
    ):  # fmt: skip
        assert invoke(["migrate", *words, "--to", "implicit"]) == 2
        assert part in capsys.readouterr().err
    assert invoke(["migrate", "net.onnx", "--to", "elsewhere"]) == 2 and "explicit" in capsys.readouterr().err
