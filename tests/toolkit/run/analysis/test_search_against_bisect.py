"""The search, the bisection and the run hold one budget by one rule, and say the same of too few samples."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Recipe, run
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.run.analysis.bisect import Question, bisect_recipe
from toolkit.run.analysis.quantizing import Samples
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.job import Job
from toolkit.search.stages.record import SearchRecord

COUNT, RIGHT = 64, 43


@pytest.fixture
def recipe(tmp_path):
    """A classifier of three layers that is right on 43 of 64 samples, quantized or not; 1 point may be lost."""
    weights = {f"w{i}": np.linalg.qr(normal(12, 12, seed=i))[0] for i in range(2)} | {"head": normal(12, 5, seed=9)}
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "w1"], ["b"]),
        node("MatMul", ["b", "head"], ["logits"]),
    ]  # fmt: skip
    model = build(nodes, {"x": ["n", 12]}, {"logits": ["n", 5]}, weights)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    x = normal(1200, 12, seed=20)
    scores = np.maximum(x @ weights["w0"], 0) @ weights["w1"] @ weights["head"]
    ranked = np.sort(scores, axis=1)
    # answers that no rounding moves
    sure = np.flatnonzero(ranked[:, -1] - ranked[:, -2] > 1.0)[: 2 * COUNT]
    labels = scores[sure].argmax(axis=1)
    labels[RIGHT:COUNT] = (labels[RIGHT:COUNT] + 1) % 5
    labels[COUNT + RIGHT :] = (labels[COUNT + RIGHT :] + 2) % 5
    assert len(sure) == 2 * COUNT
    for name, part in (("calibration", slice(COUNT)), ("test", slice(COUNT, None))):
        np.savez(tmp_path / f"{name}.npz", x=x[sure][part], label=labels[part])
    return Recipe.build(
        "case", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "calibration.npz")},
        passes=["search_precision"], engine={"backend": "none"},
        evaluation={"data": str(tmp_path / "test.npz"), "metric": "top1", "budget": {"max_drop": 0.01}},
    )  # fmt: skip


def test_both_quantize_everything_and_say_that_it_takes_more_samples(recipe, tmp_path):
    made = run(recipe, tmp_path / "out")
    searched = SearchRecord.load(tmp_path / "out" / "search.json")
    assert searched.best.meets and searched.best.kept == ()
    assert (searched.reference.metric, searched.best.outcome.metric) == (RIGHT / COUNT, RIGHT / COUNT)
    noted = Journal.from_jsonl((tmp_path / "out" / "journal.jsonl").read_text())
    (few,) = [event.why for event in noted if event.why.code is Code.SEARCH_UNPROVEN]
    found = bisect_recipe(
        Job(recipe, RunFolder(tmp_path / "bisected"), False), Samples("calibration"), Question()
    ).found
    assert found.kept == [] and [note for note in found.notes if note.code is Code.SEARCH_UNPROVEN] == [few]
    values = few.values["why"].values
    assert (values["limit"], values["answers"], values["enough"], values["lost"]) == ("max_drop", COUNT, 300, 0.0)
    # the run, on samples of its own, by the same rule
    accuracy = made.report.accuracy
    assert (accuracy.before, accuracy.quantized, accuracy.standing) == (RIGHT / COUNT, RIGHT / COUNT, "unproven")
    assert (accuracy.few.limit, accuracy.few.answers, accuracy.few.enough) == ("max_drop", COUNT, 300)
    assert made.report.summary.verdict == "doubtful" and made.exit_status == 0
