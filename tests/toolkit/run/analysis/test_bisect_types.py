"""What bisect prints is what it checked: the types of the layers that are kept, and of all others."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.passes.test_search_precision import offset_chain
from tests.toolkit.search.planted import damage, feeds
from toolkit import Recipe
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.evaluation.budget import Budget
from toolkit.run.analysis.bisect import Bisected, BisectLimits, Question, bisect_recipe
from toolkit.run.analysis.quantizing import Samples
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.job import Job
from toolkit.search.sensitivity.bisect import Bisection

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def asked(folder, question, offset, rest="fp16"):
    """Bisect a chain whose layer 3 is fragile; float16 rounds by up to 1/2048 of ``offset`` at its end."""
    model = offset_chain(offset)
    damage(model, "layer3")
    model.save(folder / "model.onnx")
    np.savez(folder / "data.npz", x=np.concatenate([sample["x"] for sample in feeds()]))
    recipe = Recipe.build(
        "case", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none", "rest": rest},
    )  # fmt: skip
    return bisect_recipe(Job(recipe, RunFolder(folder / "out"), True), Samples("calibration"), question)


def codes(found):
    return [note.code for note in found.found.notes if note.code is Code.BISECT_IN_TYPES]


@pytest.mark.parametrize(
    ("offset", "rest", "precision", "expected", "misses"),
    [
        (1.0, "fp16", None, ("fp16", None), 0),
        (1.0, "fp16", "fp32", ("fp32", None), 0),
        # in float16 it misses whatever the kept layers run in
        (8000.0, "fp16", None, ("fp32", "fp32"), 2),
        (8000.0, "fp32", None, ("fp32", None), 0),
    ],
)
def test_the_fragment_names_types_in_which_the_answer_passes(tmp_path, offset, rest, precision, expected, misses):
    found = asked(tmp_path, Question(BisectLimits(min_sqnr_db=20.0), precision=precision), offset, rest)
    assert "layer3" in found.found.kept and len(codes(found)) == misses
    kept, other = (Precision(one) if one is not None else None for one in expected)
    assert (found.precision, found.rest) == (kept, other)
    (entry,) = tomllib.loads(found.fragment())["pass"]
    assert (entry["use"], entry["precision"]) == ("keep_precision", expected[0])
    assert entry["nodes"] == found.found.kept and found.to_json()["recipe"] == found.fragment()


@pytest.mark.parametrize(
    ("offset", "least", "margin", "precision"),
    [
        # in float16 the answer has 27.9 dB: it keeps the limit, and not the margin that a search asks of its plans
        (100.0, 27.5, 0.0, "fp16"),
        (100.0, 27.5, 1.0, "fp32"),
        # 19.7 dB, and 20.1 without any pair: float16 leaves none of the margin to anybody
        (400.0, 19.5, 1.0, "fp16"),
    ],
)
def test_the_margin_of_a_search_is_kept_in_the_types_too(tmp_path, monkeypatch, offset, least, margin, precision):
    budget = Budget(min_sqnr_db=least, margin=margin)
    monkeypatch.setattr("toolkit.run.analysis.bisect._recipes", lambda ready, data: budget)
    assert asked(tmp_path, Question(), offset).precision == Precision(precision)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("fp32", TensorProto.FLOAT)])
def test_a_command_judges_the_model_that_a_run_writes(tmp_path, monkeypatch, precision, kind):
    kinds = set()

    def judge(words, **_):
        """In place of a program: passes where layer3 is float, and notes the type of its weights."""
        graph = onnx.load(words[-1]).graph
        stored = {one.name: one.data_type for one in graph.initializer}
        weight = next(node for node in graph.node if node.name == "layer3").input[1]
        kinds.update({stored[weight]} if weight in stored else ())
        return SimpleNamespace(returncode=int(weight not in stored))

    monkeypatch.setattr("toolkit.run.analysis.bisect.subprocess.run", judge)
    found = asked(tmp_path, Question(command="judge", precision=precision, repeats=1), 1.0)
    assert found.found.kept == ["layer3"] and found.precision == Precision(precision) and kinds == {kind}


def test_nothing_to_keep_is_no_fragment():
    assert Bisected(Bisection([]), 3, Precision.FP16).fragment() == ""
