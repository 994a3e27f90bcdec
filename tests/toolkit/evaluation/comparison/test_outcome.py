"""What an outcome says of samples, in cases whose answer is known by construction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import build, node
from toolkit import Model
from toolkit.base.errors import RecipeError
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.outcome import Outcome, compare, expected_flips, summed, varying_shares
from toolkit.evaluation.comparison.outputs import OutputComparison
from toolkit.evaluation.tasks import AnswerTally, OutputPart, chance

RNG = np.random.default_rng(0)


def scores(samples, positions=1, classes=5, scale=1.0):
    return (RNG.standard_normal((samples, positions, classes)) * scale).astype(np.float32)


def test_what_scores_tell_does_not_depend_on_how_many_there_are():
    # more positions than are looked at at a time
    wanted, found = scores(40, 9, 500, 3.0), scores(40, 9, 500, 0.1)
    found += wanted
    outcome = summed([compare({"y": wanted}, {"y": found}, ["y"])])
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True) for x in (wanted, found))
    assert outcome.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-5)
    best = np.sort(wanted, axis=-1).reshape(-1, 500)
    part = compare({"y": wanted}, {"y": found}, ["y"])
    np.testing.assert_array_equal(part.gaps["y"], best[:, -1] - best[:, -2])
    np.testing.assert_allclose(part.errors["y"], (found - wanted).var(axis=-1, ddof=1).reshape(-1), rtol=1e-5)


def test_the_divergence_of_probabilities_is_that_of_their_scores():
    wanted = scores(20, 3, 40, 3.0)
    found = wanted + scores(20, 3, 40, 0.2)
    wide = [x.astype(np.float64) for x in (wanted, found)]
    shares = [(np.exp(x) / np.exp(x).sum(-1, keepdims=True)).astype(np.float32) for x in wide]
    of_scores, of_shares = (summed([compare({"y": a}, {"y": b}, ["y"])]).kl for a, b in ((wanted, found), shares))
    assert of_scores is not None and of_scores > 0.01
    assert of_shares == pytest.approx(of_scores, rel=1e-3)
    # a class that neither gives any probability does not count
    none = [np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1) for x in shares]
    assert summed([compare({"y": none[0]}, {"y": none[1]}, ["y"])]).kl == pytest.approx(of_scores, rel=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 100.0, 1e4])
def test_a_divergence_has_its_digits_however_small_or_large_it_is(scale):
    wanted = scores(20, 3, 400, 3.0)
    found = wanted + np.float32(scale) * scores(20, 3, 400)
    logs = [
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (wanted, found)
    ]
    kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean()
    assert summed([compare({"y": wanted}, {"y": found}, ["y"])]).kl == pytest.approx(kl, rel=1e-3)


def test_expected_flips_of_even_errors_is_what_happens_on_average():
    wanted = RNG.standard_normal((4000, 2)).astype(np.float32)
    best = np.sort(wanted, axis=1)
    noise = 0.2
    flipped = np.mean(
        [((wanted + RNG.standard_normal(wanted.shape) * noise).argmax(1) != wanted.argmax(1)).mean() for _ in range(20)]
    )
    found = expected_flips(best[:, 1] - best[:, 0], np.full(4000, noise**2, np.float32))
    assert found == pytest.approx(flipped, rel=0.1)


def test_how_many_near_ties_few_samples_happen_to_hold_decides_little():
    random = np.random.default_rng(3)
    draws = [random.exponential(1.2, 64).astype(np.float32) for _ in range(400)]
    errors = np.full(64, 0.0145**2, np.float32)
    # second class over first: the density of gaps at 0 times what errors reach on average, sqrt(2 variance / (2 pi))
    truth = 0.0145 / np.sqrt(np.pi) / 1.2
    low, middle, high = np.quantile([expected_flips(gaps, errors) for gaps in draws], [0.05, 0.5, 0.95]) / truth
    # gaps as they are: 0.06, 1 and 2.4
    assert low > 0.25 and 0.8 < middle < 1.2 and high < 2.1


@pytest.mark.parametrize("noise", [0.2, 0.5])
def test_winners_that_are_all_far_ahead_are_not_doubted_and_near_ties_among_them_are(noise):
    random, errors = np.random.default_rng(3), np.full(64, noise**2)
    far = 4 + random.exponential(4, 64)
    assert expected_flips(far, errors) < 0.001
    ties = np.where(np.arange(64) < 8, random.uniform(0, 0.05, 64), far)
    # each of eight has nearly even odds
    assert 0.02 < expected_flips(ties, errors) < 0.08


def test_scores_without_a_second_class_say_nothing_of_the_others():
    gaps, errors = np.array([0.1, 1e9, 1e9, 1e9]), np.full(4, 0.01)
    assert expected_flips(gaps, errors) == pytest.approx(0.06, abs=0.01)


def test_a_few_positions_that_are_quite_wrong_do_not_blame_the_others():
    # as after a TopK that swaps two entries: one in twenty is another entry's, the others are exact
    errors = np.zeros(2000, np.float32)
    errors[::20] = 100.0
    # each bad one has even odds; blaming every position for the mean variance would say 0.33
    assert 0.015 < expected_flips(np.ones(2000, np.float32), errors) < 0.05


def test_scores_that_lost_all_meaning_are_expected_to_change_half_of_the_time():
    errors = np.asarray([np.inf, np.inf, np.nan], np.float32)
    assert expected_flips(np.ones(3, np.float32), errors) == pytest.approx(0.5)


def test_positions_of_one_sample_go_wrong_together():
    wanted = scores(50, positions=32)
    found = wanted.copy()
    found[:5] = -found[:5]
    outcome = summed([compare({"y": wanted}, {"y": found}, ["y"])])
    assert outcome.agreement == pytest.approx(0.9, abs=0.01)
    assert outcome.agreement_error == pytest.approx(0.3 / 50**0.5, rel=0.05)
    lack = Budget(min_agreement=0.9, margin=1.0).lacks(outcome, outcome)["min_agreement"]
    assert lack > 0.03, "with 1,600 positions taken for independent it would be a fifth of that"


def test_noise_louder_than_what_varies_misses_any_budget_without_a_metric():
    wanted = np.broadcast_to(scores(1, classes=50), (40, 1, 50)) + scores(40, classes=50, scale=1e-3)
    noise = scores(40, classes=50, scale=3e-3)
    parts = [compare({"y": wanted}, {"y": wanted + noise}, [])]
    outcome = summed(parts, varying=varying_shares([{"y": wanted}]))
    assert outcome.sqnr_db > 40 and outcome.variation_db == pytest.approx(-9.5, abs=1.0)
    assert set(Budget(min_sqnr_db=20).lacks(outcome, outcome)) == {"variation_db"}
    quiet = summed([compare({"y": wanted}, {"y": wanted + noise / 100}, [])], varying=varying_shares([{"y": wanted}]))
    assert Budget(min_sqnr_db=20).lacks(quiet, quiet) == {}
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_how_many_samples_a_share_takes():
    assert Budget(min_agreement=0.95).enough() == 60
    assert Budget(min_agreement=0.95, max_drop=0.01).enough() == 300
    assert Budget(min_sqnr_db=20).enough() == Budget(max_drop=0.1, higher_is_better=False).enough() == 0


def test_a_budget_is_kept_safely_only_with_twice_the_margin():
    outcome, reference = Outcome(10**-2.15), Outcome(0.0)
    assert Budget(min_sqnr_db=20, margin=1.0).lacks(outcome, reference) == {}
    assert not Budget(min_sqnr_db=20, margin=1.0).safely(outcome, reference)
    assert Budget(min_sqnr_db=20, margin=0.5).safely(outcome, reference)


def test_integers_count_element_by_element_and_alone_where_there_are_no_floats():
    wanted = np.arange(12, dtype=np.int64).reshape(4, 3)
    found = wanted.copy()
    found[0, :2] = 99
    outcome = summed([compare({"ids": wanted}, {"ids": found}, [])])
    assert outcome.agreement == outcome.noise * -1 + 1 == pytest.approx(10 / 12) and outcome.positions == 12
    assert outcome.agreement_error > 0
    assert Budget(min_agreement=0.9).lacks(outcome, outcome)
    floats = scores(4, classes=3)[:, 0]
    both = summed([compare({"ids": wanted, "y": floats}, {"ids": found, "y": floats}, ["y"])])
    assert both.noise == 0.0 and both.agreement == pytest.approx(10 / 12)


def test_a_shape_among_the_outputs_does_not_stand_for_the_positions():
    floats, shape = scores(40)[:, 0], np.array([40, 5])
    outcome = summed([compare({"y": floats, "shape": shape}, {"y": floats, "shape": shape}, ["y"])])
    assert outcome.agreement == 1.0 and outcome.positions == 40


def test_an_output_of_another_shape_is_lost_and_an_empty_one_is_nothing():
    wanted = np.abs(scores(4)[:, 0]) + 1
    outcome = summed([compare({"boxes": wanted}, {"boxes": wanted[:3]}, ["boxes"])])
    assert outcome.noise == pytest.approx(1 + (wanted[:3] ** 2).sum() / (wanted**2).sum())
    assert outcome.agreement == 0.0 and outcome.positions == 4
    ids = summed([compare({"ids": np.zeros(3, np.int64)}, {"ids": np.zeros(0, np.int64)}, [])])
    assert ids.agreement == 0.0 and ids.noise == 1.0
    empty = summed([compare({"y": wanted[:0]}, {"y": wanted[:0]}, ["y"])], varying=varying_shares([{"y": wanted[:0]}]))
    assert empty.noise == 0.0 and empty.agreement is None


@pytest.mark.filterwarnings("error")
def test_a_class_masked_by_infinity_is_none():
    wanted = scores(50)[:, 0]
    found = wanted + np.float32(0.01) * scores(50)[:, 0]
    whole = summed([compare({"y": wanted}, {"y": found}, ["y"])])
    mask = np.array([0, 0, 0, 0, -np.inf], np.float32)
    masked = summed([compare({"y": wanted + mask}, {"y": found + mask}, ["y"])])
    assert 0 < masked.kl < 0.1 and 0 <= masked.flips < 0.1 and whole.flips < 0.1


def test_agreement_that_nothing_can_be_judged_by_is_no_budget():
    outcome = summed([compare({"y": scores(4)}, {"y": scores(4)}, [])])
    with pytest.raises(RecipeError, match="min_agreement cannot be judged"):
        Budget(min_agreement=0.9).lacks(outcome, outcome)


def test_an_embedding_is_not_judged_by_its_argmax():
    wanted = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    found = wanted + np.float32(0.01)
    for task, judged in (("embedding", False), ("classification", True)):
        answers = Answers([OutputPart(task, ("y",))])
        made = summed([compare({"y": wanted}, {"y": found}, ["y"], answers)], answers=answers)
        assert (made.kl is not None, made.flips is not None, made.of_classes) == (judged, judged, judged)
        assert made.kept is not None and made.output == "y"


def detected(swap):
    """Fifty samples of two boxes far apart, in the other order in some: the same detections, entry by entry noise."""
    rows = np.float32([[10, 10, 50, 50, 0.9, 1], [60, 60, 90, 90, 0.8, 0]])
    wanted = np.tile(rows, (50, 1, 1)) + np.arange(50, dtype=np.float32)[:, None, None] * [[[0.1] * 4 + [0, 0]]]
    found = wanted.copy()
    found[:swap] = found[:swap, ::-1]
    return np.float32(wanted), np.float32(found)


def test_detections_that_all_stay_miss_no_limit_on_the_noise_of_their_entries():
    wanted, found = detected(swap=25)
    part = OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.5})
    budget = Budget(by_task=True, margin=0.0)
    for answers, missed in ((Answers([part]), set()), (None, {"sqnr_db", "variation_db"})):
        batches = [compare({"y": wanted[i : i + 10]}, {"y": found[i : i + 10]}, [], answers) for i in range(0, 50, 10)]
        outcome = summed(batches, varying=varying_shares([{"y": wanted}]), answers=answers)
        assert outcome.sqnr_db < 12 and outcome.kept == (1.0 if answers else None)
        assert outcome.by_entry is (answers is None) and (outcome.variation_db is None) is (answers is not None)
        lacks = budget.lacks(replace(outcome, noise=0.6), Outcome(0.0))
        assert set(lacks) == missed


def test_what_is_beside_detections_is_still_held_by_its_noise():
    wanted, found = detected(swap=0)
    mask = RNG.standard_normal((50, 8)).astype(np.float32)
    answers = Answers([OutputPart("detection", ("y",), {"layout": "rows", "threshold": 0.5})])
    noisy = mask + 2 * RNG.standard_normal(mask.shape).astype(np.float32)
    outcome = summed(
        [compare({"y": wanted, "m": mask}, {"y": found, "m": noisy}, [], answers)],
        varying=varying_shares([{"y": wanted, "m": mask}]), answers=answers,
    )  # fmt: skip
    assert outcome.by_entry and outcome.variation_db < 0
    assert set(Budget(by_task=True).lacks(outcome, Outcome(0.0))) == {"sqnr_db", "variation_db"}


@pytest.mark.filterwarnings("error")
def test_a_divergence_beyond_float32s_range_is_measured_without_a_warning():
    wanted, found = np.float32([[3e38, -3e38, 0.0]]), np.float32([[-3e38, 3e38, 0.0]])
    assert summed([compare({"y": wanted}, {"y": found}, ["y"])]).kl == pytest.approx(6e38)


@pytest.mark.parametrize(("flips", "lacks"), [(0.0, False), (1e-8, False), (1e-6, True)])
def test_less_than_one_answer_of_ten_million_that_is_expected_to_change_is_none(flips, lacks):
    reference = Outcome(0.0, agreement=1.0, flips=0.0, metric=0.605, positions=64, metric_answers=64)
    outcome = replace(reference, noise=3e-7, flips=flips)
    assert bool(Budget(max_drop=0.0, margin=1.0).lacks(outcome, reference)) is lacks


@pytest.mark.parametrize("answers", [1000, 20_000_000])
def test_one_answer_that_was_lost_counts_out_of_however_many(answers):
    reference = Outcome(0.0, agreement=1.0, flips=0.0, metric=0.9, positions=answers, metric_answers=answers)
    outcome = replace(reference, noise=1e-4, agreement=1 - 1 / answers, metric=0.9 - 1 / answers)
    assert list(Budget(min_agreement=1.0).lacks(outcome, reference)) == ["min_agreement"]
    assert list(Budget(max_drop=0.0).lacks(outcome, reference)) == ["max_drop"]
    assert not Budget(max_drop=0.0, min_agreement=1.0).lacks(reference, reference)


def test_gaps_far_beyond_their_errors_count_as_sure_and_unknown_ones_as_unknown():
    gaps, errors = np.array([0.0, 1.0, 26.0, 27.4, 27.6, 1e6]), np.full(6, 0.25)
    exact = np.mean([0.5 * math.erfc(gap / math.sqrt(2 * 0.25) / math.sqrt(2)) for gap in gaps])
    assert chance._overtaken(gaps, errors) == exact == pytest.approx((0.5 + 0.0786) / 6, abs=1e-4)
    gaps[3] = np.nan
    assert math.isnan(chance._overtaken(gaps, errors))


class Whole:
    """A value that is not to be copied."""

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


def test_writing_an_outcome_copies_no_value():
    """Each layer's outcome is written when it is measured, with a tally for each output, of which there may be hundreds."""
    setting = Whole()
    part = OutputPart("regression", ("y",), {"axis": setting}, (1, 0, 3))
    tally = AnswerTally(part, 3.0, 4, 0.99)
    content = Outcome(np.inf, parts=(1.0, 2.0), tallies=(tally,), noises=(("y", 0.5),)).to_json()
    (told,) = content["tallies"]
    assert told["part"] == {
        "task": "regression",
        "outputs": ["y"],
        "settings": {"axis": setting},
        "channels": (1, 0, 3),
    }
    assert (told["kept"], content["noise"], content["parts"], content["noises"]) == (
        3.0,
        "inf",
        [1.0, 2.0],
        [["y", 0.5]],
    )


def test_quantized_outputs_are_compared_as_the_floats_that_they_stand_for():
    part = OutputPart("classification", ("y",), {"batch_axis": 0, "axis": -1, "quantized": [[0.5, 3.0]]})
    wanted, found = np.uint8([[13, 3, 5], [3, 23, 4]]), np.uint8([[14, 3, 6], [3, 22, 4]])
    # (q - 3) / 2: the signal's power is 25 + 1 + 100 + 0.25, that of the noise 3 / 4
    level = 10 * np.log10(126.25 / 0.75)
    graph = build([node("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": ["n", 3]}, {"y": ["n", 3]},
                  {"s": np.float32(0.5), "z": np.uint8(3)}, types={"y": TensorProto.UINT8})  # fmt: skip
    comparison = OutputComparison(Model.from_proto(graph), answers=Answers([part]))
    comparison.add({"y": wanted}, {"y": found}, None, 2)
    result = comparison.result()
    assert result.discrete == [] and result.beside == {}
    assert result.outputs["y"].sqnr_db == pytest.approx(level) and result.outputs["y"].agreement == 1.0
    assert result.outputs["y"].max_abs == 0.5
    outcome = summed([compare({"y": wanted}, {"y": found}, ["y"], Answers([part]))])
    assert 10 * np.log10(1 / outcome.noise) == pytest.approx(level) and outcome.agreement == 1.0
