"""The float model's outputs: as its session gives them, also where that was given back."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.placement.test_default_rewrites import joined, lowered
from toolkit import Model
from toolkit.base.collection import collector_paused
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation import evaluate as evaluation
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.default_optimizations import TOLD_BY
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors import checkpoint
from toolkit.evaluation.node_errors import measure as node_errors
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.evaluation.node_errors.float_outputs import FloatOutputs
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions import ort_session
from toolkit.graph.sessions import session as sessions

_SAMPLES = [{"x": normal(1, 4, 4, 4, seed=seed)} for seed in range(5)]


def _model() -> Model:
    nodes = [node("Relu", ["x"], ["r"]), node("Tanh", ["r"], ["t"]), node("Neg", ["t"], ["y"])]
    return Model.from_proto(build(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {})).settle()


def test_outputs_computed_ahead_are_those_of_the_session_which_is_gone(monkeypatch):
    monkeypatch.setattr(sessions, "MOST_NODES", 2)
    floats, samples = FloatOutputs(_model()), [{"x": normal(2, 4, seed=seed)} for seed in range(3)]
    opened = weakref.ref(floats.session())
    wanted = [floats.run(one) for one in samples]
    floats.precompute(samples)
    assert opened() is None
    assert all(floats.run(one)["y"].tobytes() == each["y"].tobytes() for one, each in zip(samples, wanted))
    monkeypatch.setattr("toolkit.evaluation.node_errors.float_outputs.own_session", None)
    assert floats.run({"x": samples[0]["x"].copy()}).keys() == {"y"}


def test_what_was_not_computed_ahead_is_computed_by_the_session_loaded_again(monkeypatch):
    monkeypatch.setattr(sessions, "MOST_NODES", 2)
    floats = FloatOutputs(_model())
    floats.precompute([])
    other = normal(2, 4, seed=7)
    np.testing.assert_allclose(floats.run({"x": other})["y"], -np.tanh(np.maximum(other, 0)), rtol=1e-5)


def test_a_model_of_many_nodes_is_measured_as_any_while_one_session_is_held(monkeypatch):
    reference, subject = joined(3).settle(), lowered(joined(3))
    data = CalibrationData.open(_SAMPLES, reference)
    wanted = evaluate(reference, subject, data, batch=2)
    for module in (sessions, node_errors):
        monkeypatch.setattr(module, "MOST_NODES", 4)
    held = joined(3).settle()
    opened, alive = weakref.ref(sessions.own_session(held)), []
    plain = node_errors.session

    def load(source, **more):
        alive.append(opened() is not None)
        return plain(source, **more)

    monkeypatch.setattr(node_errors, "session", load)
    found = evaluate(held, subject, data, batch=2)
    # the lowered model's own, and the float one that gives all tensors
    assert alive == [False, False]
    assert found.nodes == wanted.nodes and found.outputs == wanted.outputs


def test_of_few_samples_a_rounded_graph_of_many_nodes_is_run_as_it_is_with_the_same_values(monkeypatch):
    # such a graph has no convolutions in blocked layout
    monkeypatch.setitem(ort_session.SQUARE_REWRITES, ort_session.BLOCKED_LAYOUT, 0)
    reference, subject = joined(3).settle(), lowered(joined(3)).settle()
    few, more = (CalibrationData.open(_SAMPLES * times, reference) for times in (1, 4))
    for module in (sessions, node_errors):
        monkeypatch.setattr(module, "MOST_NODES", 4)
    wanted, asked = evaluate(reference, subject, few, batch=2), []
    monkeypatch.setattr(evaluation, "MOST_NODES", 4)
    plain = node_errors.session

    def load(source, **more):
        asked.append((isinstance(source, LightModel), more.get("optimise", True)))
        return plain(source, **more)

    monkeypatch.setattr(node_errors, "session", load)
    found = evaluate(reference, subject, few, batch=2)
    assert set(asked) == {(True, False), (False, True)}
    assert found.nodes == wanted.nodes and found.outputs == wanted.outputs
    asked.clear()
    evaluate(reference, subject, more, batch=2)
    assert set(asked) == {(True, True), (False, True)}


@pytest.mark.parametrize("partitions", [False, True])
def test_an_evaluation_leaves_no_session_to_the_collector_of_cycles(monkeypatch, partitions):
    """Also where onnxruntime refuses the model with its default optimizations; the report is made beside what stays."""
    if partitions:
        for module in (sessions, node_errors):
            monkeypatch.setattr(module, "MOST_NODES", 4)
        monkeypatch.setattr(sessions, "_PARTITION_NODES", 40)
    made, plain = [], sessions.load_session

    class Held(list):
        """A model that is loaded, as it can be watched."""

    def load(model, *more, **others):
        made.append(weakref.ref(held := Held()))
        model.held = held
        return plain(model, *more, **others)

    monkeypatch.setattr(sessions, "load_session", load)
    reference, subject = joined(3).settle(), lowered(joined(3)).settle()
    data = CalibrationData.open(_SAMPLES, reference)
    with collector_paused():
        found = evaluate(reference, subject, data, batch=2)
        assert made and not any(one() is not None for one in made)
    assert any(note.code is EvaluationCode.DEFAULTS_REFUSE for note in found.notes)


class Stopped(Exception):
    """The evaluation was stopped."""


@pytest.mark.parametrize("most", [4, 20_000])
@pytest.mark.parametrize("at", [8, 40])
def test_of_many_nodes_what_was_computed_ahead_is_not_computed_again(monkeypatch, tmp_path, most, at):
    """Neither where some of the samples are run by onnxruntime's own arithmetic too, which parts them."""
    for module in (sessions, node_errors):
        monkeypatch.setattr(module, "MOST_NODES", 4)
    monkeypatch.setattr(evaluation, "_MOST_UNROUNDED", most)
    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", -1.0)
    model = joined(3).settle()
    subject = lowered(joined(3))
    data = CalibrationData.open([{"x": normal(1, 4, 4, 4, seed=seed)} for seed in range(40)], model)
    ran, real = [], FloatOutputs.session

    def measured(kept, stop=None):
        def progress(what, done, total):
            if (what, done) == stop:
                raise Stopped

        return evaluate(joined(3).settle(), subject, data, batch=4, progress=progress, kept=kept)

    class Counting:
        def __init__(self, inner):
            self.inner, self.outputs = inner, inner.outputs

        def run(self, inputs, *rest):
            ran.append(len(inputs["x"]))
            return self.inner.run(inputs, *rest)

    monkeypatch.setattr(FloatOutputs, "session", lambda self: Counting(real(self)))
    whole = measured(EvaluationCheckpoint(tmp_path, "k"))
    # all samples once, and the few that are looked at one by one
    assert sum(ran) == 40 + TOLD_BY and not list(tmp_path.iterdir())
    with pytest.raises(Stopped):
        measured(EvaluationCheckpoint(tmp_path, "k"), ("evaluate", at))
    ran.clear()
    again = measured(EvaluationCheckpoint(tmp_path, "k"))
    assert ran == [] and again == whole and not list(tmp_path.iterdir())
