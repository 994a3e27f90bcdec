"""A killed evaluation goes on from what it had computed, and finds what one finds that nobody stopped."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np
import pytest
from ml_dtypes import bfloat16

from passes.insert_qdq import InsertQDQ
from tests.conftest import placeholder_context
from tests.toolkit.search.planted import chain, feeds
from toolkit.base.files import writing
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import evaluate
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.node_errors import checkpoint
from toolkit.evaluation.node_errors import measure as node_errors
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.report.findings import sentence


@pytest.fixture
def ran(monkeypatch):
    """Saves every batch, holds one tensor a group, and counts the batches that both models run for the verdict."""
    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(node_errors, "_TAP_BYTES", 1)
    counted, run_samples = [], evaluate.run_samples

    def counting(part, run):
        if not counted or counted[-1] is not part:
            counted.append(part)
        return run_samples(part, run)

    monkeypatch.setattr(evaluate, "run_samples", counting)
    return counted


def measured(folder=None, key="", stop=None, tell=None):
    """The result; with ``stop`` it is interrupted when an activity has come that far."""

    def progress(what, done, total):
        if tell is not None:
            tell.append((what, done))
        if (what, done) == stop:
            raise KeyboardInterrupt

    model = chain(3)
    paired = model.copy()
    InsertQDQ()(paired, placeholder_context(3.0))
    data = CalibrationData.open(feeds(20), model)
    kept = EvaluationCheckpoint(folder, key)
    return evaluate.evaluate(model, paired, data, batch=4, progress=progress, prepared=lambda: paired, kept=kept)


@pytest.mark.parametrize(
    ("stop", "left"),
    [(("evaluate", 8), 2), (("evaluate", 20), 0), (("layer errors", 16), 0), (("layer errors", 56), 0)],
)
def test_an_interrupted_evaluation_goes_on_and_finds_the_same(ran, tmp_path, stop, left):
    whole = measured()
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "a", stop)
    assert list(tmp_path.iterdir())
    ran.clear()
    assert measured(tmp_path, "a") == whole
    assert len(ran) == left and not list(tmp_path.iterdir())


def test_layers_go_on_from_the_batch_that_was_done(ran, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "a", ("layer errors", 36))
    told = []
    found = measured(tmp_path, "a", tell=told)
    assert next(done for what, done in told if what == "layer errors") == 40 and found.layer_samples == 20


def test_layers_in_other_groups_begin_anew(ran, tmp_path, monkeypatch):
    whole = measured()
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "a", ("layer errors", 36))
    monkeypatch.setattr(node_errors, "by_partition", lambda _, names: [[name] for name in reversed(names)])
    assert measured(tmp_path, "a") == whole


@pytest.mark.parametrize("at", [0, 1])
def test_where_nothing_can_be_kept_the_result_is_the_same_and_says_so(ran, tmp_path, monkeypatch, at):
    whole, real, asked = measured(), checkpoint._save, []

    def refuse(path, *rest):
        asked.append(path)
        if len(asked) > at:
            with writing(path, 5_000):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *rest)

    monkeypatch.setattr(checkpoint, "_save", refuse)
    found = measured(tmp_path, "a")
    note = found.notes.pop()
    assert found == whole and not list(tmp_path.iterdir())
    assert note.code is EvaluationCode.NOTHING_TO_GO_ON_WITH and "it takes 5.0 kB" in sentence(note)
    # it is not tried again and again
    assert len(asked) == at + 1


def test_outputs_of_fewer_models_are_not_taken(ran, tmp_path):
    given, three = {"x": np.zeros(1)}, ({}, {}, {})
    EvaluationCheckpoint(tmp_path, "k").outputs(given, lambda _: ({}, {}))
    assert EvaluationCheckpoint(tmp_path, "k").outputs(given, lambda _: three, 3) is three


def test_what_another_evaluation_kept_is_removed(ran, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "a", ("layer errors", 16))
    ran.clear()
    assert measured(tmp_path, "b") == measured()
    assert len(ran) == 10 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda held: b"", lambda held: held[: len(held) // 2], lambda held: b"PK" + held])
def test_a_damaged_state_is_no_state(ran, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, "a", ("layer errors", 36))
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert measured(tmp_path, "a") == measured()


def test_outputs_of_every_type_come_back_and_of_other_inputs_none(ran, tmp_path):
    values = {"a": np.float16([[1.5, np.nan]]), "b": np.array([2.5], bfloat16), "c": np.int64(7), "d": np.zeros((0, 3))}
    inputs = [{"x": np.float32([number])} for number in range(3)]
    first = EvaluationCheckpoint(tmp_path, "k")
    for one in inputs:
        first.outputs(one, lambda given: (values, {"x": given["x"]}))
    again, asked = EvaluationCheckpoint(tmp_path, "k"), []
    compute = lambda given: asked.append(given) or (values, {})  # noqa: E731
    wanted, found = again.outputs(inputs[0], compute)
    assert not asked and found["x"] == inputs[0]["x"]
    for name, value in values.items():
        assert wanted[name].dtype == np.asarray(value).dtype and wanted[name].shape == np.shape(value)
        assert np.asarray(value).tobytes() == wanted[name].tobytes()
    again.outputs({"x": np.float32([9])}, compute)
    again.outputs(inputs[2], compute)
    assert len(asked) == 2


def test_outputs_of_a_machine_with_the_other_byte_order_are_computed_again(ran, tmp_path, monkeypatch):
    inputs, asked = {"x": np.uint8([1, 2])}, []

    def compute(given):
        asked.append(given)
        return {"y": np.float32([1.5])}, {}

    with monkeypatch.context() as other:
        other.setattr("sys.byteorder", {"little": "big", "big": "little"}[sys.byteorder])
        EvaluationCheckpoint(tmp_path, "k").outputs(inputs, compute)
    assert list(tmp_path.iterdir())
    found, _ = EvaluationCheckpoint(tmp_path, "k").outputs(inputs, compute)
    assert found["y"] == 1.5 and len(asked) == 2
    EvaluationCheckpoint(tmp_path, "k").outputs(inputs, compute)
    assert len(asked) == 2


def test_what_has_no_room_or_no_numbers_is_not_kept(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_ROOM", 10)
    for key, value in (("a", np.zeros(100)), ("b", np.array(["text"], object))):
        kept = EvaluationCheckpoint(tmp_path, key)
        kept.outputs({"x": np.zeros(1)}, lambda given, value=value: ({"y": value}, {"y": value}))
        assert not list(tmp_path.iterdir())


def test_words_are_known_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_HELD", 0)
    asked = []

    def compute(inputs):
        asked.append(inputs)
        return [{"y": np.float32([1])}] * 2

    for _ in range(2):
        words = np.array(["".join(["sp", "am"]), "eggs"], object)
        EvaluationCheckpoint(tmp_path, "k").outputs({"x": words}, compute)
    assert len(asked) == 1
