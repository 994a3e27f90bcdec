"""What stays and what does not, task by task, in cases whose answer is known by construction."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.share_limits import ShareLimit, of_tally
from toolkit.evaluation.numerics.intervals import LimitStanding
from toolkit.evaluation.tasks import TASKS, AnswerTally, OutputPart, reader
from toolkit.report.findings import sentence
from toolkit.run.recipe.sections import TaskName

RNG = np.random.default_rng(0)


def noise(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def tally(task, wanted, found, settings=None, batch=16, channels=None):
    """The tally of one output read in batches."""
    part = OutputPart(task, ("y",), settings or {}, channels)
    answers = pickle.loads(pickle.dumps(Answers([part])))
    rows = [
        answers.rows({"y": wanted[i : i + batch]}, {"y": found[i : i + batch]}) for i in range(0, len(wanted), batch)
    ]
    (made,) = answers.tallies(rows)
    assert AnswerTally.from_json(made.to_json()) == made
    return made


def test_recipes_name_the_tasks_that_there_are():
    assert TaskName.__args__ == TASKS
    assert {reader(OutputPart(task, ("y",))).name for task in TASKS} == set(TASKS)


@pytest.mark.parametrize(
    ("task", "settings", "values"),
    [
        ("classification", {}, None),
        ("classification", {"threshold": 0.4}, {"threshold": 0.4, "single": False}),
        ("classification", {"threshold": 0.4, "single": True}, {"threshold": 0.4, "single": True}),
        ("sequence", {}, None),
        ("ctc", {"blank": 7}, {"blank": 7}),
        (
            "detection",
            {"layout": "joint", "threshold": 0.25},
            {"threshold": 0.25, "slack": 0.8, "iou": 0.5, "floor": 0.98},
        ),
        ("segmentation", {"floor": 0.9}, {"floor": 0.9, "small": 0.002, "lost": 0.5, "share": 0.98}),
        ("segmentation", {"threshold": 0.5}, {"floor": 0.95, "small": 0.002}),
        ("embedding", {}, {"floor": 0.99, "near": 0.1}),
        ("regression", {"few": True}, {"floor": 20.0, "few": True, "quiet": 0.01, "each": False}),
        ("regression", {"peak": 255.0}, {"floor": 30.0, "peak": 255.0}),
        ("regression", {"axis": -3, "height": 2.0}, {"floor": 0.98, "seen": 0.3, "slack": 0.8, "near": 0.02}),
        ("generation", {}, None),
    ],
)
def test_every_tolerance_of_an_answer_is_stated(task, settings, values):
    rule = reader(OutputPart(task, ("y",), settings)).rule()
    assert (dict(rule.values) if rule is not None else None) == values
    assert rule is None or all(f"{value:.3g}" in sentence(rule) for name, value in values.items()
                               if name in ("floor", "threshold", "iou", "blank"))  # fmt: skip


@pytest.mark.parametrize(("samples", "expected"), [(20, "unproven"), (299, "unproven"), (300, "met"), (2000, "met")])
def test_classes_on_few_and_on_many_samples(samples, expected):
    wanted = noise(samples, 5)
    same = tally("classification", wanted, wanted + noise(samples, 5, scale=1e-6))
    assert (same.kept, same.answers, same.standing().value) == (samples, samples, expected)
    found = wanted.copy()
    found[: samples // 10] *= -1
    worse = tally("classification", wanted, found)
    assert worse.standing() is LimitStanding.MISSED


def test_sets_of_labels_are_right_as_wholes():
    wanted = RNG.random((400, 8)).astype(np.float32)
    found = wanted.copy()
    found[:3, 0] = 1 - found[:3, 0]
    assert tally("classification", wanted, found, {"threshold": 0.5}).kept == 397
    found[5, 1] = np.nan
    assert tally("classification", wanted, found, {"threshold": 0.5}).kept == 396


def test_samples_without_labels_keep_none():
    """Of 400 samples 4 have labels, which are all lost: 99 % of the samples keep theirs, since they have none."""
    wanted = np.full((400, 8), 0.1, np.float32)
    wanted[:4, :2] = 0.9
    half = wanted.copy()
    half[:4, 0] = 0.1
    for found, kept, level in ((wanted, 400, 1.0), (half, 396, 0.5), (np.full_like(wanted, 0.1), 396, 0.0)):
        made = tally("classification", wanted, found, {"threshold": 0.5})
        assert (made.kept, made.level, made.figure, made.empty) == (kept, level, "labels", False)
    nothing = tally("classification", wanted[4:], wanted[4:], {"threshold": 0.5})
    assert nothing.level is None and nothing.empty
    assert not tally("classification", wanted[4:], wanted[:-4], {"threshold": 0.5}).empty


@pytest.mark.parametrize("shape", [(400,), (400, 1), (400, 1, 1)])
@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_one_score_a_sample_is_a_class_by_its_side_of_the_threshold(shape, threshold):
    settings = {"threshold": threshold, "single": True}
    wanted = RNG.random(shape).astype(np.float32)
    wanted[:3] = threshold + np.array([0.1, -0.1, 1e-3]).reshape(3, *[1] * (len(shape) - 1))
    found = wanted.copy()
    found[:2] = threshold - (found[:2] - threshold)
    made = tally("classification", wanted, found, settings)
    assert (made.kept, made.answers) == (398, 400)
    found[2] = threshold - 1e-3
    near = tally("classification", wanted, found, settings)
    # by a hundredth of what a usual score is away, a change is hardly a loss
    assert near.kept == 397 and near.lost - made.lost < 0.05
    found[9] = np.nan
    assert tally("classification", wanted, found, settings).kept == 396
    # errors of 0.05 on both sides: of scores that lie evenly, E|error| / 1 change side on average
    noisy = wanted + 0.05 * RNG.standard_normal(shape).astype(np.float32)
    expected = tally("classification", wanted, noisy, settings).expected / 400
    assert expected == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.5)


def test_one_wrong_position_of_each_line_loses_every_line():
    wanted = noise(300, 40, 11)
    wanted[..., 0] += 4.0
    found = wanted.copy()
    for line in found:
        place = RNG.integers(40)
        line[place] = np.roll(np.eye(11, dtype=np.float32)[line[place].argmax()], 1)
    made = tally("sequence", wanted, found, {"axis": -1})
    assert made.kept == 0 and made.level > 0.94 and made.figure == "positions"
    assert made.standing() is LimitStanding.MISSED


def test_a_reading_stays_where_only_its_alignment_moves():
    def line(*classes):
        return np.eye(4, dtype=np.float32)[list(classes)]

    wanted = np.stack([line(0, 1, 1, 0, 2, 0), line(0, 1, 0, 1, 0, 0), line(3, 3, 0, 0, 2, 2)])
    moved = np.stack([line(1, 1, 0, 0, 0, 2), line(0, 1, 1, 1, 0, 0), line(0, 3, 0, 2, 2, 2)])
    made = tally("ctc", wanted, moved, {"axis": -1, "blank": 0})
    # the second line had two of class 1 with a blank between
    assert made.kept == 2 and tally("sequence", wanted, moved).kept == 0
    time_major = np.moveaxis(wanted, 0, 1), np.moveaxis(moved, 0, 1)
    assert tally("ctc", *time_major, {"axis": -1, "blank": 0, "batch_axis": 1}, batch=6).kept == 2


def test_an_encoder_whose_argmax_flips_keeps_its_direction():
    wanted = noise(200, 384) + noise(1, 384)
    found = wanted + noise(200, 384, scale=0.06)
    assert (wanted.argmax(1) != found.argmax(1)).mean() > 0.02
    made = tally("embedding", wanted, found, {"axis": -1})
    assert made.level > 0.99 and made.standing() is LimitStanding.MET
    assert tally("classification", wanted, found).standing() is LimitStanding.MISSED
    worse = tally("embedding", wanted, wanted + noise(200, 384, scale=0.5), {"axis": -1})
    assert worse.level < 0.99 and worse.standing() is LimitStanding.MISSED


def test_an_embedding_that_points_alike_but_finds_others_is_lost():
    # all vectors are nearly one: the cosine stays whatever tells the samples apart
    wanted = 10 + noise(200, 64, scale=0.5)
    found = 10 + noise(200, 64, scale=0.5)
    made = tally("embedding", wanted, found, {"axis": -1})
    assert made.level > 0.99 and made.share < 0.5


def test_a_mask_is_held_by_its_overlap():
    scores = np.zeros((20, 2, 32, 32), np.float32)
    scores[:, 1] = -1
    scores[:, 1, 8:24, 8:24] = 1
    shifted = np.roll(scores, 1, axis=-1)
    made = tally("segmentation", scores, shifted, {"axis": 1})
    mask, rest = 15 / 17, (1024 - 256 - 16) / (1024 - 256 + 16)
    assert made.level == pytest.approx((mask + rest) / 2) and made.kept == 0
    assert tally("segmentation", scores, shifted, {"axis": 1, "floor": 0.9}).kept == 20
    single = scores[:, 1:]
    assert tally("segmentation", single, single * 0.5, {"threshold": 0.0}).kept == 20


def test_a_signal_is_held_by_its_noise():
    wanted = noise(100, 400)
    quiet, loud = wanted + noise(100, 400, scale=0.05), wanted + noise(100, 400, scale=0.2)
    settings = {"mean": 0.0, "variance": 1.0}
    fine = tally("regression", wanted, quiet, settings)
    assert fine.level == pytest.approx(26.0, abs=0.3) and fine.share == 1.0
    assert tally("regression", wanted, loud, settings).share == 0.0
    # a constant is no signal: what does not vary says nothing of what does
    assert tally("regression", wanted + 100, loud + 100, {"mean": 100.0, "variance": 1.0}).share == 0.0
    image = RNG.random((10, 3, 16, 16)).astype(np.float32)
    shown = tally("regression", image, image + noise(10, 3, 16, 16, scale=0.01), {"peak": 1.0})
    assert shown.figure == "psnr_db" and shown.level == pytest.approx(40, abs=0.5) and shown.share == 1.0


def test_a_slice_of_channels_is_judged_by_itself():
    wanted = np.concatenate([100 * noise(50, 4, 30), noise(50, 6, 30)], axis=1)
    found = wanted + noise(50, 10, 30, scale=1.0)
    whole = tally("regression", wanted, found, {"mean": 0.0, "variance": 4000.0})
    part = tally("regression", wanted, found, {"mean": 0.0, "variance": 1.0}, channels=(-2, 4, 9))
    assert whole.share == 1.0 and part.share == 0.0 and part.level == pytest.approx(0.0, abs=0.5)


def test_tokens_count_one_by_one_and_texts_as_what_goes_wrong_together():
    wanted = noise(40, 50, 100)
    found = wanted.copy()
    found[0] *= -1
    made = tally("generation", wanted, found, {"axis": -1})
    assert (made.answers, made.kept) == (2000, 1950)
    # all of one text: as telling as some fifty answers, not two thousand
    assert 40 <= made.independent < 80


def test_positions_are_answers_of_their_own_to_a_metric_that_is_a_share_of_these():
    wanted = noise(40, 32, 10)
    found = wanted.copy()
    found[::2, 5] *= -1
    sequence = Answers([OutputPart("sequence", ("y",), {"axis": -1})])
    for metric, share in (("top1", 1 - 1 / 64), ("top5", 1 - 1 / 64), ("f1", 0.5), ("exact", 0.5), (None, 0.5)):
        counted = sequence.counted_by(metric)
        (made,) = counted.tallies([counted.rows({"y": wanted}, {"y": found})])
        assert made.share == pytest.approx(share)


def test_a_token_between_two_that_the_model_hardly_tells_apart_counts_little():
    wanted = np.zeros((8, 16, 4), np.float32)
    wanted[..., 0] = 10
    wanted[0, :2, 1] = 9.9, 0.0
    found = wanted.copy()
    found[0, :2, 1] += 0.2, 20
    made = tally("generation", wanted, found, {"axis": -1}, batch=3)
    # the first change costs tanh(0.05) of an answer, the second a whole one
    assert (made.answers, made.kept) == (128, 126) and made.lost == pytest.approx(1 + np.tanh(0.05), abs=1e-3)


def test_nan_and_another_shape_lose_the_answer():
    wanted = noise(10, 5)
    found = wanted.copy()
    found[3, 2] = np.nan
    assert tally("classification", wanted, found).kept == 9
    part = OutputPart("regression", ("y",))
    rows = reader(part).rows({"y": wanted}, {"y": wanted[:, :4]})
    assert reader(part).tally([rows]).kept == 0
    assert (
        reader(OutputPart("embedding", ("y",)))
        .tally([reader(OutputPart("embedding", ("y",))).rows({"y": wanted}, {"y": wanted[:, :4]})])
        .kept
        == 0
    )


def scene(samples=30, anchors=60, classes=3):
    """Boxes in pixels and scores that name one object or two a sample: [samples, anchors, 4 + classes]."""
    out = np.zeros((samples, anchors, 4 + classes), np.float32)
    out[..., :2] = RNG.uniform(20, 300, (samples, anchors, 2))
    out[..., 2:4] = RNG.uniform(20, 60, (samples, anchors, 2))
    out[..., 4:] = RNG.uniform(0, 0.05, (samples, anchors, classes))
    for one in out:
        for anchor in RNG.choice(anchors, 1 + RNG.integers(2), replace=False):
            one[anchor, 4 + RNG.integers(classes)] = RNG.uniform(0.7, 0.95)
    return out


DETECTION = {"layout": "joint", "axis": -1, "format": "cxcywh", "threshold": 0.4}


def test_a_detector_whose_scores_die_while_its_boxes_live_is_lost():
    wanted = scene()
    kept = wanted + np.where(np.arange(7) < 4, noise(*wanted.shape, scale=0.5), noise(*wanted.shape, scale=0.003))
    assert tally("detection", wanted, kept, DETECTION).kept == 30
    dead = wanted.copy()
    # rounded as a range of pixels rounds them
    dead[..., 4:] = np.round(dead[..., 4:] / 2.5) * 2.5
    made = tally("detection", wanted, dead, DETECTION)
    assert made.kept == 0 and made.level == 0.0
    sqnr = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - dead).sum())
    assert sqnr > 40


def test_detections_are_matched_by_class_and_overlap():
    wanted = scene()
    moved = wanted.copy()
    moved[..., 0] += 60
    assert tally("detection", wanted, moved, DETECTION).kept == 0
    renamed = wanted[..., [0, 1, 2, 3, 5, 4, 6]]
    assert tally("detection", wanted, renamed, DETECTION).kept < 20
    weaker = wanted.copy()
    weaker[..., 4:] *= 0.93
    assert tally("detection", wanted, weaker, DETECTION).kept == 30


def test_suppressed_rows_may_differ_in_number():
    rows = np.array([[[10, 10, 50, 50, 0.9, 1], [60, 60, 90, 90, 0.8, 0], [0, 0, 0, 0, 0, 0]]], np.float32)
    part = OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.4})
    same = reader(part).rows({"y": rows}, {"y": rows[:, :2]})
    lost = reader(part).rows({"y": rows}, {"y": rows[:, :1]})
    assert same["right"].tolist() == [1.0] and lost["right"].tolist() == [0.0]
    assert lost["level"].tolist() == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("count", "lost", "floor", "kept"),
    [(10, 1, None, 0), (25, 1, None, 0), (26, 1, None, 1), (60, 2, None, 1), (60, 3, None, 0), (60, 3, 0.95, 1),
     (60, 1, 1.0, 0), (0, 0, None, 1)],
)  # fmt: skip
def test_one_detection_of_a_crowd_may_go_and_none_of_few(count, lost, floor, kept):
    corners = np.arange(count)[:, None] * 100 + np.array([0.0, 0.0, 50.0, 50.0])
    rows = np.column_stack([corners, np.full(count, 0.9), np.zeros(count)])[None].astype(np.float32)
    settings = {"layout": "rows", "threshold": 0.4} | ({} if floor is None else {"floor": floor})
    for wanted, found in ((rows, rows[:, lost:]), (rows[:, lost:], rows)):
        made = tally("detection", wanted, found, settings)
        assert (made.kept, made.answers) == (kept, 1)
        # of both models' detections together
        assert made.level == (pytest.approx(2 * (count - lost) / (2 * count - lost)) if count else None)


@pytest.mark.parametrize("scale", ["logits", "probabilities", "small"])
def test_a_change_between_answers_that_the_float_model_hardly_tells_apart_is_hardly_a_loss(scale):
    wanted = np.zeros((200, 5), np.float32)
    wanted[:, 0] = 6
    # the float model is undecided about the first sample, and quite sure of the second
    wanted[0, 1] = 5.98
    found = wanted.copy()
    found[:2, 1] = 7
    if scale == "probabilities":
        wanted, found = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (wanted, found))
    elif scale == "small":
        wanted, found = wanted * 1e-3, found * 1e-3
    made = tally("classification", wanted, found)
    assert made.kept == 198 and made.lost == pytest.approx(1.0, abs=0.02)
    found[3] = np.nan
    assert tally("classification", wanted, found).lost == pytest.approx(2.0, abs=0.02)


def test_a_reading_is_lost_by_what_all_its_letters_lose():
    wanted = np.zeros((40, 6, 4), np.float32)
    wanted[:, ::2, 1] = wanted[:, 1::2, 0] = 8
    wanted[0, 2, 2] = 7.9
    found = wanted.copy()
    found[:1, 2, 2] = 8.1
    found[1, 2, 2] = 8.1
    found[2, 2, 2], found[2, 4, 3] = 8.1, 8.1
    made = tally("ctc", wanted, found)
    assert made.kept == 37 and made.lost == pytest.approx(2.05, abs=0.01)
    assert tally("ctc", wanted, wanted).lost == 0
    assert tally("ctc", wanted.argmax(axis=-1), found.argmax(axis=-1)).lost is None


def test_a_limit_in_place_of_a_drop_counts_changes_by_what_they_cost():
    wanted = np.zeros((64, 3), np.float32)
    wanted[:, 0], wanted[:3, 1] = 5, 4.95
    tied, lost = wanted.copy(), wanted.copy()
    tied[:3, 1] = 5.1
    lost[5, 1] = 5.1
    ties, losses = (Outcome(1e-4, tallies=(tally("classification", wanted, one),)) for one in (tied, lost))
    plain, weighed = (Budget(min_unchanged=0.99, margin=1.0, replaces_drop=one) for one in (False, True))
    assert plain.lacks(ties, ties) and not weighed.lacks(ties, ties)
    # one answer of 64 is more than a hundredth: chance is an excuse only where nothing is known of the answer
    assert not plain.lacks(losses, losses) and weighed.lacks(losses, losses)
    assert not replace(weighed, margin=0.0).lacks(losses, losses)


def test_answers_that_nearly_change_count_in_part_where_a_margin_is_asked_for():
    wanted = np.zeros((64, 5), np.float32)
    wanted[:, 0], wanted[:, 1] = 1.0, np.linspace(0, 0.9, 64)
    near = wanted + noise(64, 5, scale=0.15)
    near[:, 0] = np.maximum(near[:, 0], near[:, 1:].max(axis=1) + 0.01)
    far = wanted + noise(64, 5, scale=0.001)
    close, clear = (tally("classification", wanted, one) for one in (near, far))
    assert close.kept == clear.kept == 64 and close.expected > 2 and clear.expected < 0.1
    budget = Budget(by_task=True, margin=1.0)
    missed, met = (Outcome(1e-4, tallies=(one,)) for one in (close, clear))
    worst = budget.worst_share(missed, missed)
    assert worst.likely == pytest.approx(close.expected / 64)
    assert budget.lacks(missed, missed)["min_unchanged"] == pytest.approx(worst.likely - budget.allowed(worst))
    assert not budget.lacks(met, met) and not replace(budget, margin=0.0).lacks(missed, missed)


def lines(samples, positions, seed):
    """Scores of lines: normal, for CTC along the line as smooth as frames are, with a blank that is met often."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(samples, positions + 4, 12))
    made = sum(frames[:, place : place + positions] for place in range(5)) * 2
    made[..., 0] += 2
    return made.astype(np.float32), (made + rng.normal(size=made.shape) * 0.05).astype(np.float32)


@pytest.mark.parametrize("task", ["sequence", "ctc"])
@pytest.mark.parametrize("positions", [1, 6, 24])
def test_what_a_line_is_expected_to_lose_is_told_by_its_weakest_position(task, positions):
    """Of few lines as much as many lose, although hardly one of the few does."""
    many = tally(task, *lines(4000, positions, 1))
    few = [tally(task, *lines(64, positions, seed)) for seed in range(2, 22)]
    told = np.array([one.expected / one.answers for one in few])
    assert told.mean() == pytest.approx(1 - many.share, rel=0.3) and told.std() < 0.4 * told.mean()


def test_near_ties_that_only_move_the_alignment_are_none():
    wanted = np.zeros((40, 6, 4), np.float32)
    wanted[:, :, 0] = 8
    wanted[:, 2:4, 1] = 16
    # whether the letter is given once more after, or is one position shorter, is nearly open
    wanted[:, 4, 1], wanted[:, 3, 0] = 7.99, 15.99
    found = wanted + noise(40, 6, 4, scale=0.1)
    found[:, 4, 0], found[:, 3, 1] = found[:, 4, 1] + 1, found[:, 3, 0] + 1
    assert tally("ctc", wanted, found).expected < 1e-6 < 5 < tally("sequence", wanted, found).expected
    # whether there is a second one, and whether the first one is another, is something else
    for place, letter, score in ((5, 1, 7.99), (2, 2, 15.99)):
        open_ = wanted.copy()
        open_[:, place, letter] = score
        assert tally("ctc", open_, open_ + (found - wanted)).expected > 5


def test_a_line_of_positions_that_are_masked_or_of_one_class_has_an_estimate_or_none():
    wanted = np.zeros((30, 12, 4), np.float32)
    wanted[:, :, 1], wanted[:, :, 3] = 5, -np.inf
    wanted[:, 3:] = -np.inf
    assert tally("sequence", wanted, wanted).expected == 0
    assert tally("ctc", wanted, wanted).expected == 0
    assert tally("sequence", wanted[..., :1], wanted[..., :1]).expected is None
    assert tally("sequence", wanted[:, :0], wanted[:, :0]).expected is None


def test_lines_that_all_stay_by_a_hair_are_no_plan_within_the_limit_where_a_margin_is_asked_for():
    wanted = np.zeros((24, 10, 5), np.float32)
    wanted[..., 1] = 4
    # one position of each line is nearly a tie, and every line happens to stay
    wanted[np.arange(24), np.arange(24) % 10, 2] = 4 - np.linspace(0.01, 0.3, 24)
    found = wanted + noise(24, 10, 5, scale=0.1)
    found[..., 1] = found.max(axis=-1) + 0.01
    made = Outcome(1e-4, tallies=(tally("sequence", wanted, found),))
    assert made.tallies[0].kept == 24 and made.tallies[0].expected > 2
    budget = Budget(by_task=True, margin=1.0)
    assert budget.lacks(made, made) and not replace(budget, margin=0.0).lacks(made, made)
    clear = Outcome(1e-4, tallies=(tally("sequence", wanted, wanted + (found - wanted) * 1e-3),))
    assert not budget.lacks(clear, clear)


@pytest.mark.parametrize(("limit", "answers"), [(0.01, 64), (0.01, 4000), (0.05, 64), (0.2, 10)])
def test_what_a_plan_may_be_expected_to_lose_is_within_the_limit_on_other_answers_in_all_but_some_five_percent(
    limit, answers
):
    def missed(margin):
        share = Budget(min_unchanged=1 - limit, margin=margin).allowed(ShareLimit("min_unchanged", 0, answers, limit))
        count = max(answers, round(3 / limit))
        return np.mean(np.random.default_rng(0).binomial(count, share, 20_000) > limit * count + 1e-9)

    assert 0.02 < missed(1.0) < 0.07 and missed(2.0) < 0.005
    # a plan that is expected to lose just what it may misses the limit as often as not
    assert missed(0.0) > 0.3


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("answers", [0, 1, 100])
def test_limits_at_the_ends_of_a_share_allow_nothing_or_everything(margin, answers):
    def allowed(limit):
        return Budget(by_task=True, margin=margin).allowed(ShareLimit("max_drop", 0, answers, limit))

    assert allowed(-0.01) == allowed(0.0) == 0 and allowed(1.0) == 1
    assert 0 < allowed(1e-16) <= 1e-16
    assert allowed(0.5) == pytest.approx(0.5) if margin == 0 else 0.05 < allowed(0.5) < 0.5


def test_levels_closely_over_their_floor_say_what_is_to_be_expected_below_it():
    wanted, random = noise(400, 1, 32), np.random.default_rng(1)
    level = np.exp(random.normal(-3.2, 0.35, (400, 1, 1))).astype(np.float32)
    made = tally("regression", wanted, wanted + level * noise(400, 1, 32), {"mean": 0.0, "variance": 1.0})
    assert made.kept == 400 - (made.answers - made.kept) and 0.0 < made.expected / 400 < 0.05
    assert abs(made.expected - (400 - made.kept)) < 6
    assert tally("regression", wanted, wanted).expected == 0


def test_masks_that_are_far_from_their_floor_by_factors_say_what_is_to_be_expected_of_others():
    # what is lacking to the whole overlap differs by factors: one of 47 masks lacks more than 0.05
    random, found_share = np.random.default_rng(0), []
    for _ in range(60):
        missing = np.rint(1000 * np.exp(random.normal(np.log(0.012), 0.7, 32))).astype(int)
        wanted = np.tile(np.where(np.arange(2000) < 1000, 1, -1).astype(np.float32), (32, 1, 1, 1))
        found = np.where(np.arange(2000) < missing[:, None, None, None], -1, wanted).astype(np.float32)
        made = tally("segmentation", wanted, found, {"threshold": 0.0})
        found_share.append(made.expected / 32)
    low, middle, high = np.quantile(found_share, (0.1, 0.5, 0.9))
    assert low > 0.1 / 47 and 0.4 / 47 < middle < 2.5 / 47 and high < 4 / 47
    assert tally("segmentation", wanted, wanted, {"threshold": 0.0}).expected == 0
    # a sample that holds no mask has none to lose, and all of them show nothing
    empty = np.full_like(wanted, -1.0)
    made = tally("segmentation", empty, empty, {"threshold": 0.0})
    assert (made.expected, made.level, made.kept, made.empty) == (0, None, len(empty), True)
    some = np.concatenate([empty[:1], wanted[1:]])
    assert not tally("segmentation", some, some, {"threshold": 0.0}).empty
    assert tally("segmentation", empty, wanted, {"threshold": 0.0}).kept == 0


def test_perfect_masks_do_not_make_good_ones_uncertain():
    """Of 24 masks 14 are perfect and the others within 0.5 % of that, where 5 % may be lost: none is to be expected."""
    wanted = np.tile(np.where(np.arange(2000) < 1000, 1, -1).astype(np.float32), (24, 1, 1, 1))
    missing = np.r_[np.zeros(14, int), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]
    found = np.where(np.arange(2000) < missing[:, None, None, None], -1, wanted).astype(np.float32)
    assert tally("segmentation", wanted, found, {"threshold": 0.0}).expected < 0.05
    # one that is nearly lost is a sign of others
    found[0, ..., :45] = -1
    assert tally("segmentation", wanted, found, {"threshold": 0.0}).expected > 0.3


@pytest.mark.parametrize("blank", [0, 1, 12, 60, 100])
def test_samples_without_any_noise_do_not_make_others_uncertain(blank):
    wanted = np.random.default_rng(0).normal(size=(128, 1000)).astype(np.float32)
    found = (wanted + 0.02 * np.random.default_rng(1).normal(size=wanted.shape)).astype(np.float32)
    found[:blank] = wanted[:blank]
    assert tally("regression", wanted, found).expected < 0.01


def test_rows_that_one_model_alone_gives_are_lost_and_none_of_both_loses_nothing():
    """Without an axis of samples a batch of no row has no answer: 0 of 0 were lost, and «0.0 % stay» was «broken»."""
    some, none = np.ones((3, 4), np.float32), np.zeros((0, 4), np.float32)
    embedding = reader(OutputPart("embedding", ("y",)))
    nothing = embedding.tally([embedding.rows({"y": none}, {"y": none})])
    assert (nothing.answers, nothing.share, nothing.empty) == (0, 1.0, True)
    assert nothing.standing() is LimitStanding.MET
    made = embedding.tally([embedding.rows({"y": none}, {"y": some})])
    gone = embedding.tally([embedding.rows({"y": some}, {"y": none})])
    assert (made.kept, made.answers) == (gone.kept, gone.answers) == (0, 3) and not made.empty
    assert made.standing() is LimitStanding.MISSED


def test_tokens_that_nearly_change_are_expected_to_change_on_other_texts():
    """By the gap of every position, as of single answers; masked tokens are none, and tokens themselves have no gap."""
    gaps = np.array([0.02, 4.0])
    made = []
    for gap in gaps:
        logits = noise(40, 8, 50, scale=0.1)
        logits[..., 3] = logits.max(axis=-1) + np.float32(gap)
        logits[..., 7] = -np.inf
        found = logits + noise(*logits.shape, scale=0.005)
        made.append(tally("generation", logits, found, {"axis": -1}))
    close, far = made
    assert (close.answers, far.answers) == (320, 320) and far.kept == 320 and far.expected < 0.1
    # errors of two tokens differ by 0.005 * sqrt(2): Phi(-0.02 / 0.0071) or more of the positions
    assert 320 * 0.001 < close.expected < 320 * 0.05
    assert of_tally(close).likely == pytest.approx(max(close.expected, 320 - close.kept) / 320)
    tokens = RNG.integers(0, 9, (4, 8))
    assert tally("generation", tokens, tokens).expected is None
    assert tally("generation", np.zeros((4, 0, 50), np.float32), np.zeros((4, 0, 50), np.float32)).expected is None


@pytest.mark.parametrize("dip", [0.7, 0.74, 0.76, 0.8])
def test_peaks_of_two_people_that_run_into_each_other_stay_however_the_map_falls_between_them(dip):
    """Quantizing moves the dip across the quarter that separates peaks; a peak that is gone is lost all the same."""
    rows, columns = np.mgrid[:24, :24]
    maps = np.zeros((20, 2, 24, 24), np.float32)
    for centre in ((6, 6), (6, 11), (18, 16)):
        maps = np.maximum(maps, np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 2.0, dtype=np.float32))
    maps[:, :, 6, 7:11] = 0.75
    found, gone = maps.copy(), maps.copy()
    found[:, :, 6, 7:11] = dip
    gone[:, :, 14:, :] = 0
    settings = {"axis": -3, "height": 1.0, "several": True, "batch_axis": 0}
    assert tally("regression", maps, found, settings).share == 1.0
    assert tally("regression", found, maps, settings).level == 1.0
    assert tally("regression", maps, gone, settings).share == 0.0
