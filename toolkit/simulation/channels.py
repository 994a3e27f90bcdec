"""Per-channel statistics of activations, and the SQNR between two forms of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.context import Context
from toolkit.evaluation.evaluate import first_samples
from toolkit.graph.layers.zero_pads import zero_pads
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import measured_outputs
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import session
from toolkit.graph.sessions.side_by_side import run_side_by_side

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData


@dataclass
class Channels:
    """One tensor's statistics by channel, float64 [channels].

    Attributes:
        low: smallest value.
        high: largest value.
        total: sum of the values.
        count: number of values per channel.
    """

    low: Array
    high: Array
    total: Array
    count: int = 0

    @property
    def amax(self) -> Array:
        """Largest magnitude by channel, float64 [channels]."""
        return np.maximum(-self.low, self.high) if self.count else np.zeros(len(self.low))

    @property
    def mean(self) -> Array:
        """Mean by channel, float64 [channels]."""
        return self.total / max(self.count, 1)


def collect_channels(
    model: Model, axes: Mapping[str, int], data: CalibrationData, samples: int | None = None, batch: int = 4
) -> dict[str, Channels]:
    """Collect statistics by channel of float tensors, except those that onnxruntime cannot compute.

    Args:
        axes: the channel axis by tensor.
        samples: stop after this many.
        batch: samples to run at once.

    Returns:
        By tensor, the statistics, each float64 [channels].
    """
    left = not_run(model)
    tensors = sorted(axes.keys() - left.tensors.keys())
    # every channel gets as many zeros
    pads = zero_pads(model, [name for name in tensors if axes[name] == 1])
    computed = {name: pads[name].source if name in pads else name for name in tensors}
    asked = sorted(set(computed.values()))
    found: dict[str, Channels] = {}
    for _, values in run_side_by_side(model, asked, first_samples(data, batch, samples), lambda one: one.inputs):
        for name, source in computed.items():
            value = np.asarray(values[source], np.float32)
            zeros = pads[name].zeros(value.shape) // value.shape[1] if name in pads else 0
            rows = np.moveaxis(value, axes[name], 0)
            rows = rows.reshape(rows.shape[0], -1)
            own = found.setdefault(
                name, Channels(np.full(len(rows), np.inf), np.full(len(rows), -np.inf), np.zeros(len(rows)))
            )
            own.low = np.minimum(own.low, rows.min(axis=1, initial=0.0 if zeros else np.inf))
            own.high = np.maximum(own.high, rows.max(axis=1, initial=0.0 if zeros else -np.inf))
            own.total = own.total + rows.sum(axis=1, dtype=np.float64)
            own.count += rows.shape[1] + zeros
    return found


def sqnr_against(reference: Model, model: Model, data: CalibrationData, samples: int = 64) -> float:
    """SQNR in dB of a model's worst output relative to another model with the same outputs."""
    from toolkit.evaluation.comparison.outcome import compare, summed

    sessions = session(reference), session(model, measured_outputs(reference))
    parts = []
    for batch in first_samples(data, 8, samples):
        wanted, found = (one.run(batch.inputs) for one in sessions)
        parts.append(compare(wanted, found, ()))
    return summed(parts).sqnr_db


def forget_ranges(context: Context) -> None:
    """Discard the known ranges, since activations changed: they are calibrated again at the next request."""
    context.known_ranges = None
