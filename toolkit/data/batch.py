"""Samples that are run together as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.data.sample import rows_of


class Labels(dict[str, Array]):
    """The labels of a batch, joined along axis 0, by name.

    Attributes:
        indices: index of each sample in the source, for metrics that compute over related samples.
    """

    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples of equal shapes, joined along the batch axis.

    Attributes:
        inputs: one array per input.
        count: number of samples in the batch.
        profiles: the profiles that every sample counts for.
        origins: where each sample comes from, for messages.
        indices: index of each sample in the source.
        labels: the samples' labels joined along axis 0; None if labels were not requested.
        axes: per input, the axis along which samples are joined; an input without one is shared by all samples.
    """

    inputs: dict[str, Array]
    count: int
    profiles: tuple[str, ...]
    origins: list[str]
    indices: tuple[int, ...]
    labels: dict[str, Array] | None
    axes: Mapping[str, int] = field(default_factory=dict)

    def rows(self, rows: Any) -> dict[str, Array]:
        """The inputs of the samples ``rows``, a slice or indices."""
        return rows_of(self.inputs, self.axes, rows)

    def each(self, name: str) -> Iterator[Array]:
        """The values of an input per sample; a single item if all samples share the value."""
        value, axis = self.inputs[name], self.axes.get(name)
        if self.count == 1 or axis is None:
            yield value
        else:
            yield from np.split(value, self.count, axis)


def joined(values: Sequence[Array], axis: int = 0) -> Array:
    """The values of samples along one axis; those of a single one are not copied."""
    return values[0] if len(values) == 1 else np.concatenate(values, axis=axis)
