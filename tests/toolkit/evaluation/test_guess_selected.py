"""Outputs that have no axis of samples: what NonMaxSuppression chose of a batch, and lists of any length."""

from __future__ import annotations

import numpy as np

from tests.toolkit.evaluation.test_guess import RNG, boxes, few, normal, out, seen
from toolkit.evaluation.answers import Answers
from toolkit.evaluation.guess import guess
from toolkit.evaluation.observed import SeenOutput
from toolkit.evaluation.tasks import ranked_outputs


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


def test_rows_of_fixed_anchors_are_not_ranked():
    values, scores, labels = ranked_detector(lambda each: np.arange(len(each)))
    (part,) = guess(seen(out("boxes", values), out("scores", scores, "Gather"), out("labels", labels))).parts
    assert part.task == "detection" and "ranked" not in part.settings
