"""What samples tell of the tensors before Q/DQ pairs: how far they exceed the pairs' range, and their rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.types import Array
from toolkit.evaluation.evaluate import first_samples
from toolkit.graph.large_models.partitions import Boundaries, by_partition
from toolkit.graph.model import Model
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session
from toolkit.placement.existing import ExistingPair
from toolkit.placement.grid import Grid, grid_of

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_TIMES, _LEAST_SHARE, _LEAST_CENTRED = 4.0, 1e-4, 1e-2
"""Limits for the power of clipped parts: relative to rounding noise, and to the signal's power for asymmetric and
symmetric pairs. Calibration that balances clipping against rounding makes about as much noise by either, and unseen
samples add less than -40 dB. Symmetric pairs come from methods that clip on purpose (entropy, percentiles, learnt
ranges) and seldom replace a clamp, so their limit is -20 dB."""
_AT_ONCE = 64
"""Most tensors to watch in one session."""


@dataclass
class Saturation:
    """The power that a pair clips, summed up batch by batch.

    Attributes:
        grid: the values that the pair can represent.
        below: the sum of squared distances of values below the range.
        above: the sum of squared distances of values above the range.
        rounding: the expected sum of squared rounding errors, a twelfth of the squared step for each value.
        signal: the sum of squares of the clipped values.
    """

    grid: Grid
    below: float = 0.0
    above: float = 0.0
    rounding: float = 0.0
    signal: float = 0.0

    def add(self, values: Array) -> None:
        """Add the values of the float tensor for one batch; NaN and infinities count as 0."""
        reach, scale = self.grid.reach, self.grid.scale
        assert reach is not None and scale is not None
        shape = [1] * values.ndim
        if self.grid.axis is not None:
            shape[self.grid.axis] = -1
        low, high = (end.reshape(shape if end.size > 1 else ()) for end in reach)
        numbers = np.where(np.isfinite(values), values, 0).astype(np.float64)
        held = np.clip(numbers, low, high)
        beyond = numbers - held
        self.below += float(np.square(beyond[beyond < 0]).sum())
        self.above += float(np.square(beyond[beyond > 0]).sum())
        self.rounding += float(np.square(scale).mean()) / 12 * numbers.size
        self.signal += float(np.square(held).sum())

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether it clips more power than calibration normally does, below and above the range."""
        share = _LEAST_CENTRED if self.grid.centred else _LEAST_SHARE
        least = max(_TIMES * self.rounding, share * self.signal)
        return self.below > least, self.above > least


def saturation(
    model: Model, pairs: Iterable[ExistingPair], data: CalibrationData, samples: int = 16
) -> dict[str, tuple[bool, bool]]:
    """Whether tensors exceed their pair's range below and above, by the name of the QuantizeLinear.

    Left out are pairs in subgraphs, whose tensors cannot be read, pairs of constants, of types without equal steps, and
    with block scales.

    Args:
        model: the graph with its pairs.
        pairs: the pairs to examine.
        samples: the approximate number of samples to use.

    Raises:
        QtoolError: the model cannot be run on the samples.
    """
    main = {id(node) for node in model.nodes}
    found: dict[str, Saturation] = {}
    tensors: dict[str, list[str]] = {}
    left = not_run(model)
    for quantize in {id(q): q for pair in pairs for q in pair.quantizers}.values():
        grid, tensor = grid_of(model, quantize), quantize.inputs[0]
        if id(quantize) not in main or grid.reach is None or not grid.steps or grid.block or not tensor.inputs:
            continue
        if model.constant(tensor) is None and tensor.name not in left.tensors:
            found[quantize.name] = Saturation(grid)
            tensors.setdefault(tensor.name, []).append(quantize.name)
    handed = Boundaries()
    groups = by_partition(model, tensors)
    for part in (group[start : start + _AT_ONCE] for group in groups for start in range(0, len(group), _AT_ONCE)):
        loaded = session(model, outputs=part, boundaries=handed)
        for batch in first_samples(data, 1, samples):
            for name, values in loaded.run(batch.inputs, part).items():
                for quantize_name in tensors[name]:
                    found[quantize_name].add(values)
    return {name: one.sides for name, one in found.items()}


def rank_in_samples(model: Model, tensor: str, data: CalibrationData) -> int | None:
    """The rank of a tensor in the first sample; None in a subgraph, behind a plugin, or without samples.

    Raises:
        QtoolError: the model cannot be run on the sample.
    """
    made = any(one.name == tensor for node in model.nodes for one in node.outputs)
    if not made or tensor in not_run(model).tensors:
        return None
    loaded = session(model, outputs=[tensor], boundaries=Boundaries())
    return next((loaded.run(one.inputs, [tensor])[tensor].ndim for one in first_samples(data, 1, 1)), None)
