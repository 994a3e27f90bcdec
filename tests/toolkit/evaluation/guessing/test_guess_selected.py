"""Outputs that have no axis of samples: what NonMaxSuppression chose of a batch, and lists of any length."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolkit.evaluation.guessing.test_guess import RNG, boxes, few, normal, out, seen
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare, summed
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observed import SeenOutput
from toolkit.evaluation.tasks import ranked_outputs, reader
from toolkit.report.findings import sentence


def chosen(values, scores):
    """What NonMaxSuppression gives of a batch: the sample, the class and the box of each, the best first."""
    rows = [[n, c, a] for n, each in enumerate(scores) for a, c in zip(*np.nonzero(each >= 0.5))]
    return np.asarray(sorted(rows, key=lambda row: -scores[row[0], row[2], row[1]]), np.int64).reshape(-1, 3)


def test_the_boxes_that_the_model_itself_has_chosen_are_the_detections():
    """Rows of a whole batch, whose order moves with every score, are no sequence of labels."""
    values, scores = boxes(), few()
    values[..., 2:] += values[..., :2]
    rows = [chosen(values[n : n + 1], scores[n : n + 1]) for n in range(len(scores))]
    picked = SeenOutput("selected_indices", ("k", 3), rows, None, frozenset({"NonMaxSuppression"}))
    found = guess(seen(out("boxes", values), out("scores", scores, "Sigmoid"), picked))
    (part,) = found.parts
    assert found.task == "detection" and part.outputs == ("boxes", "scores", "selected_indices")
    answers = Answers(found.parts)
    # boxes and scores are of all places, what is chosen of them comes best first
    assert part.settings["ranked"] == ["selected_indices"]
    # all of a batch at once: which sample a row is of it says itself
    wanted = {"boxes": values, "scores": scores, "selected_indices": chosen(values, scores)}
    other = scores + np.where(scores > 0.5, RNG.uniform(-0.01, 0.01, scores.shape), 0)
    same = {"boxes": values + 0.01, "scores": other, "selected_indices": chosen(values, other)}
    assert not np.array_equal(same["selected_indices"], wanted["selected_indices"])
    (tally,) = answers.tallies([answers.rows(wanted, same)])
    assert (tally.kept, tally.answers, tally.level) == (8, 8, 1.0) and answers.batch(32) == 32
    lost = {**same, "selected_indices": same["selected_indices"][1:]}
    (tally,) = answers.tallies([answers.rows(wanted, lost)])
    assert (tally.kept, tally.answers) == (7, 8)


def test_an_output_without_an_axis_of_samples_has_one_answer_a_run():
    alone = SeenOutput("labels", ("k",), [RNG.integers(0, 9, 5 + n) for n in range(8)], None, frozenset())
    answers = Answers(guess(seen(out("logits", normal(8, 10), "Gemm"), alone)).parts)
    assert {name for part in answers.parts for name in part.outputs} == {"logits", "labels"} and answers.batch(32) == 1
    assert Answers(guess(seen(out("logits", normal(8, 10), "Gemm"))).parts).batch(32) == 32


def ranked_detector(order):
    """Boxes, scores and class numbers of eight samples, with each sample's rows in an order by its scores."""
    values, scores = boxes(), few().max(axis=-1)
    values[..., 2:] += values[..., :2]
    rows = [order(each) for each in scores]
    values, scores = (np.stack([one[row] for one, row in zip(each, rows)]) for each in (values, scores))
    return values, scores, RNG.integers(0, 3, scores.shape)


def test_rows_that_come_best_first_are_ranked():
    """A row's place is its rank then, and a score that moves moves the row."""
    values, scores, labels = ranked_detector(lambda each: np.argsort(-each))
    (part,) = guess(seen(out("boxes", values), out("scores", scores, "Gather"), out("labels", labels))).parts
    assert part.task == "detection" and part.settings["ranked"] is True
    answers, made = Answers([part]), {"boxes": values, "scores": scores, "labels": labels}
    assert ranked_outputs(answers.tallies([answers.rows(made, made)])) == {"boxes", "scores", "labels"}


def test_rows_that_come_best_first_in_each_class_are_ranked():
    """So NonMaxSuppression gives them: «26 dB» was the noise of rows that had changed places."""
    values, scores, labels = ranked_detector(lambda each: np.argsort(-each))
    order = np.argsort(labels, axis=1, kind="stable")
    values = np.take_along_axis(values, order[..., None], axis=1)
    scores, labels = (np.take_along_axis(one, order, axis=1) for one in (scores, labels))
    (part,) = guess(seen(out("boxes", values), out("scores", scores, "Gather"), out("labels", labels))).parts
    assert part.task == "detection" and part.settings["ranked"] is True


def test_rows_of_fixed_anchors_are_not_ranked():
    values, scores, labels = ranked_detector(lambda each: np.arange(len(each)))
    (part,) = guess(seen(out("boxes", values), out("scores", scores, "Gather"), out("labels", labels))).parts
    assert part.task == "detection" and "ranked" not in part.settings


def few_chosen(kept, classes=6):
    """Boxes that are chosen of each sample, in the order of scores that are not given, with their classes and places.

    Args:
        kept: how many of each sample.
        classes: of how many.
    """
    found = []
    for count in kept:
        low = RNG.uniform(0, 50, (count, 2)).astype(np.float32)
        found.append((np.concatenate([low, low + RNG.uniform(4, 20, (count, 2)).astype(np.float32)], axis=1),
                      RNG.integers(0, classes, count), RNG.choice(100, count, replace=False)))  # fmt: skip
    return found


def listed(name, values, *ops):
    return SeenOutput(name, ("k", *values[0].shape[1:]), list(values), None, frozenset(ops))


KEPT = (5, 7, 3, 9, 6, 8, 4, 7)


@pytest.mark.parametrize("form", ["classes", "places", "rows beside", "rows"])
def test_boxes_that_are_chosen_by_hand_and_have_no_scores_are_detections(form):
    """Whatever numbers go along with them: their order moves with scores that nobody sees."""
    every = few_chosen(KEPT)
    rows = [np.stack([np.zeros(len(c), int), c, p], axis=1) for _, c, p in every]
    numbers = {"classes": [c for _, c, _ in every], "places": [p for *_, p in every]}.get(form, rows)
    given = listed("boxes", [b for b, *_ in every], "Gather")
    if form == "rows":
        whole = boxes(samples=8)
        whole[..., 2:] += whole[..., :2]
        for own, (chosen_ones, _, places) in zip(whole, every):
            own[places] = chosen_ones
        given = out("boxes", whole)
    op = "NonMaxSuppression" if form.startswith("rows") else "Gather"
    found = guess(seen(given, listed("picked", numbers, op)))
    (part,) = found.parts
    assert (found.task, part.outputs, part.settings["chosen"]) == ("detection", ("boxes", "picked"), form)
    answers = Answers(found.parts)
    axis = 0 if form == "rows" else None

    def made(order, lose=0, move=0.0):
        return [
            {"boxes": (b[None] if axis == 0 else b[o]) + np.float32(move), "picked": n[o][lose:]}
            if axis == 0 else {"boxes": b[o][lose:] + np.float32(move), "picked": n[o][lose:]}
            for b, n in zip(given.samples, numbers) for o in [order(len(n))]
        ]  # fmt: skip

    def kept(other):
        same = made(np.arange)
        (tally,) = answers.tallies([answers.rows(a, b) for a, b in zip(same, other)])
        assert tally.answers == 8
        return tally.kept

    assert kept(made(lambda count: np.arange(count)[::-1], move=0.1)) == 8
    assert kept(made(np.arange, lose=1)) == 0
    assert kept(made(np.arange, move=30.0)) < 8
    ranked = ranked_outputs(answers.tallies([answers.rows(one, one) for one in made(np.arange)]))
    assert ranked == ({"picked"} if form == "rows" else {"boxes", "picked"})


@pytest.mark.parametrize("without", ["boxes", "labels"])
def test_chosen_boxes_and_their_classes_may_differ_in_the_axis_of_samples(without):
    """A model of one image drops it from one of them: classes [n] beside boxes [1, n, 4] were read as n samples."""
    every = few_chosen(KEPT)
    named = {"boxes": [b for b, *_ in every], "labels": [c for _, c, _ in every]}
    outputs = [listed(name, values) for name, values in named.items()]
    for one in outputs:
        one.batch_axis = None if one.name == without else 0
    (part,) = guess(seen(*outputs)).parts
    assert part.task == "detection" and part.settings["batch_axis"] is None
    answers = Answers([part])
    assert answers.batch(8) == 1

    def made(place, order):
        found = {name: values[place][order] for name, values in named.items()}
        return {name: value if name == without else value[None] for name, value in found.items()}

    for place, count in enumerate(KEPT):
        wanted = made(place, np.arange(count))
        for order, kept in ((np.arange(count)[::-1], 1), (np.arange(count - 1), 0)):
            (tally,) = answers.tallies([answers.rows(wanted, made(place, order))])
            assert (tally.kept, tally.answers) == (kept, 1)


def test_rows_of_a_batch_name_the_boxes_of_each_sample():
    whole = boxes(samples=4)
    whole[..., 2:] += whole[..., :2]
    rows = np.asarray([[n, 1, 10 * n + k] for n in range(4) for k in range(3)])
    alone = [np.concatenate([np.zeros((3, 1), int), rows[3 * n : 3 * n + 3, 1:]], axis=1) for n in range(4)]
    found = guess(seen(out("boxes", whole), listed("picked", alone, "NonMaxSuppression")))
    answers = Answers(found.parts)
    wanted = {"boxes": whole, "picked": rows}
    (tally,) = answers.tallies([answers.rows(wanted, {**wanted, "picked": rows[::-1]})])
    assert (tally.kept, tally.answers) == (4, 4)
    (tally,) = answers.tallies([answers.rows(wanted, {**wanted, "picked": rows[:-1]})])
    assert (tally.kept, tally.answers) == (3, 4)


def test_four_scores_of_places_and_the_best_of_each_are_no_boxes():
    scores = [normal(count, 4) for count in KEPT]
    best = [one.argmax(axis=1) for one in scores]
    found = guess(seen(listed("logits", scores, "Add"), listed("labels", best, "ArgMax")))
    assert found.task == "sequence" and "detection" not in {part.task for part in found.parts}


def test_boxes_without_scores_are_said_to_have_none():
    every = few_chosen(KEPT)
    found = guess(seen(listed("boxes", [b for b, *_ in every]), listed("labels", [c for _, c, _ in every])))
    rule = sentence(reader(found.parts[0]).rule())
    assert "score" not in rule and "the same class, IoU 0.5 or more." in rule
    assert "chosen already" in sentence(found.finding())


LAYOUTS = ("apart", "classes by score", "rows", "chosen")


def ranked_outputs_of(layout, samples=8, rows=20):
    """The outputs of a detector whose rows come best first, by name: [samples, rows, ...]."""
    values, labels = boxes(samples, rows), RNG.integers(0, 3, (samples, rows))
    values[..., 2:] += values[..., :2]
    scores = np.sort(RNG.uniform(0.3, 0.9, (samples, rows)), axis=1)[:, ::-1]
    values, scores = values.astype(np.float32), scores.astype(np.float32)
    each = scores[..., None] * np.where(np.arange(3) == labels[..., None], 1, 0.1).astype(np.float32)
    if layout == "rows":
        return {"dets": np.concatenate([values, scores[..., None], labels[..., None]], axis=-1).astype(np.float32)}
    if layout == "chosen":
        return {"boxes": values, "labels": labels}
    return {"boxes": values, "scores": each} if layout == "classes by score" else {
        "boxes": values, "scores": scores, "labels": labels,
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_of_ranked_rows_is_that_of_the_same_detections(layout):
    """Two neighbours that change their ranks are no noise, one that is lost is."""
    wanted = ranked_outputs_of(layout)
    outputs = [out(name, one, "TopK", declared=("n", "k", *one.shape[2:])) for name, one in wanted.items()]
    answers = Answers(guess(seen(*outputs, ops=["NonMaxSuppression"])).parts)
    assert ranked_outputs(answers.tallies([answers.rows(wanted, wanted)])) == set(wanted)
    order = np.arange(20).reshape(10, 2)[:, ::-1].reshape(-1)
    swapped = {name: one[:, order] for name, one in wanted.items()}

    def noise(found):
        return summed([compare(wanted, found, (), answers)], answers=answers).noise

    assert noise(wanted) == noise(swapped) == 0 < summed([compare(wanted, swapped, ())]).noise
    # each has one detection less, and as many as it has are its share of all
    fewer = {name: one[:, 1:] for name, one in wanted.items()}
    assert 0.001 < noise(fewer) < 0.3
    other = {name: one + np.float32(0.5) if name in ("boxes", "dets") else one for name, one in swapped.items()}
    assert noise(other) == pytest.approx(noise({name: one[:, order] for name, one in other.items()}), rel=1e-6)
    assert noise({name: one[:, :0] for name, one in wanted.items()}) == pytest.approx(1.0)


def test_rows_of_many_samples_and_of_too_many_rows():
    """Samples of unlike numbers of rows, one of them without any; too many rows are compared as they come."""
    every = few_chosen((5, 7, 3, 0))
    (part,) = guess(seen(listed("boxes", [b for b, *_ in every]), listed("labels", [c for _, c, _ in every]))).parts
    for values, labels, _ in every:
        one = {"boxes": values, "labels": labels}
        a, b = Answers([part]).side_by_side(one, {name: value[::-1] for name, value in one.items()})
        assert all(np.array_equal(a[name], b[name]) and a[name][0].shape == one[name].shape for name in one)
    many = {"boxes": np.zeros((2000, 4), np.float32), "labels": np.arange(2000)}
    a, b = Answers([part]).side_by_side(many, many)
    assert a["boxes"] is many["boxes"] and b["labels"] is many["labels"]
