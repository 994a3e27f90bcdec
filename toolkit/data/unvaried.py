"""Samples that are all identical: any number of copies shows only what one sample shows."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Code, Finding
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData


def unvaried(data: CalibrationData, of: str, used: Container[str]) -> list[Finding]:
    """The inputs that are the same in all samples, where all inputs are, or where the input is a float one.

    Reading ends as soon as every input has differed once. A float input of one number, such as a scale, may well be a
    setting: that is another finding. Each of the two names all of its inputs.

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
            found.append(same_values(name, number, value, len(alike) == len(held), of=of))
    return together(found)


def together(found: Sequence[Finding]) -> list[Finding]:
    """One finding for all inputs of which the same is to be said."""
    groups: dict[tuple[Any, ...], tuple[list[Any], list[Any]]] = {}
    for one in found:
        known: dict[str, Any] = {**one.values}
        inputs, values = known.pop("inputs"), known.pop("values")
        group = groups.setdefault((one.code, *sorted(known.items())), ([], []))
        group[0].extend(inputs)
        group[1].extend(values)
    return [code(inputs=inputs, values=values, **dict(known)) for (code, *known), (inputs, values) in groups.items()]


def same_values(name: str, samples: int, value: Array | None, everything: bool, **known: Any) -> Finding:
    """The finding that an input is the same in all samples.

    Args:
        name: the input.
        samples: how many there are.
        value: one sample's; None where that is not known.
        everything: whether all other inputs are the same too: then the one number of a sample is no setting.
        known: further values of the finding.
    """
    if value is not None and value.size == 1 and value.dtype.kind == "f" and not everything:
        return DataCode.FIXED_INPUT(inputs=[name], samples=samples, values=[float(value.reshape(-1)[0])], **known)
    return Code.UNVARIED_SAMPLES(inputs=[name], samples=samples, values=[_single(value)], **known)


def _single(values: Array | None) -> float | None:
    """The only number that an array of several floats holds; None where there is none."""
    if values is None or values.size < 2 or values.dtype.kind != "f" or not (values == values.flat[0]).all():
        return None
    return float(values.flat[0]) + 0.0
