"""What `qtool new` writes, `check` accepts and `run` runs, for every kind of small model, without a hand on the recipe.

``python -m tests.benchmarks.bench_new FOLDER ...`` does the same with every model in folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal, residual_proto
from tests.fuzz import corpus
from tests.random_samples import random_samples
from toolkit import Model
from toolkit.cli.main import invoke
from toolkit.graph.sessions.session import session
from toolkit.run.recipe.recipe import Recipe


def stream():
    """A convolution over time, an LSTM whose state shares N with the samples, and a scalar."""
    return build(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("Mul", ["c", "rate"], ["s"]), node("Transpose", ["s"], ["t"], perm=[2, 0, 1]),
            node("LSTM", ["t", "wi", "wr", "", "", "h", "cell"], ["o", "h_out", "c_out"], hidden_size=4),
            node("Squeeze", ["o", "one"], ["q"]), node("MatMul", ["q", "v"], ["y"]),
        ],
        {"x": ["N", 4, "T"], "h": [1, "N", 4], "cell": [1, "N", 4], "rate": []}, {"y": None, "h_out": None, "c_out": None},
        {"w": normal(6, 4, 3), "wi": normal(1, 16, 6, seed=1), "wr": normal(1, 16, 4, seed=2), "one": np.array([1], np.int64), "v": normal(4, 3, seed=3)},
    )  # fmt: skip


def tokens():
    """Ids and a mask, an embedding, and a pooled classifier."""
    return build(
        [
            node("Gather", ["table", "ids"], ["e"]), node("MatMul", ["e", "w"], ["h"]), node("Relu", ["h"], ["r"]),
            node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT), node("Unsqueeze", ["m", "last"], ["u"]), node("Mul", ["r", "u"], ["k"]),
            node("ReduceMean", ["k"], ["p"], axes=[1], keepdims=0), node("MatMul", ["p", "v"], ["y"]),
        ],
        {"ids": ["batch", "length"], "mask": ["batch", "length"]}, {"y": ["batch", 3]},
        {"table": normal(4, 8), "w": normal(8, 8, seed=1), "v": normal(8, 3, seed=2), "last": np.array([2], np.int64)},
        types={"ids": TensorProto.INT64, "mask": TensorProto.INT64},
    )  # fmt: skip


def decoder():
    """An image from an image, with two outputs: a signal, and integers."""
    return build(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", ["c"], ["r"]),
            node("ConvTranspose", ["r", "v"], ["y"], strides=[2, 2]), node("ArgMax", ["y"], ["ids"], axis=1, keepdims=0),
        ],
        {"x": [None, 3, None, None]}, {"y": None, "ids": None}, {"w": normal(8, 3, 3, 3), "v": normal(8, 2, 2, 2, seed=1)},
        types={"ids": TensorProto.INT64},
    )  # fmt: skip


def fixed():
    """No dynamic dimension, and no layer that could be quantized."""
    return build([node("Softmax", ["x"], ["y"])], {"x": [1, 6]}, {"y": [1, 6]})


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residual_proto, "stream": stream, "tokens": tokens, "decoder": decoder, "fixed": fixed,
    **{name: corpus.MODELS[name] for name in ("pair", "loop", "branches", "function")},
}  # fmt: skip


def lives(folder, *words):
    """A recipe by `qtool new`, checked and run as it is, but for the backend; the recipe."""
    path = folder / "made.toml"
    assert invoke(["new", str(folder / "model.onnx"), *map(str, words), "--out", str(path), "--force"]) == 0
    path.write_text(path.read_text().replace('backend = "auto"', 'backend = "none"'))
    assert invoke(["check", str(path)]) == 0
    # 1: a budget was missed, with all files there
    assert invoke(["run", str(path), "--out", str(folder / "out")]) in (0, 1)
    return Recipe.load(path)


@pytest.mark.parametrize("name", MODELS)
def test_what_new_writes_runs(name, tmp_path, capsys):
    onnx.save(MODELS[name](), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", **random_samples(Model.load(tmp_path / "model.onnx")))
    made = lives(tmp_path, "--data", tmp_path / "data.npz")
    assert made.evaluation.metric is None


def test_pairs_that_training_left_are_kept_as_they_are_where_that_is_asked_for(tmp_path, capsys):
    proto = corpus.MODELS["pair"]()
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", **random_samples(Model.load(tmp_path / "model.onnx")))
    before = Counter(one.op_type for one in proto.graph.node)
    made = lives(tmp_path, "--data", tmp_path / "data.npz", "--keep-pairs")
    assert [one["use"] for one in made.passes] == ["guard_fp16"]
    ops = Counter(one.op_type for one in onnx.load(str(tmp_path / "out" / "model.onnx")).graph.node)
    assert before["QuantizeLinear"] and ops["QuantizeLinear"] == before["QuantizeLinear"]
    assert "stays as it is" in capsys.readouterr().out and "no pass quantizes" in (tmp_path / "made.toml").read_text()
    # else the recipe takes them out, and says how they are kept
    assert lives(tmp_path, "--data", tmp_path / "data.npz").passes[0]["use"] == "strip_qdq"
    assert "--keep-pairs" in capsys.readouterr().out and "--keep-pairs" in (tmp_path / "made.toml").read_text()


def test_there_must_be_pairs_to_keep(tmp_path, capsys):
    onnx.save(residual_proto(), str(tmp_path / "model.onnx"))
    assert invoke(["new", str(tmp_path / "model.onnx"), "--keep-pairs", "--out", str(tmp_path / "made.toml")]) == 2
    assert "no Q/DQ pairs to keep" in capsys.readouterr().err and not (tmp_path / "made.toml").exists()


@pytest.mark.parametrize(
    ("name", "label", "metric"),
    [
        ("residual", lambda out: out["y"].argmax(-1), "top1"),
        ("tokens", lambda out: out["y"] + 0.1, "mse"),
        ("decoder", lambda out: out["ids"], "miou"),
        ("decoder", lambda out: out["y"], "mse"),
    ],
)
def test_it_runs_with_any_labels_and_samples_of_other_shapes(name, label, metric, tmp_path, capsys):
    onnx.save(MODELS[name](), str(tmp_path / "model.onnx"))
    model = Model.load(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **random_samples(model))
    members, loaded = random_samples(model, count=4, size=8, seed=1), session(model)
    for index in range(4):
        inputs = {key.split("/")[0]: value for key, value in members.items() if key.endswith(f"/{index:05d}")}
        members[f"label/{index:05d}"] = label(loaded.run(inputs))
    np.savez(tmp_path / "test.npz", **members)
    made = lives(tmp_path, "--data", tmp_path / "data.npz", "--test", tmp_path / "test.npz")
    assert made.evaluation.metric == metric


def written_out(axes: str) -> onnx.ModelProto:
    """A Conv before a LayerNorm of single nodes, whose second mean has its axes from ``axes``."""
    weights = {
        "w": normal(4, 4, 1, 1),
        "one": np.array([-1], np.int64),
        "eps": np.float32([1e-3]),
        "two": np.float32(2.0),
    }
    nodes = [
        node("Identity", ["one"], ["same"]), node("Conv", ["x", "w"], ["c"]), node("ReduceMean", ["c", "same"], ["m"]),
        node("Sub", ["c", "m"], ["d"]), node("Pow", ["d", "two"], ["s"]), node("ReduceMean", ["s", axes], ["v"]),
        node("Add", ["v", "eps"], ["e"]), node("Sqrt", ["e"], ["r"]), node("Div", ["d", "r"], ["n"]),
        node("Conv", ["n", "w"], ["y"]),
    ]  # fmt: skip
    return build(nodes, {"x": ["N", 4, 5, 5]}, {"y": ["N", 4, 5, 5]}, weights, opset=18)


@pytest.mark.parametrize("axes", ["one", "same"])
def test_operators_to_keep_are_those_after_constants_are_folded(tmp_path, capsys, axes):
    """Axes through an Identity made a LayerNorm look like an RMSNorm, which check then found nowhere."""
    onnx.save(written_out(axes), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(6, 4, 5, 5))
    recipe = tmp_path / "r.toml"
    assert invoke(["new", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "c.npz"), "--out", str(recipe)]) == 0
    assert 'ops = ["LayerNormalization"]' in recipe.read_text()
    assert invoke(["check", str(recipe)]) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_integer_operators_that_nothing_reads_are_no_obstacle_to_check_either(tmp_path, capsys):
    nodes = [node("Conv", ["x", "w"], ["y"]), node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    proto = build(nodes, {"x": ["N", 4, 5, 5]}, {"y": ["N", 4, 5, 5]}, {"w": normal(4, 4, 1, 1)})
    onnx.save(proto, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(6, 4, 5, 5))
    recipe = tmp_path / "r.toml"
    assert invoke(["new", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "c.npz"), "--out", str(recipe)]) == 0
    assert invoke(["check", str(recipe)]) == 0, capsys.readouterr().err
    capsys.readouterr()
