"""Rounding to E2M1 and the scales of blocks, against ml_dtypes and against the formats' own lists of numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toolkit.base.block_scales import can_store, scales_of_blocks, split_scales, tensor_scale, to_e2m1
from toolkit.base.precision import Precision

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""By code, 0 to 7 (MX v1.0, table 5); an even code ends in the mantissa 0."""
E8M0 = np.ldexp(np.ones(253), np.arange(-126, 127))
floats = st.floats(-1e30, 1e30, width=32, allow_subnormal=False)
magnitudes = st.floats(2.0**-60, 2.0**60, width=32)


@given(
    arrays(
        np.float32, 17, elements=st.floats(-20, 20, width=32) | st.sampled_from([0.25, 0.75, 1.25, 2.5, 3.5, 5.0, 7.0])
    )
)
def test_values_round_to_the_nearest_of_the_list_ties_to_the_even_code(values):
    found = to_e2m1(values)
    np.testing.assert_array_equal(found, values.astype(ml_dtypes.float4_e2m1fn).astype(np.float32))
    for value, one in zip(values, found):
        off = np.abs(E2M1 - np.abs(value))
        nearest = np.flatnonzero(off == off.min())
        code = nearest[0] if len(nearest) == 1 else next(c for c in nearest if c % 2 == 0)
        assert abs(one) == E2M1[code] and (one == 0 or np.sign(one) == np.sign(value))


def test_what_is_no_number_stays_so():
    found = to_e2m1(np.array([np.nan, np.inf, -np.inf], np.float32))
    assert np.isnan(found[0]) and list(found[1:]) == [6, -6]


@given(st.lists(magnitudes | st.just(0.0), min_size=1, max_size=20))
def test_nvfp4_scales_are_e4m3_numbers_times_one_of_the_tensor(amax):
    amax = np.array(amax, np.float32)
    scales = scales_of_blocks(amax, Precision.NVFP4)
    stored, whole = split_scales(scales)
    e4m3 = stored.astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(e4m3.astype(np.float32), stored)
    # exact, so that what the engine multiplies is what was computed with
    np.testing.assert_array_equal(e4m3.astype(np.float32) * np.float32(whole), scales)
    assert stored.max() == 448 if amax.any() else (stored == stored[0]).all()
    whole = tensor_scale(float(amax.max()))
    assert amax.max() <= 2688 * whole <= max(amax.max(), 1) * (1 + 2.0**-19)
    codes = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    for one, scale in zip(amax, scales):
        off = np.abs(codes - min(float(one) / 6 / whole, 448.0))
        assert off[codes == scale / np.float32(whole)] == pytest.approx(off.min(), rel=1e-6, abs=1e-12)


@given(st.lists(magnitudes, min_size=1, max_size=20))
def test_mxfp8_scales_are_the_smallest_powers_of_two_that_saturate_nothing(amax):
    amax = np.array(amax, np.float32)
    scales = scales_of_blocks(amax, Precision.MXFP8)
    np.testing.assert_array_equal(scales.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32), scales)
    for one, scale in zip(amax.astype(np.float64), scales):
        assert scale == min(power for power in E8M0 if one <= 448 * power)
        # MX v1.0, 6.3, but where its largest value would saturate
        floor = 2.0 ** (np.floor(np.log2(one)) - 8)
        assert scale == (floor if one <= 448 * floor else 2 * floor)


def test_blocks_of_zeros_have_scales():
    for precision in (Precision.NVFP4, Precision.MXFP8):
        for amax in ([0.0], [0.0, 5.0]):
            scales = scales_of_blocks(np.array(amax), precision)
            assert np.isfinite(scales).all() and (scales > 0).all()


@pytest.mark.parametrize("most", [448, 416, 240, 112, 1])
def test_scales_of_others_are_split_whatever_the_largest_block_stores(most):
    e4m3 = np.array([most, 0.5, 0, 2.0**-6], np.float32)
    stored, whole = split_scales(e4m3 * np.float32(0.0123))
    np.testing.assert_allclose(stored * np.float32(whole), e4m3 * np.float32(0.0123), rtol=1e-6)
    np.testing.assert_array_equal(stored.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), stored)
    half, whole = split_scales((e4m3 * np.float32(0.0123)).astype(np.float16))
    np.testing.assert_allclose(half * np.float32(whole), e4m3 * np.float32(0.0123), rtol=2e-3)


def test_scales_that_a_type_cannot_store_are_told():
    powers, odd = np.array([0.25, 1, 8], np.float32), np.array([0.25, 1.01, 8.03], np.float32)
    assert can_store(powers, Precision.MXFP8) and can_store(E8M0 / 2, Precision.MXFP8)
    assert not any(can_store(bad, Precision.MXFP8) for bad in (odd, -powers, 0 * powers, powers * np.nan))
    assert can_store(powers, Precision.NVFP4)
    assert not any(can_store(bad, Precision.NVFP4) for bad in (odd, 0 * powers, powers * np.nan, powers * np.inf))
