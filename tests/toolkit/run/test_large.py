"""Models above protobuf's limit, which is lowered here: every command works, and no message grows beyond it."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal, run
from tests.large_models import block_samples, residual_blocks
from toolkit.cli.main import invoke
from toolkit.graph.light import LightModel
from toolkit.graph.model import Model
from toolkit.graph.sessions import session
from toolkit.report.schema import Report

LIMIT = 60_000
WIDTH, BLOCKS = 64, 3
INSERT = '[[pass]]\nuse = "insert_qdq"\n'


@pytest.fixture
def limited(monkeypatch):
    """protobuf's limit lowered, and everything that takes a message held to it."""
    monkeypatch.setattr("toolkit.graph.light.PROTOBUF_LIMIT", LIMIT)

    def hold(owner, name, place):
        whole = getattr(owner, name)

        def holding(*given, **more):
            message = given[place]
            size = len(message) if isinstance(message, bytes) else message.ByteSize() if hasattr(message, "ByteSize") else 0
            assert size <= LIMIT, f"{name} was given {size} bytes"
            return whole(*given, **more)

        monkeypatch.setattr(owner, name, holding)

    hold(ort.InferenceSession, "__init__", 1)
    hold(onnx.checker, "check_model", 0)
    hold(onnx.shape_inference, "infer_shapes", 0)
    hold(onnx.version_converter, "convert_version", 0)
    hold(onnx.inliner, "inline_local_functions", 0)


@pytest.fixture
def place(tmp_path, monkeypatch, limited):
    residual_blocks(tmp_path / "big.onnx", WIDTH, BLOCKS)
    block_samples(tmp_path / "samples.npz", WIDTH)
    # every path of a recipe and of the command line is relative, as people write them
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(capsys, *words):
    assert invoke(list(words)) == 0, capsys.readouterr()
    return capsys.readouterr().out


def test_the_whole_road(place, capsys):
    done(capsys, "new", "big.onnx", "--data", "samples.npz", "--out", "new.toml")
    text = (place / "new.toml").read_text().replace('backend = "auto"', 'backend = "none"')
    (place / "searched.toml").write_text(text)
    done(capsys, "check", "searched.toml")
    done(capsys, "run", "searched.toml", "--out", "runs/searched")
    searched = Report.load(place / "runs/searched/report.json")
    assert searched.search is not None and searched.accuracy.outputs["y"].sqnr_db > 20
    (prepared,) = (place / "runs/searched/.qtool").glob("prepared.onnx.*.data")
    assert prepared.stat().st_size >= 2 * BLOCKS * 4 * WIDTH * WIDTH
    assert all(len(p.read_bytes()) <= LIMIT for p in (place / "runs").rglob("*.onnx"))
    assert "reused passes" in done(capsys, "run", "searched.toml", "--out", "runs/searched").replace("\n", " ")

    found = json.loads(done(capsys, "sensitivity", "searched.toml", "--out", "runs/searched", "--json"))
    assert len(found["groups"]) == 2 * BLOCKS

    # the model with its pairs is above the limit too: they are taken out, and put in anew
    text = re.sub(r'\[\[pass\]\]\nuse = "search_precision".*?\n\n', INSERT + "\n", text, flags=re.DOTALL)
    (place / "plain.toml").write_text(text)
    done(capsys, "run", "plain.toml", "--out", "runs/plain")
    for path in (place / "runs/plain/.qtool").glob("prepared.onnx*"):
        path.rename(place / path.name)
    text = text.replace("big.onnx", "prepared.onnx").replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1)
    (place / "stripped.toml").write_text(text)
    done(capsys, "check", "stripped.toml")
    done(capsys, "run", "stripped.toml", "--out", "runs/stripped")
    plain, stripped = (Report.load(place / f"runs/{name}/report.json") for name in ("plain", "stripped"))
    assert plain.accuracy.outputs["y"].sqnr_db == pytest.approx(stripped.accuracy.outputs["y"].sqnr_db, abs=0.01)

    done(capsys, "compare", "runs/searched", "runs/plain", "--html", "both.html")
    assert f"MatMul {2 * BLOCKS}" in done(capsys, "inspect", "big.onnx")
    assert f"Q/DQ pairs: {4 * BLOCKS}" in done(capsys, "inspect", "prepared.onnx")
    done(capsys, "inspect", "runs/plain")
    done(capsys, "bisect", "searched.toml", "--out", "runs/searched")


@pytest.mark.rtx
def test_an_engine_is_built_from_weights_in_a_file_of_their_own(place, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install qtool[rtx]")
    (place / "recipe.toml").write_text(
        '[model]\npath = "big.onnx"\n[[profile]]\nname = "a"\n'
        f"shapes.x0 = {{ min = [1, {WIDTH}], opt = [4, {WIDTH}], max = [8, {WIDTH}] }}\n"
        '[calibration]\ndata = "samples.npz"\n'
        f'{INSERT}exclude = ["wide*"]\n[engine]\nbackend = "tensorrt_rtx"\nrest = "fp32"\n'
    )
    done(capsys, "run", "recipe.toml", "--out", "out")
    assert list((place / "out").glob("model.onnx.*.data"))
    report = Report.load(place / "out/report.json")
    run_in = {layer.node: layer.actual.precision for layer in report.layers if layer.op == "MatMul"}
    assert {run_in["wide1"], run_in["back1"]} == {"fp32", "int8"}


def test_processes_share_the_work_and_map_the_weights(place, capsys):
    (place / "recipe.toml").write_text(
        f'[model]\npath = "big.onnx"\n[calibration]\ndata = "samples.npz"\n{INSERT}[engine]\nbackend = "none"\n'
    )
    one = json.loads(done(capsys, "sensitivity", "recipe.toml", "--out", "one", "--json"))
    two = json.loads(done(capsys, "sensitivity", "recipe.toml", "--out", "two", "--processes", "2", "--json"))
    assert one["groups"] == two["groups"]


def test_external_data_is_mapped_and_never_changed(place):
    before = (place / "big.bin").read_bytes()
    model = Model.load("big.onnx")
    tensor = model.graph.tensors()["w0a"]
    assert not model.constant(tensor).flags.writeable and model.constant(tensor).base is not None
    assert model.to_light().weights["w0a"] is model.constant(tensor) is model.copy().to_light().weights["w0a"]
    print_before = model.fingerprint()
    tensor.values[0, 0] += 1
    assert model.fingerprint() != print_before == Model.load("big.onnx").fingerprint()
    assert (place / "big.bin").read_bytes() == before


def test_data_at_an_odd_offset_is_read(place):
    proto = onnx.load("big.onnx", load_external_data=False)
    x = normal(2, WIDTH)
    (expected,) = run(Model.load("big.onnx"), {"x0": x})
    (place / "odd.bin").write_bytes(b"?" + (place / "big.bin").read_bytes())
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 1)
            elif entry.key == "location":
                entry.value = "odd.bin"
    onnx.save(proto, "odd.onnx")
    model = Model.load("odd.onnx")
    assert model.constant(model.graph.tensors()["w0a"]).flags.aligned
    assert np.array_equal(run(model, {"x0": x})[0], expected)


def both_ways(weights):
    """An If with a MatMul in either branch, whose weights are the branches' own."""

    def branch(word):
        out = helper.make_tensor_value_info(word, TensorProto.FLOAT, ["n", WIDTH])
        held = [onnx.numpy_helper.from_array(values, name) for name, values in weights[word].items()]
        return helper.make_graph([node("MatMul", ["x", next(iter(weights[word]))], [word])], word, [], [out], held)

    return build(
        [
            node("ReduceMax", ["x"], ["top"], keepdims=0),
            node("Greater", ["top", "zero"], ["on"]),
            node("If", ["on"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
        ],
        {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]}, {"zero": np.float32(0).reshape(())},
    )  # fmt: skip


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")], ids=["names of their own", "one name"])
def test_weights_of_branches(tmp_path, limited, monkeypatch, names):
    monkeypatch.setattr("toolkit.graph.light.PROTOBUF_LIMIT", 30_000)
    weights = {word: {name: normal(WIDTH, WIDTH, seed=seed)} for seed, (word, name) in enumerate(zip(("then", "else"), names))}
    model = Model.from_proto(both_ways(weights))
    path = model.save(tmp_path / "m.onnx")
    assert path.stat().st_size < 30_000
    onnx.checker.check_model(str(path), full_check=True)
    for x in (normal(2, WIDTH), -np.abs(normal(2, WIDTH))):
        word = "then" if x.max() > 0 else "else"
        expected = x @ next(iter(weights[word].values()))
        for source in (model, Model.load(path), path):
            assert session(source).run({"x": x})["y"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert len({model.fingerprint(), model.copy().fingerprint(), Model.load(path).fingerprint()}) == 1
    model.check()


def test_a_light_model_is_whole_again():
    proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 64]}, {"y": [1, 64]}, {"w": normal(64, 64)})
    before = proto.SerializeToString()
    light = LightModel.of(proto)
    assert list(light.weights) == ["w"] and light.proto.ByteSize() < 1000 and light.weight_bytes == 4 * 64 * 64
    assert light.whole().SerializeToString() == before
