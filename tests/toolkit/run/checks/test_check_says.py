"""What ``check`` passes, a run does not refuse for a reason that was there to see; and what both refuse, both refuse alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import control_flow
from tests.conftest import ROOT, build, node, normal, residual_proto
from tests.fuzz import corpus
from tests.small_digits import small_digits
from toolkit import Code, Context, Model, Pass, Recipe, run
from toolkit.backends import choose as choosing
from toolkit.base.errors import BackendError, QtoolError
from toolkit.data.sample import input_specs
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.new.new_recipe import recipe_for

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
STORED = sorted((ROOT / "tests").rglob("data/*.onnx"))


def scores(outputs=None):
    """MatMul, NonZero of what is positive, and a count of it."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("NonZero", ["m"], ["z"]), node("Shape", ["z"], ["n"])]
    return build(nodes, {"x": ["b", 4]}, {"m": ["b", 6], "n": [2]}, {"w": normal(4, 6)}, types={"n": TensorProto.INT64})


def foreign(domain="com.microsoft", op="QuickGelu"):
    """An operator that is not ONNX's own after a MatMul."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), helper.make_node(op, ["m"], ["y"], "foreign", domain=domain)]
    proto = build(nodes, {"x": ["b", 4]}, {"y": None}, {"w": normal(4, 6)})
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


BUILT = {
    "residual": residual_proto,
    "digits": small_digits,
    "nonzero": scores,
    "microsoft": foreign,
    "branches": control_flow.layers_in_branches,
    "branches on a byte": lambda: control_flow.layers_in_branches(TensorProto.UINT8),
    "branches on a truth": lambda: control_flow.layers_in_branches(TensorProto.BOOL),
    "loop": control_flow.conv_in_loop,
    "scan": control_flow.scan,
    "state": control_flow.with_state,
    "nested": lambda: control_flow.nested(True),
    "nested twice": lambda: control_flow.nested(False, False),
}


def draw(model, count=6, free=2):
    """Plausible samples, one row where an axis is free and leads or is named alike, ``free`` elsewhere."""
    rng = np.random.default_rng(0)
    specs = input_specs(model)
    batch = {spec.dims[0] for spec in specs.values() if spec.dims and not isinstance(spec.dims[0], int)}
    samples = []
    for _ in range(count):
        sample = {}
        for name, spec in specs.items():
            shape = [
                d if isinstance(d, int) else 1 if axis == 0 or d in batch else free
                for axis, d in enumerate(spec.dims or ())
            ]
            kind = spec.dtype.kind
            value = rng.integers(0, 2, shape) if kind in "iub" else rng.standard_normal(shape)
            sample[name] = np.asarray(value).astype(spec.dtype)
        samples.append(sample)
    return samples


def answer(doing):
    """None, or what was refused."""
    try:
        doing()
    except QtoolError as error:
        return error.what
    return None


def alike(recipe, out, **more):
    """What check and run answer; a run that is refused has not calibrated."""
    checked = answer(lambda: dry_run(recipe))
    ran = answer(lambda: run(recipe, out, **more))
    if checked is not None:
        assert not list(Path(out).glob(".qtool/collection-*")), "it calibrated first"
    assert checked == ran
    return checked


# ---------------------------------------------------------------- recipes that are refused


def small(folder, passes, proto=None, **tables):
    """A recipe in Python for a small model with drawn samples; tables that are None are left out."""
    path = folder / "model.onnx"
    onnx.save(proto if proto is not None else residual_proto(), str(path))
    given = {
        "calibration": {"data": str(folder / "data.npz"), "method": "minmax"},
        "engine": {"backend": "none"},
        **tables,
    }
    samples = draw(Model.load(path))
    np.savez(folder / "data.npz", **{f"{n}/{i:05d}": v for i, sample in enumerate(samples) for n, v in sample.items()})
    text = [f'[model]\npath = "{path}"\n']
    if any(not isinstance(d, int) for spec in input_specs(Model.load(path)).values() for d in spec.dims or ()):
        shapes = {n: [list(f(v)) for f in (np.shape, np.shape, np.shape)] for n, v in samples[0].items()}
        text.append('[[profile]]\nname = "default"\n' + "".join(
            f"shapes.{n} = {{ min = {s[0]}, opt = {s[1]}, max = {s[2]} }}\n" for n, s in shapes.items()))  # fmt: skip
    for entry in passes:
        text.append("[[pass]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in entry.items()))
    for name, table in given.items():
        if table is not None:
            text.append(f"[{name}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in table.items()))
    target = folder / "recipe.toml"
    target.write_text("\n".join(text))
    return Recipe.load(target)


def _toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


FOLD, INSERT, SEARCH = ({"use": use} for use in ("fold_constants", "insert_qdq", "search_precision"))
NO_DATA = {"calibration": None, "evaluation": None}


@pytest.mark.parametrize("name", BUILT)
def test_models_of_all_kinds_run(tmp_path, name):
    recipe = small(tmp_path, [FOLD, INSERT, {"use": "guard_fp16"}], BUILT[name]())
    assert alike(recipe, tmp_path / "run") is None


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_stored_models_are_answered_alike(tmp_path, path):
    strip = [{"use": "strip_qdq"}] if "DequantizeLinear" in {n.op_type for n in onnx.load(path).graph.node} else []
    alike(small(tmp_path, [*strip, FOLD, INSERT], onnx.load(path)), tmp_path / "run")


def test_the_recipe_that_new_writes_is_answered_alike(tmp_path):
    small(tmp_path, [], BUILT["branches"]())
    text = recipe_for(tmp_path / "model.onnx", tmp_path / "recipe.toml", tmp_path / "data.npz", None, None).text
    (tmp_path / "recipe.toml").write_text(text.replace('backend = "auto"', 'backend = "none"'))
    assert alike(Recipe.load(tmp_path / "recipe.toml"), tmp_path / "run") is None


@pytest.mark.parametrize(
    ("passes", "tables"),
    [
        ([INSERT, {"use": "keep_precision", "nodes": ["nothing*"], "precision": "fp16"}], {}),
        ([SEARCH, {"use": "keep_precision", "ops": ["Softmax"], "precision": "fp16"}], {}),
        ([{"use": "insert_qdq", "exclude": ["nothing"]}], {}),
        ([{"use": "insert_qdq", "only_if_faster": True}], {}),
        ([{"use": "search_precision", "min_agreement": 0.9}], {}),
        ([{"use": "search_precision", "gpu": "Abacus"}], {}),
        ([INSERT], NO_DATA), ([SEARCH], NO_DATA), ([{"use": "smooth"}], NO_DATA), ([{"use": "guard_fp16"}], NO_DATA),
        ([INSERT], {"calibration": {"data": "data.npz", "manual": {"nothing": 1.0}}}),
        ([INSERT], {"calibration": {"data": "data.npz", "methods": {"nothing*": "mse"}}}),
    ],
)  # fmt: skip
def test_what_will_be_refused_is_refused_before_calibrating(tmp_path, passes, tables):
    proto = build(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        {"x": ["n", 3, 8, 8]},
        {"y": None},
        {"w": normal(4, 3, 3, 3)},
    )
    assert alike(small(tmp_path, passes, proto, **tables), tmp_path / "run") is not None


def test_a_batch_that_the_model_cannot_run_is_refused_before_calibrating(tmp_path):
    """A Reshape to one row, in a graph whose input has a free batch."""
    proto = build([node("Reshape", ["x", "row"], ["r"]), node("MatMul", ["r", "w"], ["y"])], {"x": ["n", 4]}, {"y": None},
                  {"w": normal(4, 6), "row": np.array([1, 4])})  # fmt: skip
    recipe = small(tmp_path, [INSERT], proto)
    assert alike(recipe, tmp_path / "one") is None
    recipe.path.write_text(recipe.path.read_text().replace("max = [1, 4]", "max = [4, 4]"))
    assert "cannot compute a batch of 2: node 'r'" in alike(Recipe.load(recipe.path), tmp_path / "four")


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(
    ("make", "engine"),
    [
        (scores, {}), (foreign, {}), (lambda: foreign("someone.else", "Secret"), {}), (control_flow.layers_in_branches, {}),
        (residual_proto, {"typing": "weak"}), (residual_proto, {"quantization": "implicit"}),
        (residual_proto, {"compute_capabilities": ["3.5"]}),
    ],
)  # fmt: skip
def test_what_tensorrt_rtx_cannot_build_is_refused_before_calibrating(tmp_path, make, engine):
    recipe = small(tmp_path, [FOLD, INSERT], make(), engine={"backend": "tensorrt_rtx", **engine})
    assert alike(recipe, tmp_path / "run") is not None


def test_code_that_yields_no_sample_is_refused_before_calibrating(tmp_path):
    (tmp_path / "mine_none.py").write_text("def samples():\n    return iter(())\n")
    measured = {"data": str(tmp_path / "data.npz"), "budget": {"min_sqnr_db": 1}}
    recipe = small(tmp_path, [INSERT], calibration={"data": "mine_none:samples"}, evaluation=measured)
    said = "there are no samples"
    assert answer(lambda: dry_run(recipe, allow_code=True)) == said
    assert answer(lambda: run(recipe, tmp_path / "run", allow_code=True)) == said


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(
    ("quantize", "lacks"),
    [
        ({**INSERT, "dtype": "fp8"}, "8.6 does not compute in FP8"),
        ({"use": "search_precision", "also": "fp8"}, "8.6 does not compute in FP8"),
        ({**INSERT, "dtype": "int4", "block": 16}, "7.5 does not compute in INT4"),
    ],
)
def test_a_gpu_that_lacks_the_type_is_refused_before_calibrating(tmp_path, quantize, lacks):
    engine = {"backend": "tensorrt_rtx", "compute_capabilities": ["8.9", lacks[:3]]}
    recipe = small(tmp_path, [quantize], residual_proto(), engine=engine)
    refusal = alike(recipe, tmp_path / "run")
    assert refusal is not None and lacks in refusal
    other = tmp_path / "other"
    other.mkdir()
    recipe = small(other, [quantize], residual_proto(), engine={**engine, "compute_capabilities": ["8.9", "12.0"]})
    assert alike(recipe, other / "run") is None


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(
    "make", [control_flow.conv_in_loop, control_flow.scan, control_flow.with_state, lambda: control_flow.nested(True)]
)
def test_what_tensorrt_rtx_builds_is_not_refused(tmp_path, make):
    recipe = small(tmp_path, [FOLD, INSERT], make(), engine={"backend": "tensorrt_rtx"})
    assert alike(recipe, tmp_path / "run") is None


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("most", [1, 3])
def test_branches_of_unlike_rank_build_where_the_profiles_decide(tmp_path, most):
    """As torch.jit exports squeeze() of a dimension that may be 1."""
    decide = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["rows"]),
        node("Equal", ["rows", "one"], ["is"]),
    ]
    choice = control_flow.switch("choice", "is", ["t"], control_flow.subgraph([node("Squeeze", ["m", "zero"], ["a"])], {"a": None}),
                                 control_flow.subgraph([node("Identity", ["m"], ["b"])], {"b": None}))  # fmt: skip
    weights = {"w": normal(4, 6), "zero": np.array([0]), "one": np.array([1])}
    proto = build([node("MatMul", ["x", "w"], ["m"]), *decide, choice, node("ReduceSum", ["t"], ["y"], keepdims=0)],
                  {"x": ["n", 4]}, {"y": None}, weights)  # fmt: skip
    recipe = small(tmp_path, [FOLD, INSERT], proto, engine={"backend": "tensorrt_rtx"})
    text = recipe.path.read_text().replace("max = [1, 4]", f"max = [{most}, 4]")
    recipe.path.write_text(text)
    refused = alike(Recipe.load(recipe.path), tmp_path / "run")
    assert (refused is None) == (most == 1)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_backend_that_is_not_installed_is_refused_before_calibrating(tmp_path, monkeypatch, backend):
    def missing(name):
        return None, BackendError(f"{name} is not installed", remedy="install it")

    monkeypatch.setattr(choosing, "usable", missing)
    recipe = small(tmp_path, [INSERT], engine={"backend": backend})
    assert alike(recipe, tmp_path / "run") == f"{backend} is not installed"


class Counting(Pass):
    """A pass that knows nothing of dry runs, and takes a name that only a run of all passes makes."""

    applied: int = 0

    def apply(self, model: Model, context: Context) -> None:
        self.applied += 1
        context.calibration_samples()
        context.journal.noted(Code.OWN_WORDS(text="it was here"))


def test_a_pass_that_does_not_heed_dry_runs_is_applied_once(tmp_path):
    step = Counting()
    recipe = small(tmp_path, [INSERT])
    run(recipe, tmp_path / "run", passes=[step])
    assert step.applied == 1
    assert answer(lambda: dry_run(recipe.with_objects(passes=[step]))) is None


def test_a_rehearsal_is_not_repeated(tmp_path, monkeypatch):
    recipe = small(tmp_path, [INSERT])
    run(recipe, tmp_path / "run")
    monkeypatch.setattr("toolkit.run.checks.rehearsal.rehearse", lambda *given: pytest.fail("it was rehearsed again"))
    run(recipe, tmp_path / "run")


def test_names_that_smoothing_may_make_are_left_to_the_run(tmp_path):
    """A dry run inserts no such node, a run may."""
    nodes = [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["m"]), node("Relu", ["m"], ["y"])]
    proto = build(nodes, {"x": ["n", 4]}, {"y": None}, {"w": normal(4, 6)})
    smooth = {"use": "smooth", "least": 1.0, "only_if_better": False}
    for pattern, fits in (("*smooth*", True), ("*nothing*", False)):
        recipe = small(tmp_path, [smooth, {"use": "keep_precision", "nodes": [pattern], "precision": "fp32"}], proto)
        assert dry_run(recipe).warnings
        assert (answer(lambda recipe=recipe: run(recipe, tmp_path / "run")) is None) == fits


def judged(folder, count=40, **evaluation):
    """A classifier with its samples; the recipe's check."""
    onnx.save(build([node("MatMul", ["x", "w"], ["logits"])], {"x": ["n", 6]}, {"logits": ["n", 5]}, {"w": normal(6, 5)}),
              str(folder / "model.onnx"))  # fmt: skip
    np.savez(folder / "data.npz", x=normal(count, 6, seed=1))
    return Recipe.build(
        "judged", model={"path": folder / "model.onnx"}, calibration={"data": str(folder / "data.npz")},
        passes=["insert_qdq"], engine={"backend": "none"},
        evaluation={"data": str(folder / "data.npz"), **evaluation},
    )  # fmt: skip


def test_the_task_is_told_with_its_reason(tmp_path):
    found = dry_run(judged(tmp_path))
    assert (found.task["task"], found.task["sure"]) == ("classification", True)
    assert found.task["why"]["code"] == "evaluation-task-guessed" and found.task["why"]["text"] in found.to_text()
    assert found.to_json()["task"] == found.task
    named = dry_run(judged(tmp_path, task="embedding"))
    assert named.task["why"]["code"] == "evaluation-task-named" and named.task["task"] == "embedding"


def test_labels_that_are_numbered_from_another_start_are_said_before_a_run(tmp_path):
    recipe = judged(tmp_path, metric="top1")
    x = normal(160, 6, seed=1)
    answers = (x @ normal(6, 5)).argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=x[answers < 4], label=answers[answers < 4] + 1)
    (warning,) = dry_run(recipe).warnings
    assert "the labels start at another number" in warning


@pytest.mark.parametrize("limit", [None, 16, 32, 200])
def test_samples_are_counted_as_they_will_be_measured_on(tmp_path, limit):
    recipe = judged(tmp_path, samples=limit) if limit else judged(tmp_path)
    assert dry_run(recipe).evaluation["samples"] == min(limit or 40, 40)
    assert run(recipe, tmp_path / "out").report.accuracy.samples == min(limit or 40, 40)


@pytest.mark.parametrize("task", ["ctc", "segmentation", "detection", "generation"])
def test_a_task_that_no_output_fits_is_refused_by_check_and_run(tmp_path, task):
    recipe = judged(tmp_path, task=task)
    for refuse in (lambda: dry_run(recipe), lambda: run(recipe, tmp_path / "out")):
        with pytest.raises(QtoolError, match=f"no output can be read for the task {task}"):
            refuse()


@pytest.mark.parametrize(("key", "number"), [("blank", 5), ("space", 7)])
def test_a_class_that_the_output_does_not_have_is_refused_by_its_line(tmp_path, key, number):
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    onnx.save(build(nodes, {"x": ["n", 8, 6]}, {"y": ["n", 8, 5]}, {"w": normal(6, 5)}), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=normal(8, 8, 6), label=np.tile([1, 2, -1], (8, 1)))
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[model]\npath = "model.onnx"\n[calibration]\ndata = "data.npz"\n[engine]\nbackend = "none"\n'
        f'[evaluation]\ntask = "ctc"\n{key} = {number}\nmetric = "wer"\n'
    )
    with pytest.raises(QtoolError, match=f"recipe.toml:9: {key} is {number}, and output 'y' has 5 classes"):
        dry_run(Recipe.load(path))
    path.write_text(path.read_text().replace(f"{key} = {number}", f"{key} = 4"))
    assert dry_run(Recipe.load(path)).task["task"] == "ctc"


@pytest.mark.parametrize("seed", [{}, {"seed": 1.0}])
def test_a_model_that_draws_numbers_is_told_with_a_seed_too_and_measured_with_the_same_ones(tmp_path, seed):
    """With a seed a session's numbers still go on from run to run: «BROKEN: 11.7 % stay» of a model without a pair."""
    noise = [node("RandomNormalLike", ["c"], ["r"], **seed), node("Add", ["c", "r"], ["m"])]
    corpus.recipe_folder(tmp_path)
    onnx.save(corpus.network(noise), tmp_path / "m.onnx")
    recipe = Recipe.load(tmp_path / "r.toml")
    told = sentence(Code.RANDOM_SOURCE(nodes=["r"], unlike=[]))
    assert told in dry_run(recipe).warnings and "every model and sample is measured with the same ones" in told
    made = run(recipe.model_copy(update={"passes": []}), tmp_path / "o")
    output = next(iter(made.report.accuracy.outputs.values()))
    assert output.sqnr_db is None or output.sqnr_db > 40
    # whoever runs the result himself has numbers that are drawn
    feed = {"x": np.load(tmp_path / "c.npz")["x"][:1]}
    own = made.session()
    first, second = own.run(feed), own.run(feed)
    assert any(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("trains", [True, False])
def test_a_dropout_that_trains_is_told_and_measured_with_one_mask(tmp_path, trains):
    corpus.recipe_folder(tmp_path)
    weights = {"share": np.array(0.3, np.float32), "trains": np.array(trains)}
    drop = node("Dropout", ["c", "share", "trains"], ["m"], "drop")
    onnx.save(corpus.network([drop], weights), tmp_path / "m.onnx")
    recipe = Recipe.load(tmp_path / "r.toml")
    told = sentence(Code.RANDOM_SOURCE(nodes=["drop"], unlike=[], train=["drop"]))
    assert (told in dry_run(recipe).warnings) == trains
    assert "export the model in evaluation mode, since 'drop' (Dropout) was left in training mode" in told
    made = run(recipe.model_copy(update={"passes": []}), tmp_path / "o")
    output = next(iter(made.report.accuracy.outputs.values()))
    assert made.report.summary.verdict != "broken" and (output.sqnr_db is None or output.sqnr_db > 40)
