"""Arrays part by part: every value once, in parts of the size that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.base import parts
from toolkit.base.parts import along, parts_of


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
