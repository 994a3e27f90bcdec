"""What a run does to the whole graph, counted: copies, exports and sessions grow with neither nodes nor samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQDQ
from passes.keep_precision import KeepPrecision
from tests.conftest import MODELS
from toolkit import Recipe, run
from toolkit.contract import registry
from toolkit.graph import model
from toolkit.graph.large_models.run_memory import run_pool
from toolkit.graph.surgery import assemble, opset

MOST = {"copies": 7, "exports": 50, "sessions": 10}
"""Of a run with two passes. A change that needs more of them says why, here.

One copy and 8 exports are the rehearsal's: what a pass, lowering or a backend refuses is refused before calibrating.
Two exports are the types of bfloat16 and of what onnxruntime cannot run, which the evaluation looks at.
Another is what equalize asks of a graph's forms for the advice.
One export and one session run the model as onnxruntime itself computes it, without float16's rounding.
One export and one session run the first samples through the float model, whose outputs tell the task.
"""
PASSES = 6
"""How often a run makes its recipe's passes: to apply them, in the rehearsal, for the advice and the report, and once to
read what they declare, which a dozen keys hold."""
A_PASS = {"copies": 1, "exports": 4}
"""What one more pass may add: its check, and the types and shapes that it asks for."""


@pytest.fixture
def counted(monkeypatch):
    # the session that shrinks the memory of runs is made once in a process
    run_pool.use(ort.SessionOptions())
    run_pool.shrink()
    counts = Counter()

    def count(owner, name, key):
        whole = getattr(owner, name)

        def counting(*given, **more):
            counts[key] += 1
            return whole(*given, **more)

        monkeypatch.setattr(owner, name, counting)

    count(assemble, "copied", "copies")
    count(gs.Graph, "copy", "copies")
    for module in (model, opset):
        count(module, "export", "exports")
    count(gs, "export_onnx", "exports")
    count(ort.InferenceSession, "__init__", "sessions")
    return counts


def made(folder, samples, passes, counts):
    stored = np.load(MODELS / "digits_test.npz")
    data = [{"image": stored["image"][i : i + 1]} for i in range(samples)]
    counts.clear()
    recipe = Recipe.build(
        "counted", model={"path": MODELS / "digits_cnn.onnx"}, calibration={"data": data, "method": "minmax"},
        passes=passes, engine={"backend": "none"},
    )  # fmt: skip
    run(recipe, folder)
    return dict(counts)


def test_a_run_stays_within_its_counts(tmp_path, counted):
    few = made(tmp_path / "few", 16, [FoldBatchNorm(), InsertQDQ()], counted)
    many = made(tmp_path / "many", 48, [FoldBatchNorm(), InsertQDQ()], counted)
    assert few == many and all(few[key] <= most for key, most in MOST.items()), few


def test_a_pass_adds_its_share_and_no_session(tmp_path, counted):
    base = made(tmp_path / "base", 8, [FoldBatchNorm(), InsertQDQ()], counted)
    keeps = [KeepPrecision(ops=["Gemm"], reason=reason) for reason in ("first", "second", "third")]
    more = made(tmp_path / "more", 8, [FoldBatchNorm(), *keeps, InsertQDQ()], counted)
    assert more["sessions"] == base["sessions"]
    assert all(more[key] - base[key] <= 3 * most for key, most in A_PASS.items()), (base, more)


def test_passes_are_not_made_for_every_key(place, monkeypatch):
    made, whole = [], registry.configure_pass
    monkeypatch.setattr(registry, "configure_pass", lambda kind, given: made.append(kind) or whole(kind, given))
    run(place / "recipe.toml", place / "out")
    assert len(made) <= PASSES, len(made)
