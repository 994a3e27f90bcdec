"""Readings end where the model's own lengths say so: what it makes of padding is no part of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolkit.evaluation.guessing.test_guess import AUDIO, out, seen
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import compare
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.guessing.parts import masked_positions
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.by_name import make_metric
from toolkit.evaluation.metrics.options import options_for
from toolkit.report.findings import sentence

READ = np.array([[1, 1, 0, 2, 0, 3, 3, 3], [4, 0, 4, 0, 0, 0, 0, 2]])
"""The best class of each position; 0 is the blank."""
LENGTHS = np.array([5, 3], np.int64)


def scores(read):
    return np.log(np.where(np.arange(5) == np.asarray(read)[..., None], 0.96, 0.01)).astype(np.float32)


def value(metric, outputs, labels, **options):
    made = make_metric(metric, None, False, MetricOptions("log_probs", **options))
    made.update(outputs, {"label": labels})
    return made.value()


def model(name="out_lens", lengths=LENGTHS, classes=5):
    padded = np.repeat(scores(READ), 4, axis=0)[..., :classes]
    return seen(out("log_probs", padded, "LogSoftmax"), out(name, np.repeat(lengths, 4)), inputs=AUDIO)


@pytest.mark.parametrize("name", ["out_lens", "encoderOutLengths", "log_probs_len", "olens"])
def test_the_lengths_of_readings_are_known_and_told(name):
    found = guess(model(name), "ctc")
    part = next(part for part in found.parts if part.task == "ctc")
    assert part.settings["lengths"] == name and part.settings["positions"] == -2
    assert [sentence(one) for one in masked_positions(found.parts, model(name))] == [
        f"Positions of 'log_probs' beyond a sample's length in output '{name}' hold no answers and do not count."
    ]
    assert options_for("ctc_exact", "log_probs", found.parts).lengths == name


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("speaker", LENGTHS), ("out_lens", LENGTHS + 6), ("out_lens", 0 * LENGTHS), ("out_lens", LENGTHS - 4),
     ("out_lens", LENGTHS / 8)],
    ids=["another name", "beyond the positions", "none", "below 0", "no whole numbers"],
)  # fmt: skip
def test_other_numbers_are_no_lengths(name, lengths):
    assert all("lengths" not in part.settings for part in guess(model(name, lengths), "ctc").parts)


@pytest.mark.parametrize(("metric", "right"), [("ctc_exact", 1.0), ("cer", 0.0), ("wer", 0.0)])
def test_a_metric_reads_as_far_as_the_lengths(metric, right):
    label = np.array([[1, 2], [4, 4]])
    outputs = {"log_probs": scores(READ), "out_lens": LENGTHS}
    assert value(metric, outputs, label, lengths="out_lens") == right
    whole = value(metric, outputs, label)
    # both readings have a 3 or a 2 too many: two edits of four
    assert whole == (0.0 if metric == "ctc_exact" else 0.5)
    assert value("ctc_exact", {**outputs, "out_lens": 0 * LENGTHS}, np.full((2, 1), -1), lengths="out_lens") == 1


def test_answers_beyond_the_lengths_are_none():
    part = next(part for part in guess(model(), "ctc").parts if part.task == "ctc")
    answers, wanted = Answers([part]), {"log_probs": scores(READ), "out_lens": LENGTHS}
    changed = READ.copy()
    changed[:, 6:] = [[2, 1], [3, 3]]
    padding = {**wanted, "log_probs": scores(changed)}
    tally = answers.tallies([answers.rows(wanted, padding)])[0]
    assert (tally.kept, tally.answers) == (2, 2)
    changed[1, 2] = 3
    tally = answers.tallies([answers.rows(wanted, {**wanted, "log_probs": scores(changed)})])[0]
    assert (tally.kept, tally.answers) == (1, 2)


def test_errors_beyond_the_lengths_count_in_no_figure_of_the_output():
    answers = Answers(guess(model(), "ctc").parts)
    wanted = {"log_probs": scores(READ), "out_lens": LENGTHS}
    beyond = np.arange(READ.shape[1]) >= LENGTHS[:, None]
    found = {**wanted, "log_probs": wanted["log_probs"] + np.where(beyond, 3, 0)[..., None].astype(np.float32)}
    on = answers.entries_on("log_probs", wanted, None)
    assert on is not None and on.shape == (2, 8, 1) and (on[..., 0] == ~beyond).all()
    assert answers.entries_on("out_lens", wanted, None) is None
    outcome = compare(wanted, found, ["log_probs"], answers)
    assert outcome.differences["log_probs"].error.max_abs == 0
    found["log_probs"] = wanted["log_probs"] + np.float32(3)
    assert compare(wanted, found, ["log_probs"], answers).differences["log_probs"].error.max_abs == pytest.approx(
        3, rel=1e-5
    )
