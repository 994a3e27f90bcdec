"""Each method equals its slow reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.toolkit.calibration import reference
from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.calibration import amax as methods
from toolkit.calibration.histogram import Histogram, SummedBins
from toolkit.calibration.interchange import read_ranges
from toolkit.calibration.weights import weight_amax

HERE = Path(__file__).parent
RNG = np.random.default_rng(7)
SHAPES: dict[str, Array] = {
    "normal": RNG.standard_normal(60_000),
    "relu": np.maximum(RNG.standard_normal(60_000), 0),
    "laplace": RNG.laplace(size=60_000),
    "heavy": RNG.standard_t(2, 60_000),
    "uniform": RNG.uniform(-3, 3, 60_000),
    "outlier": np.concatenate([RNG.standard_normal(60_000), [40.0]]),
    "few values": RNG.integers(-4, 5, 5_000) * 0.75,
    "one value": np.full(10, -2.5),
    "softmax": np.exp(3 * RNG.standard_normal((600, 100))) / 100,
    "tiny": RNG.standard_normal(5_000) * 1e-20,
    "just below": np.concatenate([RNG.standard_normal(20_000), [7.999]]),
    "just above": np.concatenate([RNG.standard_normal(20_000), [8.001]]),
}


def histogram(values: Array, bins: int = 4096) -> Histogram:
    made = Histogram(bins)
    made.add(values.astype(np.float32))
    return made


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8], ids=str)
@pytest.mark.parametrize("name", ["relu", "heavy", "outlier", "few values", "one value", "just below", "just above"])
def test_entropy_finds_the_amax_of_the_reference(name: str, precision: Precision) -> None:
    made = histogram(SHAPES[name])
    expected, costs = reference.entropy(made, methods._borders(precision))
    found = methods.entropy(made, precision)
    # two candidates may be as good but for rounding in the sums: their divergences must agree
    near = [kept for kept, cost in costs.items() if cost <= min(costs.values()) + 1e-9]
    _, width = reference.dense(made)
    assert found == pytest.approx(expected, rel=1e-12) or any(
        found == pytest.approx(min(kept * width, made.absmax)) for kept in near
    )


@pytest.mark.parametrize("bins", [4096, 16384])
@pytest.mark.parametrize("name", SHAPES)
def test_entropy_has_2048_bins_or_more(name: str, bins: int) -> None:
    counts, width = SummedBins(histogram(SHAPES[name], bins)).wanted
    assert 2048 <= len(counts) <= 4096
    assert len(counts) * width >= histogram(SHAPES[name]).absmax >= (len(counts) - 1) * width


@pytest.mark.parametrize("values", [*SHAPES.values(), np.zeros(9)], ids=[*SHAPES, "zeros"])
def test_what_is_summed_once_serves_every_method(values: Array) -> None:
    made = histogram(np.append(values, np.zeros(7)))
    counts, summed = made.counts.copy(), SummedBins(made)
    assert (summed.count, summed.zeros) == (values.size + 7, int((values == 0).sum()) + 7)
    for word in (*methods.NAMES, "percentile:90"):
        amax = methods.amax_by(word, summed)
        # in this order: no method may change what the next one reads
        assert amax == methods.amax_by(word, made) == methods.amax_by(word, SummedBins(made))
        assert methods.clipped(summed, amax) == methods.clipped(made, amax)
        assert methods.sqnr(summed, amax, Precision.INT8) == methods.sqnr(made, amax, Precision.INT8)
    assert np.array_equal(made.counts, counts)


def test_entropy_is_not_ruled_by_zeros() -> None:
    values = np.abs(SHAPES["laplace"])
    sparse = np.concatenate([values, np.zeros(3_000_000)])
    assert methods.entropy(histogram(sparse)) == methods.entropy(histogram(values))


def test_entropy_does_not_fall_for_few_values() -> None:
    grey = histogram(RNG.integers(0, 17, 60_000) / 16)
    for precision in (Precision.INT8, Precision.FP8):
        assert methods.entropy(grey, precision) == 1.0


def test_entropy_beside_tensorrt() -> None:
    """The cache was recorded by TensorRT 8.6 from this very input; its own bins depend on the first batch."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((16, 1, 28, 28)) for _ in range(8)])
    made = histogram(x)
    recorded = {kind: read_ranges(HERE / "data" / f"IInt8{kind}Calibrator.cache") for kind in ("MinMax", "Entropy")}
    assert methods.minmax(made) == pytest.approx(recorded["MinMax"].amax("x"), rel=1e-6)
    assert methods.entropy(made) == pytest.approx(recorded["Entropy"].amax("x"), rel=0.1)


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("name", SHAPES)
def test_percentile_is_exact_to_a_bins_width(name: str, percent: float) -> None:
    made = histogram(SHAPES[name])
    exact = reference.percentile(SHAPES[name].astype(np.float32), percent)
    found = methods.percentile(made, percent)
    assert exact <= found * (1 + 1e-6) and found <= exact + made.width * (1 + 1e-6)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_mse_finds_the_least_expected_error(name: str, precision: Precision) -> None:
    made = histogram(SHAPES[name])
    candidates = made.absmax * np.exp2(-np.arange(0, 385, 48) / 64)
    errors = methods.errors(made, candidates, precision)
    for candidate, error in zip(candidates, errors):
        spread = reference.spread_error(made, candidate, str(precision))
        # where the steps are as fine as the reference's points, the reference itself is rough
        floor = made.count * (candidate / precision.max) ** 2 / 50 if precision is Precision.INT8 else spread / 20
        assert error == pytest.approx(spread, rel=2e-3, abs=floor)
    best = methods.mse(made, precision)
    others = made.absmax * np.exp2(-np.arange(193) / 32)
    assert best in others
    assert methods.errors(made, np.array([best]), precision)[0] <= methods.errors(made, others, precision).min()


def test_mse_of_true_values() -> None:
    values = SHAPES["laplace"].astype(np.float32)
    made = histogram(values)
    for amax in (made.absmax, made.absmax / 2, made.absmax / 5):
        for precision in (Precision.INT8, Precision.FP8):
            true = float(np.sum((values - reference.quantize(values, amax, str(precision))) ** 2))
            assert methods.errors(made, np.array([amax]), precision)[0] == pytest.approx(true, rel=0.03)
            sqnr = 10 * np.log10(np.sum(values.astype(float) ** 2) / true)
            assert methods.sqnr(made, amax, precision) == pytest.approx(sqnr, abs=0.15)


def test_the_clipped_share_of_a_normal_distribution() -> None:
    made = histogram(SHAPES["normal"])
    assert methods.clipped(made, 1.0) == pytest.approx(0.3173, abs=0.005)
    assert methods.clipped(made, made.absmax) == 0


@pytest.mark.parametrize("method", methods.NAMES)
def test_a_tensor_of_zeros_or_without_values_has_amax_0(method: str) -> None:
    for values in (np.zeros(10), np.zeros(0)):
        assert methods.amax_by(method, histogram(values)) == 0.0


def test_a_method_is_named_with_its_percentile() -> None:
    made = histogram(SHAPES["normal"])
    assert methods.amax_by("percentile:99", made) == methods.percentile(made, 99)
    for bad in ("entropi", "percentile:x", "mse:3", "percentile:101"):
        with pytest.raises(RangesError):
            methods.amax_by(bad, made)


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8, Precision.INT4], ids=str)
def test_the_amax_of_weights_by_channel_has_the_least_squared_error(axis: int | None, precision: Precision) -> None:
    weights = np.random.default_rng(1).standard_t(3, (4, 6, 9)).astype(np.float32)
    weights[2] = 0
    rows = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    largest = weight_amax(weights, axis, precision=precision)
    # INT4 has -8 below 0, where the others have as many numbers as above
    below = np.float32(7 / 8 if precision is Precision.INT4 else 1)
    assert np.array_equal(largest, np.maximum(rows.max(axis=1), -rows.min(axis=1) * below))
    exact = reference.quantize(rows[0].astype(np.float64), float(largest[0]), str(precision))
    assert np.abs(exact - rows[0]).max() <= float(largest[0]) / (14 if precision is not Precision.FP8 else 28)
    found = weight_amax(weights, axis, "mse", precision)
    for row, top, amax in zip(rows.astype(np.float64), largest, found):
        costs = []
        for step in range(65):
            candidate = float(top) * 2.0 ** (-step / 32)
            costs.append(np.sum((row - reference.quantize(row, candidate, str(precision))) ** 2) if top else 0.0)
        own = float(np.sum((row - reference.quantize(row, float(amax), str(precision))) ** 2)) if top else 0.0
        assert own == pytest.approx(min(costs), rel=1e-4, abs=1e-12)


def test_weights_without_the_axis_the_method_or_finite_values_are_refused() -> None:
    with pytest.raises(RangesError, match=r"no axis 3"):
        weight_amax(np.ones((2, 2)), 3)
    with pytest.raises(RangesError, match=r"no method 'entropy'"):
        weight_amax(np.ones((2, 2)), 0, "entropy")
    with pytest.raises(RangesError, match=r"NaN or infinities"):
        weight_amax(np.array([[np.nan]]), 0)


@pytest.mark.parametrize("floating", [False, True])
def test_candidates_that_clip_too_much_are_left_out_without_another_choice(floating: bool) -> None:
    from toolkit.calibration.kernels_amax import expected_errors, least_error

    random, levels = np.random.default_rng(3), 448.0 if floating else 127.0
    for part in (0.005, 0.1, 1.0) * 20:
        counts = (random.integers(0, 1000, 512) * (random.random(512) < part)).astype(np.int64)
        counts[random.integers(512)] += 1
        amaxes = (np.flatnonzero(counts)[-1] + 1) * 0.01 * np.exp2(-np.arange(129) / 16)
        wanted = int(np.argmin(expected_errors(counts, 0.01, amaxes, levels, floating)))
        assert least_error(counts, 0.01, amaxes, levels, floating) == wanted
