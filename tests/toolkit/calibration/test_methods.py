"""From a collection to ranges: methods by pattern, weights of profiles, diagnosis."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.calibration.amax import NAMES, amax_by, clipped, sqnr
from toolkit.calibration.collection import Collection
from toolkit.calibration.diagnosis import sparse_profiles, unlike_profiles, unvaried_inputs
from toolkit.calibration.histogram import Histogram
from toolkit.calibration.methods import make_ranges
from toolkit.contract.findings import Code
from toolkit.contract.ranges import Ranges


def collection() -> Collection:
    made = Collection(samples={("a",): 30, ("b",): 10}, made_from={"model": "m"})
    rng = np.random.default_rng(0)
    for group, scale in ((("a",), 1.0), (("b",), 5.0)):
        made.histogram(group, "conv/in", 4096).add(rng.standard_normal(20_000).astype(np.float32) * scale)
        made.histogram(group, "conv/out", 4096).add(np.abs(rng.standard_normal(20_000)).astype(np.float32))
        made.histogram(group, "dead", 4096).add(np.zeros(100, np.float32))
    made.observe("other", -2.0, 7e5)
    return made


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8], ids=str)
@pytest.mark.parametrize("method", NAMES)
def test_total_and_per_profile(method: str, precision: Precision) -> None:
    made = collection()
    ranges = make_ranges(made, method, precision=precision)
    assert set(ranges.tensors) == {"conv/in", "conv/out", "dead"}
    for name, value in ranges.tensors.items():
        assert value.method == method
        assert value.amax == amax_by(method, made.total(name), precision)
        assert value.per_profile == {p: amax_by(method, made.total(name, p), precision) for p in ("a", "b")}
        assert value.samples == 40
        assert value.diagnosis["amax"][method] == value.amax
    assert ranges.samples == {"a": 30, "b": 10}
    assert ranges.observed["other"] == (-2.0, 7e5)
    assert ranges.observed["conv/in"] == (made.total("conv/in").low, made.total("conv/in").high)
    assert ranges.made_from["model"] == "m"
    assert ranges.made_from["method"] == method


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8], ids=str)
@pytest.mark.parametrize("method", NAMES)
def test_another_amax_has_the_diagnosis_of_its_own(method: str, precision: Precision) -> None:
    made = collection()
    before, wanted = (make_ranges(made, one, precision=precision).tensors for one in ("minmax", method))
    for name, one in before.items():
        found = one.with_amax(one.diagnosis["amax"][method], method)
        assert found == wanted[name]
        assert found.with_amax(one.amax, "minmax") == one


def test_an_amax_that_no_method_chose() -> None:
    made = collection()
    before = make_ranges(made, "minmax").tensors["conv/in"]
    found = before.with_amax(1.0, "output")
    values = made.total("conv/in")
    assert found.amax == 1.0 and found.method == "output"
    assert found.diagnosis["clipped"] == clipped(values, 1.0) > 0.3 > before.diagnosis["clipped"] == 0.0
    assert found.diagnosis["sqnr_db"] == sqnr(values, 1.0, Precision.INT8) < before.diagnosis["sqnr_db"] - 20
    assert found.per_profile == before.per_profile


def test_without_the_values_nothing_is_said_of_another_amax() -> None:
    ranges = make_ranges(collection(), "minmax")
    one = ranges.tensors["conv/in"]
    for copied in (
        copy.deepcopy(one),
        pickle.loads(pickle.dumps(one)),
        Ranges.from_json(ranges.to_json()).tensors["conv/in"],
    ):
        assert copied == one
        found = copied.with_amax(1.0, "entropy")
        assert (found.amax, found.method, found.per_profile) == (1.0, "entropy", {})
        assert found.diagnosis == {k: v for k, v in one.diagnosis.items() if k not in ("clipped", "sqnr_db")}
        assert found.with_amax(one.amax, "minmax").diagnosis == found.diagnosis


def test_methods_by_pattern() -> None:
    ranges = make_ranges(collection(), "minmax", by_pattern={"conv/*": "entropy", "conv/out": "percentile:99"})
    assert {n: r.method for n, r in ranges.tensors.items()} == {
        "conv/in": "entropy", "conv/out": "percentile:99", "dead": "minmax",
    }  # fmt: skip
    with pytest.raises(RangesError, match=r"pattern 'cnv/in' matches no tensor.*Did you mean 'conv/in'"):
        make_ranges(collection(), by_pattern={"cnv/in": "mse"})
    with pytest.raises(RangesError, match=r"there is no method 'entrpy'. Did you mean 'entropy'"):
        make_ranges(collection(), "entrpy")


def test_weights_of_profiles() -> None:
    made = collection()
    by_weight = [
        make_ranges(made, "percentile:99", profile_weights=w).amax("conv/in") for w in ({"b": 0.01}, {}, {"b": 50})
    ]
    assert by_weight == sorted(by_weight)
    assert by_weight[0] < 4 < 10 < by_weight[2]
    with pytest.raises(RangesError, match=r"'c', which has no samples"):
        make_ranges(made, profile_weights={"c": 1})
    with pytest.raises(RangesError, match=r"weight of profile 'a' is -1"):
        make_ranges(made, profile_weights={"a": -1})


def test_the_diagnosis_of_ranges(tmp_path: Path) -> None:
    made = collection()
    made.histogram(("a",), "conv/out", 4096).add(np.array([np.inf, 400.0], np.float32))
    ranges = make_ranges(made, "entropy")
    inside, out, dead = (ranges.tensors[n] for n in ("conv/in", "conv/out", "dead"))
    assert dead.amax == 0
    assert dead.diagnosis["notes"] == ["dead"]
    assert dead.diagnosis["zeros"] == 1.0
    assert inside.diagnosis["notes"] == []
    assert out.diagnosis["notes"] == ["one-sided", "infinite"]
    assert out.diagnosis["nonfinite"] == 1
    assert out.diagnosis["outlier_ratio"] > 50
    assert len(out.diagnosis["histogram"]) == 32
    assert sum(inside.diagnosis["histogram"]) == pytest.approx(1, abs=1e-3)
    assert 30 < inside.diagnosis["sqnr_db"] < 50
    ranges.save(str(tmp_path / "ranges.json"))
    assert json.dumps(Ranges.load(tmp_path / "ranges.json").to_json()) == json.dumps(ranges.to_json())


def test_unlike_and_sparse_profiles() -> None:
    ranges = make_ranges(collection(), "minmax")
    (found,) = unlike_profiles(ranges)
    assert (found.tensor, found.low, found.high) == ("conv/in", "a", "b")
    assert found.ratio == pytest.approx(5, rel=0.2)
    assert unlike_profiles(ranges, 8.0) == []
    assert sparse_profiles(ranges.samples, 20) == {"b": 10}


def sampled(values: list[float], **same: str) -> Collection:
    found = Collection(samples={("a",): 3}, same=same)
    found.histogram(("a",), "x", 4096).add(np.array(values, np.float32))
    return found


def test_inputs_that_do_not_vary() -> None:
    unvaried = Code.UNVARIED_SAMPLES
    assert unvaried_inputs(sampled([0.0] * 3, x="digest", mask="")) == [unvaried(inputs=["x"], samples=3, values=[0.0])]
    # one value throughout, though the shapes differ
    assert unvaried_inputs(sampled([0.5] * 3, x="", mask="")) == [unvaried(inputs=["x"], samples=3, values=[0.5])]
    assert unvaried_inputs(sampled([0.0, 1.0, 2.0], x="digest", mask="")) == [
        unvaried(inputs=["x"], samples=3, values=[None])
    ]
    # a mask may be the same throughout, but not along with everything else
    assert unvaried_inputs(sampled([0.0, 1.0, 2.0], x="", mask="digest")) == []
    both = unvaried_inputs(sampled([0.0, 1.0, 2.0], x="digest", mask="digest"))
    assert both == [unvaried(inputs=["x", "mask"], samples=3, values=[None, None])]
    # ranges hang on a float input though no histogram is its own
    assert unvaried_inputs(sampled([0.0, 1.0], x="", side="digest"), {"x", "side"}) == [
        unvaried(inputs=["side"], samples=3, values=[None])
    ]
    # an input that the model does not use says nothing, whether it is the same or not
    ids = sampled([], ids="digest", unused="")
    ids.tensors.clear()
    assert unvaried_inputs(ids) == [] and unvaried_inputs(ids, used={"ids"}) == [
        unvaried(inputs=["ids"], samples=3, values=[None])
    ]
    ids.same.update(ids="", unused="digest")
    assert unvaried_inputs(ids, used={"ids"}) == []
    one = sampled([0.0, 1.0], x="digest")
    one.samples = {("a",): 1}
    assert unvaried_inputs(one) == []


def test_a_missing_tensor() -> None:
    with pytest.raises(RangesError, match=r"'conv' was not collected. Did you mean"):
        collection().total("conv")
    assert Histogram().used == 0


def test_the_percentile_counts_for_what_a_search_tries_whatever_the_method():
    found = [make_ranges(collection(), "minmax", percentile=percent).tensors["conv/in"] for percent in (60.0, 99.99)]
    assert found[0].amax == found[1].amax and found[0].diagnosis["amax"]["percentile"] < found[1].amax
