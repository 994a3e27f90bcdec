"""Seeded samples for any model, so that whatever a recipe needs can be had for it."""

from __future__ import annotations

import numpy as np

from toolkit import Model
from toolkit.base.types import Array
from toolkit.data.sample import input_specs


def random_samples(model: Model, count: int = 8, size: int = 6, seed: int = 0) -> dict[str, Array]:
    """Members of an .npz archive: one array a sample, of batch 1; floats normal, integers 0 and 1.

    Args:
        model: whose inputs say what is wanted.
        count: how many samples.
        size: of every dynamic dimension but the batch.
        seed: of the values.
    """
    members: dict[str, Array] = {}
    for index in range(count):
        for number, (name, spec) in enumerate(input_specs(model).items()):
            rng = np.random.default_rng([seed, index, number])
            shape = [
                dim if isinstance(dim, int) else 1 if axis == spec.batch_axis else size
                for axis, dim in enumerate(spec.dims or ())
            ]
            whole = spec.dtype.kind in "iub"
            values = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)
            members[f"{name}/{index:05d}"] = values.astype(spec.dtype)
    return members
