"""A metric of samples that belong together, whatever parts the samples, joins them by shape or leaves some out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.conftest import build, node
from toolkit import Recipe, run
from toolkit.data.batch import Labels
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.by_name import make_metric


def ranked(values):
    return np.argsort(np.argsort(values))


def correlation(vectors, labels):
    a, b = vectors[::2].astype(float), vectors[1::2].astype(float)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(np.corrcoef(ranked(cosines), ranked(labels[::2]))[0, 1])


@pytest.mark.parametrize("rest", ["fp32", "fp16"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_pairs_stay_pairs(tmp_path, rest, given, ragged):
    random = np.random.default_rng(3)
    w1, w2 = (random.standard_normal(shape).astype(np.float32) / 4 for shape in ((16, 24), (24, 6)))
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w2"], ["c"]),
        node("ReduceMean", ["c"], ["y"], axes=[1], keepdims=0),
    ]  # fmt: skip
    onnx.save(build(nodes, {"x": ["n", "t", 16]}, {"y": ["n", 6]}, {"w1": w1, "w2": w2}, opset=17), tmp_path / "m.onnx")
    lengths = random.integers(3, 6, 80) if ragged else np.full(80, 4)
    inputs = [random.standard_normal((1, length, 16)).astype(np.float32) for length in lengths]
    labels = np.repeat(random.standard_normal(40), 2).astype(np.float32)
    table = {f"x/{i:05d}": inputs[i] for i in range(80)} | {f"label/{i:05d}": labels[i : i + 1] for i in range(80)}
    np.savez(tmp_path / "t.npz", **table)
    calibration = {name: value for name, value in table.items() if not given or int(name[-5:]) < 16}
    np.savez(tmp_path / "c.npz", **calibration)
    recipe = Recipe.build(
        "pairs", model={"path": tmp_path / "m.onnx"}, passes=["insert_qdq"],
        calibration={"data": str(tmp_path / "c.npz"), "method": "minmax"}, engine={"backend": "none", "rest": rest},
        evaluation={"metric": "spearman", "batch": 8, **({"data": str(tmp_path / "t.npz")} if given else {})},
        report={"formats": ["json"]},
    )  # fmt: skip
    accuracy = run(recipe, tmp_path / "out").report.accuracy
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    vectors = np.concatenate([session.run(None, {"x": one})[0] for one in inputs])
    held = slice(None) if given else [place for place in range(80) if place // 2 % 5 == 4]
    assert accuracy.samples == (80 if given else 16)
    assert accuracy.before == pytest.approx(correlation(vectors[held], labels[held]), abs=1e-6)


def test_a_sample_whose_other_one_is_missing_counts_for_nothing():
    metric, whole = (make_metric("spearman", options=MetricOptions()) for _ in range(2))
    vectors, scores = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32), np.repeat(np.arange(4.0), 2)
    for places in ([6, 3], [1, 0], [9], [2, 7], [4, 5]):
        labels = Labels(label=np.array([scores[place % 8] for place in places]))
        labels.indices = tuple(places)
        metric.update({"y": vectors[[place % 8 for place in places]]}, labels)
    whole.update({"y": vectors}, {"label": scores})
    assert metric.value() == pytest.approx(whole.value())
