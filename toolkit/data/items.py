"""Samples without a batch axis, such as items of data sets: where to add it, and when that is ambiguous."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.profiles import Shape
from toolkit.base.types import Array
from toolkit.data.sample import InputSpec, Specs

_PICTURE = 3
"""Rank of an image with channels; a sequence of the same rank has any length in its first dimension."""
_COLOURS = (1, 3, 4)
"""Plausible numbers of image channels in the first dimension."""
_MAY_BE_CHANNELS = re.compile(r"|\?|-1|c|ch|in_?c|.*chan.*|.*colou?rs?|unk_.*|.*dim_?\d+|.*axes_\d+|s\d+", re.I)
"""Names of a dimension that may be channels, including names that exporters give to unknown dimensions."""


def with_batch_axis(arrays: Mapping[str, Array], specs: Specs) -> dict[str, Array]:
    """A sample as a loader would collate it alone: with the batch axis added if every input lacks it.

    Items of data sets and values from generators often lack it. An input that has no batch axis stays unchanged.
    """
    places = _lacking({name: value.shape for name, value in arrays.items()}, specs)
    return {
        name: value if (place := places.get(name)) is None else np.expand_dims(value, place)
        for name, value in arrays.items()
    }


def with_batch_dimension(shapes: Mapping[str, Shape], specs: Specs) -> dict[str, Shape]:
    """The shapes that ``with_batch_axis`` gives to arrays of these shapes."""
    places = _lacking(shapes, specs)
    return {
        name: shape if (place := places.get(name)) is None else (*shape[:place], 1, *shape[place:])
        for name, shape in shapes.items()
    }


def refuse_ambiguous(value: Array, spec: InputSpec, where: str) -> None:
    """Refuse an item that may be either one sample without its batch axis or several samples without channels.

    Raises:
        DataError: both readings are possible, since the model does not say how many channels it takes.
    """
    dims = spec.dims or ()
    if spec.channels is not None or spec.batch_axis != 0 or value.ndim != _PICTURE or isinstance(dims[1], int):
        return
    if value.shape[0] in _COLOURS or not _MAY_BE_CHANNELS.fullmatch(dims[1] or ""):
        return
    lead, one = value.shape[0], list(value.shape[1:])
    raise DataError(
        f"shape {list(value.shape)} may be one sample with {lead} in dimension 1, or {lead} samples {one} without it",
        where=f"{where}, input '{spec.name}'",
        remedy=f"give all dimensions: value[None] for one sample, or each of the {lead} samples as "
        "numpy.expand_dims(sample, (0, 1))",
    )


def _lacking(shapes: Mapping[str, Shape], specs: Specs) -> dict[str, int]:
    """Position of the missing batch axis per array; empty if any input has its batch axis.

    Labels lack the batch axis if the inputs do. A number for a fixed input [1] says nothing about labels if an input of
    another shape is complete.
    """
    axes = {
        name: spec.batch_axis if spec.batch_axis is not None else 0
        for name, spec in specs.items()
        if name in shapes and spec.dims and (spec.batch_axis is not None or spec.dims[0] == 1)
    }
    if not axes or any(len(shapes[name]) != len(specs[name].dims or ()) - 1 for name in axes):
        return {}
    others = {name: spec.dims for name, spec in specs.items() if name in shapes and name not in axes and spec.dims}
    numbers = all(specs[name].batch_axis is None and len(specs[name].dims or ()) == 1 for name in axes)
    whole = numbers and any(len(shapes[name]) == len(dims) for name, dims in others.items())
    return {name: axes.get(name, 0) for name in shapes if name in axes or (name not in specs and not whole)}
