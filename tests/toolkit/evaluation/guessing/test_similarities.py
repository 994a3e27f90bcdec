"""Similarities of two towers: run on a sample at a time they hardly vary, and it is between samples that they count."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import CalibrationData, Model, Recipe, run
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.judged import judged_by
from toolkit.evaluation.guessing.parts import parts_for
from toolkit.evaluation.guessing.similarities import between_samples
from toolkit.evaluation.observation.observe import observe
from toolkit.evaluation.observation.observed import SeenModel, SeenOutput
from toolkit.evaluation.tasks import reader
from toolkit.report.findings import sentence

SAMPLES, WIDE = 12, 32


def rows(seed, near=None, apart=0.05):
    """Unit vectors, float32 [samples, width]: random ones, or those near others."""
    values = normal(SAMPLES, WIDE, seed=seed)
    values = values if near is None else near + apart * values / np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def seen(values, image, text):
    def output(name, given, *feeds):
        return SeenOutput(name, ("n", *given.shape[1:]), list(given), 0, feeds=frozenset(feeds))

    made = output("similarity", np.asarray(values, np.float32).reshape(-1, 1))
    model = SeenModel([made, output("image", image, "similarity"), output("text", text, "similarity")], {}, frozenset())
    return made, model


@pytest.mark.parametrize(("factor", "number", "apart"), [(14.3, 0.0, 0.05), (1.0, 0.0, 0.0), (115.0, -12.9, 0.5)])
def test_similarities_vary_as_those_of_all_pairs(factor, number, apart):
    image = rows(1)
    text = rows(2, near=image, apart=apart)
    every = factor * image.astype(np.float64) @ text.T.astype(np.float64) + number
    output, model = seen(np.diag(every), image, text)
    np.testing.assert_allclose(between_samples(output, model), every, atol=2e-3 * factor)
    (part,) = parts_for("regression", output, model)
    assert part.settings["variance"] == pytest.approx(every.var(), rel=1e-3)
    task = reader(part)
    assert task.rule().code is EvaluationCode.RULE_SNR_PAIRS
    wanted = np.diag(every).astype(np.float32).reshape(-1, 1)
    noise = np.full_like(wanted, every.std())
    kept = [task.compare([wanted], [wanted + share * noise])["right"].all() for share in (0.09, 0.11)]
    assert kept == [True, False]
    # a factor that is damaged is lost, however alike all similarities are
    assert not task.compare([wanted], [0.7 * wanted])["right"].any()


@pytest.mark.parametrize("near", [0.0, 0.999])
def test_what_the_products_do_not_tell_is_judged_by_what_varies_in_it(near):
    image = rows(1)
    text = rows(2, near=image)
    values = near + 1e-2 * normal(SAMPLES, seed=5)
    output, model = seen(values, image, text)
    assert between_samples(output, model) is None
    (part,) = parts_for("regression", output, model)
    assert part.settings["variance"] == pytest.approx(values.var(), rel=1e-3) and "pairs" not in part.settings


@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_a_constant_is_no_similarity(noise):
    """The number beside the products explains it: that they vary between samples says nothing of its noise."""
    values = (3 + noise * normal(SAMPLES, seed=5)).astype(np.float32)
    output, model = seen(values, rows(1), rows(2))
    assert between_samples(output, model) is None
    (part,) = parts_for("regression", output, model)
    assert (
        part.settings["variance"] == pytest.approx(values.var(dtype=np.float64) or 9) and "pairs" not in part.settings
    )


def test_vectors_of_other_outputs_that_it_is_not_made_of_tell_nothing():
    image = rows(1)
    output, model = seen(np.ones(SAMPLES), image, image)
    assert between_samples(output, model) is not None
    for one in model.outputs[1:]:
        one.feeds = frozenset()
    assert between_samples(output, model) is None


def test_two_towers_in_int8_are_judged_by_what_int8_changes(tmp_path):
    """One tower's vectors are nearly the other's: the similarity of a pair is 10, to five digits, in every sample."""
    nodes = [
        *(part for tower, weight in (("a", "w"), ("b", "w")) for part in (
            node("MatMul", [tower, weight], [f"{tower}m"], f"{tower}_layer"),
            node("LpNormalization", [f"{tower}m"], [f"{tower}_embeds"], axis=-1, p=2))),
        node("Transpose", ["b_embeds"], ["t"], perm=[1, 0]), node("Mul", ["a_embeds", "scale"], ["s"]),
        node("MatMul", ["s", "t"], ["logits_per_a"], "similarity"),
    ]  # fmt: skip
    outputs = {"a_embeds": ["images", 16], "b_embeds": ["texts", 16], "logits_per_a": ["images", "texts"]}
    weights = {"w": normal(24, 16, seed=1, scale=0.2), "scale": np.float32(10)}
    proto = build(nodes, {"a": ["images", 24], "b": ["texts", 24]}, outputs, weights)
    Model.from_proto(proto).save(tmp_path / "model.onnx")
    values = normal(40, 24, seed=2)
    np.savez(tmp_path / "data.npz", a=values, b=values + 0.002 * normal(40, 24, seed=3))
    assert len(CalibrationData.open(tmp_path / "data.npz", Model.load(tmp_path / "model.onnx"))) == 40
    recipe = Recipe.build(
        "towers", model={"path": tmp_path / "model.onnx"}, passes=["insert_qdq"], engine={"backend": "none"},
        calibration={"data": str(tmp_path / "data.npz")}, evaluation={"data": str(tmp_path / "data.npz")},
    )  # fmt: skip
    report = run(recipe, tmp_path / "out").report
    parts = {part.outputs[0]: part for part in report.accuracy.parts}
    assert parts["logits_per_a"].unchanged == 1.0 and report.summary.verdict != "broken"


def test_vectors_of_two_towers_look_for_their_neighbours_in_the_other_one():
    """Users and items: among users alone nothing changes, and every user is recommended another item."""
    users, items = (normal(30, 16, seed=seed).astype(np.float64) for seed in (1, 2))
    # as of an image and a text, whose similarities are all alike
    items = 20 * normal(16, seed=3) + 0.05 * items
    weights = {"w": np.eye(16, dtype=np.float32)[::-1]}
    parts = [node("MatMul", ["u", "w"], ["user"]), node("MatMul", ["i", "w"], ["item"])]
    ends = {"u": ["n", 16], "i": ["n", 16]}, {"user": ["n", 16], "item": ["n", 16]}
    model = Model.from_proto(build(parts, *ends, weights))
    feed = {"u": users.astype(np.float32), "i": items.astype(np.float32)}
    wanted = {"user": feed["u"][:, ::-1], "item": feed["i"][:, ::-1]}
    model_seen = observe(model, [(feed, wanted, 30)])
    found = guess(model_seen, "embedding")
    assert [part.outputs for part in found.parts] == [("user", "item"), ("item", "user")]
    assert judged_by(model_seen, "embedding", None, None, {}, {})[0].parts == found.parts
    answers = Answers(found.parts)
    noisy = {"user": wanted["user"], "item": wanted["item"] + 0.05 * normal(30, 16, seed=4)}
    same, moved = (answers.tallies([answers.rows(wanted, other)]) for other in (wanted, noisy))
    assert [one.kept for one in same] == [30, 30]
    assert moved[0].kept < 25 and moved[0].level == 1.0 and moved[1].level > 0.99
    assert "the vector of 'item' that is nearest now" in sentence(reader(found.parts[0]).rule())


def test_two_vectors_of_the_same_input_are_no_towers():
    weights = {"w": np.eye(16, dtype=np.float32)}
    parts = [node("MatMul", ["u", "w"], ["a"]), node("Tanh", ["u"], ["b"])]
    model = Model.from_proto(build(parts, {"u": ["n", 16]}, {"a": ["n", 16], "b": ["n", 16]}, weights))
    u = normal(30, 16, seed=1)
    found = guess(observe(model, [({"u": u}, {"a": u, "b": np.tanh(u)}, 30)]), "embedding")
    assert all(len(part.outputs) == 1 for part in found.parts)
