"""What is no number: NaN and infinities in outputs, levels and metrics, and outputs that hold nothing."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from tests.conftest import build, node
from toolkit import Model
from toolkit.base.errors import DataError
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.comparison.outputs import OutputComparison
from toolkit.evaluation.comparison.share_limits import of_tally
from toolkit.evaluation.numerics.difference import Difference, same_argmax
from toolkit.evaluation.numerics.intervals import LimitStanding, standing
from toolkit.evaluation.tasks import AnswerTally, OutputPart, reader

READERS = {
    "classes": ("classification", {}, (6, 5)), "labels": ("classification", {"threshold": 0.0}, (6, 5)),
    "sequence": ("sequence", {}, (6, 4, 5)), "ctc": ("ctc", {}, (6, 4, 5)), "generation": ("generation", {}, (6, 4, 5)),
    "mask": ("segmentation", {"axis": 1}, (6, 3, 4, 4)), "one map": ("segmentation", {"threshold": 0.0}, (6, 1, 4, 4)),
    "vector": ("embedding", {}, (6, 8)), "vectors": ("embedding", {}, (6, 3, 8)), "signal": ("regression", {}, (6, 8)),
    "value": ("regression", {"few": True, "mean": 0.0, "variance": 1.0}, (6, 1)),
    "image": ("regression", {"peak": 2.0}, (6, 3, 4, 4)),
}  # fmt: skip
ODD = [math.nan, math.inf, -math.inf]


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def judged(name, wanted, found) -> AnswerTally:
    task, settings, _ = READERS[name]
    made = reader(OutputPart(task, ("y",), settings))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tally = made.tally([made.rows({"y": wanted}, {"y": found})])
        limit = of_tally(tally)
        assert limit.standing and 0 <= limit.likely <= 1
    figures = (tally.kept, tally.level, tally.lost, tally.expected, tally.independent, *tally.interval)
    assert not any(one is not None and math.isnan(one) for one in figures)
    return tally


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", READERS)
def test_what_the_float_model_gives_too_is_kept(name, odd):
    shape = READERS[name][2]
    for where in (0, (0, ..., 0), slice(None)):
        wanted = values(shape)
        wanted[where] = odd
        tally = judged(name, wanted, wanted.copy())
        assert tally.kept == tally.answers > 0


@pytest.mark.parametrize("name", READERS)
def test_nan_where_the_float_model_has_a_value_is_lost_and_that_alone(name):
    wanted = values(READERS[name][2])
    found = wanted.copy()
    found[0] = math.nan
    tally = judged(name, wanted, found)
    each = tally.answers // 6
    # before a broken vector another one may be the nearest
    assert tally.answers - each - (name.startswith("vector")) <= tally.kept <= tally.answers - each
    if tally.figure.endswith("_db"):
        # it has no level that would count among the others', or widen what is expected of these
        assert tally.level == 150.0 and tally.expected == 1.0


@pytest.mark.parametrize("odd", [math.inf, -math.inf])
@pytest.mark.parametrize("name", ["signal", "value", "image", "vector"])
def test_an_infinity_that_the_other_model_lacks_costs_its_own_sample(name, odd):
    wanted = values(READERS[name][2])
    found = wanted.copy()
    wanted[0] = odd
    tally = judged(name, wanted, found)
    assert 4 <= tally.kept <= 5


@pytest.mark.parametrize("name", READERS)
def test_what_holds_nothing_has_nothing_to_lose(name):
    shape = READERS[name][2]
    nothing = np.zeros((0, *shape[1:]), np.float32)
    assert judged(name, nothing, nothing).answers == 0
    hollow = np.zeros((*shape[:-1], 0), np.float32)
    tally = judged(name, hollow, hollow)
    assert tally.kept == tally.answers


def test_largest_floats_are_scores_too():
    huge = np.full((6, 5), 3e38, np.float32)
    huge[np.arange(6), np.arange(6) % 5] = -3e38
    assert judged("classes", huge, huge).kept == 6
    assert judged("classes", huge, -huge).kept == 0


def test_an_infinite_score_is_the_best():
    wanted, found = np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    wanted[:, 1] = math.inf
    found[:2, 1] = math.inf, 5
    assert same_argmax(wanted, found).tolist() == [True, True, False]
    masked = np.full((1, 3), -math.inf, np.float32)
    assert same_argmax(masked, masked).all()


def test_a_limit_on_what_is_no_number_is_missed():
    reference = Outcome(0.0, metric=0.9, metric_answers=100)
    for limit in ({"max_drop": 0.01}, {"max_relative_drop": 0.5}, {"min_value": 0.1}):
        for higher in (True, False):
            for margin in (0.0, 1.0):
                for answers in (0, 10, 10_000):
                    budget = Budget(**limit, higher_is_better=higher, margin=margin)
                    lost = Outcome(0.0, metric=math.nan, metric_answers=answers)
                    assert budget.lacks(lost, reference) and math.isinf(budget.distance(budget.lacks(lost, reference)))
                    assert not budget.safely(lost, reference) and budget.unproven(lost, reference) is None
    with pytest.raises(DataError, match="the float model's metric is nan on these samples"):
        Budget(max_drop=0.1).lacks(reference, Outcome(0.0, metric=math.nan))
    for lost in (math.nan, math.inf):
        assert standing(lost, 10, 0.01) is standing(lost, 1000, 0.01) is LimitStanding.MISSED


def test_samples_without_a_float_answer_are_said():
    model = Model.from_proto(build([node("Sqrt", ["x"], ["y"])], {"x": ["n", 3]}, {"y": ["n", 3]}))
    compared = OutputComparison(model)
    wanted = np.ones((8, 3), np.float32)
    wanted[2:4, 1] = math.nan
    compared.add({"y": wanted}, {"y": wanted}, None, 8)
    (note,) = [one for one in compared.result().notes if one.code is EvaluationCode.FLOAT_OUTPUT_NAN]
    assert note == EvaluationCode.FLOAT_OUTPUT_NAN(output="y", count=2, samples=8)


def test_masks_are_no_values_whatever_they_were_added_to():
    # -1e9 and a score is a little more than -1e9 in float32
    wanted, found = (values((16, 4, 4), seed) * 100 for seed in (1, 2))
    found = wanted + 0.1 * found
    plain = Difference()
    plain.add(wanted[:, :, 1:], found[:, :, 1:])
    wanted[:, :, 0] -= np.float32(1e9)
    found[:, :, 0] -= np.float32(1e9)
    masked = Difference()
    masked.add(wanted, found)
    masked.follow(wanted)
    assert abs(wanted[:, :, 0]).min() < 1e9 and masked.sqnr_db == pytest.approx(plain.sqnr_db)
    assert not masked.steady
    tally = judged("signal", wanted.reshape(16, -1), found.reshape(16, -1))
    assert tally.level < 30


@pytest.mark.parametrize(("scale", "middle"), [(1e10, 0.0), (1e7, 2.41e9), (3e12, 1.7e12)])
def test_large_values_that_no_mask_stands_for_are_compared_as_small_ones_are(scale, middle):
    # frequencies in Hz, sums in a currency, times in milliseconds
    small, noise = values((400, 1)).astype(np.float64), 0.01 * values((400, 1), 1)
    wanted, found = ((middle + scale * one).astype(np.float32) for one in (small, small + noise))
    large, plain = Difference(), Difference()
    for part in range(0, 400, 40):
        large.add(wanted[part : part + 40], found[part : part + 40])
        large.follow(wanted[part : part + 40])
    plain.add(small, small + noise)
    plain.follow(small)
    true = 10 * math.log10(np.square(wanted, dtype=float).sum() / np.square(wanted - found, dtype=float).sum())
    assert large.sqnr_db == pytest.approx(true, abs=0.05)
    assert large.variation_db == pytest.approx(plain.variation_db, abs=0.05)
    level, least = (judged("value", *pair).level for pair in ((wanted, found), (small, small + noise)))
    assert level < 150 and least < 150


def test_rows_that_are_lost_are_not_identical_to_those_that_there_were():
    """Of 8 samples 6 have no row in either model: nothing differs there, and all rows of the other two are lost."""
    model = Model.from_proto(build([node("Identity", ["x"], ["rows"])], {"x": ["k", 4]}, {"rows": ["k", 4]}, {}))
    for rows, known in ((0, False), (1, True)):
        both, compared = np.ones((rows, 4), np.float32), OutputComparison(model)
        for _ in range(6):
            compared.add({"rows": both}, {"rows": both * 1.01}, None, 1)
        for _ in range(2):
            compared.add({"rows": np.ones((3, 4), np.float32)}, {"rows": np.zeros((0, 4), np.float32)}, None, 1)
        found = compared.result()
        assert ("rows" in found.outputs) is known and found.unlike == {"rows": 2}
        steady = EvaluationCode.OUTPUT_STEADY in [note.code for note in found.notes]
        assert steady is known
