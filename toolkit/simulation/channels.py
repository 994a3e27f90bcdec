"""Per-channel statistics of activations, and what a pass did to the accuracy of plain quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.precision import Precision
from toolkit.base.types import Array
from toolkit.contract.context import Context
from toolkit.contract.findings import Code
from toolkit.graph.model import Model
from toolkit.graph.sessions import session

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData
    from toolkit.evaluation.outcome import Outcome


@dataclass
class Channels:
    """One tensor's statistics by channel, float64 [channels].

    Attributes:
        amax: largest magnitude.
        total: sum of the values.
        count: how many values a channel had.
    """

    amax: Array
    total: Array
    count: int = 0

    @property
    def mean(self) -> Array:
        """Mean by channel."""
        return self.total / max(self.count, 1)


def collect_channels(
    model: Model, axes: Mapping[str, int], data: CalibrationData, samples: int | None = None, batch: int = 8
) -> dict[str, Channels]:
    """Statistics by channel of float tensors.

    Args:
        model: the graph.
        axes: the channel axis by tensor.
        data: the samples.
        samples: stop after this many.
        batch: samples to run at once.
    """
    loaded = session(model, outputs=sorted(axes))
    found: dict[str, Channels] = {}
    seen = 0
    for part in data.batches(batch):
        for name, value in loaded.run(part.inputs).items():
            if name not in axes:
                # a graph whose inputs alone are wanted hands its own outputs over too
                continue
            rows = np.moveaxis(np.asarray(value, np.float32), axes[name], 0)
            rows = rows.reshape(rows.shape[0], -1)
            amax, total = np.abs(rows).max(axis=1, initial=0.0), rows.sum(axis=1, dtype=np.float64)
            own = found.setdefault(name, Channels(np.zeros(len(rows)), np.zeros(len(rows))))
            own.amax, own.total = np.maximum(own.amax, amax), own.total + total
            own.count += rows.shape[1]
        seen += part.count
        if samples is not None and seen >= samples:
            break
    return found


def plain_outcome(model: Model, context: Context, samples: int = 64) -> Outcome | None:
    """What quantizing every layer to INT8 does to the outputs now, on calibration samples; None without any."""
    from toolkit.base.errors import PassError
    from toolkit.simulation.simulation import Settings, Simulation
    from toolkit.simulation.switches import wanted_tensors

    provider = context.provider
    if provider is None or context.dry_run:
        return None
    wanted = wanted_tensors(model, model.facts(context.profiles))
    try:
        ranges = provider(model, wanted)
        data = context.calibration_samples()
        return Simulation(model, ranges, data, context.profiles, None, Settings(samples=samples)).without(())
    except PassError:
        return None


def sqnr_against(reference: Model, model: Model, data: CalibrationData, samples: int = 64) -> float:
    """SQNR in dB of a model's worst output against another model of the same function."""
    from toolkit.evaluation.outcome import compare, summed

    sessions = session(reference), session(model)
    parts, seen = [], 0
    for batch in data.batches(8):
        wanted, found = (one.run(batch.inputs) for one in sessions)
        parts.append(compare(wanted, found, ()))
        seen += batch.count
        if seen >= samples:
            break
    return summed(parts).sqnr_db


def note_effect(context: Context, before: Outcome | None, after: Outcome | None, what: str) -> None:
    """Write into the journal how the SQNR of plain quantization changed; ``what`` names the pass that did it."""
    if before is None or after is None:
        return
    context.journal.noted(
        Code.EFFECT(by=what, before_db=before.sqnr_db, after_db=after.sqnr_db, quantized=Precision.INT8)
    )


def forget_ranges(context: Context) -> None:
    """The activations have changed: calibrate again when ranges are next asked for."""
    context.known_ranges = None
