"""Check on the first samples that the model computes batches of the allowed sizes; errors name the faulty node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.base.errors import ModelError, QtoolError, RecipeError
from toolkit.base.profiles import fixed_profile
from toolkit.base.types import Array
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.sessions.endless_loops import EndlessLoopError
from toolkit.graph.sessions.session import session
from toolkit.run.inputs.feeds import batch_limits
from toolkit.run.recipe.new_profile import Seen, one_sample

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData
    from toolkit.data.sample import Sample
    from toolkit.graph.interface.batch_probe import BatchFault
    from toolkit.graph.model import Model
    from toolkit.graph.sessions.session import Session
    from toolkit.run.inputs.inputs import Inputs

_MOST_VALUES = 1 << 26
"""Largest number of values in random inputs: declared shapes may exceed the memory."""
_LOOKED_AT = 32
"""How many samples are searched for ones with the shapes of the first."""
_PLAIN, _BRANCHING = 2, 8
"""Size of the batch to try. With two samples, a branch that is chosen for the whole batch (by its mean, say) is missed
half of the time, since both samples take the same branch."""


def batches_run(inputs: Inputs, data: CalibrationData, loaded: Session) -> None:
    """Run a batch of the smallest conclusive size that the recipe's profiles allow.

    Raises:
        RecipeError: the model cannot compute the batch, or its outputs differ from those of the single samples; the
            message names the node.
        ModelError: the model cannot run a sample, which the message names, or runs only a fixed number of samples.
    """
    from toolkit.data.faults import run_of
    from toolkit.graph.interface.batch_probe import batch_fault

    first = _first(data)
    if first is None:
        return
    recipe = inputs.job.recipe
    homes = [(index, profile) for index, profile in enumerate(data.profiles) if profile.name in first.profiles]
    model = inputs.source()
    least = _telling(model)
    sizes = [
        (min(max(least, low), high), index) for index, profile in homes for low, high in [batch_limits(profile, data)]
    ]
    size, index = max(sizes, default=(min(least, recipe.calibration.batch), None), key=lambda one: one[0])
    if size < 2:
        _refuse_fixed(model, data, first.inputs, loaded)
        return
    try:
        fault = batch_fault(model, data.axes, _alike(data, first.inputs, size), loaded)
    except EndlessLoopError:
        raise
    except ModelError:
        _refuse_fixed(model, data, first.inputs, loaded)
        for sample in islice(data.samples(), _LOOKED_AT):
            with run_of([sample.origin]):
                loaded.run(sample.inputs)
        raise
    if fault is None:
        return
    where = recipe.locate("profile", index, "shapes") if index is not None else str(recipe.path or "the recipe")
    names = ", ".join(f"dimension {axis} of '{name}'" for name, axis in data.axes.items())
    raise RecipeError(
        fault_words(fault),
        where=where,
        remedy=f"write 1 in min, opt and max of {names}"
        + (" in a [[profile]]" if index is None else "")
        + ", or export the model so that it supports batches",
    )


def batches_refused(model: Model, source: Path | None, seen: Seen) -> BatchFault | None:
    """Why a model cannot compute several samples at once, tried on data or on random samples of the expected shapes.

    None if it can, if no axis along which samples are joined is known, if the model does not run on a single random
    sample, or if random inputs would be too large.

    Args:
        source: the data; None for random samples.
        seen: the shapes of the data's samples, by input.

    Raises:
        ModelError: the model cannot run a sample of the data, runs only a fixed number of samples, or does not
            terminate.
    """
    from toolkit.data.dataset import CalibrationData
    from toolkit.data.images import holds_images
    from toolkit.graph.interface.batch_probe import batch_fault, fault_by_shapes

    if source is not None and not holds_images(source):
        data = CalibrationData.open(str(source.resolve()), model)
    else:
        shapes = one_sample(shapes_to_join(model), seen)
        if sum(math.prod(shape) for shape in shapes.values()) > _MOST_VALUES:
            return None
        data = CalibrationData.open(None, model, fixed_profile(shapes), random={"seed": 0, "samples": 2})
    first = _first(data)
    if first is None:
        if source is not None:
            _refuse_fixed_rows(model, data)
        return None
    try:
        return batch_fault(model, data.axes, _alike(data, first.inputs, _telling(model)))
    except QtoolError as error:
        if isinstance(error, ModelError) and not isinstance(error, EndlessLoopError):
            _refuse_fixed(model, data, first.inputs, session(model))
        if source is not None and isinstance(error, ModelError):
            # for random samples the error says little; with real samples no recipe would run
            raise
        return fault_by_shapes(model, data.axes, first.inputs, 2)


def _refuse_fixed(model: Model, data: CalibrationData, sample: Mapping[str, Array], loaded: Session) -> None:
    """Refuse a model that runs only a fixed number of samples, other than 1, which its inputs do not declare.

    Raises:
        ModelError: the model has such a fixed number; the message gives it and the node.
    """
    from toolkit.graph.interface.fixed_batch import fixed_batch

    found = fixed_batch(model, data.axes, sample, loaded)
    if found is None:
        return
    size, fault = found
    names = ", ".join(f"dimension {axis} of '{name}'" for name, axis in data.axes.items())
    raise ModelError(
        f"the model computes {size} samples at once, but not a single one: {fault.words} has the batch fixed, which "
        f"{names} {'does' if len(data.axes) == 1 else 'do'} not declare",
        where=str(model.source or "the model"),
        remedy=f"declare {size} there (onnx.tools.update_model_dims.update_inputs_outputs_dims does), or export the "
        "model so that it supports batches",
    )


def _refuse_fixed_rows(model: Model, data: CalibrationData) -> None:
    """Like ``_refuse_fixed``, for samples with as many rows as the model computes at once: not one, nor twice as many.

    Rows that refer to each other, such as the edges of a graph to its nodes, are excluded: twice as many can be
    computed.

    Raises:
        ModelError: see ``_refuse_fixed``.
    """
    from toolkit.data.sample import rows_of
    from toolkit.graph.interface.batch_values import join

    sample = next(iter(data.samples()), None)
    rows = {sample.inputs[name].shape[axis] for name, axis in data.axes.items()} if sample is not None else set()
    if sample is None or len(rows) != 1 or not max(rows) > 1:
        return
    loaded = session(model)
    try:
        loaded.run(join([sample.inputs] * 2, data.axes))
    except EndlessLoopError:
        raise
    except ModelError:
        _refuse_fixed(model, data, rows_of(sample.inputs, data.axes, [0]), loaded)


def fault_words(fault: BatchFault) -> str:
    """Description of a fault with batches, with the node."""
    if fault.runs:
        return (
            f"for a batch of {fault.samples} the model computes other results than for its samples one by one: "
            f"{fault.words} mixes them"
        )
    return f"the model cannot compute a batch of {fault.samples}: {fault.words} has the batch fixed"


def _telling(model: Model) -> int:
    """Batch size that shows whether the model computes each sample independently of the others."""
    return _BRANCHING if any(node.op in ("If", "Loop") for node in model.nodes) else _PLAIN


def _first(data: CalibrationData) -> Sample | None:
    """The first sample if samples can be joined and this one has a single row; None otherwise."""
    sample = next(iter(data.samples()), None)
    if sample is None or not data.can_batch:
        return None
    return sample if all(sample.inputs[name].shape[axis] == 1 for name, axis in data.axes.items()) else None


def _alike(data: CalibrationData, first: Mapping[str, Array], count: int) -> list[Mapping[str, Array]]:
    """Samples with the shapes of the first: from the data and, if these are too few, the first with changed values."""
    from toolkit.data.rows import moved

    found: list[Mapping[str, Array]] = []
    for sample in islice(data.samples(), _LOOKED_AT):
        shared = (np.array_equal(first[name], sample.inputs[name]) for name in first if name not in data.axes)
        if sample.shapes == {name: value.shape for name, value in first.items()} and all(shared):
            found.append(sample.inputs)
        if len(found) == count:
            return found
    while len(found) < count:
        found.append(moved(first, data.axes, len(found)))
    return found
