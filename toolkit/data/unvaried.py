"""Samples that are all identical: they show no more than a single sample."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from toolkit.base.types import Array
from toolkit.contract.findings import Code, Finding
from toolkit.data.codes import DataCode
from toolkit.data.dataset import CalibrationData


def unvaried(data: CalibrationData, of: str, used: Container[str]) -> list[Finding]:
    """Findings about inputs that are identical in all samples, if they are float inputs or all inputs are identical.

    Reading stops once some input, and every float input, has differed. A scalar float input, such as a scale, may be a
    setting and is reported as another finding. Each of the two findings lists all of its inputs.

    Args:
        of: what the samples are for: calibration or evaluation.
        used: the inputs whose values the model computes with; others may be constant.
    """
    samples = data.samples()
    first = next(samples, None)
    if first is None:
        return []
    # an empty past has no values that could differ
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
    """Merge findings that differ only in their inputs and values."""
    groups: dict[tuple[Any, ...], tuple[list[Any], list[Any]]] = {}
    for one in found:
        known: dict[str, Any] = {**one.values}
        inputs, values = known.pop("inputs"), known.pop("values")
        group = groups.setdefault((one.code, *sorted(known.items())), ([], []))
        group[0].extend(inputs)
        group[1].extend(values)
    return [code(inputs=inputs, values=values, **dict(known)) for (code, *known), (inputs, values) in groups.items()]


def same_values(name: str, samples: int, value: Array | None, everything: bool, **known: Any) -> Finding:
    """The finding that an input is identical in all samples.

    Args:
        name: the input.
        samples: number of samples.
        value: the value of one sample; None if unknown.
        everything: whether all other inputs are identical too: then a scalar is not a setting.
        known: further values of the finding.
    """
    if value is not None and value.size == 1 and value.dtype.kind == "f" and not everything:
        return DataCode.FIXED_INPUT(inputs=[name], samples=samples, values=[float(value.reshape(-1)[0])], **known)
    return Code.UNVARIED_SAMPLES(inputs=[name], samples=samples, values=[_single(value)], **known)


def _single(values: Array | None) -> float | None:
    """The value that all elements of a float array of several elements share; None if they differ."""
    if values is None or values.size < 2 or values.dtype.kind != "f" or not (values == values.flat[0]).all():
        return None
    return float(values.flat[0]) + 0.0
