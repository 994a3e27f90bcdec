"""Weak spots of a run without a search, read off its ranges and weights."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.toolkit.analysis.planted import chain, feeds
from toolkit import Context
from toolkit.calibration.provider import Calibrator
from toolkit.data import CalibrationData
from toolkit.model import make_constant
from toolkit.report.schema import Asked, LayerInfo
from toolkit.report.weak import weak_spots_from_ranges


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
    assert len(set(rounding)) == 3 and all("about" in text and "weights" in text for text in rounding)
    # MatMul has no partner for equalize: it must not be advised
    assert not any("equalize" in cause.remedy for spot in spots.values() for cause in spot.causes)


def test_the_sides_are_what_calibration_and_weights_say(quantized):
    model, ranges = quantized
    (spot,) = weak_spots_from_ranges(infos("layer3"), infos("layer3"), model, ranges)
    (cause,) = [cause for cause in spot.causes if cause.kind == "rounding"]
    level = ranges.tensors["r2"].diagnosis["sqnr_db"]
    assert f"activations {level:.1f} dB" in cause.text and cause.value < level


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
