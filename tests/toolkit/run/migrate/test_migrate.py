"""`qtool migrate` as a whole: what it writes, what it says of each flag and tensor, and what it refuses."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import Context, Model
from toolkit.calibration.interchange import read_ranges
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate import migrate as of_migration
from toolkit.run.migrate.tensors import scales_of
from toolkit.run.recipe.recipe import Recipe

CACHES = Path(__file__).parents[2] / "calibration" / "data"


def network():
    """The network that the recorded caches are of."""
    return build(
        [
            node("Conv", ["x", "w1"], ["c1"], name="conv1"), node("Relu", ["c1"], ["r1"], name="relu1"),
            node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p1", "w2"], ["c2"], name="conv2"), node("Relu", ["c2"], ["r2"], name="relu2"),
            node("MaxPool", ["r2"], ["p2"], name="pool2", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p2"], ["f"], name="flat"), node("MatMul", ["f", "w3"], ["m3"], name="fc1"),
            node("Add", ["m3", "b3"], ["a3"], name="bias1"), node("Relu", ["a3"], ["r3"], name="relu3"),
            node("MatMul", ["r3", "w4"], ["m4"], name="fc2"), node("Add", ["m4", "b4"], ["a4"], name="bias2"),
            node("Softmax", ["a4"], ["y"], name="softmax"),
        ],
        {"x": ["n", 1, 28, 28]}, {"y": ["n", 5]},
        {"w1": normal(4, 1, 5, 5, scale=0.2), "w2": normal(6, 4, 5, 5, seed=1, scale=0.1), "w3": normal(96, 16, seed=2, scale=0.1),
         "b3": normal(16, seed=3), "w4": normal(16, 5, seed=4), "b4": normal(5, seed=5)},
    )  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    np.savez("data.npz", x=normal(24, 1, 28, 28, seed=7))
    return tmp_path


def migrated(*words, status=0, name="net"):
    """What migration.json holds, with the recipe and the model."""
    assert invoke(["migrate", *map(str, words), "--force"]) == status
    found = json.loads(Path("migrated", name, "migration.json").read_text())
    model = Model.load(found["model"]) if found["model"] else None
    return found, Recipe.load(found["recipe"]), model


def tensors(found):
    return {one["tensor"]: one["why"]["code"] for one in found["tensors"]}


def fates(found):
    return {one["said"]: one["fate"] for one in found["orders"]}


def whys(found):
    return {one["said"]: one["why"]["code"] for one in found["orders"] if one["why"]}


def quantized(found, precision="int8"):
    report = json.loads((Path(found["model"]).parent / "report.json").read_text())
    return {
        one["node"] for one in report["layers"]
        if one["asked"]["precision"] == precision and not {"Quantize", "Linear"} & set(re.findall("Quantize|Linear", one["op"]))
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["EntropyCalibrator2", "MinMaxCalibrator", "EntropyCalibrator", "LegacyCalibrator"])
def test_a_recorded_cache_and_a_model_are_enough(here, kind):
    path = CACHES / f"IInt8{kind}.cache"
    found, recipe, model = migrated(path, "--model", "net.onnx")
    whole = kind in ("EntropyCalibrator2", "MinMaxCalibrator")
    given, told = read_ranges(path), tensors(found)
    scales = dict(scales_of(model))
    layers = {"x": "conv1", "p1": "conv2", "f": "fc1", "r3": "fc2"}
    assert quantized(found) >= {layers[name] for name in scales}
    assert set(scales) == ({"x", "p1", "f", "r3"} if whole else {"x", "p1", "f"})
    for name, scale in scales.items():
        source = name if name in given.tensors else "p2"
        assert scale == pytest.approx(given.amax(source) / 127, rel=2e-3)
    assert told["x"] == told["p1"] == str(MigrateCode.TENSOR_PAIRED) and told["y"] == str(MigrateCode.TENSOR_INSIDE)
    if whole:
        assert told["(Unnamed Layer* 7) [Constant]_output"] == str(MigrateCode.TENSOR_UNNAMED)
    else:
        # a Flatten hands the range on; what lay inside a fused layer has none
        assert told["f"] == str(MigrateCode.TENSOR_DERIVED) and told["r3"] == str(MigrateCode.TENSOR_MISSING)
    assert recipe.engine.rest == "fp16" and recipe.calibration.data is None
    assert [one.name for one in recipe.profile] == ["profile0"]


def test_every_flag_of_a_command_is_mapped_or_named(here):
    cache = CACHES / "IInt8EntropyCalibrator2.cache"
    line = (
        f"trtexec --onnx=net.onnx --int8 --fp16 --calib={cache} --minShapes=x:1x1x28x28 --optShapes=x:4x1x28x28 "
        "--maxShapes=x:16x1x28x28,y:1 --precisionConstraints=obey --layerPrecisions=*:fp16,conv2:int8,softmax:fp32,no:fp32 "
        "--layerOutputTypes=bias2:fp32,softmax:fp16 --outputIOFormats=fp16:chw32 --memPoolSize=workspace:64,dlaSRAM:1 "
        "--avgTiming=4 --builderOptimizationLevel=4 --timingCacheFile=t.cache --sparsity=force --noTF32 --refit "
        "--versionCompatible --hardwareCompatibilityLevel=ampere+ --saveEngine=e.plan --useCudaGraph --iterations=10 "
        "--plugins=a.so --useDLACore=0 --preview=x --minTiming=2 --frobnicate"
    )
    found, recipe, _ = migrated(*line.split())
    engine = recipe.engine
    assert (engine.rest, engine.workspace_mb, engine.avg_timing_iterations, engine.optimization_level) == (
        "fp16",
        64,
        4,
        4,
    )
    # 8.6 refuses pairs after residual sums where constraints are obeyed
    assert engine.constraints == "auto" and engine.sparse_weights and engine.refit and engine.version_compatible
    assert engine.hardware_compatible and engine.io == {"y": "fp16"} and engine.timing_cache == "../../t.cache"
    assert recipe.profile[0].shapes == {"x": {"min": [1, 1, 28, 28], "opt": [4, 1, 28, 28], "max": [16, 1, 28, 28]}}
    kept = {entry["precision"]: set(entry["nodes"]) for entry in recipe.passes if entry["use"] == "keep_precision"}
    assert kept["fp32"] == {"softmax"} and "conv2" not in kept["fp16"] and {"conv1", "fc1"} <= kept["fp16"]
    assert quantized(found) == {"conv2"}
    lost = {said.partition("=")[0] for said, fate in fates(found).items() if fate == "lost"}
    assert lost == {"--noTF32", "--plugins", "--useDLACore", "--preview", "--frobnicate", "--layerOutputTypes"}
    assert {whys(found)["--saveEngine=e.plan"], whys(found)["--minTiming=2"]} == {
        str(MigrateCode.ENGINE_IN_FOLDER), str(MigrateCode.REMOVED_IN_11)
    }  # fmt: skip
    written = {said.partition("=")[0]: code for said, code in whys(found).items() if fates(found)[said] == "written"}
    assert written == {
        "--maxShapes": str(MigrateCode.NO_SUCH_INPUT), "--layerPrecisions": str(MigrateCode.NO_SUCH_LAYER),
        "--outputIOFormats": str(MigrateCode.FORMAT_LOST),
        "--sparsity": str(MigrateCode.SPARSITY_FORCED), "--precisionConstraints": str(MigrateCode.CONSTRAINTS_BY_TYPES),
    }  # fmt: skip
    assert whys(found)["--layerOutputTypes=bias2:fp32,softmax:fp16"] == str(MigrateCode.OUTPUT_TYPE_LOST)
    assert len(found["orders"]) == len(line.split()) - 1


def test_flags_that_contradict(here):
    cache = CACHES / "IInt8EntropyCalibrator2.cache"
    found, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--stronglyTyped", "--int8", "--fp16", f"--calib={cache}")
    assert recipe.engine.rest == "fp32" and not any(one["use"] == "insert_qdq" for one in recipe.passes)
    assert {said for said, fate in fates(found).items() if fate == "overruled"} == {
        "--int8",
        "--fp16",
        f"--calib={cache}",
    }
    found, recipe, _ = migrated(
        "trtexec", "--onnx=net.onnx", "--best", "--bf16", f"--calib={cache}", "--precisionConstraints=none",
        "--layerPrecisions=conv1:fp16", "--precisionConstraints=prefer", "--shapes=x:2x1x28x28", "--optShapes=x:3x1x28x28",
    )  # fmt: skip
    assert recipe.engine.rest == "fp16" and recipe.engine.constraints == "auto"
    assert recipe.profile[0].shapes["x"] == {end: [3, 1, 28, 28] for end in ("min", "opt", "max")}
    assert whys(found) == {
        "--bf16": str(MigrateCode.CONTRADICTS), "--shapes=x:2x1x28x28": str(MigrateCode.CONTRADICTS),
        "--precisionConstraints=none": str(MigrateCode.SAID_AGAIN),
        "--precisionConstraints=prefer": str(MigrateCode.CONSTRAINTS_BY_TYPES),
    }  # fmt: skip
    _, recipe, _ = migrated(
        "trtexec", "--onnx=net.onnx", "--fp16", "--layerPrecisions=conv1:fp32", "--precisionConstraints=obey"
    )
    assert recipe.engine.constraints == "obey"
    found, _, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", f"--calib={cache}", "--layerPrecisions=conv1:fp32")
    assert set(whys(found).values()) >= {str(MigrateCode.NO_EFFECT)}
    words = [
        "trtexec",
        "--onnx=net.onnx",
        "--minShapes=x:8x1x28x28",
        "--maxShapes=x:4x1x28x28",
        "--optShapes=x:4x1x28x28",
    ]
    assert invoke(["migrate", *words, "--force"]) == 2


@pytest.mark.parametrize(
    ("text", "name", "tool"),
    [
        ("from modelopt.onnx.quantization import quantize\nquantize(onnx_path='net.onnx', calibration_data=1)\n", "q.py",
         "modelopt"),
        ("from onnxruntime.quantization import quantize_static\nquantize_static('net.onnx', 'out.onnx', r)\n", "q.py",
         "onnxruntime.quantization"),
        ("python -m modelopt.onnx.quantization --onnx_path=net.onnx --quantize_mode=int8", "q.sh", "modelopt"),
        ("python -m modelopt.onnx.quantization --onnx_path=net.onnx --quantize_mode=int8", "", "modelopt"),
    ],
)  # fmt: skip
def test_what_quantizes_a_model_and_builds_no_engine_is_told_the_next_command(here, capsys, text, name, tool):
    if name:
        Path(name).write_text(text)
    assert invoke(["migrate", *([name] if name else text.split())]) == 2
    said = capsys.readouterr().err
    assert f"quantizes a model with {tool}" in said and "qtool new net.onnx --data SAMPLES" in said
    assert "qtool migrate QUANTIZED.onnx" in said


def test_without_samples_the_next_command_is_one_that_runs(here, capsys):
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--int8", "--out", "waits"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "qtool new net.onnx --data SAMPLES" in last and "[calibration] data in waits/net.toml" in last
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--fp16", "--out", "runs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: qtool run runs/net.toml"


@pytest.mark.parametrize("way", [["--int8"], ["--fp16"]])
def test_a_file_where_the_folder_is_to_be_is_named_and_stays(here, capsys, way):
    before = {path: path.read_bytes() for path in here.iterdir() if path.is_file()}
    for out, said in (("net.onnx", "this is a file"), ("net.onnx/below", "a folder of its path is a file")):
        assert invoke(["migrate", "trtexec", "--onnx=net.onnx", *way, "--out", out]) == 2
        assert said in (error := capsys.readouterr().err) and out in error and "bug" not in error
    assert {path: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


def test_int8_without_ranges_is_a_recipe_that_waits_for_samples(here, capsys):
    found, recipe, model = migrated("trtexec", "--onnx=net.onnx", "--int8", status=1)
    assert model is None and found["findings"][0]["code"] == str(MigrateCode.NO_RANGES_AT_ALL)
    assert any(entry["use"] == "insert_qdq" for entry in recipe.passes) and recipe.engine.rest == "fp32"
    found, recipe, model = migrated("trtexec", "--onnx=net.onnx", "--int8", "--data", "data.npz")
    assert recipe.calibration.data and {"conv1", "conv2", "fc1", "fc2"} <= quantized(found)
    found, recipe, _ = migrated(
        *["polygraphy", "convert", "net.onnx", "--int8", "--calibration-cache", "new.cache", "--calib-base-cls", "IInt8MinMaxCalibrator"],
        "--load-inputs", "data.npz", "-o", "e.plan",
    )  # fmt: skip
    assert recipe.calibration.method == "minmax" and recipe.calibration.ranges is None
    assert whys(found)["--calibration-cache new.cache"] == str(MigrateCode.CACHE_NOT_THERE)


def test_both_forms_are_measured_where_there_are_samples(here):
    found, _, _ = migrated(CACHES / "IInt8MinMaxCalibrator.cache", "--model", "net.onnx", "--test", "data.npz")
    before, after = found["forms"]["before"], found["forms"]["after"]
    # the implicit form rounds what the pairs round, and more
    assert 5 < before["sqnr_db"] <= after["sqnr_db"]


def cache(ranges, folder=Path()):
    lines = [f"{name}: {struct.pack('>f', amax / 127).hex()}" for name, amax in ranges.items()]
    (folder / "c.cache").write_text("\n".join(["TRT-8600-EntropyCalibration2", *lines]) + "\n")
    return folder / "c.cache"


def test_a_cache_of_another_network(here):
    path = cache({"elsewhere": 1.0, "(Unnamed Layer* 3) [Constant]_output": 1.0})
    assert invoke(["migrate", str(path), "--model", "net.onnx"]) == 2 and not Path("migrated").exists()
    path = cache({"x": 1.0, "p1": 2.0, "layer4.conv": 1.0, "w1": 0.5})
    found, _, _ = migrated(path, "--model", "net.onnx")
    (other,) = [one for one in found["findings"] if one["code"] == str(MigrateCode.OTHER_NETWORK)]
    assert other["values"]["known"] == 3 and other["values"]["tensors"] == ["layer4.conv"]
    told = tensors(found)
    assert told["layer4.conv"] == str(MigrateCode.TENSOR_STRANGE) and told["w1"] == str(MigrateCode.TENSOR_CONSTANT)
    assert told["f"] == told["r3"] == str(MigrateCode.TENSOR_MISSING) and quantized(found) >= {"conv1", "conv2"}


def test_qtools_own_ranges_are_taken_as_a_cache(here):
    # the file names the versions of the tools that made it
    Ranges({"x": Range(2.0, "mse"), "p1": Range(1.0, "mse")}, made_from={"tools": "polygraphy 0.53"}).save(
        Path("r.json")
    )
    found, _, model = migrated("r.json", "--model", "net.onnx")
    assert found["source"] == "cache" and {"x", "p1"} <= set(dict(scales_of(model)))


def test_nan_and_zero_in_a_cache(here):
    path = cache({"x": 1.0, "p1": 0.0, "f": float("nan"), "r3": 2.0})
    found, _, model = migrated(path, "--model", "net.onnx")
    told = tensors(found)
    assert told["p1"] == str(MigrateCode.TENSOR_ZERO) and told["f"] == str(MigrateCode.TENSOR_WITHOUT)
    assert set(dict(scales_of(model))) == {"x", "p1", "r3"}
    path.write_text("TRT-8600-EntropyCalibration2\nx: 3c01020g\n")
    assert invoke(["migrate", str(path), "--model", "net.onnx", "--force"]) == 2


def test_ranges_of_a_script_go_over_those_of_its_cache(here):
    cache({"x": 1.0, "p1": 2.0, "f": 3.0, "r3": 4.0})
    Path("build.py").write_text(
        "import tensorrt as trt\n"
        "config.set_flag(trt.BuilderFlag.INT8)\n"
        "config.int8_calibrator = Calibrator('data', cache_file='c.cache')\n"
        "parser.parse_from_file('net.onnx')\n"
        "network.get_input(0).dynamic_range = (-5.0, 5.0)\n"
    )
    _, _, model = migrated("python3", "build.py")
    scales = dict(scales_of(model))
    assert scales["x"] * 127 == pytest.approx(5.0, rel=2e-3) and scales["p1"] * 127 == pytest.approx(2.0, rel=2e-3)


def paired(**grid):
    """The network with pairs on every layer's input, symmetric INT8."""
    model = Model.from_proto(network())
    InsertQDQ()(model, Context(known_ranges=Ranges({n: Range(3.0, "manual") for n in ("x", "p1", "f", "r3")})))
    return model


def test_pairs_of_a_model_are_kept(here):
    paired().save("net.onnx")
    wanted = dict(scales_of(Model.load("net.onnx")))
    found, recipe, model = migrated("net.onnx", "--test", "data.npz")
    assert dict(scales_of(model)) == pytest.approx(wanted, rel=1e-6)
    assert set(tensors(found).values()) == {str(MigrateCode.PAIR_KEPT)}
    assert not any(entry["use"] == "strip_qdq" for entry in recipe.passes)
    # the rest is lowered to float16, scales with it
    types = model.facts().types
    assert types["r1"] == types["a3"] == onnx.TensorProto.FLOAT16 and recipe.engine.rest == "fp16"
    assert found["forms"]["after"]["sqnr_db"] > found["forms"]["before"]["sqnr_db"] - 1
    path = cache({"x": 1.0})
    found, _, model = migrated("trtexec", "--onnx=net.onnx", "--int8", f"--calib={path}")
    assert whys(found)[f"--calib={path}"] == str(MigrateCode.PAIRS_OVERRULE)
    assert dict(scales_of(model)) == pytest.approx(wanted, rel=1e-6)


def asymmetric():
    """As onnxruntime's quantizer and torch.ao write it: uint8 activations with zero points, int8 weights stored, int32 bias."""
    weights = np.clip(np.round(normal(4, 1, 5, 5, scale=20)), -127, 127).astype(np.int8)
    return build(
        [
            node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]), node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
            node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=0), node("DequantizeLinear", ["bq", "sb", "zb"], ["bd"], axis=0),
            node("Conv", ["xd", "wd", "bd"], ["c"], name="conv"), node("Relu", ["c"], ["r"]),
            node("QuantizeLinear", ["r", "sr", "zr"], ["rq"]), node("DequantizeLinear", ["rq", "sr", "zr"], ["rd"]),
            node("Flatten", ["rd"], ["f"]), node("DequantizeLinear", ["vq", "sv"], ["v"], axis=1),
            node("MatMul", ["f", "v"], ["h"], name="fc"), node("MatMul", ["h", "u"], ["y"], name="head"),
        ],
        {"x": ["n", 1, 28, 28]}, {"y": ["n", 3]},
        {"sx": np.float32(0.03), "zx": np.uint8(128), "wq": weights, "sw": np.full(4, 0.01, np.float32), "zw": np.zeros(4, np.int8),
         "bq": np.array([3, -5, 7, 0], np.int32), "sb": np.full(4, 0.0003, np.float32), "zb": np.zeros(4, np.int32),
         "sr": np.float32(0.02), "zr": np.uint8(0), "vq": np.clip(np.round(normal(2304, 3, scale=40)), -127, 127).astype(np.int8), "sv": np.full(3, 0.001, np.float32),
         "u": normal(3, 3, seed=2)},
    )  # fmt: skip


def test_pairs_with_zero_points_are_made_anew_and_named(here):
    onnx.save(asymmetric(), "net.onnx")
    found, recipe, model = migrated("net.onnx", "--test", "data.npz")
    told = tensors(found)
    scales = dict(scales_of(model))
    # 128 steps on each side of zero stay what they were; from 0 to 255 steps there is one bit less, after the Flatten
    assert scales == pytest.approx({"x": 0.03 * 128 / 127, "f": 0.02 * 255 / 127}, rel=2e-3)
    assert told == {"x": str(MigrateCode.PAIR_MADE_ANEW), "r": str(MigrateCode.PAIR_MOVED)}
    assert [entry["use"] for entry in recipe.passes][:3] == ["strip_qdq", "keep_precision", "fold_constants"]
    # the last layer's author left its weights float
    assert quantized(found) == {"conv", "fc"} and not any(
        i.name == "bq" for n in model.nodes for i in n.inputs
    )  # fmt: skip
    assert found["forms"]["after"]["sqnr_db"] > 25


def test_what_is_not_there_is_named(here, capsys):
    Path("folder").mkdir()
    Path("notes.txt").write_text("nothing of use\n")
    for words, part in (
        (["net.onnx"], "no Q/DQ pairs"),
        (["trtexec", "--int8"], "names no model"),
        (["trtexec", "--onnx=no.onnx"], "no such file: no.onnx"),
        (["trtexec", "--onnx=net.onnx", "--int8", "--calib=no.cache"], "no such file: no.cache"),
        (["trtexec", "--onnx=net.onnx", "--int8", "--calib=folder"], "--data"),
        (["no.py"], "neither a file nor a command"),
        (["notes.txt"], "not 'tensor: range'"),
        (["net.onnx", "c.cache"], "--model"),
        (["trtexec --onnx='net.onnx"], "line 1"),
    ):
        assert invoke(["migrate", *words]) == 2
        error = capsys.readouterr().err
        assert part in error and "bug" not in error, (words, error)
    assert not Path("migrated").exists()


def test_nothing_is_written_over_without_being_told(here, capsys):
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--fp16"]) == 0
    before = Path("migrated/net/net.toml").read_text()
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--bf16"]) == 2
    assert Path("migrated/net/net.toml").read_text() == before
    assert json.loads(Path("migrated/net/migration.json").read_text())["model"] == "migrated/net/explicit/model.onnx"


@pytest.mark.parametrize("killed", ["save", "write_text", "_make", "write_json"])
def test_a_migration_that_was_killed_goes_on_with_its_own_files(here, monkeypatch, killed):
    """Between any two of its files; ``write_json`` is that of the finished record."""
    words = ["migrate", "trtexec", "--onnx=net.onnx", "--int8", f"--calib={CACHES / 'IInt8EntropyCalibrator2.cache'}"]

    def kill(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ranges if killed == "save" else of_migration, killed, kill)
        assert invoke(words) == 130
    found = json.loads(Path("migrated/net/migration.json").read_text())
    assert (found["unfinished"] and found["model"] is None) or killed == "write_json"
    assert invoke(words) == 0
    finished = json.loads(Path("migrated/net/migration.json").read_text())
    assert finished["model"] and "unfinished" not in finished
    # now it is an earlier migration's
    assert invoke(words) == 2


def test_what_is_written_over_of_a_killed_migration_is_what_it_wrote(here, monkeypatch, capsys):
    words = ["migrate", "trtexec", "--onnx=net.onnx", "--fp16"]

    def kill(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(of_migration, "_make", kill)
        assert invoke(words) == 130
    recipe = Path("migrated/net/net.toml")
    recipe.write_text(recipe.read_text() + "# mine\n")
    capsys.readouterr()
    assert invoke(words) == 2
    assert "the recipe already exists" in capsys.readouterr().err and "# mine" in recipe.read_text()


def test_half_precision_alone(here):
    for flag, kind in (("--fp16", onnx.TensorProto.FLOAT16), ("--bf16", onnx.TensorProto.BFLOAT16)):
        _, recipe, model = migrated("trtexec", "--onnx=net.onnx", flag)
        assert recipe.engine.rest == flag[2:] and model.facts().types["r1"] == kind
        assert not any(n.op == "QuantizeLinear" for n in model.nodes)


def test_a_timing_cache_stays_where_the_command_had_it(here):
    _, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--fp16", "--timingCacheFile=kept.timing")
    assert recipe.resolve(recipe.engine.timing_cache).resolve() == Path("kept.timing").resolve()


def test_a_quantile_counts_with_the_legacy_calibrator_alone(here):
    command = ["--data", "data.npz", "polygraphy", "convert", "net.onnx", "--int8", "--quantile", "0.999"]
    found, recipe, _ = migrated(*command)
    assert fates(found)["--quantile 0.999"] == "overruled" and recipe.calibration.method == "entropy"
    _, recipe, _ = migrated(*command, "--calibration-base-class", "IInt8LegacyCalibrator")
    assert (recipe.calibration.method, recipe.calibration.percentile) == ("percentile", 99.9)


def test_a_gpu_that_lacks_a_type_is_named(here, capsys):
    found, recipe, _ = migrated("trtexec", "--onnx=net.onnx", "--bf16", "--capability", "7.5", "--capability", "8.6")
    (said,) = [one for one in found["findings"] if one["code"] == "engine-type-not-on-gpu"]
    assert said["values"] == {"precision": "bf16", "capabilities": ["7.5"], "since": "8.0"}
    assert recipe.engine.compute_capabilities == ["7.5", "8.6"]
    path = Path("migrated/net/net.toml")
    path.write_text(path.read_text().replace('"auto"', '"none"'))
    capsys.readouterr()
    assert invoke(["check", str(path), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("7.5" in one and "8.6" not in one for one in warnings)
    assert invoke(["migrate", "trtexec", "--onnx=net.onnx", "--fp16", "--capability", "ampere", "--force"]) == 2


def test_layers_that_a_quantized_model_leaves_float_need_no_ranges(here):
    """A model whose embedding table alone is quantized."""
    path = Path(__file__).parents[3] / "passes" / "data" / "apart_emb_sym.onnx"
    found, _, _ = migrated(path, name="apart_emb_sym")
    (floats,) = [
        one["values"]["layers"] for one in found["findings"] if one["code"] == str(MigrateCode.LAYERS_STAY_FLOAT)
    ]
    assert floats == ["/l1/MatMul", "/l2/MatMul"] and quantized(found) == set()


def test_a_pair_at_the_models_output_is_kept(here):
    """As onnxruntime's quantizer writes it: the output itself comes out of a DequantizeLinear."""
    grid = {"s": np.float32(0.05), "z": np.int8(0), "sw": np.full(2, 0.02, np.float32), "zw": np.zeros(2, np.int8)}
    proto = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], axis=0), node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], axis=0),
            node("Conv", ["xd", "wd"], ["c"], name="conv"), node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
            node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
        ],
        {"x": ["n", 1, 28, 28]}, {"y": ["n", 2, 24, 24]}, {"w": normal(2, 1, 5, 5, scale=0.2), **grid},
    )  # fmt: skip
    onnx.save(proto, "net.onnx")
    found, _, model = migrated("net.onnx", "--test", "data.npz")
    assert tensors(found) == dict.fromkeys(("x", "c"), str(MigrateCode.PAIR_KEPT)) and quantized(found) == {"conv"}
    assert [t.name for t in model.graph.outputs] == ["y"] and found["forms"]["after"]["sqnr_db"] > 20


def test_forms_are_held_against_the_float_model_that_pairs_stood_in_for(here):
    """A quantizer removes the ReLU before a pair from 0 on: it belongs to the float model."""
    proto = asymmetric()
    relu = next(one for one in proto.graph.node if one.op_type == "Relu")
    proto.graph.node.remove(relu)
    for one in proto.graph.node:
        one.input[:] = ["c" if name == "r" else name for name in one.input]
    onnx.save(proto, "net.onnx")
    found, _, model = migrated("net.onnx", "--test", "data.npz")
    assert min(form["sqnr_db"] for form in found["forms"].values()) > 25
    assert [one.op for one in model.nodes if one.op in ("Relu", "Clip")]


def test_a_pair_that_the_model_lacks_is_declined_and_its_own_are_kept(here):
    """A residual branch without a pair, whose range nobody knows: as ModelOpt leaves the inputs of some Concats."""
    proto = build(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["z"], ["r"]), node("Add", ["c", "r"], ["s"]),
            node("Conv", ["s", "v"], ["y"]),
        ],
        {"x": ["n", 4, 8, 8], "z": ["n", 4, 8, 8]}, {"y": ["n", 2, 8, 8]},
        {"w": normal(4, 4, 3, 3, scale=0.2), "v": normal(2, 4, 1, 1, seed=1)},
    )  # fmt: skip
    model = Model.from_proto(proto)
    InsertQDQ(exclude=["s"])(model, Context(known_ranges=Ranges({n: Range(3.0, "manual") for n in ("x", "s")})))
    model.save("net.onnx")
    found, _, _ = migrated("net.onnx")
    assert tensors(found) == dict.fromkeys(("x", "s"), str(MigrateCode.PAIR_KEPT)) and quantized(found) == {"c", "y"}
