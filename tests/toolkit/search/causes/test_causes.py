"""Causes read off ranges and weights, each with a remedy that exists."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build, node
from tests.toolkit.search.planted import chain
from toolkit import Model, Precision
from toolkit.calibration.diagnosis import ProfileRangeDifference
from toolkit.contract.ranges import Range
from toolkit.graph.layers.layer_weights import LayerWeights
from toolkit.graph.surgery.tensors import make_constant
from toolkit.report.findings import sentence
from toolkit.search.causes.causes import (
    ACTIVATIONS,
    WEIGHTS,
    Cause,
    MethodSetting,
    cheap,
    other_method,
    range_causes,
    rounding,
    weight_causes,
    weight_sqnr_db,
)
from toolkit.search.codes import CauseCode

KEEP = CauseCode.KEEP_FLOAT()


def known(amax=4.0, mse=4.0, **diagnosis):
    return Range(amax, "entropy", diagnosis={"amax": {"mse": mse}, **diagnosis})


def test_the_method_with_less_error_is_named_only_where_its_range_differs():
    assert other_method("t", known(4.0, 4.2)) is None
    assert other_method("t", known(4.0, 2.0)) == MethodSetting("mse", "t")
    assert other_method("t", Range(4.0, "manual")) is None


@pytest.mark.parametrize(
    ("settings", "kind", "remedy"),
    [
        ({"uneven": 20.0, "passes": ["smooth"]}, "uneven-channels", CauseCode.APPLY_PASS(passes=["smooth"])),
        ({"uneven": 20.0}, "uneven-channels", KEEP),
        ({"shared": 5.0}, "shared-scale", CauseCode.EXCLUDE_CONCAT()),
        ({"unlike": ProfileRangeDifference("t", "a", "b", 3.0)}, "profiles", CauseCode.WEIGH_PROFILES()),
    ],
)
def test_each_cause_of_a_range(settings, kind, remedy):
    (cause,) = range_causes("t", known(), **settings)
    assert cause.kind == kind and cause.remedy == remedy and cause.tensor == "t"


def test_outliers_and_few_levels():
    (cause,) = range_causes("t", known(8.0, 2.0, outlier_ratio=9.0, sqnr_db=20.0))
    assert cause.kind == "outliers" and cause.remedy == MethodSetting("mse", "t").remedy() and cause.value == 9.0
    (cause,) = range_causes("t", known(sqnr_db=20.0))
    assert cause.kind == "few-levels" and cause.remedy == KEEP
    assert range_causes("t", known(sqnr_db=40.0, outlier_ratio=1.5)) == []


def test_rounding_says_which_operand_carries_it_and_what_becomes_of_it():
    cause = rounding({WEIGHTS: 45.0, ACTIVATIONS: 30.0}, 0.1, both=29.9, alone=20.0, one_sided=True)
    said = cause.why.values
    assert (said["sqnr_db"], said["alone_db"], said["measured"]) == (29.9, 20.0, True)
    assert said["one_sided"] and not said["even"] and "the activations carry most" in sentence(cause.why)
    assert "add 9.9 dB of loss: 20.0 dB at the output" in sentence(cause.why)
    assert cause.remedy == CauseCode.KEEP_FLOAT_SHARE(share=0.1, tried=True)
    assert "mask 10.0 dB" in sentence(rounding({WEIGHTS: 30.0}, 0.1, both=30.0, alone=40.0).why)
    assert rounding({WEIGHTS: 30.0, ACTIVATIONS: 30.5}, 0.1, both=27.0).why.values["even"]
    # where nothing was run it is an estimate, and nothing is said about settings that were not tried
    guess = rounding({WEIGHTS: 30.0, ACTIVATIONS: 30.0}, 0.1)
    assert guess.why.values["sqnr_db"] == pytest.approx(27.0, abs=0.1) and not guess.why.values["measured"]
    assert guess.remedy == CauseCode.KEEP_FLOAT_SHARE(share=0.1, tried=False)
    setting = MethodSetting("mse", "t").remedy(26.0, 20.0, "activations")
    assert rounding({WEIGHTS: 30.0, ACTIVATIONS: 20.0}, 0.1, both=19.6, remedy=setting).remedy == setting
    assert sentence(setting).endswith("(26.0 dB instead of 20.0 dB from the activations)")


def test_weights_by_input_channel_and_their_own_sqnr():
    model = chain(2, 32)
    weight = np.array(model.constant(model.node("layer0").inputs[1]))
    even = LayerWeights(model, model.node("layer0"))
    assert weight_causes(even, "w", Precision.INT8, lambda: "equalize") == []
    weight[5] *= 100
    model.node("layer0").inputs[1] = make_constant("uneven", weight)
    layer = LayerWeights(model, model.node("layer0"))
    (cause,) = weight_causes(layer, "uneven", Precision.INT8, str)
    assert cause.value > 50 and cause.remedy == KEEP
    assert weight_causes(layer, "uneven", Precision.INT8, lambda: "equalize")[0].remedy == CauseCode.APPLY_PASS(
        passes=["equalize"]
    )
    assert weight_causes(layer, "uneven", Precision.FP8, lambda: "equalize") == []
    # a step of amax / 127, errors uniform within it
    flat = np.linspace(-1, 1, 20_001, dtype=np.float32).reshape(-1, 1)
    expected = 10 * np.log10(np.mean(flat.astype(np.float64) ** 2) / ((1 / 127) ** 2 / 12))
    assert weight_sqnr_db(flat, 1, Precision.INT8) == pytest.approx(expected, abs=0.1)


def test_ranges_by_channel_are_those_of_the_weight_whatever_its_layout():
    weight = np.random.default_rng(0).standard_normal((6, 2, 3), np.float32)
    grouped = Model.from_proto(build([node("Conv", ["x", "w"], ["y"], name="c", group=2)],
                                     {"x": [1, 4, 8]}, {"y": [1, 6, 6]}, {"w": weight}))  # fmt: skip
    layer = LayerWeights(grouped, grouped.node("c"))
    into = np.abs(weight).reshape(2, 3, 2, 3).max(axis=(1, 3)).reshape(-1)
    for _ in range(2):
        np.testing.assert_array_equal(layer.in_range(), into)
        np.testing.assert_array_equal(layer.out_range(), np.abs(weight).max(axis=(1, 2)))
        assert layer.shape == layer.weight.shape == (6, 2, 3)
    layer.scale_in(np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(layer.in_range(), into * [1, 2, 3, 4])


def test_cheap_names_share_and_weights():
    layer = LayerWeights(model := chain(2, 32), model.node("layer0"))
    assert cheap(0.5, layer) is None
    assert cheap(0.01, layer).why == CauseCode.CHEAP_TO_KEEP(share=0.01, weights=1024, channels=None)


def test_the_setting_advised_is_toml_whatever_the_name():
    tomllib = pytest.importorskip("tomllib")
    for name in ("it's", 'a"b', "a\nb", "[0]", "a\\b"):
        text = sentence(other_method(name, known(4.0, 2.0)).remedy())
        section, _, rest = text.removeprefix("set ").partition(" ")
        assert tomllib.loads(f"{section}\n{rest}") == {"calibration": {"methods": {name: "mse"}}}


def test_rounding_that_costs_nothing_is_no_trouble():
    cause = rounding({WEIGHTS: float("inf")}, 0.5, alone=30.0)
    assert cause.value == float("inf") and Cause.from_json(cause.to_json()) == cause
    assert "exact at the layer itself" in sentence(cause.why) and "inf" not in sentence(cause.why)
