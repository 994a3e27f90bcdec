"""Samples that are all identical: any number of copies shows only what one sample shows."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Code, Finding
from toolkit.data.dataset import CalibrationData


def unvaried(data: CalibrationData, of: str, used: Container[str]) -> list[Finding]:
    """The inputs that are the same in all samples, where all inputs are, or where the input is a float one.

    Reading ends as soon as every input has differed once.

    Args:
        data: the samples.
        of: what they are for: calibration or evaluation.
        used: the inputs whose values the model computes with: others may be the same.
    """
    samples = data.samples()
    first = next(samples, None)
    if first is None:
        return []
    # an empty past holds nothing that could differ
    held = {name: value for name, value in first.inputs.items() if value.size and name in used}
    if not held:
        return []
    alike, number = dict(held), 1
    for sample in samples:
        number += 1
        alike = {name: value for name, value in alike.items() if np.array_equal(value, sample.inputs[name], True)}
        if len(alike) < len(held) and not any(value.dtype.kind == "f" for value in alike.values()):
            return []
    if number == 1:
        return []
    found = []
    for name, value in alike.items():
        if len(alike) == len(held) or value.dtype.kind == "f":
            found.append(Code.UNVARIED_SAMPLES(input=name, samples=number, of=of, **single_value(value)))
    return found


def single_value(values: Array) -> dict[str, float]:
    """``value``, where an array of several floats holds no other; empty elsewhere."""
    single = values.size > 1 and values.dtype.kind == "f" and bool((values == values.flat[0]).all())
    return {"value": float(values.flat[0]) + 0.0} if single else {}
