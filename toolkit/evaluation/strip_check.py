"""Whether a model without its Q/DQ pairs differs from the one with them by more than the pairs' rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING

from toolkit.base.decibels import decibels
from toolkit.base.types import Array
from toolkit.evaluation.comparison.counterparts import counterparts
from toolkit.evaluation.evaluate import first_samples
from toolkit.evaluation.numerics.difference import Difference, is_float
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import measured_outputs
from toolkit.graph.sessions.session import session

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_TIMES = 4.0
"""Noise that is the same but for its seed differs less: sums over whole outputs and several samples."""
_FLOOR = 1e-5
"""The share of an output's power, -50 dB, below which differences may be float16's."""
_FLOOR_SHARE = 0.05
_HELD_BYTES = 128_000_000


@dataclass(frozen=True)
class Drift:
    """How far an output is from that of the model with its pairs.

    Attributes:
        output: its name.
        sqnr_db: of the stripped model against the one with its pairs, dB; infinite where they are equal.
        rounding_db: of the stripped model with its pairs' rounding against itself without, dB: what pairs account for.
        samples: how many were compared.
        excessive: whether rounding does not account for the difference.
    """

    output: str
    sqnr_db: float
    rounding_db: float
    samples: int
    excessive: bool


def compare_stripped(
    paired: Model, stripped: Model, rounded: Model, data: CalibrationData, samples: int = 16
) -> list[Drift]:
    """Compare the outputs of a model before and after its pairs went, with rounding as the measure.

    The noise that pairs may make is the model's own: however few bits they have and however badly they are scaled, the
    stripped model with each tensor rounded as its pair did is as far from itself without. Integers count only where
    no output holds floats.

    Args:
        paired: the model with its pairs.
        stripped: the model without them.
        rounded: the model without them, each tensor rounded to its pair's steps where the pair was.
        data: the samples.
        samples: compare on about this many.

    Returns:
        A drift for each output, the worst first.

    Raises:
        QtoolError: a model cannot be run on the samples.
    """
    names = measured_outputs(paired)
    reference = _outputs(paired, counterparts(paired, paired, names), data, samples)
    held = sum(count for _, count in reference)
    plain, noisy = (_outputs(m, counterparts(paired, m, names), data, held) for m in (stripped, rounded))
    found: dict[str, tuple[Difference, Difference]] = {}
    floats: set[str] = set()
    counted = 0
    for wanted, other, with_noise in zip(reference, plain, noisy):
        counted += wanted[1]
        for name, values in wanted[0].items():
            ours, theirs = other[0][name], with_noise[0][name]
            if not values.shape == ours.shape == theirs.shape:
                # the number of detections, say: nothing to compare element by element
                continue
            change, noise = found.setdefault(name, (Difference(), Difference()))
            if is_float(values.dtype):
                floats.add(name)
                change.add(values, ours)
                noise.add(ours, theirs)
            else:
                change.add_equal(values, ours)
                noise.add_equal(ours, theirs)
    chosen = floats or set(found)
    drifted = [_drift(name, *pair, counted, name in floats) for name, pair in found.items() if name in chosen]
    return sorted(drifted, key=lambda one: (not one.excessive, one.sqnr_db))


def _outputs(
    model: Model, named: Mapping[str, str], data: CalibrationData, samples: int
) -> list[tuple[Mapping[str, Array], int]]:
    """The outputs of each batch, copied, and how many samples it joins; fewer where they are large."""
    loaded, size = session(model, list(named.values())), 0
    found: list[tuple[Mapping[str, Array], int]] = []
    batches, feeds = tee(first_samples(data, 4, samples))
    for batch, values in zip(batches, loaded.run_each(batch.inputs for batch in feeds)):
        outputs = {name: values[own].copy() for name, own in named.items()}
        found.append((outputs, batch.count))
        size += sum(value.nbytes for value in outputs.values())
        if size > _HELD_BYTES:
            break
    return found


def _drift(name: str, change: Difference, noise: Difference, samples: int, floats: bool) -> Drift:
    if not floats:
        moved, own = (1 - (one.agreement if one.agreement is not None else 1.0) for one in (change, noise))
        return Drift(name, decibels(1, moved), decibels(1, own), samples, moved > _TIMES * own + _FLOOR_SHARE)
    most = _TIMES * noise.noise + _FLOOR * change.signal
    excessive = bool(change.broken) or (change.noise > most and not noise.broken)
    level = -math.inf if change.broken else decibels(change.signal, change.noise)
    return Drift(name, level, decibels(noise.signal, noise.noise), samples, excessive)
