"""How far metrics that are no share of right answers would differ on other samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from toolkit.base.errors import DataError
from toolkit.contract.journal import Journal
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.outputs import EvaluationResult
from toolkit.evaluation.comparison.share_limits import ShareLimit, of_drop, too_few
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.evaluation.metrics.table import METRICS, is_counted
from toolkit.evaluation.metrics.text import CharacterErrorRate
from toolkit.evaluation.numerics.intervals import LimitStanding
from toolkit.evaluation.numerics.resampling import drop_error, is_alone, score_of
from toolkit.evaluation.tasks import OutputPart
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.tasks import few_details
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.task import FewAnswers
from toolkit.run.recipe.sections import BudgetSection
from toolkit.run.task.judgement import judge
from toolkit.search.budget.budget import Judged, budget_for

RNG = np.random.default_rng(0)
COUNTED = {"top1", "top5", "exact", "ctc_exact", "recall_at_1", "recall_at_5"}
"""Shares of samples or positions that are right: Wilson's interval is theirs."""
N = 40
BOXES = json.dumps(OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.5}).to_json())
CLASSES = (RNG.normal(size=(N, 3)).astype(np.float32), RNG.integers(0, 3, N))
READING = (RNG.normal(size=(N, 12, 6)).astype(np.float32), RNG.integers(1, 6, (N, 4)))
IMAGES = (RNG.random((N, 1, 9, 9)), RNG.random((N, 1, 9, 9)))
MASKS = (RNG.normal(size=(N, 3, 9, 9)).astype(np.float32), RNG.integers(0, 3, (N, 9, 9)))
VALUES = (RNG.normal(size=(N, 1)), RNG.normal(size=N))
DETECTIONS = (
    np.float32([[[10, 10, 50, 50, 0.9, 1], [60, 60, 90 + 6 * (i % 9), 90, 0.8, 0]] for i in range(N)]),
    np.array([[[10, 10, 50, 50 + i % 7, 1], [60, 60, 90, 90, 0]] for i in range(N)]),
)
DATA = {
    "balanced_accuracy": CLASSES, "f1": CLASSES, "average_precision": CLASSES, "auc": CLASSES, "cer": READING,
    "wer": READING, "map": DETECTIONS, "map50": DETECTIONS, "miou": MASKS, "spearman": VALUES, "psnr": IMAGES,
    "ssim": IMAGES, "mse": IMAGES, "mae": IMAGES, "perplexity": (READING[0], RNG.integers(-1, 6, (N, 12))),
}  # fmt: skip


def fed(name, values, label, rows=slice(None)):
    if name.startswith("map"):
        pytest.importorskip("pycocotools")
    metric = make_metric(name, None, False, MetricOptions(layout=BOXES, axis=-3 if name == "miou" else -1))
    for part in filter(len, np.array_split(np.arange(len(label))[rows], 3)):
        metric.update({"y": values[part]}, {"label": label[part]})
    return metric


def test_every_metric_is_a_share_of_right_answers_or_tells_how_it_differs():
    assert DATA.keys() | COUNTED == METRICS.keys() and not DATA.keys() & COUNTED
    assert {name for name in METRICS if is_counted(name)} == COUNTED and is_counted("mine:Metric") and is_counted(None)


@pytest.mark.parametrize("name", sorted(DATA))
def test_a_metric_without_some_samples_is_that_of_the_others(name):
    values, label = DATA[name]
    metric = fed(name, values, label)
    score = score_of(metric, name)
    assert score.samples == N and len(score.left_out) == 16 and len(set(score.left_out)) > 1
    for group in (0, 7):
        others = fed(name, values, label, np.arange(N) % 16 != group)
        assert score.left_out[group] == pytest.approx(others.value(), rel=1e-9)
    # what was asked of some leaves the whole as it is
    assert metric.value() == score.value == fed(name, values, label).value()


def test_the_standard_error_of_a_mean_is_that_of_a_mean():
    """Of as many groups as samples the jackknife of a mean is s / sqrt(n) exactly; of fewer groups nearly."""
    label, errors = np.zeros((12, 5)), RNG.normal(size=(12, 5))
    before, after = (score_of(fed("mse", label + errors * k, label), "mse") for k in (1, 2))
    apart = 3 * np.square(errors).mean(axis=1)
    assert drop_error(before.left_out, after.left_out) == pytest.approx(apart.std(ddof=1) / math.sqrt(12))
    errors = RNG.normal(size=(480, 5))
    many = [score_of(fed("mse", errors * k, np.zeros((480, 5))), "mse").left_out for k in (0, 1)]
    assert drop_error(*many) == pytest.approx(np.square(errors).mean(axis=1).std() / math.sqrt(480), rel=0.5)


def test_the_standard_error_of_mean_iou_is_what_it_varies_by_from_draw_to_draw():
    def drawn(seed, count=64):
        rng = np.random.default_rng(seed)
        label = (rng.random((count, 8, 8)) < rng.random((count, 1, 1))).astype(np.int64)
        made = []
        for wrong in (0.05, 0.15):
            flipped = np.where(rng.random(label.shape) < wrong * rng.random((count, 1, 1)) * 2, 1 - label, label)
            made.append(score_of(fed("miou", np.eye(2)[flipped].transpose(0, 3, 1, 2), label), "miou"))
        return made[0].value - made[1].value, drop_error(made[0].left_out, made[1].left_out)

    drops, errors = zip(*(drawn(seed) for seed in range(60)))
    assert np.mean(errors) == pytest.approx(np.std(drops), rel=0.3)


def test_pairs_of_samples_are_never_parted():
    vectors, label = RNG.normal(size=(20, 4)), np.repeat(RNG.normal(size=10), 2)
    metric = make_metric("spearman", None, False, MetricOptions())
    metric.update({"y": vectors}, {"label": label})
    score = score_of(metric, "spearman")
    assert len(score.left_out) == 10
    # what is said of them, and how many it takes, is of samples, as a run's report counts them
    assert score.samples == 20
    other = make_metric("spearman", None, False, MetricOptions())
    other.update({"y": vectors[2:]}, {"label": label[2:]})
    assert score.left_out[0] == pytest.approx(other.value())


def test_what_is_no_number_tells_no_error():
    assert score_of(fed("spearman", np.ones((8, 1)), np.arange(8.0)), "spearman").left_out == ()
    assert score_of(fed("mse", IMAGES[0][:1], IMAGES[1][:1]), "mse").left_out == () and drop_error((), ()) is None


@pytest.mark.parametrize("limits", [{"max_drop": 0.1e-19}, {"max_relative_drop": 0.1}])
@pytest.mark.parametrize("more", [0.09, 0.11])
def test_the_unit_of_an_error_may_be_as_small_as_any(limits, more):
    """The mean squared error of distances in nanometres: its limit is not lost in what rounding may add to a share."""
    (one,) = of_drop(limits, more * 1e-19, 1e-19, answers=0, single=True, error=1e-24, samples=400, alone=False)
    assert one.standing is (LimitStanding.MET if more < 0.1 else LimitStanding.MISSED)
    accuracy = Accuracy(budget=1e-20, before=1e-19, quantized=(1 + more) * 1e-19, drop=more * 1e-19)
    assert accuracy.drop_kept == (more < 0.1)


def test_answers_that_all_stay_do_not_show_by_how_much_others_would_differ():
    """Of forty samples none changes: an interval of 0 to 0 would be sure of what forty do not tell."""
    same = score_of(fed("f1", *CLASSES), "f1").left_out
    assert drop_error(same, same) is None


def outcomes(noise):
    """A float model's mse of 0 on 32 samples, and one of noise whose power differs from sample to sample."""
    scale = np.linspace(0.2, 1.8, 32)[:, None]
    values = np.sqrt(noise * scale) * np.where(np.arange(8) % 2, 1, -1)
    found = []
    for made in (np.zeros((32, 8)), values):
        score = score_of(fed("mse", made, np.zeros((32, 8))), "mse")
        found.append(Outcome(0.0, metric=score.value, metric_left_out=score.left_out, metric_samples=score.samples))
    return found


def test_a_margin_counts_in_standard_errors_of_the_drop_of_mse():
    reference, outcome = outcomes(noise=1.0)
    error = drop_error(reference.metric_left_out, outcome.metric_left_out)
    assert error == pytest.approx(0.48 / math.sqrt(32), rel=0.3) and outcome.metric == pytest.approx(1.0)
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    for margin in (0.0, 1.0, 2.0):
        budget = Budget(max_drop=1.0 + margin * error, higher_is_better=False, margin=margin)
        assert not budget.lacks(outcome, reference)
        tighter = replace(budget, max_drop=1.0 + margin * error - 0.01)
        assert tighter.lacks(outcome, reference) == {"max_drop": pytest.approx(0.01)}


@pytest.mark.parametrize("unit", [1.0, 1e-10, 1e10])
def test_a_search_holds_an_error_against_its_limit_in_any_unit(unit):
    """A plan whose error is ten times the limit missed nothing where both were below 1e-9."""
    reference, outcome = Outcome(0.0, metric=unit**2), Outcome(0.0, metric=2 * unit**2)
    for name, limit in (("max_drop", 0.1 * unit**2), ("max_relative_drop", 0.1), ("min_value", 1.1 * unit**2)):
        budget = Budget(**{name: limit}, higher_is_better=False)
        assert set(budget.lacks(outcome, reference)) == {name}
        assert not budget.lacks(replace(reference, metric=1.05 * unit**2), reference)
    budget = Budget(max_drop=0.1 * unit**2, higher_is_better=False)
    assert budget.distance(budget.lacks(outcome, reference)) == pytest.approx(9)


def test_a_drop_of_mean_iou_is_held_against_its_limit_and_not_against_one_image_in_so_many():
    """Of 32 images one more may be wrong by chance; 3 points of mean IoU are not one image."""
    assert make_metric("miou").__dict__.get("answers", 0) == 0
    lost = ShareLimit("max_drop", 0.03, 0, 0.01, error=0.002, measured=32)
    assert lost.standing is LimitStanding.MISSED and lost.interval == pytest.approx((0.02608, 0.03392))
    kept = replace(lost, lost=0.001)
    assert kept.standing is LimitStanding.MET and too_few([kept]) is None


def test_a_limit_that_samples_differ_too_much_for_is_not_proven():
    one = ShareLimit("max_drop", 0.001, 0, 0.01, error=0.02, measured=32)
    assert one.standing is LimitStanding.UNPROVEN
    found = too_few([one])
    # a standard error of 0.01 / 1.645 takes (0.02 x 1.645 / 0.01)^2 = 10.8 times as many
    assert found.values["enough"] == math.ceil(32 * 10.8241) and found.values["answers"] == 32
    assert sentence(found) == (
        "within the budget on 32 samples, which differ: the drop is -0.0382 to 0.0402 (95 %); about 347 needed to "
        "judge a limit of 0.01"
    )
    assert replace(one, lost=0.011).standing is LimitStanding.MISSED


@pytest.mark.parametrize(
    ("lost", "error", "stands", "drop"),
    [
        (0.004, 0.001, "not decided on 60 samples, which differ: ", "the drop is 0.00204 to 0.00596 (95 %)"),
        (0.001, 0.001, "within the budget on 60 samples, which differ: ", "the drop is -0.00096 to 0.00296 (95 %)"),
        (0.0, None, "within the budget on 60 samples: ", "the drop does not vary between these samples"),
    ],
)
def test_a_drop_of_mean_average_precision_is_no_share_of_the_objects(lost, error, stands, drop):
    """100 objects on 60 images are too few for a limit of 0.003, but none of them was «0.4 % lost»."""
    (one,) = of_drop(
        {"max_drop": 0.003}, lost, 0.8, answers=100, single=False, error=error, samples=60, alone=False, counted=False
    )
    assert one.standing is LimitStanding.UNPROVEN
    # 1,000 objects by the rule of three, so ten times as many images
    assert sentence(one.finding()) == f"{stands}{drop}; about 600 needed to judge a limit of 0.003"
    detail = few_details(FewAnswers(**one.finding().values))
    assert detail == f"T{drop[1:]}, and 0.003 is allowed: give about 600 samples to judge that."
    by_count = replace(one, counted=True, answers=1000, lost=0.0, error=0.01)
    assert "points" not in few_details(FewAnswers(**by_count.finding().values))


@pytest.mark.parametrize(("lost", "stands"), [(0.0, "within the budget"), (0.02, "not decided")])
def test_one_image_of_five_objects_is_one_sample(lost, stands):
    limits = {"max_drop": 0.01}
    kinds = {"answers": 5, "single": False, "error": None, "samples": 1, "alone": True}
    (one,) = of_drop(limits, lost, 0.8, **kinds, counted=False)
    assert one.finding().code is EvaluationCode.WITHIN_ON_ONE
    assert sentence(one.finding()).startswith(f"{stands} on one labelled sample, which says nothing")
    (share,) = of_drop(limits, lost, 0.8, **kinds)
    assert share.finding().code is EvaluationCode.WITHIN_ON_FEW


@pytest.mark.parametrize("name", ["map", "auc", "f1", "average_precision", "balanced_accuracy", "cer", "top1"])
def test_the_run_and_the_search_know_which_metrics_are_shares(name):
    pytest.importorskip("pycocotools")
    left_out = tuple((0.8, 0.796 + 0.001 * (group % 2)) for group in range(16))
    found = EvaluationResult(
        samples=60, metric=name, float_value=0.8, value=0.796, drop=0.004, metric_answers=100, metric_samples=60,
        left_out=left_out,
    )  # fmt: skip
    few = judge(found, BudgetSection(max_drop=0.003), None, drawing=False).few
    assert few.values["by"] == ("count" if name == "top1" else "variation")
    budget = budget_for(Judged(["y"], ["y"], [], name, "y"), {"max_drop": 0.003}, None, Journal())
    assert budget.counted is (name == "top1")


@pytest.mark.parametrize(("lost", "standing"), [(0.0, LimitStanding.UNPROVEN), (0.02, LimitStanding.MISSED)])
def test_one_labelled_sample_proves_no_limit_on_a_metric_that_is_no_share(lost, standing):
    """Its mean IoU says nothing of how far other images are from it; a second one does."""
    reference = Outcome(0.0, metric=0.8, metric_samples=1)
    outcome, budget = replace(reference, metric=0.8 - lost), Budget(max_drop=0.01)
    (one,) = budget._share_limits(outcome, reference)
    assert one.standing is standing and one.alone
    few = budget.unproven(outcome, reference)
    assert (few is not None) is (standing is LimitStanding.UNPROVEN)
    if few is not None:
        assert few.code is EvaluationCode.WITHIN_ON_ONE
        assert sentence(few) == (
            "within the budget on one labelled sample, which says nothing about how much others differ; give more to "
            "judge max_drop"
        )
        assert "give more" in few_details(FewAnswers(**few.values))
    # a metric that tells nothing of parts of its samples is held by its value, and its user is told of it
    assert not Budget(max_drop=0.01).unproven(replace(outcome, metric_samples=0), replace(reference, metric_samples=0))


@pytest.mark.parametrize("name", ["miou", "mse", "map"])
def test_one_sample_with_a_label_among_others_without_is_alone(name):
    """An image without an object still has detections to be wrong, but no group without the other has a value."""
    values, label = (np.array(each[:4], np.float64) for each in DATA[name])
    if name == "miou":
        label = label.astype(np.int64)
    blank = {"miou": 255, "map": -1, "mse": None}[name]
    if blank is None:
        values, label = values[:1], label[:1]
    else:
        label[1:] = blank
    score = score_of(fed(name, values, label), name)
    assert score.samples >= 1 and math.isfinite(score.value)
    assert is_alone(score.samples, score.left_out, score.left_out)
    every = score_of(fed(name, *DATA[name]), name)
    assert not is_alone(every.samples, every.left_out, every.left_out)


class Readable(CharacterErrorRate):
    """A user's: per mille of characters that are right."""

    higher_is_better = True

    def value(self):
        return 1000 * (1 - super().value())


def test_a_metric_of_another_value_than_what_it_is_derived_from_has_no_error_of_that():
    """Its drop is per mille: held against it, an error of shares proved any limit on any samples."""
    metric, plain = Readable(MetricOptions(axis=-1)), fed("cer", *READING)
    metric.update({"y": READING[0]}, {"label": READING[1]})
    assert score_of(metric, "Readable").left_out == ()
    assert score_of(metric, "Readable").value == pytest.approx(1000 * (1 - plain.value()))
    said = score_of(metric, "Readable").untold
    assert said.values == {"metric": "Readable", "value": metric.value(), "among": plain.value()}
    assert "Let value_among(kept) return what value() does" in sentence(said)
    assert len(score_of(plain, "cer").left_out) == 16


class WorstDifference:
    """A user's, of two members and no more."""

    higher_is_better = False

    def __init__(self, count=0):
        self.worst, self.answers = 0.0, count

    def update(self, outputs, labels):
        self.worst = max(self.worst, float(np.abs(outputs["y"] - labels["label"]).max()))

    def value(self):
        return self.worst


@pytest.mark.parametrize("count", [0, 40])
def test_a_metric_that_tells_no_interval_is_called_that_with_what_to_add(count):
    """Unless it says of how many answers it is a share: these have an interval by their count."""
    metric = WorstDifference(count)
    metric.update({"y": VALUES[0]}, {"label": VALUES[1][:, None]})
    score = score_of(metric, "own:WorstDifference")
    assert score.value == metric.worst and score.left_out == () and (score.untold is None) is bool(count)
    assert count or "units() and value_among(kept), or answers" in sentence(score.untold)


def unlabelled(name, values, label, rows):
    """The data, with labels in these rows alone."""
    none = {"miou": 255, "perplexity": -1}[name]
    return values, np.where(rows.reshape(-1, *[1] * (label.ndim - 1)), label, none)


@pytest.mark.parametrize("name", ["miou", "perplexity"])
def test_samples_without_a_label_are_in_no_group(name):
    """Whatever stands between the samples that have labels, the interval is that of these alone."""
    values, label = DATA[name]
    rows = np.arange(N) % 4 == 0
    sparse = score_of(fed(name, *unlabelled(name, values, label, rows)), name)
    alone = score_of(fed(name, values[rows], label[rows]), name)
    assert sparse.value == pytest.approx(alone.value) and sparse.samples == alone.samples == 10
    assert sparse.left_out == pytest.approx(alone.left_out) and len(alone.left_out) == 10


@pytest.mark.parametrize("name", ["map", "average_precision", "f1"])
def test_a_group_without_which_there_is_no_label_is_left_out(name):
    """What the metric is without the one group that has a label is no drop of nothing, and no drop to its full value."""
    if name == "map":
        values, label = DETECTIONS
        label = np.where((np.arange(N) == 3)[:, None, None], label, -1.0)
    else:
        label = np.zeros((N, 1), np.int64)
        label[3] = 1
        values = np.where(label, 0.9, 0.1).astype(np.float32)
    score = score_of(fed(name, values, label), name)
    assert math.isnan(score.left_out[3]) and sum(map(math.isfinite, score.left_out)) == 15
    worse = tuple(one - 0.01 * group for group, one in enumerate(score.left_out))
    known = 0.01 * np.delete(np.arange(16), 3)
    assert drop_error(score.left_out, worse) == pytest.approx(math.sqrt(14 * known.var()))
    outcome = Outcome(0.0, metric=score.value, metric_left_out=score.left_out)
    read = Outcome.from_json(json.loads(json.dumps(outcome.to_json(), allow_nan=False)))
    assert read.metric_left_out == pytest.approx(score.left_out, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "values", "label"),
    [
        ("top1", READING[0], np.full((N, 12), -100)),
        ("exact", READING[0], np.full((N, 12), -100)),
        ("perplexity", READING[0], np.full((N, 12), -1)),
        ("cer", READING[0], np.full((N, 4), -1)),
        ("miou", MASKS[0], np.full((N, 9, 9), 255)),
        ("balanced_accuracy", CLASSES[0], np.zeros((N, 3), np.int64)),
        ("average_precision", CLASSES[0], np.zeros((N, 3), np.int64)),
        ("f1", np.full((N, 3), -1.0), np.zeros((N, 3), np.int64)),
        ("auc", CLASSES[0][:, :1], np.ones(N, np.int64)),
        ("recall_at_1", CLASSES[0], np.arange(N)),
        ("map", DETECTIONS[0], np.full((N, 2, 5), -1.0)),
    ],
)
def test_a_metric_of_samples_that_say_nothing_is_no_number(name, values, label):
    metric = fed(name, values, label)
    score = score_of(metric, name)
    assert math.isnan(score.value) and score.left_out == ()
    assert score.answers == 0 or name in ("f1", "auc", "balanced_accuracy", "average_precision")


def test_boxes_without_an_axis_of_objects_are_one_a_sample():
    """They were all taken for the first sample's of each batch, and the other samples were left out."""
    values, label = DETECTIONS
    assert fed("map", values, label[:, 0]).value() == fed("map", values, label[:, :1]).value()
    one, both = fed("map", values[:1], label[:1]), make_metric("map", None, False, MetricOptions(layout=BOXES, axis=-1))
    both.update({"y": values[:1]}, {"label": label[0]})
    assert both.value() == one.value() and both.answers == one.answers == 2
    with pytest.raises(DataError, match="labels of boxes of 4 samples"):
        both.update({"y": values[:4]}, {"label": label[:3]})
