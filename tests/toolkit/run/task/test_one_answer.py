"""Models of one score a sample, such as a wake word's, and samples that show one of their two answers alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node, normal
from toolkit import Model, Pass, Recipe, make_constant, run
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare, summed
from toolkit.evaluation.tasks import OutputPart
from toolkit.graph.sessions.session import session
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.task.labels import unfit

SAMPLES = 320


def scored(folder, offset, last="Sigmoid"):
    """A model whose scores, before ``last``, vary by 1 around an offset over the samples; returns these."""
    x = 2 + normal(SAMPLES, 12, seed=5, scale=0.3)
    weight, head = np.abs(normal(12, 16, seed=1)), np.abs(normal(16, 1, seed=2))
    middle = x @ weight @ head
    head, bias = head / middle.std(), np.float32([offset - np.median(middle) / middle.std()])
    if last == "Softmax":
        head, bias = np.concatenate([-head / 2, head / 2], axis=1), np.concatenate([-bias / 2, bias / 2])
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "v", "b"], ["z"]),
        node(last, ["z"], ["score"]),
    ]  # fmt: skip
    model = build(nodes, {"x": ["n", 12]}, {"score": ["n", len(bias)]}, {"w": weight, "v": head, "b": bias})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=x)
    return x


def judged(folder, ranges=None, passes=("insert_qdq",), **evaluation):
    made = Recipe.build(
        "one", model={"path": folder / "model.onnx"},
        calibration={"data": str(folder / "data.npz"), **({"manual": ranges} if ranges else {})},
        passes=list(passes), engine={"backend": "none", "rest": "fp32"},
        evaluation={"data": str(folder / "data.npz"), **evaluation},
    )  # fmt: skip
    return run(made, folder / "out")


def one_answer(only, threshold, outputs=("score",)):
    code = ReportCode.SAMPLES_SHOW_ONE_ANSWER(outputs=outputs, samples=SAMPLES, only=only, threshold=threshold)
    return sentence(code)


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize(("offset", "only"), [(-8.0, 0), (8.0, 1)])
def test_scores_on_one_side_are_not_proven_whether_their_values_are_kept_or_not(offset, only, spoilt, tmp_path):
    scored(tmp_path, offset)
    made = judged(tmp_path, {"x": 1.9}) if spoilt else judged(tmp_path, passes=["fold_constants"])
    accuracy = made.report.accuracy
    assert (made.report.summary.verdict, accuracy.standing, made.exit_status) == ("doubtful", "unproven", 0)
    assert accuracy.shows_nothing and accuracy.doubts[0] == one_answer(only, 0.5)
    assert made.report.summary.headline.startswith(f"NOT PROVEN: {accuracy.doubts[0]}; ")
    values = next(part for part in accuracy.parts if part.task == "regression")
    assert (values.unchanged < 0.5) is spoilt and values.standing == ("unproven" if spoilt else "met")


def test_a_score_that_changes_its_side_is_a_loss_although_the_samples_show_one_alone(tmp_path):
    scored(tmp_path, 8.0)
    # what the first layer gives is cut down to nearly nothing: all scores fall below 0
    accuracy = (made := judged(tmp_path, {"r": 0.01})).report.accuracy
    assert (accuracy.standing, made.exit_status, accuracy.parts[0].unchanged) == ("missed", 1, 0.0)
    assert (accuracy.parts[0].task, accuracy.parts[0].standing) == ("classification", "missed")


def test_a_head_of_two_classes_is_one_of_two_answers_too(tmp_path):
    scored(tmp_path, -8.0, last="Softmax")
    accuracy = judged(tmp_path).report.accuracy
    assert accuracy.standing == "unproven" and one_answer(0, None) in accuracy.doubts
    scored(tmp_path, 0.0, last="Softmax")
    accuracy = judged(tmp_path).report.accuracy
    assert not accuracy.shows_nothing and "regression" not in {part.task for part in accuracy.parts}


def test_values_do_not_stand_in_where_later_samples_show_the_other_answer(tmp_path):
    """The first samples are looked at alone; of all of them the answers say what is lost."""
    x = scored(tmp_path, 0.0)
    model = judged(tmp_path).report.accuracy
    assert [part.task for part in model.parts] == ["classification"] and not model.shows_nothing
    order = np.argsort(x.sum(axis=1))
    np.savez(tmp_path / "data.npz", x=x[order])
    accuracy = judged(tmp_path).report.accuracy
    assert [part.task for part in accuracy.parts] == ["classification"] and not accuracy.shows_nothing


def test_a_metric_of_all_scores_tells_more_than_their_sides(tmp_path):
    x = scored(tmp_path, -8.0)
    np.savez(tmp_path / "data.npz", x=x, label=x.sum(axis=1) > np.median(x.sum(axis=1)))
    accuracy = judged(tmp_path, metric="auc").report.accuracy
    assert accuracy.metric == "auc" and not accuracy.shows_nothing and accuracy.standing == "met"


def test_right_answers_of_one_kind_prove_nothing_of_the_other(tmp_path):
    x = scored(tmp_path, -8.0)
    np.savez(tmp_path / "data.npz", x=x, label=np.zeros(len(x), np.int64))
    made = judged(tmp_path, metric="top1", budget={"max_drop": 0.01})
    accuracy = made.report.accuracy
    assert accuracy.before == accuracy.quantized == 1.0
    assert (accuracy.standing, made.exit_status) == ("unproven", 0) and one_answer(0, 0.5) in accuracy.doubts


def test_labels_of_one_kind_are_said_to_tell_nothing():
    said = sentence(unfit([np.int64(0)] * 3, None))
    assert "0 in every sample" in said and said.endswith("add samples with other labels.")
    assert "from 0 to 1" in sentence(unfit([np.int64(0), np.int64(1)], None))


@pytest.mark.parametrize(("metric", "standing"), [("auc", "met"), ("average_precision", "met"), ("top1", "unproven")])
def test_a_metric_of_the_order_of_scores_needs_none_above_a_threshold(metric, standing, tmp_path):
    """As an anomaly score's, whose scale is its own: also where both models order the samples without a fault, so that
    nothing shows by how much other samples would differ."""
    x = scored(tmp_path, -8.0)
    scores = session(Model.load(tmp_path / "model.onnx")).run({"x": x})["score"].reshape(-1)
    np.savez(tmp_path / "data.npz", x=x, label=(scores > np.median(scores)).astype(np.int64))
    # nothing is quantized: no sample changes its place
    accuracy = judged(tmp_path, passes=["fold_constants"], metric=metric, budget={"max_drop": 0.05}).report.accuracy
    assert accuracy.standing == standing and accuracy.shows_nothing is (standing == "unproven")


@pytest.mark.parametrize("varied", [False, True])
def test_one_class_of_several_in_every_sample_proves_nothing_of_the_others(varied, tmp_path):
    """As of questions that are all without an answer: a model that always gives it would keep every one."""
    x, head = normal(SAMPLES, 12, seed=5), normal(12, 5, seed=1)
    bias = np.float32([0, 0, 0 if varied else 100, 0, 0])
    model = build([node("Gemm", ["x", "w", "b"], ["y"])], {"x": ["n", 12]}, {"y": ["n", 5]}, {"w": head, "b": bias})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "data.npz", x=x)
    made = judged(tmp_path, passes=["fold_constants"], task="classification")
    accuracy = made.report.accuracy
    assert accuracy.shows_nothing is not varied
    assert (one_answer(2, None, ("y",)) in accuracy.doubts) is not varied
    assert made.report.summary.headline.startswith("NOT PROVEN") is not varied


class _Clips(Pass):
    """Clips an output from below."""

    def apply(self, model, context):
        """Put -50 in place of what is less at the output of start scores."""
        node = next(one for one in model.nodes if one.outputs[0].name == "start_logits")
        node.op, node.inputs[1] = "Max", make_constant("least", np.float32([-50]))


def test_scores_that_are_masked_no_longer_are_a_doubt_although_every_answer_stays(tmp_path):
    """A clip to -50 between the mask and the output, as a pair would do: the best position is never one of these."""
    x = normal(SAMPLES, 12, seed=5)
    x[:, -3:] = 0
    nodes = [node("MatMul", ["x", "w"], ["s"]), node("Add", ["s", "mask"], ["m"]), node("MatMul", ["x", "w"], ["t"]),
             node("Add", ["m", "zero"], ["start_logits"]), node("Add", ["t", "mask"], ["end_logits"])]  # fmt: skip
    mask = np.where(np.arange(12) >= 9, np.float32(-1e4), np.float32(0))
    shapes = {"start_logits": ["n", 12], "end_logits": ["n", 12]}
    moved = np.eye(12, dtype=np.float32)[:, [*range(1, 9), 0, 9, 10, 11]]
    weights = {"w": moved, "mask": mask, "zero": np.float32([0])}
    (tmp_path / "model.onnx").write_bytes(build(nodes, {"x": ["n", 12]}, shapes, weights).SerializeToString())
    np.savez(tmp_path / "data.npz", x=x)
    made = run(Recipe.build(
        "one", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[_Clips()], engine={"backend": "none", "rest": "fp32"},
        evaluation={"data": str(tmp_path / "data.npz")},
    ), tmp_path / "out", allow_code=True)  # fmt: skip
    accuracy = made.report.accuracy
    assert all(part.unchanged == 1 for part in accuracy.parts)
    assert accuracy.doubts == [sentence(ReportCode.MASK_LOST(output="start_logits", values=3 * SAMPLES))]
    assert made.report.summary.verdict == "doubtful"


@pytest.mark.parametrize("last", ["Sigmoid", "Softmax"])
def test_labels_that_hold_by_themselves_have_no_best_class(last, tmp_path):
    """Of sigmoids any number may be true: the largest of them, and how far it leads, says nothing."""
    nodes = [node("Gemm", ["x", "w", "b"], ["z"]), node(last, ["z"], ["tags"])]
    weights = {"w": 4 * normal(12, 6, seed=1), "b": normal(6)}
    (tmp_path / "model.onnx").write_bytes(
        build(nodes, {"x": ["n", 12]}, {"tags": ["n", 6]}, weights).SerializeToString()
    )
    np.savez(tmp_path / "data.npz", x=normal(SAMPLES, 12, seed=5))
    accuracy = judged(tmp_path).report.accuracy
    assert [part.task for part in accuracy.parts] == ["classification"]
    assert (accuracy.outputs["tags"].agreement is None) is (last == "Sigmoid")


def test_a_softmax_over_independent_labels_is_not_taken():
    wanted = {"tags": np.float32([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])}
    found = {"tags": wanted["tags"][:, ::-1].copy()}
    told = []
    for settings in ({"threshold": 0.5}, {"axis": -1}):
        answers = Answers([OutputPart("classification", ("tags",), settings)])
        outcome = summed([compare(wanted, found, ["tags"], answers)], answers=answers)
        told.append((outcome.of_classes, outcome.kl is None, outcome.flips is None))
    assert told == [(False, True, True), (True, False, False)]
