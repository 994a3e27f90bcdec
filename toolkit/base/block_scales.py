"""Numerics of NVFP4 and MXFP8: rounding to E2M1, and block scales."""

from __future__ import annotations

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array

E2M1_MAX, E4M3_MAX, E4M3_SMALLEST = 6.0, 448.0, 2.0**-9
_BITS = 20
_FEWEST, _MOST = -126, 127
_LARGEST = (448.0, 416.0, 384.0, 352.0, 320.0, 288.0, 256.0, 240.0)
"""One E4M3 number per mantissa: candidates for the scale of the block with the largest scale."""
_SAME, _SAME_HALF = 2.0**-20, 2.0**-10
"""Relative tolerances for scales that were rounded to float32 and to float16."""


def to_e2m1(values: Array) -> Array:
    """Round values to the nearest E2M1 number (0, 0.5, 1, 1.5, 2, 3, 4, 6 and negatives), ties to even, saturating.

    OCP Microscaling Formats (MX) v1.0, 5.3.3: steps of 0.5 below 2, of 1 below 4, of 2 above. NaN stays NaN.
    """
    kept = np.clip(values, -E2M1_MAX, E2M1_MAX)
    size = np.abs(kept)
    step = np.where(size < 2, 0.5, np.where(size < 4, 1.0, 2.0)).astype(kept.dtype)
    return np.asarray(np.rint(kept / step) * step)


def tensor_scale(amax: float) -> float:
    """NVFP4's float32 scale of a tensor with this amax: amax / (6 * 448), rounded up to 20 significant bits.

    The inverse of equation 1 in NVIDIA, "Pretraining large language models with NVFP4", 2025: the block with the
    largest values gets the largest scale that E4M3 can represent. With 20 bits, the product with any E4M3 number, and
    so the scale of any block, is exact in float32. An amax of 0 counts as 1.
    """
    mantissa, exponent = np.frexp((amax if amax > 0 else 1.0) / (E2M1_MAX * E4M3_MAX))
    return float(np.ldexp(np.ceil(mantissa * 2**_BITS), max(int(exponent), _FEWEST + _BITS) - _BITS))


def scales_of_blocks(amax: Array, precision: Precision) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The scales of the blocks of one tensor as they are stored: float32, of the shape of ``amax``.

    NVFP4: amax / 6 / ``tensor_scale``, rounded to the nearest E4M3 number (ties to even; at least 2^-9, so that no
    scale is 0), times ``tensor_scale``; equation 2 of the same report. The tensor's amax is the largest amax of its
    blocks.

    MXFP8: the smallest power of two for which no value of the block exceeds E4M3's range, 2^ceil(log2(amax / 448)), an
    E8M0 number. MX v1.0, 6.3, uses 2^(floor(log2(amax)) - 8), which is half of that, and saturates, if amax exceeds
    1.75 times a power of two; NVIDIA's kernels round up (cuDNN, «Block Scaling»). A block of zeros has amax 1.
    """
    wide = np.asarray(amax, np.float64)
    if precision is Precision.NVFP4:
        import ml_dtypes

        whole = tensor_scale(float(wide.max(initial=0.0)))
        kept = np.clip(wide / E2M1_MAX / whole, E4M3_SMALLEST, E4M3_MAX)
        return np.asarray(
            kept.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(whole)
        )
    mantissa, exponent = np.frexp(np.where(wide > 0, wide, 1.0) / precision.max)
    power = np.clip(exponent - (mantissa == 0.5), _FEWEST, _MOST)
    return np.ldexp(np.float32(1), power.astype(np.int32))


def split_scales(scales: Array) -> tuple[Array, float] | None:
    """Split NVFP4 block scales into E4M3 numbers, as float32, and the tensor's scale by which they are multiplied.

    None if no tensor scale gives these block scales up to the rounding of their float type: models from other tools may
    have any scales.
    """
    import ml_dtypes

    wide = np.asarray(scales, np.float64)
    largest = float(np.abs(wide).max(initial=0.0))
    off = _SAME_HALF if scales.dtype == np.float16 else _SAME
    for most in _LARGEST if 0 < largest < np.inf else ():
        whole = float(np.float32(largest / most))
        stored = (wide / whole).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        if np.allclose(stored.astype(np.float64) * whole, wide, rtol=off, atol=0):
            return np.asarray(stored), whole
    return None


def can_store(scales: Array, precision: Precision) -> bool:
    """Whether a block type can represent these scales: powers of two for MXFP8, see ``split_scales`` for NVFP4."""
    if precision is Precision.NVFP4:
        return split_scales(scales) is not None
    mantissa, exponent = np.frexp(np.asarray(scales, np.float64))
    return bool(((mantissa == 0.5) & (exponent >= _FEWEST) & (exponent <= _MOST + 1)).all())
