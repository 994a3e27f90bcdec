"""Batches that the graph cannot take: ``new`` writes 1, ``check`` and ``run`` name the node before anything else is done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import build, node, normal
from tests.toolkit.conftest import complain
from toolkit import Recipe, run
from toolkit.cli.main import invoke
from toolkit.graph.sessions.session import session

RECIPE = """\
[model]
path = "model.onnx"
[[profile]]
name = "all"
shapes.x = {{ min = {least}, opt = {most}, max = {most} }}
[calibration]
data = "data.npz"
[[pass]]
use = "insert_qdq"
[engine]
backend = "none"
"""


def shuffled(place, batch="n"):
    """A channel shuffle whose Reshape holds the batch, as ShuffleNet is exported with a batch of 1."""
    nodes = [
        node("Conv", ["x", "w0"], ["a"]),
        node("Reshape", ["a", "split_to"], ["split"]),
        node("Transpose", ["split"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "join_to"], ["join"]),
        node("Conv", ["join", "w1"], ["c"]),
        node("GlobalAveragePool", ["c"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    weights = {
        "w0": normal(8, 3, 1, 1), "w1": normal(5, 8, 1, 1, seed=1),
        "split_to": np.array([1, 2, 4, 6, 6]), "join_to": np.array([1, 8, 6, 6]),
    }  # fmt: skip
    onnx.save(build(nodes, {"x": [batch, 3, 6, 6]}, {"y": [batch, 5]}, weights), str(place / "model.onnx"))
    np.savez(place / "data.npz", x=normal(20, 3, 6, 6))
    return place / "model.onnx"


@pytest.mark.parametrize("data", [True, False])
def test_new_writes_a_batch_of_one_and_names_the_node(tmp_path, data):
    model, made = shuffled(tmp_path), tmp_path / "made.toml"
    words = ["--data", str(tmp_path / "data.npz")] if data else []
    assert invoke(["new", str(model), "--out", str(made), *words]) == 0
    assert "min = [1, 3, 6, 6], opt = [1, 3, 6, 6], max = [1, 3, 6, 6]" in made.read_text()
    assert "node 'split' (Reshape)" in made.read_text()
    if data:
        made.write_text(made.read_text().replace('"auto"', '"none"'))
        assert invoke(["check", str(made)]) == 0
        assert invoke(["run", str(made), "--out", str(tmp_path / "out")]) in (0, 1)


BESIDE = {
    "Reshape": ([node("Reshape", ["a", "to"], ["y"])], {"to": np.array([4, 128])}, "'y' (Reshape)"),
    "Expand": ([node("Expand", ["token", "to"], ["e"]), node("Concat", ["a", "e"], ["y"], axis=1)],
               {"to": np.array([4, 2, 4, 4]), "token": normal(1, 2, 4, 4)}, "'y' (Concat)"),
    "Tile": ([node("Tile", ["token", "to"], ["e"]), node("Concat", ["a", "e"], ["y"], axis=1)],
             {"to": np.array([4, 1, 1, 1]), "token": normal(1, 2, 4, 4)}, "'y' (Concat)"),
    "Concat": ([node("Concat", ["a", "token"], ["y"], axis=1)], {"token": normal(4, 2, 4, 4)}, "'y' (Concat)"),
    "Split": ([node("Split", ["a", "to"], ["y", "z"])], {"to": np.array([1, 3])}, "'y' (Split)"),
    "state": ([node("Reshape", ["a", "to"], ["s"]), node("GRU", ["s", "u", "v", "", "", "h"], ["y"], hidden_size=3)],
              {"to": np.array([8, -1, 16]), "u": normal(1, 9, 16), "v": normal(1, 9, 3), "h": normal(1, 4, 3)}, "'y' (GRU)"),
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("fixed", BESIDE)
def test_a_fixed_batch_that_is_not_1_is_found_with_its_number(tmp_path, capsys, fixed, rows):
    """The inputs declare any batch, a single sample cannot be computed, and a model that declares the number works."""
    nodes, weights, named = BESIDE[fixed]

    def built(batch):
        return build(
            [node("Conv", ["x", "w"], ["a"]), *nodes], {"x": [batch, 3, 4, 4]}, {"y": None},
            {"w": normal(8, 3, 1, 1), **weights},
        )  # fmt: skip

    onnx.save(built("n"), str(tmp_path / "model.onnx"))
    x = normal(40, 3, 4, 4)
    stacked = {"x": x} if rows == 1 else {f"x/{i:05}": x[i : i + rows] for i in range(0, 40, rows)}
    np.savez(tmp_path / "data.npz", **stacked)
    made, new = str(tmp_path / "made.toml"), ["new", str(tmp_path / "model.onnx"), "--out", str(tmp_path / "made.toml")]

    def refusal(words):
        capsys.readouterr()
        assert invoke(words) == 2
        return capsys.readouterr().err

    said = refusal([*new, "--data", str(tmp_path / "data.npz")])
    assert f"computes 4 samples at once, but not a single one: node {named}" in said and "eclare 4 there" in said
    if rows == 1:
        recipe = tmp_path / "recipe.toml"
        for most in ([1, 3, 4, 4], [8, 3, 4, 4]):
            recipe.write_text(RECIPE.format(least=[1, 3, 4, 4], most=most))
            assert "eclare 4 there" in refusal(["check", str(recipe)])
        assert "eclare 4 there" in refusal(new)
    onnx.save(built(4), str(tmp_path / "model.onnx"))
    assert invoke([*new, "--data", str(tmp_path / "data.npz")]) == 0
    assert invoke(["check", made]) == 0


def test_a_batch_that_is_split_into_equal_parts_needs_a_sample_a_part(tmp_path, capsys):
    proto = build([node("Conv", ["x", "w"], ["a"]), node("Split", ["a"], ["y", "z"])], {"x": ["n", 3, 4, 4]}, {"y": None},
                  {"w": normal(8, 3, 1, 1)})  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(8, 3, 4, 4))
    said = complain(
        tmp_path, capsys, "new", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"),
        "--out", str(tmp_path / "made.toml"),
    )  # fmt: skip
    assert "computes 2 samples at once, but not a single one: node 'y' (Split)" in said and "eclare 2 there" in said


def test_check_run_sensitivity_and_calibrate_name_the_node(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shuffled(tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(least=[1, 3, 6, 6], most=[8, 3, 6, 6]))
    for command in ("check", "run", "sensitivity", "bisect", "calibrate"):
        out = ["--out", str(tmp_path / "out")] if command == "run" else []
        said = complain(tmp_path, capsys, command, str(recipe), *out)
        assert "node 'split' (Reshape)" in said and "recipe.toml:5" in said, command
    assert not (tmp_path / "out" / "report.json").exists()
    recipe.write_text(RECIPE.format(least=[1, 3, 6, 6], most=[1, 3, 6, 6]))
    assert invoke(["check", str(recipe)]) == 0
    assert invoke(["run", str(recipe), "--out", str(tmp_path / "out")]) == 0


def test_a_slice_of_the_batch_is_named_though_the_batch_runs(tmp_path, capsys):
    nodes = [node("Slice", ["x", "zero", "one", "zero"], ["s"]), node("Conv", ["s", "w"], ["y"])]
    weights = {"w": normal(4, 3, 1, 1), "zero": np.array([0]), "one": np.array([1])}
    onnx.save(build(nodes, {"x": ["n", 3, 6, 6]}, {"y": None}, weights), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(20, 3, 6, 6))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(least=[1, 3, 6, 6], most=[8, 3, 6, 6]))
    assert "node 's' (Slice)" in complain(tmp_path, capsys, "check", str(tmp_path / "recipe.toml"))


def test_a_batch_of_another_axis_is_probed(tmp_path, capsys):
    nodes = [
        node("LSTM", ["x", "u", "r", "", "", "h0"], ["o", "", ""], "lstm", hidden_size=4),
        node("Squeeze", ["o", "one"], ["y"]),
    ]
    weights = {"u": normal(1, 16, 6), "r": normal(1, 16, 4), "h0": normal(1, 1, 4), "one": np.array([1])}
    onnx.save(build(nodes, {"x": ["t", "n", 6]}, {"y": None}, weights), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", **{f"x/{i:03d}": normal(5, 1, 6, seed=i) for i in range(12)})
    (tmp_path / "recipe.toml").write_text(RECIPE.format(least=[1, 1, 6], most=[9, 4, 6]))
    assert "node 'lstm' (LSTM)" in complain(tmp_path, capsys, "check", str(tmp_path / "recipe.toml"))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(least=[1, 1, 6], most=[9, 1, 6]))
    assert invoke(["check", str(tmp_path / "recipe.toml")]) == 0


def test_a_branch_that_the_whole_batch_takes_is_found_where_two_samples_take_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["n", 6])]
    branches = {
        f"{name}_branch": helper.make_graph([node(op, ["a"], ["o"])], name, [], shape)
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]), node("ReduceMean", ["x"], ["mean"], keepdims=0),
        node("Greater", ["mean", "zero"], ["above"]), node("If", ["above"], ["b"], **branches),
        node("MatMul", ["b", "w1"], ["y"]),
    ]  # fmt: skip
    weights = {"w0": normal(4, 6), "w1": normal(6, 5, seed=1), "zero": np.float32(0)}
    onnx.save(build(nodes, {"x": ["n", 4]}, {"y": ["n", 5]}, weights), "model.onnx")
    rows = np.abs(normal(20, 4)) + 0.1
    rows[2::3] *= -1
    np.savez("data.npz", x=rows)
    assert invoke(["new", "model.onnx", "--data", "data.npz", "--out", "made.toml"]) == 0
    assert "min = [1, 4], opt = [1, 4], max = [1, 4]" in Path("made.toml").read_text()
    Path("wide.toml").write_text(RECIPE.format(least=[1, 4], most=[8, 4]))
    said = complain(tmp_path, capsys, "check", "wide.toml")
    assert "for a batch of 8" in said and "node 'mean' (ReduceMean) mixes them" in said


@pytest.mark.parametrize("dimension", ["n", None, "points"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("sizes", [[5, 1, 1, 1, 1, 1], [1, 1, 4, 1, 1, 1]])
def test_a_set_of_one_is_not_joined_with_others_to_a_larger_one(tmp_path, dimension, labelled, sizes):
    """Where a sample is a set of rows, as a graph of nodes, those of a single row were joined to one set, or refused."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("ReduceSum", ["r", "axes"], ["s"], keepdims=1),
        node("MatMul", ["s", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(8, 16, seed=1), "v": normal(16, 4, seed=2), "axes": np.array([0])}
    proto = build(nodes, {"x": [dimension, 8]}, {"y": [1, 4]}, weights)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    samples = [normal(size, 8, seed=10 + i) for i, size in enumerate(sizes * 4)]
    stored = {f"x/{i:05d}": value for i, value in enumerate(samples)}
    labels = {f"label/{i:05d}": np.array([i % 4]) for i in range(len(samples))} if labelled else {}
    np.savez(tmp_path / "data.npz", **stored, **labels)
    profile = {"name": "all", "shapes": {"x": {"min": [1, 8], "opt": [4, 8], "max": [32, 8]}}}
    made = run(
        Recipe.build(
            "sets", model={"path": tmp_path / "model.onnx"}, profile=[profile],
            calibration={"data": str(tmp_path / "data.npz"), "method": "minmax"}, passes=["insert_qdq"],
            engine={"backend": "none", "rest": "fp32"},
            evaluation={"data": str(tmp_path / "data.npz"), **({"metric": "top1"} if labelled else {})},
        ),
        tmp_path / "out",
    )  # fmt: skip
    accuracy = made.report.accuracy
    assert accuracy.samples == len(samples) and [part.answers for part in accuracy.parts] == [len(samples)]
    wanted = session(proto, ["y", "s"])
    found = [wanted.run({"x": value}) for value in samples]
    amax = json.loads((tmp_path / "out/ranges.json").read_text())["tensors"]["s"]["amax"]
    assert amax == pytest.approx(max(np.abs(one["s"]).max() for one in found), rel=1e-5)
    apart = [one["y"] - made.session().run({"x": value})["y"] for one, value in zip(found, samples)]
    signal = sum(np.square(one["y"]).sum() for one in found)
    assert accuracy.outputs["y"].sqnr_db == pytest.approx(10 * np.log10(signal / np.square(apart).sum()), abs=0.01)
