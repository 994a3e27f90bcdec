from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from toolkit import Context, Model, Precision
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.search.budget.settings import SearchSettings
from toolkit.search.plan_search import PlanSearch
from toolkit.search.plans.range_methods import OUTPUT, methods_of, whole_model
from toolkit.simulation.output_ranges import RangeErrors, range_for_outputs

LOUD = 3
"""The channel with values ten times the others' that hardly counts in the output."""


def loud_rows(count: int = 400) -> np.ndarray:
    rows = normal(1, count, 16, seed=1)
    rows[..., LOUD] *= 10
    return rows


def quiet_weights(outs: int = 8) -> np.ndarray:
    weights = normal(1, outs, 16, seed=2)
    weights[..., LOUD] *= 1e-4
    return weights


@pytest.mark.parametrize("outs", [8, 64])
def test_values_that_count_little_in_the_output_are_cut_off(outs):
    rows, weights = loud_rows(), quiet_weights(outs)
    errors = RangeErrors.of(rows, weights, Precision.INT8)
    best = range_for_outputs([errors], float(np.abs(rows).max()))
    others = np.abs(np.delete(rows, LOUD, axis=2)).max()
    assert best is not None and 0.8 * others < best < 2 * others
    # of the other weights' output the loud channel is the signal
    assert range_for_outputs([RangeErrors.of(rows, normal(1, outs, 16, seed=2), Precision.INT8)], best) > 3 * best


def test_the_noise_is_that_of_the_rounded_input():
    rows, weights = loud_rows(), quiet_weights()
    errors = RangeErrors.of(rows, weights, Precision.INT8)
    for step in (min(errors.noise), max(errors.noise)):
        scale = np.float32(2 ** (step / 8) / 127)
        rounded = np.clip(np.rint(rows / scale), -128, 127) * scale
        wanted, found = (one[0] @ weights[0].T for one in (rows, rounded))
        noise = ((wanted - found) ** 2).sum() / (wanted**2).sum()
        assert errors.noise[step] == pytest.approx(noise, rel=1e-3)


def test_readers_weigh_alike_and_what_is_hardly_better_is_left():
    one, other = RangeErrors({0: 0.1, 1: 0.2, 2: 0.3}, 4.0), RangeErrors({1: 0.5, 2: 0.1, 3: 0.0}, 4.0)
    assert range_for_outputs([one], 2 ** (2 / 8)) == 1.0
    assert range_for_outputs([one, other], 2 ** (1 / 8)) == pytest.approx(2 ** (2 / 8))
    assert range_for_outputs([one, other], 2 ** (2 / 8)) is None
    assert range_for_outputs([], 1.0) is None and range_for_outputs([RangeErrors()], 1.0) is None
    dead = RangeErrors.of(np.zeros((1, 8, 4), np.float32), np.ones((1, 2, 4)), Precision.INT8)
    assert range_for_outputs([dead], 1.0) is None


def test_a_search_with_weights_by_output_has_ranges_by_output_too():
    weights = {"w": np.ascontiguousarray(quiet_weights()[0].T), "v": normal(8, 4, seed=3)}
    nodes = [node("Gemm", ["x", "w"], ["h"], name="h"), node("Gemm", ["h", "v"], ["y"], name="y")]
    model = Model.from_proto(build(nodes, {"x": ["n", 16]}, {"y": ["n", 4]}, weights))
    data = CalibrationData.open([{"x": row[None]} for row in loud_rows(64)[0]], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    settings = SearchSettings(limits={"max_drop": None, "min_sqnr_db": 20.0, "min_agreement": None})

    def simulation(weights):
        return PlanSearch(InsertQDQ(weights=weights), settings, model, context, lambda *given: given[0]).simulation

    sim = simulation("output")
    amax = dict(whole_model(sim))[OUTPUT]
    assert sim.without([], amax).sqnr_db > sim.without([]).sqnr_db + 6
    assert methods_of(sim, {"x": amax["x"]}) == {"x": OUTPUT}
    assert OUTPUT not in dict(whole_model(simulation("mse")))
