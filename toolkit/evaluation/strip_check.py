"""Check that removing a model's Q/DQ pairs changes its outputs by no more than the pairs' rounding explains."""

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
from toolkit.evaluation.observation.rounded import quantized
from toolkit.evaluation.quantized_values import dequantized
from toolkit.graph.model import Model
from toolkit.graph.sessions.measured import measured_outputs
from toolkit.graph.sessions.session import session

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

_TIMES = 4.0
"""Largest ratio of the change to the rounding noise. Sums over whole outputs and several samples vary less between two
realizations of the same noise."""
_FLOOR = 1e-5
"""Share of an output's power, -50 dB, below which the change may come from float16."""
_FLOOR_SHARE = 0.05
"""For integer outputs, the share of values that may change in any case."""
_HELD_BYTES = 128_000_000
"""Most bytes of outputs held for the comparison; with more, fewer samples are used."""


@dataclass(frozen=True)
class Drift:
    """The change of an output when the pairs are removed.

    Attributes:
        output: the output's name.
        sqnr_db: SQNR of the stripped model relative to the model with its pairs, dB; infinite if they are equal.
        rounding_db: SQNR of the stripped model with the pairs' rounding relative to itself without, dB: the change that
            pairs explain.
        samples: the number of samples compared.
        excessive: whether the change is larger than rounding explains.
    """

    output: str
    sqnr_db: float
    rounding_db: float
    samples: int
    excessive: bool


def compare_stripped(
    paired: Model, stripped: Model, rounded: Model, data: CalibrationData, samples: int = 16
) -> list[Drift]:
    """Compare a model's outputs before and after its pairs were removed, relative to the effect of their rounding.

    The noise allowed is the model's own: it is measured by rounding each tensor of the stripped model to its pair's
    steps, and so includes the effect of few bits or bad scales. Outputs that a QuantizeLinear writes are compared as
    the floats that they stand for; other integer outputs only if there are no such outputs and no floats.

    Args:
        paired: the model with its pairs.
        stripped: the model without pairs.
        rounded: the model without pairs, in which each tensor is rounded to the steps of its former pair.
        samples: the approximate number of samples to compare.

    Returns:
        A drift for each compared output: excessive ones first, then by ascending SQNR.

    Raises:
        QtoolError: a model cannot be run on the samples.
    """
    names = measured_outputs(paired)
    scales = {tensor.name: quantized(paired, tensor) for tensor in paired.graph.outputs}
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
            values, ours, theirs = (dequantized(one, scales.get(name)) for one in (values, ours, theirs))
            if not values.shape == ours.shape == theirs.shape:
                # shapes differ, as with the number of detections, so elements cannot be compared
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
    """Copies of each batch's outputs and its number of samples; fewer batches if the outputs are large."""
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
