"""Samples that are run together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.data.sample import rows_of


class Labels(dict[str, Array]):
    """The labels of a batch, joined along axis 0, by name.

    Attributes:
        indices: the place of each sample in the source, for a metric of samples that belong together.
    """

    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples of equal shapes, joined along the axis that counts them.

    Attributes:
        inputs: one array an input.
        count: how many samples it joins.
        profiles: the profiles that all of them count for.
        origins: where each came from, in words.
        indices: each one's place in the source.
        labels: the samples' labels joined along axis 0, or None where they were not asked for.
        axes: by input the axis along which it is joined; an input that has none serves all samples.
    """

    inputs: dict[str, Array]
    count: int
    profiles: tuple[str, ...]
    origins: list[str]
    indices: tuple[int, ...]
    labels: dict[str, Array] | None
    axes: Mapping[str, int] = field(default_factory=dict)

    def rows(self, rows: Any) -> dict[str, Array]:
        """The inputs of some of its samples: a slice or indices."""
        return rows_of(self.inputs, self.axes, rows)

    def each(self, name: str) -> Iterator[Array]:
        """An input's values by sample, one where it serves all of them."""
        value, axis = self.inputs[name], self.axes.get(name)
        if self.count == 1 or axis is None:
            yield value
        else:
            yield from np.split(value, self.count, axis)
