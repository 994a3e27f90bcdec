"""Weak spots of a run without a search, read off its ranges and weights."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.toolkit.search.planted import chain, feeds
from toolkit import Context
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.clipping import ClippedTensor
from toolkit.graph.surgery.tensors import make_constant
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.weak import blame_data, data_advice, weak_spots_from_ranges
from toolkit.report.findings import sentence
from toolkit.report.schema.report import Asked, LayerError, LayerInfo
from toolkit.report.schema.search import CauseInfo, WeakSpotInfo
from toolkit.search.codes import CauseCode


@pytest.fixture
def quantized():
    """A chain with pairs whose layer2 has one strong input channel and whose layer1's input has outliers."""
    model = chain(4, 64)
    weight = np.array(model.constant(model.node("layer2").inputs[1]))
    weight[7] *= 200
    model.node("layer2").inputs[1] = make_constant("uneven", weight)
    samples = feeds(64, 64)
    samples[3]["x"][0, 5] = 300.0
    context = Context(provider=Calibrator(CalibrationData.open(samples, model), method="minmax"))
    InsertQDQ()(model, context)
    return model, context.known_ranges


def infos(*names, macs=1000):
    return [LayerInfo(node=n, op="MatMul", asked=Asked(precision="int8"), macs=macs) for n in names]


def test_each_layer_gets_its_own_causes(quantized):
    model, ranges = quantized
    before = model.fingerprint()
    blamed = infos("layer0", "layer2", "layer3")
    spots = {spot.node: spot for spot in weak_spots_from_ranges(blamed, infos("a", "b", *("cdefghij")), model, ranges)}
    assert model.fingerprint() == before
    assert list(spots) == ["layer0", "layer2", "layer3"] and all(s.source == "ranges" for s in spots.values())
    kinds = {name: {cause.kind for cause in spot.causes} for name, spot in spots.items()}
    assert "outliers" in kinds["layer0"] and "uneven-weights" in kinds["layer2"]
    assert not {"outliers", "uneven-weights"} & kinds["layer3"]
    rounding = [cause.text for spot in spots.values() for cause in spot.causes if cause.kind == "rounding"]
    assert len(set(rounding)) == 3 and all("estimated" in text and "weights" in text for text in rounding)
    # MatMul has no partner for equalize: it must not be advised
    assert not any("equalize" in cause.remedy for spot in spots.values() for cause in spot.causes)


def test_the_sides_are_what_calibration_and_weights_say(quantized):
    model, ranges = quantized
    (spot,) = weak_spots_from_ranges(infos("layer3"), infos("layer3"), model, ranges)
    (cause,) = [cause for cause in spot.causes if cause.kind == "rounding"]
    level = ranges.tensors["r2"].diagnosis["sqnr_db"]
    assert f"activations {level:.1f} dB" in cause.text and cause.value < level


@pytest.mark.parametrize(("error", "told"), [
    ({"sqnr_db": 35.0, "drop_db": 4.0}, "ROUNDING"), ({"sqnr_db": 0.1, "drop_db": 38.6}, "ROUNDING_OF_SMALL"),
    ({"sqnr_db": 0.1, "drop_db": None}, "ROUNDING_OF_SMALL"), ({"sqnr_db": 3.0, "drop_db": 0.1}, "ROUNDING_OF_SMALL"),
    ({"sqnr_db": 3.0, "drop_db": -0.1}, "ROUNDING"), ({"sqnr_db": 30.0, "drop_db": 0.0}, "ROUNDING"), (None, "ROUNDING"),
])  # fmt: skip
def test_rounding_that_the_operands_do_not_explain_is_told_as_that_of_small_values(quantized, error, told):
    """One channel was 5,000 times the others: 0.1 dB were put down to activations that have 40 dB as a whole."""
    model, ranges = quantized
    (layer,) = infos("layer3")
    layer.error = LayerError(**error, max_abs=1.0) if error is not None else None
    (spot,) = weak_spots_from_ranges([layer], infos("layer3"), model, ranges)
    (cause,) = [cause for cause in spot.causes if cause.kind == "rounding"]
    small = told == "ROUNDING_OF_SMALL"
    assert ("far larger than the others" in cause.text) is small and ("an estimated" in cause.text) is not small
    assert ("smooth" in cause.remedy) is small


def test_nothing_is_said_where_nothing_is_known(quantized):
    model, ranges = quantized
    assert weak_spots_from_ranges([], [], model, ranges) == []
    assert weak_spots_from_ranges(infos("layer0"), infos("layer0"), model, None) == []
    assert weak_spots_from_ranges(infos("nowhere"), infos("nowhere"), model, ranges) == []
    kept = [LayerInfo(node="layer0", op="MatMul")]
    assert weak_spots_from_ranges(kept, kept, model, ranges) == []


def test_a_scale_that_others_force_is_named(quantized):
    model, ranges = quantized
    own = ranges.tensors["r2"]
    from dataclasses import replace

    ranges.tensors["r2"] = replace(own, amax=own.amax / 5)
    (spot,) = weak_spots_from_ranges(infos("layer3"), infos("layer3"), model, ranges)
    (cause,) = [cause for cause in spot.causes if cause.kind == "shared-scale"]
    assert cause.value == pytest.approx(5, rel=0.02)


def test_a_range_that_no_pair_uses_says_nothing_of_a_layer(quantized):
    model, ranges = quantized
    relu = [LayerInfo(node="r1", op="Relu", asked=Asked(precision="int8"), macs=1)]
    # the Relu's own input has no pair
    ranges.tensors["m1"] = ranges.tensors["x"]
    assert model.node("r1").inputs[0].name == "m1"
    assert weak_spots_from_ranges(relu, relu, model, ranges) == []


def test_clipping_on_unlike_data_comes_first_and_takes_the_place_of_a_guess_at_rounding(quantized):
    model, ranges = quantized
    beyond = ClippedTensor("r2", 2.1, 0.045, 0.00009, 19.3, 40.0)
    spots = weak_spots_from_ranges(infos("layer3", "layer2"), infos("layer3", "layer2"), model, ranges)
    first, second = blame_data(spots, model, [beyond])
    assert [cause.kind for cause in first.causes] == ["unlike-data"] and first.causes[0].tensor == "r2"
    assert first.causes[0].text == sentence(CauseCode.CLIPPED_ON_UNLIKE_DATA(what=beyond.finding, measured=False))
    assert first.causes[0].remedy == sentence(EvaluationCode.CALIBRATE_ALIKE())
    assert second == spots[1] and blame_data(spots, model, []) == spots
    # what a search measured is kept after it, and what it found itself is not said twice
    measured = WeakSpotInfo(node="layer3", source="search", causes=[CauseInfo(kind="rounding", text="t", remedy="r")])
    (told,) = blame_data([measured], model, [beyond])
    assert [cause.kind for cause in told.causes] == ["unlike-data", "rounding"]
    assert blame_data([told], model, [beyond]) == [told]
    (first,) = data_advice([beyond])
    assert first.finding == ReportCode.FIRST_MEND_DATA(tensor="r2", remedy=EvaluationCode.CALIBRATE_ALIKE())
    assert data_advice([]) == []


def test_a_range_that_was_given_is_not_blamed_on_data():
    given = ClippedTensor("r2", 20.0, 0.8, None, 1.7, None)
    assert given.remedy == EvaluationCode.CALIBRATE_THIS_RANGE() and given.finding.values["calibrated"] is None
