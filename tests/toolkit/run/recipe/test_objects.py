"""A run from Python alone: passes, data loaders and metrics as objects, and what its result opens."""

from __future__ import annotations

import ast
import copy
import gc
import importlib.metadata
import json
import pickle
import shutil
import weakref

import numpy as np
import onnx
import pytest

from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS
from tests.small_digits import small_digits
from toolkit import DataError, Model, NotAllowedError, Pass, Recipe, RecipeError, Sequence, run
from toolkit.base.given import CallerObject, taken

with np.load(MODELS / "digits_test.npz") as _stored:
    STORED = dict(_stored)
SMALL: dict[str, str] = {}
"""The path of the model."""


@pytest.fixture(autouse=True, scope="module")
def _model(tmp_path_factory):
    SMALL["path"] = str(tmp_path_factory.mktemp("small") / "digits.onnx")
    onnx.save(small_digits(), SMALL["path"])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The folder of a run of the recipe."""
    folder = tmp_path_factory.mktemp("first")
    run(recipe(), folder)
    return folder


@pytest.fixture
def ran(first_run, tmp_path):
    """The same, for one test."""
    return shutil.copytree(first_run, tmp_path / "ran")


class Loader:
    """What torch's DataLoader is to us: batches of dictionaries, a data set, a batch size and a sampler."""

    def __init__(self, count, batch_size=16, labels=True, sampler=None):
        self.dataset, self.batch_size, self.sampler = range(count), batch_size, sampler
        self.labels = labels

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.dataset), self.batch_size):
            rows = slice(start, min(start + self.batch_size, len(self.dataset)))
            batch = {"image": STORED["image"][rows]}
            yield {**batch, "label": STORED["label"][rows]} if self.labels else batch


class RandomSampler:
    pass


class ShareRight:
    """The share of samples whose argmax is the label."""

    higher_is_better = True

    def __init__(self, bonus=0.0):
        self.bonus, self.right, self.count = bonus, 0, 0

    def update(self, outputs, labels):
        (logits,) = outputs.values()
        self.right += int((logits.argmax(axis=1) == labels["label"]).sum())
        self.count += len(logits)

    def value(self):
        return self.right / self.count + self.bonus


class Marks(Pass):
    """Notes that it was there."""

    word: str = "here"

    def apply(self, model, context):
        context.journal.noted(self.word)


def recipe(**tables):
    given = {
        "model": SMALL,
        "calibration": {"data": Loader(48, labels=False), "method": "minmax"},
        "passes": [FoldBatchNorm(), InsertQDQ(exclude=["head"])],
        "evaluation": {"data": Loader(64), "metric": ShareRight()},
        "engine": {"backend": "none"},
    }
    return Recipe.build("made", **{**given, **tables})


class Counted(Loader):
    """Counts the batches that are read."""

    batches = 0

    def __iter__(self):
        for batch in super().__iter__():
            type(self).batches += 1
            yield batch


def test_a_loader_whose_samples_are_few_is_read_once(tmp_path):
    """Its first batch once more, to see whether it stays the same."""
    run(recipe(calibration={"data": Counted(48, labels=False), "method": "minmax"}), tmp_path)
    assert Counted.batches == 3 + 1


def test_an_iterator_that_can_be_read_once_is_enough(tmp_path):
    samples = ({"image": image[None]} for image in STORED["image"][:32])
    first = run(recipe(calibration={"data": samples, "method": "minmax"}), tmp_path / "iterator")
    listed = [{"image": image[None]} for image in STORED["image"][:32]]
    second = run(recipe(calibration={"data": listed, "method": "minmax"}), tmp_path / "list")
    assert first.report.ranges == second.report.ranges


def test_an_object_lives_as_long_as_its_recipe_and_goes_where_its_name_goes():
    thing = Counted(8)
    held = weakref.ref(thing)
    made = recipe(calibration={"data": thing})
    name = made.with_objects().calibration.data
    assert taken(name) is thing and taken(copy.deepcopy(name)) is thing
    other = pickle.loads(pickle.dumps(CallerObject(ShareRight(bonus=2.0))))
    assert taken(other).bonus == 2.0 and str(other) == "@given:ShareRight"
    del thing, made, name
    gc.collect()
    assert held() is None
    with pytest.raises(RecipeError, match="another process"):
        taken("@given:ShareRight")


def test_entry_points_are_read_once_and_a_users_sources_are_parsed_once(ran, monkeypatch):
    read, parsed = [], []
    points, parse = importlib.metadata.entry_points, ast.parse
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **group: read.append(group) or points(**group))
    monkeypatch.setattr(ast, "parse", lambda *given, **more: parsed.append(given) or parse(*given, **more))
    run(recipe(), ran)
    # numpy parses the headers of arrays
    assert len(read) <= 1 and not [text for text, *_ in parsed if len(text) > 500]


def test_a_recipe_of_objects_gives_what_a_file_gives(tmp_path):
    from_objects = run(recipe(), tmp_path / "objects")
    np.savez(tmp_path / "calibration.npz", image=STORED["image"][:48])
    np.savez(tmp_path / "test.npz", image=STORED["image"][:64], label=STORED["label"][:64])
    (tmp_path / "r.toml").write_text(
        f'[model]\npath = {SMALL["path"]!r}\n[calibration]\ndata = "calibration.npz"\nmethod = "minmax"\n'
        '[[pass]]\nuse = "fold_batchnorm"\n[[pass]]\nuse = "insert_qdq"\nexclude = ["head"]\n'
        '[evaluation]\ndata = "test.npz"\nmetric = "top1"\n[engine]\nbackend = "none"\n'
    )
    from_file = run(tmp_path / "r.toml", tmp_path / "file")
    ours, theirs = from_objects.report, from_file.report
    assert ours.accuracy.quantized == theirs.accuracy.quantized and ours.accuracy.samples == 64
    asked = [[(layer.node, layer.asked.precision) for layer in one.layers] for one in (ours, theirs)]
    assert asked[0] == asked[1]
    first, second = (Model.load(one.folder / "model.onnx").fingerprint() for one in (from_objects, from_file))
    assert first == second


def test_what_changed_is_done_again_and_the_rest_is_found(ran):
    again = {step.name: step.status for step in run(recipe(), ran).steps}
    assert again["passes"] == again["evaluation"] == "reused"
    other = recipe(evaluation={"data": Loader(64), "metric": ShareRight(bonus=1.0)})
    found = run(other, ran)
    assert {s.name: s.status for s in found.steps}["evaluation"] == "done" and found.report.accuracy.quantized > 1
    fewer = recipe(calibration={"data": Loader(32, labels=False), "method": "minmax"})
    assert {s.name: s.status for s in run(fewer, ran).steps}["passes"] == "done"


def test_run_takes_them_beside_a_recipe(tmp_path):
    found = run(recipe(), tmp_path, passes=[InsertQDQ(include_ops=["Gemm"]), Marks(word="there")], metric="top1")
    quantized = {
        layer.op for layer in found.report.layers if layer.asked.by == "insert_qdq" and layer.asked.precision == "int8"
    }
    assert quantized == {"Gemm"}
    assert '"there"' in (tmp_path / "journal.jsonl").read_text()
    assert found.report.accuracy.metric == "top1"


def test_the_callers_own_code_needs_no_permission_and_a_files_does():
    recipe()
    with pytest.raises(NotAllowedError):
        run(recipe(passes=[{"use": "somewhere:Else"}]))


def test_wrong_settings_are_refused_by_name(tmp_path):
    with pytest.raises(RecipeError, match="calibraton"):
        recipe(calibraton={})
    with pytest.raises(RecipeError, match="hold_out"):
        recipe(evaluation={"hold_out": 2})
    shuffled = recipe(calibration={"data": Loader(48, labels=False, sampler=RandomSampler())})
    with pytest.raises(Exception, match="shuffle"):
        run(shuffled, tmp_path)


class Reordered(Loader):
    """Its samples come in another order each time, though it names no sampler that says so."""

    def __iter__(self):
        batches = list(super().__iter__())
        self.turn = getattr(self, "turn", 0) + 1
        yield from batches[self.turn % len(batches) :] + batches[: self.turn % len(batches)]


def test_samples_that_are_too_many_to_hold_come_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.run.inputs.fingerprints._HELD_BYTES", 1000)
    same = recipe(calibration={"data": Loader(48, labels=False), "method": "minmax"})
    assert run(same, tmp_path / "same").report.accuracy.samples == 64
    other = recipe(calibration={"data": Reordered(48, labels=False), "method": "minmax"})
    with pytest.raises(
        DataError, match=r"sample 0: it is not the sample yielded before .* the same samples in the same order"
    ):
        run(other, tmp_path / "other")


class Augmented(Loader):
    """Its values are moved a little, differently in each pass."""

    made, noise = np.random.default_rng(0), 0.01

    def __iter__(self):
        for batch in super().__iter__():
            moved = self.made.normal(0, self.noise, batch["image"].shape).astype("f4")
            yield {**batch, "image": batch["image"] + moved}


def test_samples_that_are_others_in_each_run_are_said_to_be_why_nothing_is_found_again(tmp_path):
    def said(noise):
        data = Augmented(48, labels=False)
        data.noise = noise
        result = run(recipe(calibration={"data": data, "method": "minmax"}), tmp_path)
        return [line for line in result.report.summary.warnings if "other samples than in the last run" in line]

    assert said(0.01) == []
    (line,) = said(0.01)
    assert line.startswith("For calibration, the iterable returned other samples")
    # and no longer where they stay the same
    assert len(said(0.0)) == 1
    assert said(0.0) == []
    assert said(0.0) == []


def test_a_result_opens_what_was_made(ran):
    result = run(recipe(), ran)
    batch = {"image": STORED["image"][:4]}
    (found,) = result.session().run(batch).values()
    assert found.shape == (4, 10)
    assert len(repr(result)) < 400 and str(ran) in repr(result)
    with pytest.raises(Exception, match="no engine"):
        result.engine()


def test_another_pass_is_another_run(tmp_path):
    """Two passes without settings of their own differ by what they are."""
    first = run(recipe(), tmp_path, passes=[FoldBatchNorm()])
    second = run(recipe(), tmp_path, passes=[InsertQDQ()])
    assert {s.name: s.status for s in second.steps}["passes"] == "done"
    assert not any(layer.op == "QuantizeLinear" for layer in first.report.layers)
    assert any(layer.op == "QuantizeLinear" for layer in second.report.layers)
    assert [one.use for one in second.report.recipe.passes] == ["insert_qdq"]


def test_a_sequence_is_a_pass_and_a_class_too(tmp_path):
    found = run(recipe(), tmp_path, passes=[Sequence(passes=[FoldBatchNorm(), InsertQDQ(include_ops=["Gemm"])])])
    assert [one.use for one in found.report.recipe.passes] == ["fold_batchnorm", "insert_qdq"]
    again = run(recipe(), tmp_path, passes=[FoldBatchNorm, InsertQDQ(include_ops=["Gemm"])])
    assert {layer.node for layer in found.report.layers} == {layer.node for layer in again.report.layers}
    with pytest.raises(RecipeError, match="a pass is of type int"):
        run(recipe(), tmp_path, passes=[3])


def test_a_metric_made_in_a_function_is_measured_again(tmp_path):
    def metric_at(bonus):
        class Inner(ShareRight):
            def value(self):
                return super().value() + bonus

        return Inner

    values = [run(recipe(), tmp_path, metric=metric_at(bonus)).report.accuracy.quantized for bonus in (0.0, 1.0)]
    assert values[1] == pytest.approx(values[0] + 1.0)


def test_the_same_samples_are_not_held_out(tmp_path):
    same = recipe(
        calibration={"data": Loader(48), "method": "minmax"}, evaluation={"data": Loader(48), "metric": "top1"}
    )
    assert not run(same, tmp_path).report.accuracy.held_out


def test_a_loader_that_fails_is_named_as_the_cause(tmp_path):
    class Broken(Loader):
        def __iter__(self):
            yield from super().__iter__()
            raise OSError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        run(recipe(calibration={"data": Broken(32, labels=False)}), tmp_path)


def test_code_that_a_pass_names_needs_permission_in_a_file(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    for setting in ('quantizer = "evil:Q"', 'helpers = ["evil:Q"]'):
        (tmp_path / "r.toml").write_text(
            f'[model]\npath = {SMALL["path"]!r}\n[[pass]]\nuse = "search_precision"\n{setting}\n'
        )
        with pytest.raises(NotAllowedError):
            run(tmp_path / "r.toml", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_node_with_pairs_that_is_asked_to_be_float_is_told_of(tmp_path):
    class Asks(Pass):
        def apply(self, model, context):
            context.plan.ask("head", "fp16", "a test")

    run(recipe(), tmp_path, passes=[InsertQDQ(), Asks()])
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["node"] for line in lines if line.get("rule") == "float-reads-pairs"] == ["head"]


def test_passes_that_go_by_the_graph_alone_are_applied_once_in_a_run(tmp_path, monkeypatch):
    applied = []
    for kind in (FoldBatchNorm, InsertQDQ):
        monkeypatch.setattr(kind, "apply", lambda *given, own=kind.apply: applied.append(type(given[0])) or own(*given))
    passes = [FoldBatchNorm(), InsertQDQ()]
    once = run(recipe(), tmp_path / "once", passes=passes)
    # a rehearsal tries both, and the run goes on after the first
    assert applied == [FoldBatchNorm, InsertQDQ, InsertQDQ]
    monkeypatch.setattr(FoldBatchNorm, "graph_only", False)
    twice = run(recipe(), tmp_path / "twice", passes=passes)
    assert applied[3:] == [FoldBatchNorm, InsertQDQ] * 2
    for name in ("model.onnx", "journal.jsonl"):
        assert (once.folder / name).read_bytes() == (twice.folder / name).read_bytes()


class FailingMetric(ShareRight):
    """A metric with a mistake in it."""

    def update(self, outputs, labels):
        raise KeyError("logits")


def test_a_metric_that_is_given_is_called_by_its_own_name(ran, tmp_path):
    headline = json.loads((ran / "report.json").read_text())["summary"]["headline"]
    assert "; ShareRight " in headline and "@given" not in headline
    failing = recipe(evaluation={"data": Loader(40), "metric": FailingMetric, "budget": {"max_drop": 0.1}})
    with pytest.raises(DataError, match="the metric 'FailingMetric' failed on the first sample: KeyError: 'logits'"):
        run(failing, tmp_path / "failing")
