"""What a range cuts off the evaluation's values, and when that is more than a range does by design."""

from __future__ import annotations

import math

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal, placeholder_context
from tests.toolkit.search.planted import chain, feeds, simulation, trained
from toolkit import Context, Model
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.calibration.provider import Calibrator
from toolkit.contract.ranges import Range, Ranges
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.clipping import Clipping, clipped_tensor, kept_amax, unlike_data, unlike_warnings
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.evaluate import evaluate
from toolkit.evaluation.node_errors import measure as node_errors
from toolkit.search.causes.weak_spots import weak_spots
from toolkit.search.sensitivity.measure import GroupResult, Sensitivity


def known(amax=1.0, clipped=0.0, sqnr=40.0, **methods):
    return Range(amax, "entropy", (-amax, amax), diagnosis={"amax": methods, "clipped": clipped, "sqnr_db": sqnr})


def seen(values, amax=1.0):
    found = Clipping(amax)
    found.add(np.asarray(values, np.float32))
    return found


def test_what_is_cut_off_is_what_numpy_says_whatever_the_batches():
    values = normal(64, 8, 3, scale=2.0)
    found = Clipping(1.5)
    for batch in np.split(values, 4):
        found.add(batch)
    wide = values.astype(np.float64)
    lost = np.maximum(np.abs(wide) - 1.5, 0.0)
    assert found.values == values.size and found.clipped == (lost > 0).sum() and found.share == (lost > 0).mean()
    assert found.largest == np.abs(values).max()
    assert found.level_db == pytest.approx(10 * math.log10((wide**2).sum() / (lost**2).sum()), abs=1e-3)


def test_masks_and_what_is_no_number_are_left_out():
    found = seen([0.5, -3.0, np.nan, np.inf, -np.inf, -1e9])
    assert (found.values, found.clipped, found.largest) == (2, 1, 3.0)
    assert seen([]).share == 0.0 and seen([np.nan]).largest == 0.0


def test_the_pairs_of_activations_say_what_is_kept():
    model = chain(2)
    InsertQDQ()(model, placeholder_context(3.0))
    assert kept_amax(model) == pytest.approx({"x": 3.0, "r0": 3.0}, rel=2e-3)


@pytest.mark.parametrize(
    ("values", "of", "told"),
    [
        # 2% beyond the range leave 27 dB of 40
        (np.r_[np.full(98, 0.9), 1.3, 1.3], known(), True),
        # the same clipping, where calibration's own is as bad: by design
        (np.r_[np.full(98, 0.9), 1.3, 1.3], known(clipped=0.02), False),
        (np.r_[np.full(98, 0.9), 1.3, 1.3], known(sqnr=26.0), False),
        # one value just outside
        (np.r_[np.full(999, 0.9), 1.05], known(), False),
        # one in a thousand, yet it drowns all else
        (np.r_[np.full(999, 0.9), 60.0], known(), True),
        # a range that was given: judged only where little is left
        (np.r_[np.full(98, 0.9), 1.3, 1.3], Range(1.0, "manual"), False),
        (np.full(100, 3.0), Range(1.0, "manual"), True),
        # a pair that was there before is not calibration's
        (np.full(100, 3.0), known(3.0, mse=2.0), False),
        (np.full(100, 0.9), known(), False),
        (np.full(100, 9.0), None, False),
    ],
)
def test_clipping_counts_where_it_is_far_worse_than_calibration_promised(values, of, told):
    assert (clipped_tensor("t", seen(values), of) is not None) is told


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse"])
@pytest.mark.parametrize("name", ["digits_uneven", "strip_reader"])
def test_data_of_one_kind_raises_no_alarm_however_few_samples(samples, name, method):
    data = "strip" if name == "strip_reader" else "digits"
    float_model = trained(name)
    whole = CalibrationData.open(samples / f"{data}_calibration.npz", float_model)
    few = whole.split(1 - 8 / len(whole))[0]
    model, context = float_model.copy(), Context(provider=Calibrator(few, method=method))
    InsertQDQ()(model, context)
    test = CalibrationData.open(samples / f"{data}_test.npz", float_model, labels=True)
    found = evaluate(float_model, model, test, samples=8, prepared=lambda: model)
    assert set(found.clipping) == set(kept_amax(model)) and found.clipping["image"].values > 1000
    assert unlike_warnings(found.clipping, context.known_ranges, ["image"]) == []


def calibrated(model, scale):
    """The model with pairs whose ranges come from the samples times ``scale``, and the ranges."""
    samples = [{"x": scale * sample["x"]} for sample in feeds(32)]
    paired, context = model.copy(), Context(provider=Calibrator(CalibrationData.open(samples, model)))
    InsertQDQ()(paired, context)
    return paired, context.known_ranges


def test_unlike_data_is_named_once_with_numbers_and_a_cure():
    model = chain(4)
    paired, ranges = calibrated(model, 1 / 3)
    found = evaluate(model, paired, CalibrationData.open(feeds(32), model), prepared=lambda: paired)
    (warning,) = unlike_warnings(found.clipping, ranges, ["x"])
    worst, *others = unlike_data(found.clipping, ranges)
    assert warning.code is EvaluationCode.EVALUATION_LEAVES_RANGES
    said = warning.values
    assert said["worst"] == worst.finding and said["others"] == len(others) > 0
    assert worst.reach == pytest.approx(3, abs=0.5) and worst.calibrated is not None
    assert worst.excess_db == max(one.excess_db for one in (worst, *others))
    assert said["remedy"] == EvaluationCode.CALIBRATE_ALIKE()
    assert said["inputs"] == ("x",) and said["growth"] == pytest.approx([3.0])
    # the float model's own values, which no clipping before them has touched
    values = np.concatenate([sample["x"] for sample in feeds(32)])
    assert found.clipping["x"].largest == pytest.approx(float(np.abs(values).max()))


def test_data_that_uses_a_small_part_of_the_range_is_named_by_its_input():
    model = chain(4)
    for scale, told in ((255.0, True), (2.0, False)):
        paired, ranges = calibrated(model, scale)
        found = evaluate(model, paired, CalibrationData.open(feeds(32), model), prepared=lambda paired=paired: paired)
        warnings = unlike_warnings(found.clipping, ranges, ["x"])
        small = [(one.code, one.values["input"]) for one in warnings]
        assert small == [(EvaluationCode.EVALUATION_INPUT_SMALL, "x")] * told


def test_an_input_that_is_not_quantized_is_watched_by_what_calibration_saw_of_it():
    model = chain(2)
    paired, context = model.copy(), placeholder_context(4.0)
    InsertQDQ(exclude=["layer0"])(paired, context)
    found = evaluate(model, paired, CalibrationData.open(feeds(8), model), prepared=lambda: paired)
    assert found.clipping["x"].amax is None and found.clipping["x"].clipped == 0
    ranges = Ranges(observed={"x": (-900.0, 3.0)})
    (warning,) = unlike_warnings(found.clipping, ranges, ["x"])
    assert warning.values["range"] == 900
    assert unlike_warnings(found.clipping, Ranges(), ["x"]) == unlike_warnings(found.clipping, None, ["x"]) == []


def test_a_tensor_that_is_no_nodes_first_output_is_watched_too_however_tensors_are_grouped(monkeypatch):
    weights = {"w": normal(4, 4), "sizes": np.int64([4, 4])}
    nodes = [node("Split", ["x", "sizes"], ["a", "b"], axis=1), node("MatMul", ["b", "w"], ["m"]),
             node("Add", ["m", "a"], ["y"])]  # fmt: skip
    model = Model.from_proto(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4]}, weights))
    paired = model.copy()
    InsertQDQ()(paired, placeholder_context(1.0))
    data = CalibrationData.open(feeds(24, 8), model)
    whole = evaluate(model, paired, data, prepared=lambda: paired)
    values = np.concatenate([sample["x"][:, 4:] for sample in feeds(24, 8)])
    assert whole.clipping["b"].largest == np.abs(values).max() and whole.clipping["b"].values == values.size
    monkeypatch.setattr(node_errors, "_TAP_BYTES", 1)
    split = evaluate(model, paired, data, prepared=lambda: paired)
    assert split.clipping["b"].clipped == whole.clipping["b"].clipped and split.nodes.keys() == whole.nodes.keys()


def test_a_layer_measured_on_unlike_samples_is_said_to_be_clipped_not_rounded():
    model = chain(4)
    sim = simulation(model, feeds(32))
    sim.ranges.tensors["r0"] = Range(sim.ranges.tensors["r0"].amax / 3, "entropy", diagnosis={
        "amax": {}, "clipped": 0.0, "sqnr_db": 40.0})  # fmt: skip
    sim = type(sim)(model, sim.ranges, sim.data, settings=sim.settings)
    groups = [GroupResult(g.name, g.op, Outcome(1e-2 if g.name == "layer1" else 1e-8), Outcome(1e-3))
              for g in sim.switches.groups]  # fmt: skip
    (spot,) = weak_spots(sim, Sensitivity("exact", groups, Outcome(1e-2)), worst=1)
    assert spot.node == "layer1" and spot.causes[0].kind == "unlike-data"
    assert "rounding" not in {cause.kind for cause in spot.causes}
    clipped = spot.causes[0].why.values
    assert clipped["measured"] is True and clipped["what"].values["reach"] == pytest.approx(3, abs=0.1)


def test_a_profile_that_no_sample_fits_is_said_to_be_unevaluated():
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": ["n", "l"]}, {"y": ["n", "l"]}))
    profiles = Profiles(tuple(ShapeProfile(name, {"x": Extent((1, low), (1, low), (8, high))})
                              for name, low, high in (("short", 2, 8), ("long", 9, 16))))  # fmt: skip
    short = [{"x": normal(1, 4, seed=seed)} for seed in range(5)]
    notes = evaluate(model, model, CalibrationData.open(short, model, profiles)).notes
    assert notes == [EvaluationCode.PROFILE_NOT_EVALUATED(profile="long", samples=5)]
    both = [*short, {"x": normal(1, 12)}]
    assert evaluate(model, model, CalibrationData.open(both, model, profiles)).notes == []
    assert evaluate(model, model, CalibrationData.open(both[-1:], model)).notes == []
