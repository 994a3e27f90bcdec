"""A run as a whole: what it leaves, what it finds again, what it notices."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from passes.fold_batchnorm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, OLD_ONNXRUNTIME, ROOT, build, digits_recipe, node, normal
from toolkit import Model, Pass, Ranges, Recipe, run
from toolkit.backends.codes import EngineCode
from toolkit.base.code import import_path
from toolkit.base.errors import QtoolError
from toolkit.cli.main import invoke
from toolkit.evaluation.node_errors import checkpoint
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.keys import evaluation_key


@pytest.fixture
def place(tmp_path):
    text = digits_recipe(tmp_path).replace('"auto"', '"none"')
    (tmp_path / "digits.toml").write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    (place / "digits.toml").write_text(digits_recipe(place).replace('"auto"', '"none"'))
    assert run(place / "digits.toml", place / "out").exit_status == 0
    return place


@pytest.fixture
def finished(finished_once, tmp_path):
    """``place`` with its finished run in the folder ``out``: a copy, in which the report alone is made again."""
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def statuses(result):
    return {step.name: step.status for step in result.steps}


def test_a_run_leaves_every_file_and_every_node_once(place):
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 0
    content = json.loads((place / "out" / "report.json").read_text())
    names = Model.load(place / "out" / "model.onnx").node_names()
    listed = [layer["node"] for layer in content["layers"]]
    assert sorted(listed) == sorted(names) and len(set(listed)) == len(listed)
    assert sum(content["summary"]["by_status"].values()) == len(names)
    assert sum(content["summary"]["by_asked"].values()) == len(names)
    assert all(entry["rule"] for entry in content["declined"])
    for name in ("recipe.lock.toml", "ranges.json", "journal.jsonl", "report.html", "model.onnx"):
        assert (place / "out" / name).stat().st_size > 100
    model = Model.load(place / "out" / "model.onnx")
    assert model.metadata["stem"]["qtool.precision"] == "int8"
    assert content["accuracy"]["drop"] <= 0.005


def test_a_run_stopped_in_its_evaluation_goes_on_from_the_samples_judged(finished, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", -1.0)
    ran, outputs = [], EvaluationCheckpoint.outputs

    def counting(self, inputs, compute, *rest):
        return outputs(self, inputs, lambda given: ran.append(given) or compute(given), *rest)

    monkeypatch.setattr(EvaluationCheckpoint, "outputs", counting)
    text = (finished / "digits.toml").read_text().replace("[evaluation]", "[evaluation]\nbatch = 20")
    (finished / "digits.toml").write_text(text)
    shutil.copytree(finished / "out", finished / "other")

    def stop(what, done, total):
        if (what, done) == ("evaluate", 65):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(finished / "digits.toml", finished / "out", progress=stop)
    ran.clear()
    run(finished / "digits.toml", finished / "out")
    # of five batches the third was judged, and the fourth computed meanwhile
    assert len(ran) == 1
    run(finished / "digits.toml", finished / "other")
    hidden = [finished / folder / ".qtool" for folder in ("out", "other")]
    assert len({(one / "evaluation.json").read_bytes() for one in hidden}) == 1
    assert sorted(p.name for p in hidden[0].iterdir()) == sorted(p.name for p in hidden[1].iterdir())


def test_nothing_changed_is_found_again_and_the_method_alone_collects_nothing_anew(place):
    run(place / "digits.toml", place / "out")
    again = run(place / "digits.toml", place / "out")
    assert set(statuses(again).values()) == {"reused"}
    collections = sorted(p.name for p in (place / "out" / ".qtool").glob("collection-*"))
    text = (place / "digits.toml").read_text().replace('"mse"', '"minmax"')
    (place / "digits.toml").write_text(text)
    changed = run(place / "digits.toml", place / "out")
    assert statuses(changed)["passes"] == "done"
    assert "calibration method" in next(s.why for s in changed.steps if s.name == "passes")
    assert sorted(p.name for p in (place / "out" / ".qtool").glob("collection-*")) == collections
    assert json.loads((place / "out" / "ranges.json").read_text())["tensors"]["image"]["method"] == "minmax"


def test_data_changed_under_the_same_name_is_noticed(finished):
    place = finished
    data = dict(np.load(place / "digits_calibration.npz"))
    data["image"] = data["image"] * 2
    np.savez(place / "digits_calibration.npz", **data)
    changed = run(place / "digits.toml", place / "out")
    assert "calibration data" in next(s.why for s in changed.steps if s.name == "passes")


def test_a_result_that_was_tampered_with_is_made_again(finished):
    place = finished
    path = place / "out" / "model.onnx"
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    again = run(place / "digits.toml", place / "out")
    assert path.read_bytes() == before
    assert "model.onnx was changed" in next(s.why for s in again.steps if s.name == "lowering")


def test_two_runs_at_once_in_one_folder_are_refused(place):
    with RunFolder(place / "out"), pytest.raises(QtoolError, match="another qtool"):
        run(place / "digits.toml", place / "out")


def test_a_killed_run_leaves_only_whole_files(place, monkeypatch):
    from toolkit.run.steps.engine import EngineStep

    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EngineStep, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(place / "digits.toml", place / "out")
    again = run(place / "digits.toml", place / "out")
    assert statuses(again)["passes"] == statuses(again)["lowering"] == "reused"
    assert statuses(again)["engine"] == "done"


def test_a_missed_budget_is_exit_status_1_with_all_files_there(place):
    text = (place / "digits.toml").read_text().replace("max_drop = 0.005", "min_sqnr_db = 90.0")
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.exit_status == 1
    assert result.report.summary.headline.startswith("MISSED")
    assert (place / "out" / "report.html").exists()


def test_samples_of_one_file_of_code_are_told_apart_by_their_names(place):
    text = (ROOT / "recipes" / "digits_own.toml").read_text().replace("../models/digits_cnn", "digits")
    (place / "r.toml").write_text(text + '[engine]\nbackend = "none"\n')
    code = (ROOT / "recipes" / "own_data.py").read_text()
    (place / "own_data.py").write_text(code.replace('Path(__file__).parent.parent / "models"', "Path(__file__).parent"))
    accuracy = run(place / "r.toml", place / "out", allow_code=True).report.accuracy
    assert accuracy.held_out and accuracy.metric == "own_data:WorstDigit" and accuracy.samples == 100
    assert 0.9 < accuracy.quantized <= 1
    (place / "r.toml").write_text((place / "r.toml").read_text().replace("held_out", "samples"))
    assert not run(place / "r.toml", place / "out", allow_code=True).report.accuracy.held_out


def test_whether_samples_were_seen_is_part_of_the_key(tmp_path):
    (tmp_path / "own_data.py").write_text("def one():\n    return [{'x': 1.0}]\ndef two():\n    return [{'x': 2.0}]\n")
    keys = []
    for name in ("one", "two"):
        text = (
            f'[model]\npath = "m.onnx"\n[calibration]\ndata = "own_data:{name}"\n[evaluation]\ndata = "own_data:two"\n'
        )
        (tmp_path / "r.toml").write_text(text)
        job = Job(Recipe.load(tmp_path / "r.toml"), RunFolder(tmp_path), allow_code=True)
        with import_path(tmp_path):
            keys.append(evaluation_key(Inputs(job)))
    assert [key["seen by calibration"] for key in keys] == [False, True]


def test_without_test_data_outputs_are_compared_on_held_out_samples(place):
    text = (place / "digits.toml").read_text()
    (place / "digits.toml").write_text(text[: text.index("[evaluation]")])
    result = run(place / "digits.toml", place / "out")
    accuracy = result.report.accuracy
    assert accuracy.metric is None and accuracy.held_out and accuracy.samples == 10
    assert accuracy.outputs["logits"].sqnr_db > 15 and accuracy.outputs["logits"].agreement > 0.9


def test_garbage_is_called_broken_in_the_first_line(place):
    text = (place / "digits.toml").read_text().replace('method = "mse"', "manual = { image = 0.001 }")
    text = text[: text.index("[evaluation]")]
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert result.report.summary.headline.startswith("BROKEN")
    assert result.exit_status == 1


def test_random_data_is_said(place):
    text = (
        (place / "digits.toml")
        .read_text()
        .replace('data = "digits_calibration.npz"', "random = { seed = 3, samples = 16 }")
    )
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert any("RANDOM DATA" in warning for warning in result.report.summary.warnings)


def test_the_api_takes_a_recipe_object(place):
    recipe = Recipe.load(place / "digits.toml")
    assert run(recipe, place / "out").report.recipe.name == "digits"


# ---------------------------------------------------------------- what cannot be measured, and budgets

SMALL = """\
[model]
path = "model.onnx"

[[profile]]
name = "all"
shapes.x = { min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 4, 4] }

[calibration]
data = "data.npz"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"
"""


def small(folder, nodes, outputs, types=None, weights=None, text=SMALL):
    """A recipe beside a model of one convolution and ``nodes`` after its output 'c'."""
    weights = {"w": normal(4, 3, 1, 1), **(weights or {})}
    proto = build([node("Conv", ["x", "w"], ["c"]), *nodes], {"x": ["n", 3, 4, 4]}, outputs, weights, types=types)
    onnx.save(proto, str(folder / "model.onnx"))
    np.savez(folder / "data.npz", x=normal(20, 3, 4, 4))
    (folder / "small.toml").write_text(text)
    return folder / "small.toml"


def test_the_rounding_of_16_bits_is_in_the_figures(place):
    levels, plain = {}, (place / "digits.toml").read_text()
    for word in ("fp32", "fp16", "bf16"):
        text = plain.replace('rest = "fp16"', f'rest = "{word}"').replace(
            'use = "insert_qdq"', 'use = "fold_constants"'
        )
        (place / "digits.toml").write_text(text)
        result = run(place / "digits.toml", place / word)
        assert result.exit_status == 0 and not result.report.accuracy.notes
        output = result.report.accuracy.outputs["logits"]
        levels[word] = 200.0 if output.identical else output.sqnr_db
        convs = [layer for layer in result.report.layers if layer.op == "Conv"]
        assert convs and all(layer.error is not None for layer in convs)
    assert 30 < levels["bf16"] < levels["fp16"] - 12 and levels["fp16"] < levels["fp32"] - 20


def test_a_bf16_output_is_compared(tmp_path):
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=SMALL + 'io = { y = "bf16" }\n')
    accuracy = run(recipe, tmp_path / "out").report.accuracy
    assert accuracy.outputs["y"].sqnr_db > 20


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="onnxruntime before 1.24 quantizes float16 inexactly, and it is said")
def test_an_input_of_another_type_is_fed(tmp_path):
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=SMALL + 'io = { x = "fp16" }\n')
    result = run(recipe, tmp_path / "out")
    assert result.report.accuracy.outputs["y"].sqnr_db > 20 and not result.report.accuracy.notes


def test_integer_outputs_are_compared_by_equality(tmp_path):
    nodes = [node("Flatten", ["c"], ["f"]), node("ArgMax", ["f"], ["y"], axis=1, keepdims=0)]
    budget = "[evaluation]\nbudget = { min_agreement = 0.5 }\n"
    recipe = small(tmp_path, nodes, {"y": ["n"]}, {"y": TensorProto.INT64}, text=SMALL + budget)
    result = run(recipe, tmp_path / "out")
    output = result.report.accuracy.outputs["y"]
    assert output.sqnr_db is None and 0.5 <= output.agreement <= 1 and (output.max_abs == 0) == (output.agreement == 1)
    assert result.exit_status == 0 and result.report.accuracy.met is True
    recipe.write_text(recipe.read_text().replace("min_agreement = 0.5", "min_sqnr_db = 1.0"))
    result = run(recipe, tmp_path / "out")
    assert result.exit_status == 1 and "no output holds floats" in result.report.accuracy.misses[0]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("max_drop = 0.1", "no metric"),
        ("min_value = 0.1", "no metric"),
        ("min_agreement = 0.1", "no output holds integers or scores"),
    ],
)
def test_a_budget_that_cannot_be_judged_is_missed(tmp_path, budget, words):
    text = SMALL + f"[evaluation]\nbudget = {{ {budget} }}\n"
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=text)
    result = run(recipe, tmp_path / "out")
    assert result.exit_status == 1 and result.report.accuracy.met is False
    assert words in result.report.accuracy.misses[0] and words in result.report.summary.headline


def test_a_budget_with_nothing_to_measure_on_is_missed(tmp_path):
    text = SMALL.replace('data = "data.npz"', "").replace('use = "insert_qdq"', 'use = "fold_constants"')
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=text)
    assert run(recipe, tmp_path / "out").exit_status == 0
    recipe.write_text(text + "[evaluation]\nbudget = { min_sqnr_db = 1.0 }\n")
    result = run(recipe, tmp_path / "out")
    assert result.exit_status == 1 and result.report.summary.verdict == "missed"
    assert (
        sentence(ReportCode.BUDGET_WITHOUT_DATA()) in result.report.summary.headline
        and "; ;" not in result.report.summary.headline
    )


def test_shapes_that_depend_on_values_are_not_compared_and_never_crash(tmp_path):
    # keeps the values that are above 0, of which quantization moves some across the border
    nodes = [
        node("Reshape", ["c", "flat"], ["f"]),
        node("Greater", ["f", "zero"], ["m"]),
        node("Compress", ["f", "m"], ["y"]),
        node("Sigmoid", ["c"], ["z"]),
    ]
    weights = {"flat": np.array([-1]), "zero": np.zeros((), np.float32)}
    recipe = small(
        tmp_path, nodes, {"y": ["k"], "z": ["n", 4, 4, 4]}, weights=weights,
        text=SMALL + "[evaluation]\nbatch = 1\nbudget = { min_sqnr_db = 1.0 }\n",
    )  # fmt: skip
    (tmp_path / "small.toml").write_text(
        recipe.read_text().replace('data = "data.npz"', 'data = "data.npz"\nmanual = { x = 0.5 }')
    )
    result = run(recipe, tmp_path / "out")
    accuracy = result.report.accuracy
    assert len(accuracy.notes) == 1 and "'y' has a different shape" in accuracy.notes[0]
    assert result.exit_status == 1 and "output 'y' cannot be judged" in accuracy.misses[0]
    assert accuracy.outputs["z"].sqnr_db is not None


def test_a_metric_that_is_no_number_is_a_miss_and_no_crash(tmp_path):
    text = SMALL + '[evaluation]\nmetric = "odd:Odd"\nbudget = { max_drop = 0.1 }\n'
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=text)
    np.savez(tmp_path / "data.npz", x=normal(20, 3, 4, 4), label=np.zeros(20, np.int64))
    (tmp_path / "odd.py").write_text(
        "class Odd:\n    higher_is_better = True\n    def update(self, o, l): pass\n    def value(self): return float('nan')\n"
    )
    result = run(recipe, tmp_path / "out", allow_code=True)
    assert result.exit_status == 1 and result.report.accuracy.misses == [
        sentence(ReportCode.LIMIT_NOT_FINITE(limit="max_drop"))
    ]


# ---------------------------------------------------------------- collections


def test_shards_merged_give_the_ranges_of_one_run(finished, capsys):
    place = finished
    whole = run(place / "digits.toml", place / "out")
    before = Ranges.load(place / "out" / "ranges.json")
    parts = [str(place / f"part{i}.npz") for i in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        assert invoke(["calibrate", str(place / "digits.toml"), "--shard", f"{number}/3", "--out", part]) == 0
    assert "samples (" in capsys.readouterr().out
    merged = str(place / "merged.npz")
    assert invoke(["merge", *parts[:2], "--out", merged]) == 0
    assert "missing: parts 3/3" in capsys.readouterr().out
    text = (place / "digits.toml").read_text()
    (place / "digits.toml").write_text(text.replace("[calibration]", '[calibration]\ncollection = "merged.npz"'))
    with pytest.raises(QtoolError, match="lacks the parts 3/3"):
        run(place / "digits.toml", place / "again")
    assert invoke(["merge", *parts, "--out", merged, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == whole.report.ranges[0].samples and found["missing"] == []
    result = run(place / "digits.toml", place / "again")
    after = Ranges.load(place / "again" / "ranges.json")
    assert after.tensors == before.tensors and after.observed == before.observed
    assert not list((place / "again" / ".qtool").glob("collection-*"))
    assert result.report.accuracy == whole.report.accuracy
    assert set(statuses(run(place / "digits.toml", place / "again")).values()) == {"reused"}
    assert invoke(["merge", *parts, "--out", parts[0]]) == 2


def test_a_collection_needs_no_data_and_is_checked_against_the_model(place):
    out = place / "c.npz"
    assert invoke(["calibrate", str(place / "digits.toml"), "--out", str(out)]) == 0
    text = (place / "digits.toml").read_text()
    assert 'data = "digits_calibration.npz"' in text
    (place / "digits.toml").write_text(text.replace('data = "digits_calibration.npz"', 'collection = "c.npz"'))
    assert dry_run(Recipe.load(place / "digits.toml")).asked
    assert run(place / "digits.toml", place / "out").exit_status == 0
    proto = onnx.load(str(place / "digits.onnx"))
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(proto, str(place / "digits.onnx"))
    with pytest.raises(QtoolError, match="another model") as refused:
        dry_run(Recipe.load(place / "digits.toml"))
    with pytest.raises(QtoolError) as stopped:
        run(place / "digits.toml", place / "out")
    assert str(stopped.value) == str(refused.value)


class Measures(Pass):
    """A pass that measures, unless this is a dry run."""

    supports_dry_run = True

    def apply(self, model, context):
        DRY.append(context.dry_run)


DRY = []


def test_a_dry_run_with_a_collection_measures_nothing_either(place):
    assert invoke(["calibrate", str(place / "digits.toml"), "--out", str(place / "c.npz")]) == 0
    text = (place / "digits.toml").read_text()
    (place / "digits.toml").write_text(text.replace('data = "digits_calibration.npz"', 'collection = "c.npz"'))
    DRY.clear()
    steps = [FoldConstants(), FoldBatchNorm(), Measures(), InsertQDQ()]
    dry_run(Recipe.load(place / "digits.toml").with_objects(passes=steps))
    assert DRY and all(DRY)


def test_a_collection_is_of_the_form_that_the_first_pass_calibrates(place):
    """insert_qdq sorts the nodes first, and calibrate did not: a run refused the collection of a model with branches."""
    text = (place / "digits.toml").read_text()
    text = text.replace('[[pass]]\nuse = "fold_constants"\n', "").replace('[[pass]]\nuse = "fold_batchnorm"\n', "")
    assert text.count("[[pass]]") == 1 and 'use = "insert_qdq"' in text
    (place / "digits.toml").write_text(text)
    shutil.copy(MODELS / "digits_cnn.onnx", place / "digits.onnx")
    assert invoke(["calibrate", str(place / "digits.toml"), "--out", str(place / "c.npz")]) == 0
    (place / "digits.toml").write_text(text.replace('data = "digits_calibration.npz"', 'collection = "c.npz"'))
    assert dry_run(Recipe.load(place / "digits.toml")).asked
    assert run(place / "digits.toml", place / "out").exit_status == 0


def test_a_collection_is_not_written_over_an_input(place):
    before = (place / "digits_calibration.npz").read_bytes()
    words = ["calibrate", str(place / "digits.toml"), "--out", str(place / "digits_calibration.npz")]
    assert invoke(words) == 2
    assert invoke([*words[:3], str(place / "c.npz"), "--shard", "3/2"]) == 2
    assert (place / "digits_calibration.npz").read_bytes() == before


def test_a_killed_calibration_goes_on_where_it_was(finished, monkeypatch):
    from toolkit.calibration import checkpoint
    from toolkit.calibration.tapped import TappedSession

    place = finished
    whole = run(place / "digits.toml", place / "out")
    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", -1.0)
    counted: list[int] = []
    original = TappedSession.compute

    def compute(self, batch, into):
        counted.append(batch.count)
        if len(counted) == 3 and stop:
            raise KeyboardInterrupt
        return original(self, batch, into)

    monkeypatch.setattr(TappedSession, "compute", compute)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run(place / "digits.toml", place / "again")
    assert len(list((place / "again" / ".qtool").glob("collection-*.part"))) == 1
    seen, stop = sum(counted), False
    counted.clear()
    run(place / "digits.toml", place / "again")
    total = whole.report.ranges[0].samples
    assert sum(counted) < total and sum(counted) + seen >= total
    assert not list((place / "again" / ".qtool").glob("collection-*.part"))
    assert Ranges.load(place / "again" / "ranges.json").tensors == Ranges.load(place / "out" / "ranges.json").tensors


# ---------------------------------------------------------------- comparison


def test_engines_to_compare_with_are_built_from_the_plain_model(place, monkeypatch):
    from toolkit.backends import choose
    from toolkit.backends.layers.layer import Build
    from toolkit.backends.none import NoBackend
    from toolkit.base import gpu
    from toolkit.base.gpu import Gpu

    built = []

    class Timed(NoBackend):
        name = "timed"

        def cannot_measure(self):
            return ""

        def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
            model = Model.load(model_path)
            ops = {n.op for n in model.nodes}
            kinds = {str(t.dtype) for t in model.graph.tensors().values()}
            built.append((model_path.name, "QuantizeLinear" in ops, "float16" in kinds, extras.rest))
            return Build("timed", latency={"all": {"opt": float(len(built))}})

    monkeypatch.setattr(choose, "choose", lambda name: (Timed(), EngineCode.BACKEND_REQUESTED()))
    monkeypatch.setattr(gpu, "find_gpu", lambda: Gpu("test", "8.9"))
    text = (
        (place / "digits.toml")
        .read_text()
        .replace('backend = "none"', 'backend = "auto"\nprefer = "int8"\ncompare = ["fp16", "fp32"]')
    )
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert built[0][:2] == ("model.onnx", True)
    assert built[1:] == [("compare_fp16.onnx", False, True, "fp16"), ("compare_fp32.onnx", False, False, "fp32")]
    assert result.report.latency == {
        "all": {"opt": 1.0},
        "compare": {"fp16": {"all": {"opt": 2.0}}, "fp32": {"all": {"opt": 3.0}}},
    }
    assert set(statuses(run(place / "digits.toml", place / "out")).values()) == {"reused"}
    (place / "digits.toml").write_text(text.replace('"fp16", "fp32"', '"fp32"'))
    again = run(place / "digits.toml", place / "out")
    assert statuses(again)["engine"] == "reused" and statuses(again)["compare"] == "done"
    assert list(again.report.latency["compare"]) == ["fp32"]
    assert not list((place / "out" / ".qtool").glob("compare_*"))


def test_an_engine_that_ignores_its_input_is_broken_however_its_argmax_agrees(place):
    """Images far from 0, quantized so coarsely that all look alike: the argmax agrees, since there is only one."""
    from toolkit.evaluation.numerics.difference import Difference

    rng = np.random.default_rng(0)
    reference = np.float32([5.0, 1.0, 1.0]) + 0.05 * rng.standard_normal((64, 3)).astype(np.float32)
    constant = np.broadcast_to(reference.mean(axis=0) * 0.98, reference.shape)
    found = Difference()
    found.add(reference, constant, classes=True)
    found.follow(reference)
    assert found.agreement == 1.0 and found.sqnr_db > 20
    assert found.variation_db < 0


def test_the_share_of_arithmetic_is_known_for_a_transformer(tmp_path, samples):
    text = (ROOT / "recipes" / "strip_int8.toml").read_text()
    text = (
        text.replace("../models/strip_reader", f"{MODELS}/strip_reader")
        .replace("../models/", f"{samples}/")
        .replace('"auto"', '"none"')
    )
    (tmp_path / "strip.toml").write_text(text)
    summary = run(tmp_path / "strip.toml", tmp_path / "out").report.summary
    assert summary.share_of == "macs" and summary.quantized_share > 0.95


def test_calibration_on_a_gpu_is_what_the_recipe_asks_for(place, monkeypatch):
    from toolkit.calibration import gpu
    from toolkit.calibration.collect import collect

    asked = []

    def stand_in(model, taps, data, *, batch, tactic_sources, progress):
        asked.append((len(taps), tactic_sources))
        return collect(model, [t for t in taps if model.facts().is_float(t)], data, batch=batch)

    monkeypatch.setattr(gpu, "collect_on_gpu", stand_in)
    text = (place / "digits.toml").read_text().replace('method = "mse"', 'method = "mse"\ndevice = "gpu"')
    (place / "digits.toml").write_text(text)
    result = run(place / "digits.toml", place / "out")
    assert asked and asked[0][0] == 5 and result.exit_status == 0


def test_calibration_on_a_gpu_that_is_not_here_says_what_to_do(place):
    from toolkit.base.errors import BackendError

    if shutil.which("nvidia-smi"):
        pytest.skip("a GPU is here")
    text = (place / "digits.toml").read_text().replace('method = "mse"', 'method = "mse"\ndevice = "gpu"')
    (place / "digits.toml").write_text(text)
    with pytest.raises(BackendError, match="calibrat"):
        run(place / "digits.toml", place / "out")


def test_a_pass_that_corrects_pairs_in_front_of_what_inserts_them_is_a_warning(tmp_path):
    text = SMALL.replace('use = "insert_qdq"', 'use = "correct_bias"\n[[pass]]\nuse = "insert_qdq"')
    recipe = small(tmp_path, [node("Relu", ["c"], ["y"])], {"y": ["n", 4, 4, 4]}, text=text)
    warnings = run(recipe, tmp_path / "out").report.summary.warnings
    assert any(said.startswith("No layer has quantized weights: put insert_qdq before") for said in warnings)
