"""Rounding to a type's grid is what onnxruntime's Q/DQ pairs and ml_dtypes do, bit for bit."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from tests.conftest import build, node, run
from toolkit import Model, Precision
from toolkit.calibration.weights import weight_amax
from toolkit.placement.existing import pairs_of
from toolkit.placement.grid import on_grid, quantized, spread
from toolkit.placement.qdq import storable_scale
from toolkit.search.causes.causes import weight_sqnr_db
from toolkit.simulation.switches import fake_quantized

TYPES = [precision for precision in Precision if precision.quantized]
FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)
EVERY_E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def pair(precision, scale, block=0):
    """A model of one Q/DQ pair."""
    attrs = {"axis": 0, "block_size": block} if block else {}
    zero = np.zeros(scale.shape).astype(helper.tensor_dtype_to_np_dtype(precision.onnx_type))
    proto = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs), node("DequantizeLinear", ["q", "s"], ["y"], **attrs)],
        {"x": [4, 6]}, {"y": [4, 6]}, {"s": scale, "z": zero}, opset=21, ir_version=10,
    )  # fmt: skip
    return Model.from_proto(proto)


@pytest.mark.parametrize("precision", TYPES)
@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float32, (4, 6), elements=FLOATS), amax=st.floats(1e-6, 1e5))
def test_weights_and_activations_round_as_onnxruntime_rounds(precision, values, amax):
    scale = storable_scale(amax, precision)
    (found,) = run(pair(precision, scale.reshape(())), {"x": values})
    np.testing.assert_array_equal(fake_quantized(values, scale, None, precision), found)


@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float32, (4, 6), elements=st.floats(-9, 9, width=32)), block=st.sampled_from([1, 2, 4]))
def test_blocks_round_as_onnxruntime_rounds(values, block):
    amax = np.abs(values).reshape(4 // block, block, 6).max(axis=1)
    scale = storable_scale(amax, Precision.INT4)
    (found,) = run(pair(Precision.INT4, scale, block), {"x": values})
    np.testing.assert_array_equal(fake_quantized(values, scale, 0, Precision.INT4, block), found)
    assert np.all(np.abs(found - values) <= spread(scale, values, 0, block) * 0.5001)


@pytest.mark.parametrize(("axis", "block"), [(None, 0), (0, 0), (1, 0), (0, 2), (1, 3)])
def test_a_weight_is_rounded_part_by_part_as_at_once(monkeypatch, axis, block):
    values = np.random.default_rng(0).standard_normal((8, 6, 5), np.float32)
    amax = weight_amax(values, axis, "mse", Precision.INT4, block)
    scale = storable_scale(amax, Precision.INT4)
    whole = fake_quantized(values, scale, axis, Precision.INT4, block)
    monkeypatch.setattr("toolkit.calibration.weights._AT_ONCE", 100)
    monkeypatch.setattr("toolkit.base.parts.PART_BYTES", 250)
    np.testing.assert_array_equal(weight_amax(values, axis, "mse", Precision.INT4, block), amax)
    np.testing.assert_array_equal(fake_quantized(values, scale, axis, Precision.INT4, block), whole)
    assert fake_quantized(values[0, 0, 0], scale.reshape(-1)[:1], None, Precision.INT4).shape == ()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8, Precision.INT4])
@pytest.mark.parametrize(("axis", "block"), [(None, 0), (0, 0), (1, 0), (1, 3)])
def test_a_stored_weight_is_what_its_grid_holds(monkeypatch, precision, axis, block):
    values = np.random.default_rng(0).standard_normal((8, 6, 5), np.float32)
    scale = storable_scale(weight_amax(values, axis, "minmax", precision, block), precision)
    zero = np.zeros(scale.shape, np.float32)
    zero.flat[0] = 3.0 if precision.integer else 0.0
    wide, offset = (spread(one, values, axis, block) for one in (scale, zero))
    wanted = on_grid(values / wide, precision, offset)
    monkeypatch.setattr("toolkit.base.parts.PART_BYTES", 250)
    found = quantized(values, scale, zero, precision, axis, block)
    assert found.dtype == helper.tensor_dtype_to_np_dtype(precision.onnx_type)
    np.testing.assert_array_equal(found.astype(np.float32), wanted)


def test_what_a_large_weight_is_made_into_takes_no_more_than_that(monkeypatch):
    values = np.random.default_rng(0).standard_normal((1000, 200), np.float32)
    scale = storable_scale(weight_amax(values, 1), Precision.INT8)
    monkeypatch.setattr("toolkit.base.parts.PART_BYTES", 8000)
    tracemalloc.start()
    try:
        quantized(values, scale, np.zeros_like(scale), Precision.INT8, 1)
        stored = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        weight_sqnr_db(values, 1, Precision.INT8)
        judged = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a quarter, and the steps of a part
    assert stored < 0.4 * values.nbytes and judged < 0.2 * values.nbytes


@settings(max_examples=100, deadline=None)
@given(values=arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_e4m3_is_ml_dtypes_saturated(values):
    wanted = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(on_grid(values, Precision.FP8), wanted)


@pytest.mark.parametrize(
    ("kind", "low", "high", "zero", "centred"),
    [(np.int8, -127, 127, 0, True), (np.int8, -64, 63, 0, True), (np.uint8, 0, 127, 64, True),
     (np.uint8, 0, 127, 0, False), (np.int8, -127, 127, 5, False)],
)  # fmt: skip
def test_a_clip_in_a_pair_says_its_limits_and_its_middle(kind, low, high, zero, centred):
    scalars = {"s": np.array(0.5, np.float32), **{name: np.array(value, kind) for name, value in
               (("z", zero), ("low", low), ("high", high))}}  # fmt: skip
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Clip", ["q", "low", "high"], ["c"]),
             node("DequantizeLinear", ["c", "s", "z"], ["y"])]  # fmt: skip
    (found,) = pairs_of(Model.from_proto(build(nodes, {"x": [4]}, {"y": [4]}, scalars, opset=17)))
    assert found.grid.limits == (low, high) and found.grid.centred == centred
    assert [float(end) for end in found.grid.reach] == [(low - zero) * 0.5, (high - zero) * 0.5]


def test_e4m3_keeps_every_value_of_its_own_and_ties_go_to_even():
    finite = EVERY_E4M3[np.isfinite(EVERY_E4M3)]
    np.testing.assert_array_equal(on_grid(finite, Precision.FP8), finite)
    assert on_grid(np.float32([17, 19, 1e9, -np.inf]), Precision.FP8).tolist() == [16, 20, 448, -448]
    assert np.isnan(on_grid(np.float32([np.nan]), Precision.FP8)).all()
