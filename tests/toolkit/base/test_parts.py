"""Arrays part by part: every value once, in parts of the size that is asked for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from toolkit.base import parts
from toolkit.base.parts import along, ends_of, parts_of


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (40, 3), (1, 40, 3), (2, 2, 50), (3, 1)])
def test_parts_cover_an_array_once(monkeypatch, shape):
    monkeypatch.setattr(parts, "PART_BYTES", 64)
    values, seen = np.ones(shape, np.float32), np.zeros(shape)
    sizes = []
    for part in parts_of(values):
        seen[part] += 1
        sizes.append(values[part].nbytes)
    assert np.all(seen == 1)
    # along an axis of 40 and more each is small enough
    assert max(sizes) <= (64 if values.size >= 100 else values.nbytes)


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (1, 40, 1), (1, 40, 3), (1, 1, 3)])
def test_what_broadcasts_is_cut_with_it(monkeypatch, shape):
    monkeypatch.setattr(parts, "PART_BYTES", 64)
    values = np.arange(120.0).reshape(1, 40, 3)
    factor = np.random.default_rng(0).standard_normal(shape)
    found = np.empty_like(values)
    for part in parts_of(values):
        found[part] = values[part] * along(part, factor, values)
    np.testing.assert_array_equal(found, values * factor)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int64, np.int8])
def test_the_ends_of_an_array_are_those_of_its_finite_values(monkeypatch, kind):
    monkeypatch.setattr(parts, "PART_BYTES", 64)
    values = np.random.default_rng(0).integers(-100, 100, (40, 3)).astype(kind)
    assert ends_of(values) == ends_of(values, finite=False) == (values.min(), values.max())
    assert ends_of(values[:0]) is None
    if np.dtype(kind).kind in "iu":
        return
    values[3, 1], values[30, 2] = np.inf, np.nan
    known = values.astype(np.float64)
    assert ends_of(values) == (np.nanmin(known), known[np.isfinite(known)].max())
    assert np.isnan(ends_of(values, finite=False)).all()
    assert ends_of(values[:10], finite=False) == (known[:10].min(), np.inf)
    assert ends_of(np.full(3, np.nan)) is None
