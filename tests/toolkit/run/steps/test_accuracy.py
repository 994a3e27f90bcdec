"""The evaluation held against the budget: each limit by itself, in numbers that can be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.toolkit.report.samples import build
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.outputs import EvaluationResult, Unrounded
from toolkit.evaluation.numerics.difference import OutputFigures
from toolkit.evaluation.tasks.base import AnswerTally, OutputPart
from toolkit.report.codes import ReportCode
from toolkit.report.comparison.comparison import compare
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.verdict import verdict, warnings_of
from toolkit.report.findings import sentence
from toolkit.report.findings.outputs.tasks import standing_words
from toolkit.report.findings.words import clause
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.report import BackendInfo, DeviceInfo
from toolkit.report.terminal.report import to_text
from toolkit.run.recipe.sections import BudgetSection
from toolkit.run.steps.accuracy import accuracy_of
from toolkit.run.task.doubts import samples_identical
from toolkit.run.task.task import TaskRecord


def measured(**changes):
    figures = OutputFigures(sqnr_db=60.58, max_abs=0.01, cosine=1.0, agreement=1.0)
    return replace(EvaluationResult("top1", 0.986, 0.986, 0.0, 497, {"logits": figures}), **changes)


def test_only_the_limit_that_was_missed_is_called_missed():
    found = accuracy_of(measured(), BudgetSection(max_drop=0.0, min_sqnr_db=120))
    assert found.met is False and found.drop_kept is True
    miss = sentence(ReportCode.SQNR_BELOW_LIMIT(output="logits", sqnr_db=60.58, limit=120.0))
    assert found.misses == [miss]
    text = to_text(build([], found))
    assert "drop 0 points, budget 0 points, kept" in text and miss in text
    assert headline([], found).startswith(f"MISSED ITS BUDGET: {miss}; top1")


def test_too_few_samples_for_one_limit_are_no_doubt_where_another_is_missed():
    few = measured(samples=96, metric_answers=96, drop=1 / 96, value=0.986 - 1 / 96)
    assert accuracy_of(few, BudgetSection(max_drop=0.01)).doubts
    found = accuracy_of(few, BudgetSection(max_drop=0.01, min_sqnr_db=120))
    assert found.standing == "missed" and found.doubts == [] and found.few.limit == "max_drop"
    assert found.drop_kept is True and len(found.misses) == 1
    assert "budget 1 point, not decided" in to_text(build([], found))


def test_a_missed_drop_is_called_so_and_rounded():
    worse = measured(value=0.8713118712273641, drop=0.1146881287726359)
    found = accuracy_of(worse, BudgetSection(max_drop=0.01, min_value=0.9))
    assert found.drop_kept is False
    drop = ReportCode.DROP_OVER_LIMIT(drop=worse.drop, limit=0.01)
    assert found.misses == [sentence(drop), sentence(ReportCode.METRIC_BELOW_LIMIT(value=worse.value, limit=0.9))]
    assert "budget 1 point, missed" in to_text(build([], found))
    assert accuracy_of(measured(drop=0.01 + 1e-15), BudgetSection(max_drop=0.01)).drop_kept is True


def test_how_many_samples_the_layers_errors_are_from_is_told_where_it_is_not_all():
    few, whole = (accuracy_of(measured(layer_samples=count), BudgetSection()) for count in (12, 497))
    assert (few.layer_samples, few.on_fewer, whole.on_fewer) == (12, True, False)
    assert accuracy_of(measured(), BudgetSection()).on_fewer is False


def test_an_error_that_does_not_change_has_no_percentage_points():
    """Where nothing is quantized the drop is 0, and its sign says nothing of the metric."""
    errors = measured(metric="mse", float_value=0.01, value=0.01, rising=False)
    found = accuracy_of(errors, BudgetSection(max_drop=0.0005))
    assert not found.rising and not found.in_points
    assert "mse 0.010 against 0.010 float (worse by 0, budget 0.0005)" in headline([], found)
    assert "points" not in to_text(build([], found))
    # a report of an older release does not say it
    old = Accuracy.model_validate(found.model_dump(by_alias=True, exclude={"higher_is_better"}))
    assert old.rising and old.higher_is_better is None


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"max_relative_drop": 0.02}, 8.0), ({"max_drop": 5.0, "max_relative_drop": 0.02}, 5.0), ({"max_drop": 9.0}, 9.0)],
)
@pytest.mark.parametrize("drop", [4.0, 8.5])
def test_a_limit_on_the_share_of_the_metric_that_may_be_lost_is_told_in_its_unit(limits, most, drop):
    errors = measured(metric="own:Pinball", float_value=400.0, value=400.0 + drop, drop=drop, rising=False)
    found = accuracy_of(errors, BudgetSection(**limits))
    assert found.most_drop == most and found.drop_kept is (drop <= most) and found.met is found.drop_kept
    assert f"(worse by {drop:g}, budget {most:g})" in headline([], found)
    assert f"budget {most:g}, {'kept' if drop <= most else 'missed'}" in to_text(build([], found))


@pytest.mark.parametrize("alike", [True, False])
def test_drops_of_two_metrics_are_not_compared(alike):
    other = {} if alike else {"metric": "mse", "rising": False}
    runs = [accuracy_of(measured(drop=drop, **more), BudgetSection()) for drop, more in ((0.002, {}), (0.3, other))]
    figures = {one.name: one.values for one in compare([build([], one) for one in runs], ["a", "b"]).figures}
    assert figures.get("drop from float") == ([0.002, 0.3] if alike else None)
    assert "top1" in figures if alike else not {"top1", "mse", "metric"} & set(figures)
    assert figures["logits SQNR"] == [60.58, 60.58]


def test_without_a_budget_of_the_drop_none_is_judged():
    found = accuracy_of(measured(), BudgetSection(min_sqnr_db=20))
    assert found.met is True and found.drop_kept is None
    assert "kept" not in to_text(build([], found)).partition("Accuracy")[2].partition("output")[0]


def test_one_sample_is_one_sample():
    found = accuracy_of(measured(samples=1, unlike={"logits": 1}, outputs={}), BudgetSection(min_sqnr_db=20))
    assert found.misses == [sentence(ReportCode.OUTPUT_SHAPE_NOT_JUDGED(output="logits", unlike=1, samples=1))]


def test_what_onnxruntime_itself_computes_is_told_where_it_differs():
    """float16's rounding, which it leaves out, turns answers that lie on the edge."""
    alike = accuracy_of(measured(unrounded=Unrounded(measured())), BudgetSection(max_drop=0.01))
    assert alike == accuracy_of(measured(), BudgetSection(max_drop=0.01))
    found = accuracy_of(measured(unrounded=Unrounded(measured(value=0.984, drop=0.002))), BudgetSection(max_drop=0.01))
    note = sentence(ReportCode.UNROUNDED_DIFFERS(metric="top1", value=0.986, unrounded=0.984))
    assert found.unrounded == 0.984 and found.notes[0] == note and not found.doubts
    assert "; top1 0.984 in onnxruntime" in headline([], found)
    # what is the same as it is shown is no second figure
    near = accuracy_of(measured(unrounded=Unrounded(measured(value=0.98604, drop=-4e-5))), BudgetSection(max_drop=0.01))
    assert near.unrounded == 0.98604 and "in onnxruntime" not in headline([], near)


def test_what_some_of_the_samples_show_of_it_is_an_estimate():
    """The figure of all samples is moved by what changes on those that both arithmetics saw."""
    some = Unrounded(measured(value=0.95, samples=120), measured(value=0.96, samples=120), moved=0.03)
    found = accuracy_of(measured(unrounded=some), BudgetSection(max_drop=0.01))
    assert abs(found.unrounded - 0.976) < 1e-9 and found.unrounded_samples == 120
    told = {"metric": "top1", "value": 0.96, "unrounded": 0.95, "samples": 120, "of": 497, "moved": 0.03}
    said = ReportCode.UNROUNDED_DIFFERS(**told, estimate=found.unrounded)
    assert found.notes[0] == sentence(said) and "3.0%" in found.notes[0].replace(" %", "%")
    assert "instead of top1 0.960 on 120 of the 497 samples (an estimated top1 0.976 on all)" in found.notes[0]
    assert "; about top1 0.976 in onnxruntime (estimated from 120 of 497 samples)" in headline([], found)


@pytest.mark.parametrize(("turned", "told"), [(1, False), (2, False), (6, True)])
def test_what_chance_may_have_moved_on_some_of_the_samples_is_no_estimate(turned, told):
    """Of 16 answers some are wrong without the rounding: the jackknife's error of two of them reaches 0."""
    right = np.ones(16)
    wrong = right.copy()
    wrong[:turned] = 0
    before, after = (
        measured(
            samples=16,
            value=float(one.mean()),
            left_out=tuple((1.0, float((one.sum() - each) / 15)) for each in one),
        )
        for one in (right, wrong)
    )
    found = accuracy_of(measured(unrounded=Unrounded(after, before, moved=0.3)), BudgetSection(max_drop=0.5))
    expected = 0.986 - turned / 16 if told else None
    assert found.unrounded == (pytest.approx(expected) if told else None)
    assert ("in onnxruntime" in headline([], found)) is told
    assert ("on 16 of the 497 samples, too few to tell by how much it moves on all" in found.notes[0]) is not told
    assert ("an estimated top1" in found.notes[0]) is told


@pytest.mark.parametrize(("turned", "told"), [(3, False), (4, True)])
def test_answers_of_a_metric_without_a_jackknife_are_counted(turned, told):
    """Neighbours are found among all samples: recall among some of them is no other draw of it."""
    before, after = (
        measured(metric="recall_at_1", value=right / 13, samples=24, metric_answers=13) for right in (5, 5 + turned)
    )
    whole = measured(metric="recall_at_1", value=0.26, unrounded=Unrounded(after, before, moved=0.1))
    assert accuracy_of(whole, BudgetSection()).unrounded == (pytest.approx(0.26 + turned / 13) if told else None)


@pytest.mark.parametrize(("lost", "told"), [(3, False), (4, True)])
def test_unchanged_answers_that_chance_may_have_moved_are_no_estimate(lost, told):
    part = OutputPart("classification", ("logits",), {"axis": -1})

    def kept(count, of):
        return measured(metric=None, value=None, drop=None, samples=of, tallies=(AnswerTally(part, count, of, 0.99),))

    some = Unrounded(kept(60 - lost, 60), kept(60, 60), moved=0.2)
    found = accuracy_of(replace(kept(490, 497), unrounded=some), BudgetSection(min_unchanged=0.5))
    assert found.unrounded == (pytest.approx(490 / 497 - lost / 60) if told else None)


def test_an_estimate_stays_within_what_its_figure_can_be():
    def moved(metric, value, by, **other):
        some = [measured(metric=metric, value=one, samples=120, **other) for one in (0.5 + by, 0.5)]
        return accuracy_of(measured(metric=metric, value=value, unrounded=Unrounded(*some), **other), BudgetSection())

    falling = {"rising": False}
    assert abs(moved("mse", 3.2, 0.2, **falling).unrounded - 3.4) < 1e-9
    assert moved("mse", 0.1, -0.2, **falling).unrounded == 0
    assert abs(moved("psnr", 35.0, 0.5).unrounded - 35.5) < 1e-9
    assert abs(moved("spearman", -0.1, -0.1).unrounded + 0.2) < 1e-9
    assert moved("top1", 0.95, 0.1).unrounded == 1


def test_a_limit_that_some_samples_miss_without_the_rounding_names_how_many_they_are():
    some = Unrounded(measured(value=0.966, drop=0.02, samples=120), measured(samples=120))
    found = accuracy_of(measured(unrounded=some), BudgetSection(max_drop=0.01))
    miss = sentence(ReportCode.DROP_OVER_LIMIT(drop=0.02, limit=0.01))
    told = sentence(ReportCode.UNROUNDED_MISSES(miss=miss, samples=120, of=497))
    assert found.doubts == [clause(told)] and "120 of the 497" in told


def test_a_limit_that_some_samples_miss_with_the_rounding_too_is_no_doubt_of_it():
    some = [measured(value=0.966, drop=0.02, samples=120) for _ in range(2)]
    found = accuracy_of(measured(unrounded=Unrounded(*some)), BudgetSection(max_drop=0.01))
    assert found.met is True and not found.doubts and found.unrounded is None


def test_a_drop_far_beyond_what_some_samples_miss_with_the_rounding_is_a_doubt():
    """The first line's estimate misses the limit, whatever chance makes of these samples."""
    some = Unrounded(measured(value=0.93, drop=0.05, samples=120), measured(value=0.966, drop=0.02, samples=120))
    found = accuracy_of(measured(unrounded=some), BudgetSection(max_drop=0.01))
    assert found.met is True and len(found.doubts) == 1 and verdict(found) == "doubtful"


def test_a_limit_missed_without_the_rounding_alone_is_a_doubt():
    found = accuracy_of(measured(unrounded=Unrounded(measured(value=0.966, drop=0.02))), BudgetSection(max_drop=0.01))
    miss = sentence(ReportCode.DROP_OVER_LIMIT(drop=0.02, limit=0.01))
    assert found.met is True and found.doubts == [clause(sentence(ReportCode.UNROUNDED_MISSES(miss=miss)))]
    assert verdict(found) == "doubtful"


@pytest.mark.parametrize(
    ("limits", "counts"), [({"max_drop": 0.01}, False), ({"max_drop": 0.01, "min_unchanged": 0.99}, True), ({}, True)]
)
def test_a_share_that_is_no_limit_here_is_not_said_to_be_one(limits, counts):
    """A metric that keeps its budget, beside fewer answers than the task alone would ask for, contradicts nothing."""
    part = OutputPart("classification", ("logits",))
    other = {} if limits else {"metric": None, "value": None, "float_value": None, "drop": None}
    found = measured(tallies=(AnswerTally(part, 0.97 * 1500, 1500, 0.99),), samples=1500, **other)
    task = TaskRecord(task="classification", parts=[part.to_json()])
    accuracy = accuracy_of(found, BudgetSection(**limits), task=task)
    assert accuracy.parts[0].counts is counts and accuracy.met is not counts
    said = [line for line in to_text(build([], accuracy)).splitlines() if "keep their class; " in line]
    (line,) = [line for line in said if "95 % interval" in line]
    assert ("99.0 % must" in line) is counts
    assert ("not a limit here: the recipe's budget has others" in line) is not counts


def test_the_first_line_names_the_noisiest_output_beside_the_answers_that_stay():
    """With one of many outputs' figures, and without what the section below says in full."""
    part = OutputPart("embedding", ("a", "b"))
    quiet, loud = (OutputFigures(sqnr_db=level, max_abs=0.01, cosine=1.0) for level in (44.0, 31.5))
    tally = AnswerTally(part, 16, 16, 0.95, level=0.9999, figure="cosine_p5")
    found = measured(tallies=(tally,), samples=16, outputs={"a": quiet, "b": loud}, metric=None, value=None,
                     float_value=None, drop=None)  # fmt: skip
    accuracy = accuracy_of(found, BudgetSection(), task=TaskRecord(task="embedding", parts=[part.to_json()]))
    first = headline([], accuracy)
    assert "100.0 % of 16 samples keep their embedding; b 31.5 dB SQNR" in first
    assert "44.0" not in first and "cosine" not in first
    assert "(cosine 0.9999 at the 5th percentile)" in to_text(build([], accuracy))


@pytest.mark.parametrize(
    ("task", "figure", "words", "more"),
    [
        ("detection", "detections", "0.0 % of the detections", {"layout": "joint"}),
        ("segmentation", "iou", "mean IoU 0.000", {}),
        ("classification", "labels", "0.0 % of the labels", {}),
    ],
)
@pytest.mark.parametrize(
    ("kept", "level", "standing"),
    [(396, 0.0, "doubtful"), (380, 0.0, "broken"), (380, 0.9, "missed"), (396, 0.6, "usable")],
)
def test_what_is_found_in_few_samples_is_not_kept_by_those_that_hold_nothing(
    task, figure, words, more, kept, level, standing
):
    """All that there was in 4 of 400 samples is lost, and 99 % of them kept their detections: there were none."""
    part = OutputPart(task, ("found",), {"threshold": 0.5, **more})
    tally = AnswerTally(part, kept, 400, 0.99, level=level, figure=figure)
    found = measured(tallies=(tally,), samples=400, outputs={}, metric=None, value=None, float_value=None, drop=None)
    accuracy = accuracy_of(found, BudgetSection(), task=TaskRecord(task=part.task, parts=[part.to_json()]))
    assert verdict(accuracy) == standing
    if level == 0:
        assert words in headline([], accuracy)
        assert ("what there is at 'found' is lost" in headline([], accuracy)) is (standing == "doubtful")


def test_samples_are_not_said_to_hold_nothing_where_they_may_hold_much():
    """One detection in each of 6 samples stays, and 20 in each of 4 are lost: no sample is empty."""
    part = OutputPart("detection", ("found",), {"layout": "joint", "threshold": 0.5})
    tally = AnswerTally(part, 6, 10, 0.5, level=6 / 86, figure="detections")
    found = measured(tallies=(tally,), samples=10, outputs={}, metric=None, value=None, float_value=None, drop=None)
    accuracy = accuracy_of(
        found, BudgetSection(min_unchanged=0.5), task=TaskRecord(task=part.task, parts=[part.to_json()])
    )
    (doubt,) = [one for one in accuracy.doubts if "is lost" in one]
    assert doubt.startswith("most of what there is at 'found' is lost") and "most samples" not in doubt


def doubtful(accuracy):
    """The codes of the warnings of a report of this accuracy."""
    return {one.code for one in warnings_of([], accuracy, BackendInfo(name="none"), [], None)}


@pytest.mark.parametrize("labels", [False, True])
def test_the_best_class_says_nothing_of_an_output_with_any_number_of_labels(labels):
    """Where most samples have no label, that of them all which scores highest is the one with the most noise."""
    part = OutputPart("classification", ("tags",), {"axis": -1, **({"threshold": 0.5} if labels else {})})
    figures = OutputFigures(sqnr_db=62.4, max_abs=0.01, cosine=1.0, agreement=0.922, positions=400)
    found = measured(tallies=(AnswerTally(part, 400, 400, 0.99),), samples=400, outputs={"tags": figures}, metric=None,
                     value=None, float_value=None, drop=None)  # fmt: skip
    accuracy = accuracy_of(found, BudgetSection(), task=TaskRecord(task="classification", parts=[part.to_json()]))
    assert ("top-1" in headline([], accuracy)) is not labels
    assert (ReportCode.AGREEMENT_DOUBTFUL in doubtful(accuracy)) is not labels


@pytest.mark.parametrize(
    ("task", "kept", "told"), [("regression", 400, False), ("regression", 40, True), ("sequence", 400, True)]
)
def test_integers_that_are_judged_by_their_values_need_not_be_equal(task, kept, told):
    """Pixels that differ by one level are no doubt of a picture; the numbers of classes are one of a sequence."""
    part = OutputPart(task, ("pixels",), {"mean": 0.0, "variance": 1.0})
    figures = OutputFigures(None, 1.0, agreement=0.664, positions=400)
    found = measured(tallies=(AnswerTally(part, kept, 400, 0.99),), samples=400, outputs={"pixels": figures},
                     discrete=["pixels"], metric=None, value=None, float_value=None, drop=None)  # fmt: skip
    accuracy = accuracy_of(found, BudgetSection(), task=TaskRecord(task=task, parts=[part.to_json()]))
    assert accuracy.outputs["pixels"].agreement == 0.664
    assert (ReportCode.AGREEMENT_DOUBTFUL in doubtful(accuracy)) is told


@pytest.mark.parametrize("ranked", [False, True])
def test_rows_that_are_ranked_by_score_are_not_compared_row_by_row(ranked):
    """Two detections of like scores change places: the boxes differ at every entry, and no detection does."""
    settings = {"layout": "apart", "threshold": 0.5, **({"ranked": True} if ranked else {})}
    part = OutputPart("detection", ("boxes", "scores"), settings)
    moved = OutputFigures(sqnr_db=3.0, max_abs=60.3, cosine=0.75, variation_db=-1.0)
    tally = AnswerTally(part, 400, 400, 0.99, level=1.0, figure="detections")
    outputs = {"boxes": moved, "scores": OutputFigures(sqnr_db=70.7, max_abs=1e-4, cosine=1.0)}
    found = measured(
        tallies=(tally,), samples=400, outputs=outputs, metric=None, value=None, float_value=None, drop=None
    )
    accuracy = accuracy_of(found, BudgetSection(), task=TaskRecord(task="detection", parts=[part.to_json()]))
    first, text = headline([], accuracy), to_text(build([], accuracy))
    assert first.startswith("Usable: 100.0 % of 400 samples keep their detections") is ranked
    assert ("signal of 'boxes' is lost" in first) is not ranked and ("3.0 dB" in text) is not ranked
    assert ("output boxes: its rows are ranked by score, so they are compared as a set" in text) is ranked
    lost = OutputFigures(sqnr_db=None, max_abs=None)
    broken = accuracy_of(replace(found, outputs={"boxes": lost}), BudgetSection())
    assert verdict(broken) == "broken" and "holds NaN or infinity" in headline([], broken)


@pytest.mark.parametrize("source", ["onnxruntime", "the engine on a GPU"])
def test_random_numbers_that_differ_between_the_runs_are_neither_usable_nor_broken(source):
    """A sampler's engine draws its own: 3 dB without any quantization were BROKEN on the GPU."""
    figures = OutputFigures(sqnr_db=2.0, max_abs=3.0, cosine=0.5, agreement=0.1)
    lost = measured(outputs={"logits": figures}, value=0.1, drop=0.886)
    budget = BudgetSection(max_drop=0.01, min_sqnr_db=40)
    unlike = TaskRecord(task="classification", drawing=["r"], unlike=["r"])
    found = accuracy_of(lost, budget, source=source, task=unlike)
    assert found.drawing == ["r"] and found.met is None and not found.misses and not found.doubts
    assert verdict(found) == "unmeasured"
    assert headline([], found).startswith(
        "Not measured: 'r' draws different random numbers in every run, so outputs differ"
    )
    # what onnxruntime draws alike is judged there, and what an engine draws by itself is not
    steady = accuracy_of(lost, budget, source=source, task=TaskRecord(task="classification", drawing=["r"]))
    assert verdict(steady) == ("broken" if source == "onnxruntime" else "unmeasured")


def test_an_engine_that_draws_its_own_numbers_leaves_the_verdict_to_the_simulation():
    good = accuracy_of(measured(), BudgetSection(max_drop=0.01), task=TaskRecord(drawing=["r"]))
    own = accuracy_of(
        measured(value=0.1, drop=0.886),
        BudgetSection(max_drop=0.01),
        source="the engine",
        task=TaskRecord(drawing=["r"]),
    )
    device = DeviceInfo(status="ran", gpu="GPU", accuracy=own, profiles={"default": own})
    assert verdict(good, device) == verdict(good) == "usable"


def standings(tally, **changes):
    """The standing of a part's answers in the report, in words."""
    found = measured(tallies=(tally,), metric=None, value=None, float_value=None, drop=None, **changes)
    task = TaskRecord(task=tally.part.task, parts=[tally.part.to_json()])
    (part,) = accuracy_of(found, BudgetSection(), task=task).parts
    return standing_words(part)


def test_the_table_of_parts_says_what_an_unproven_part_lacks():
    """Enough samples prove nothing where they hold nothing, give one answer, or are alike; few samples are few."""
    classes = OutputPart("classification", ("logits",))
    boxes = OutputPart("detection", ("logits",), {"layout": "joint", "threshold": 0.5})
    single = OutputPart("classification", ("logits",), {"single": True, "threshold": 0.5})
    beside = OutputPart("regression", ("logits",), {"stands_in": True, "mean": 0.0, "variance": 1.0})
    steady = {"logits": OutputFigures(sqnr_db=60.0, max_abs=0.01)}
    assert standings(AnswerTally(classes, 400, 400, 0.99), samples=400) == "met"
    assert standings(AnswerTally(classes, 300, 400, 0.99), samples=400) == "missed"
    assert standings(AnswerTally(classes, 40, 40, 0.99), samples=40) == "not proven: too few samples"
    assert standings(AnswerTally(classes, 1, 1, 0.99), samples=1) == "not proven: the samples do not differ"
    nothing = AnswerTally(boxes, 400, 400, 0.99, figure="detections")
    assert standings(nothing, samples=400) == "not proven: the samples hold nothing that is found"
    for tally in (AnswerTally(single, 400, 400, 0.99, only=0), AnswerTally(beside, 100, 400, 0.99)):
        assert standings(tally, samples=400, outputs=steady) == "not proven: the samples show only one answer"
    tokens = AnswerTally(OutputPart("generation", ("logits",)), 40, 40, 0.99)
    assert standings(tokens, samples=4) == "not proven: too few positions"


def test_too_few_samples_come_before_the_single_answer_of_one_of_two_tasks():
    """Where another guess sees the samples differ, something is shown; the sentence begins with the verdict."""
    classes = OutputPart("classification", ("logits",), {"single": True, "threshold": 0.5})
    one, values = (
        AnswerTally(classes, 40, 40, 0.99, only=0),
        AnswerTally(OutputPart("regression", ("logits",)), 40, 40, 0.99),
    )
    found = measured(tallies=(one, values), samples=40, metric=None, value=None, float_value=None, drop=None)
    task = TaskRecord(task="classification", parts=[one.part.to_json(), values.part.to_json()])
    said = headline([], accuracy_of(found, BudgetSection(), task=task))
    assert said.startswith(
        "Within the budget on 40 samples; 300 needed to judge 1 point, but all 40 samples score below 0.5"
    )
    alone = accuracy_of(replace(found, tallies=(one,)), BudgetSection(), task=task)
    assert headline([], alone).startswith("NOT PROVEN: all 40 samples score below 0.5")


def heads(kept, other="classification", budget=None, reads="digit"):
    """What is said of two heads of which the metric reads one, of 597 answers each: ``kept`` of either."""
    parts = [OutputPart("classification", ("digit",), {"axis": -1}), OutputPart(other, ("depths",), {"axis": -1})]
    tallies = tuple(
        AnswerTally(part, float(each), 597, 0.99, independent=597) for part, each in zip(parts, kept, strict=True)
    )
    found = measured(tallies=tallies, samples=597, metric_answers=597)
    record = TaskRecord(task="classification", parts=[part.to_json() for part in parts], reads=reads)
    return accuracy_of(found, budget or BudgetSection(max_drop=0.02), task=record)


@pytest.mark.parametrize("other", ["classification", "embedding"])
def test_a_head_that_the_metric_does_not_read_and_that_loses_its_answers_is_a_doubt(other):
    found = heads((591, 498), other)
    said = (
        "'depths', which top1 does not read, loses 16.6 % of 597 answers: add min_unchanged to the budget to limit "
        "these too"
    )
    assert found.doubts == [said] and found.met is True and verdict(found) == "doubtful"
    assert headline([], found).startswith(f"Within its budget, but {said}; top1")


@pytest.mark.parametrize(
    "changes",
    [
        {"kept": (591, 588)},
        # made of the same scores, it loses as many
        {"kept": (498, 498)},
        # the head that the metric reads may lose what the budget allows
        {"kept": (591, 498), "reads": "depths"},
        {"kept": (591, 498), "reads": None},
    ],
)
def test_a_head_that_keeps_its_answers_about_as_well_as_the_metric_s_is_none(changes):
    assert heads(**changes).doubts == []


def test_a_limit_of_the_user_s_own_for_all_heads_takes_the_place_of_the_doubt():
    found = heads((591, 498), budget=BudgetSection(max_drop=0.02, min_unchanged=0.8))
    assert found.doubts == [] and verdict(found) == "usable"


@pytest.mark.parametrize("judged", [("logits",), ("logits", "version")])
def test_samples_are_alike_where_all_that_is_judged_of_them_is(judged):
    """A version, or spreads that are learnt, are the same for every sample, and the other outputs are not."""
    figures = {name: OutputFigures(sqnr_db=60.0, max_abs=0.01) for name in ("logits", "version")}
    notes = [EvaluationCode.OUTPUT_STEADY(output=name) for name in judged]
    tally = AnswerTally(OutputPart("regression", judged), 400, 400, 0.99)
    assert samples_identical(measured(outputs=figures, notes=notes, tallies=(tally,), samples=400)) is True
    one = measured(outputs=figures, notes=notes[1:], tallies=(tally,), samples=400)
    assert samples_identical(one) is False
