"""What check says beforehand: samples that are all alike, and limits that nothing can miss."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from toolkit import run
from toolkit.cli.main import invoke
from toolkit.contract.findings import Code
from toolkit.contract.passes import Pass
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData
from toolkit.data.unvaried import unvaried
from toolkit.evaluation.codes import EvaluationCode
from toolkit.graph.model import Model
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.recipe.idle_limits import idle_limits
from toolkit.run.recipe.recipe import Recipe


def network():
    return build([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 5]}, {"w": normal(6, 5)})


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"max_drop": 0.01}, []), ({"max_drop": 1}, [("max_drop", 1.0)]), ({"max_drop": 0.9}, [("max_drop", 0.9)]),
        ({"max_relative_drop": 1.0, "min_value": 0}, [("max_relative_drop", 1.0), ("min_value", 0.0)]),
        ({"min_unchanged": 0, "min_agreement": 0.5}, [("min_unchanged", 0.0)]),
    ],
)  # fmt: skip
def test_limits_that_nothing_can_miss(budget, expected):
    made = Recipe.build("r", model={"path": "m.onnx"}, passes=["insert_qdq"],
                        evaluation={"metric": "top1", "budget": budget})  # fmt: skip
    found = idle_limits(made, 0.8)
    assert [(one.values["limit"], one.values["value"]) for one in found] == expected
    assert all(one.code is EvaluationCode.LIMIT_NEVER_MISSED for one in found)


@pytest.mark.parametrize("metric", [None, "top1"])
def test_a_limit_on_a_metric_needs_one(metric):
    made = Recipe.build("r", model={"path": "m.onnx"}, passes=[{"use": "search_precision", "max_drop": 0.02}],
                        evaluation={"metric": metric, "budget": {"min_value": 0.9, "min_sqnr_db": 20.0}})  # fmt: skip
    assert idle_limits(made, None) == ([] if metric else [
        EvaluationCode.LIMIT_WITHOUT_METRIC(limit="min_value", value=0.9, by=""),
        EvaluationCode.LIMIT_WITHOUT_METRIC(limit="max_drop", value=0.02, by="search_precision"),
    ])  # fmt: skip


class Widened(Pass):
    """A pass of the user's whose setting is called like a limit."""

    max_drop: float = 1.0

    def apply(self, model, context):
        """Nothing."""


class Bounded(Widened):
    """One that says that it is a limit."""

    def accuracy_limits(self):
        """Its budget."""
        return {"max_drop": self.max_drop}


@pytest.mark.parametrize(("kind", "limits"), [(Widened, []), (Bounded, ["max_drop"])])
def test_what_a_pass_calls_a_limit_is_one(kind, limits):
    made = Recipe.build("r", model={"path": "m.onnx"}, passes=[kind()], evaluation={"metric": "top1"})
    assert [one.values["limit"] for one in idle_limits(made, 0.8)] == limits


def test_of_a_metric_in_other_units_no_limit_is_idle():
    made = Recipe.build("r", model={"path": "m.onnx"}, passes=["insert_qdq"],
                        evaluation={"metric": "psnr", "budget": {"max_drop": 1}})  # fmt: skip
    assert idle_limits(made, 30.0) == []


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (normal(12, 6), []), (np.repeat(normal(1, 6), 12, 0), [None]), (np.full((12, 6), 0.5, np.float32), [0.5]),
        (normal(1, 6), []),
    ],
)  # fmt: skip
def test_samples_that_are_all_alike(tmp_path, x, found):
    np.savez(tmp_path / "data.npz", x=x)
    data = CalibrationData.open(str(tmp_path / "data.npz"), Model.from_proto(network()))
    wanted = [{"inputs": ("x",), "values": tuple(found), "samples": 12, "of": "calibration"}] if found else []
    assert [one.values for one in unvaried(data, "calibration", {"x", "ids", "past"})] == wanted


@pytest.mark.parametrize(
    ("ids", "past", "found"),
    [(np.arange(8), np.zeros((8, 0, 4)), []), (np.zeros(8), np.zeros((8, 0, 4)), ["ids"]),
     (np.arange(8), np.ones((8, 2, 4)), ["past"]), (np.zeros(8), np.ones((8, 2, 4)), ["ids", "past"])],
)  # fmt: skip
def test_a_past_that_is_empty_has_nothing_to_vary(tmp_path, ids, past, found):
    proto = build(
        [node("Gather", ["table", "ids"], ["e"]), node("Concat", ["past", "e"], ["y"], axis=1)],
        {"ids": ["n", 1], "past": ["n", "p", 4]}, {"y": ["n", "t", 4]}, {"table": normal(8, 4)},
        types={"ids": onnx.TensorProto.INT64},
    )  # fmt: skip
    np.savez(tmp_path / "data.npz", ids=ids.reshape(-1, 1).astype(np.int64), past=past.astype(np.float32))
    data = CalibrationData.open(str(tmp_path / "data.npz"), Model.from_proto(proto))
    assert [
        name for one in unvaried(data, "calibration", {"x", "ids", "past"}) for name in one.values["inputs"]
    ] == found


def test_an_input_that_nothing_is_computed_with_may_be_the_same_throughout(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.full((12, 6), 0.5, np.float32))
    data = CalibrationData.open(str(tmp_path / "data.npz"), Model.from_proto(network()))
    assert unvaried(data, "calibration", set()) == []


@pytest.mark.parametrize("side", [np.zeros((20, 6)), np.zeros((20, 6)) * normal(20, 6), np.ones((20, 6)) * 0.5])
def test_a_run_warns_of_the_same_inputs_as_check(tmp_path, side):
    """Of one that no range is calibrated of too, since a Concat moves it; 0 and -0 are one number."""
    nodes = [node("Concat", ["x", "side"], ["c"], axis=1), node("MatMul", ["c", "w"], ["y"])]
    proto = build(nodes, {"x": ["N", 6], "side": ["N", 6]}, {"y": ["N", 5]}, {"w": normal(12, 5)})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(20, 6), side=side.astype(np.float32))
    (tmp_path / "r.toml").write_text(
        '[model]\npath = "model.onnx"\n[calibration]\ndata = "data.npz"\n[[pass]]\nuse = "insert_qdq"\n'
        '[engine]\nbackend = "none"\n'
    )
    # the others are held out
    value = abs(float(side.flat[0]))
    wanted = sentence(Code.UNVARIED_SAMPLES(inputs=["side"], samples=16, of="calibration", values=[value]))
    checked = dry_run(Recipe.load(tmp_path / "r.toml")).warnings
    warned = run(tmp_path / "r.toml", tmp_path / "run").report.summary.warnings
    for said in (checked, warned):
        assert [line for line in said if "calibration samples" in line] == [wanted]


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (np.full((20, 1), 2.0), [DataCode.FIXED_INPUT]), (np.full((20, 6), 2.0), [Code.UNVARIED_SAMPLES]),
        (np.repeat(normal(1, 6), 20, 0), [Code.UNVARIED_SAMPLES]), (normal(20, 1), []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reads", [True, False])
def test_a_float_input_of_one_number_that_is_the_same_throughout_is_a_setting(tmp_path, scale, said, reads):
    """A scale or a step: it is noted, and no warning; nothing is said of an input of which only the shape is read."""
    width = scale.shape[1]
    first = [node("Mul", ["x", "s"], ["m"])] if reads else [
        node("Shape", ["s"], ["e"]), node("ConstantOfShape", ["e"], ["z"]), node("Add", ["x", "z"], ["m"]),
    ]  # fmt: skip
    proto = build([*first, node("MatMul", ["m", "w"], ["y"])], {"x": ["N", 6], "s": ["N", width]}, {"y": ["N", 5]},
                  {"w": normal(6, 5)})  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(20, 6), s=scale.astype(np.float32))
    recipe = Recipe.build("r", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
                          passes=["insert_qdq"], engine={"backend": "none"})  # fmt: skip
    wanted = said if reads else []
    checked, report = dry_run(recipe), run(recipe, tmp_path / "out").report
    warned = [line for line in checked.warnings if "'s'" in line]
    assert bool(warned) is (wanted == [Code.UNVARIED_SAMPLES])
    assert bool([line for line in report.summary.warnings if "'s'" in line]) is bool(warned)
    noted = [line for line in checked.notes if "Input 's' is 2 in all 16 calibration samples, as a setting is" in line]
    assert bool(noted) is (wanted == [DataCode.FIXED_INPUT])


def test_many_constant_inputs_are_one_warning_and_settings_one_note(tmp_path):
    """Ten vectors that never change, one of them 0 throughout, and two scales beside an input that varies."""
    vectors, scales = [f"v{i}" for i in range(10)], ["s", "t"]
    nodes = [node("Sum", ["x", *vectors], ["sum"]), node("Mul", ["sum", "s"], ["m"]), node("Mul", ["m", "t"], ["n"]),
             node("MatMul", ["n", "w"], ["y"])]  # fmt: skip
    inputs = {"x": ["N", 6], **{name: ["N", 6] for name in vectors}, **{name: ["N", 1] for name in scales}}
    onnx.save(build(nodes, inputs, {"y": ["N", 5]}, {"w": normal(6, 5)}), str(tmp_path / "model.onnx"))
    same = {name: np.repeat(normal(1, 6, seed=i), 20, 0) * (i > 0) for i, name in enumerate(vectors)}
    settings = {name: np.full((20, 1), 2.0 + i, np.float32) for i, name in enumerate(scales)}
    np.savez(tmp_path / "data.npz", x=normal(20, 6), **same, **settings)
    recipe = Recipe.build("r", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
                          passes=["insert_qdq"], engine={"backend": "none"})  # fmt: skip
    checked, report = dry_run(recipe), run(recipe, tmp_path / "out").report
    for warnings in (checked.warnings, report.summary.warnings):
        (said,) = [line for line in warnings if "16 calibration samples" in line]
        assert (
            said.startswith("Inputs 'v0' (0 throughout), 'v1', 'v2'") and "'v7' and 2 more are identical in all" in said
        )
        assert said.endswith("provide varied samples and check how the data was made.")
    (noted,) = [line for line in checked.notes if "calibration samples, as settings are" in line]
    assert noted.startswith("Inputs 's' (2) and 't' (3) are the same in all 16")


def test_check_says_both(tmp_path, capsys):
    onnx.save(network(), str(tmp_path / "model.onnx"))
    x = np.repeat(normal(1, 6), 20, 0)
    np.savez(tmp_path / "data.npz", x=x, label=np.zeros(20, np.int64))
    (tmp_path / "r.toml").write_text(
        '[model]\npath = "model.onnx"\n[calibration]\ndata = "data.npz"\n[[pass]]\nuse = "insert_qdq"\n[engine]\n'
        'backend = "none"\n[evaluation]\ndata = "data.npz"\nmetric = "top1"\nbudget = { max_drop = 1 }\n'
    )
    assert invoke(["check", str(tmp_path / "r.toml"), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    for of in ("calibration", "evaluation"):
        assert sentence(Code.UNVARIED_SAMPLES(inputs=["x"], samples=20, of=of, values=[None])) in warnings
    assert [one for one in warnings if "max_drop = 1" in one]
