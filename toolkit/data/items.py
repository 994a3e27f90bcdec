"""Samples that lack the axis of samples, as the items of data sets do: where it goes, and where that is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.profiles import Shape
from toolkit.base.types import Array
from toolkit.data.sample import InputSpec, Specs

_PICTURE = 3
"""Axes of a picture with its channels; of a series of vectors or pictures the first is its length, which may be any."""
_COLOURS = (1, 3, 4)
"""So many in front are a picture's channels."""
_MAY_BE_CHANNELS = re.compile(r"|\?|-1|c|ch|in_?c|.*chan.*|.*colou?rs?|unk_.*|.*dim_?\d+|.*axes_\d+|s\d+", re.I)
"""What the dimension of channels is called, or an exporter calls one of which it knows nothing."""


def with_batch_axis(arrays: Mapping[str, Array], specs: Specs) -> dict[str, Array]:
    """A sample as a loader would collate it alone: with the axis of samples, where every input lacks it.

    The items of data sets and what generators yield often come so. An input without such an axis stays as it is.
    """
    places = _lacking({name: value.shape for name, value in arrays.items()}, specs)
    return {
        name: value if (place := places.get(name)) is None else np.expand_dims(value, place)
        for name, value in arrays.items()
    }


def with_batch_dimension(shapes: Mapping[str, Shape], specs: Specs) -> dict[str, Shape]:
    """The shapes of what ``with_batch_axis`` makes of arrays of these shapes."""
    places = _lacking(shapes, specs)
    return {
        name: shape if (place := places.get(name)) is None else (*shape[:place], 1, *shape[place:])
        for name, shape in shapes.items()
    }


def refuse_ambiguous(value: Array, spec: InputSpec, where: str) -> None:
    """Refuse an item of which it is not known whether it is a sample without its axis, or several without channels.

    Raises:
        DataError: nothing tells how many channels the model takes.
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
    """Where the axis of samples goes into the arrays that lack it: none where one of the inputs has it.

    Labels lack it with the inputs. A number for a fixed input [1] alone says nothing of them beside an input of other
    extents that is complete.
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
