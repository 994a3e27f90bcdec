"""The form of the model that a run calibrates first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision
from toolkit.contract.journal import Journal
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.steps.context import context_for

if TYPE_CHECKING:
    from toolkit.contract.passes import Pass
    from toolkit.contract.ranges import Ranges
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def first_calibrated(inputs: Inputs, steps: Sequence[Pass], journal: Journal) -> tuple[Model, list[str] | None]:
    """The model whose statistics a run collects when a pass first requests ranges, and the tensors requested by name.

    The passes before that one are applied, since calibration runs on their result. If no pass requests ranges, a run
    calibrates the float model, and no tensor is requested by name (None).

    Raises:
        QtoolError: a pass refuses the model.
    """
    source = inputs.source()
    model = source.copy()
    context = context_for(inputs, model, journal)
    context.provider = _Unasked(inputs.calibration_data(source, journal))
    for step in steps:
        trial = model.copy()
        asked = step.ranges_wanted(trial, context.fork())
        if asked is not None:
            return trial, list(asked)
        step(model, context)
    return source, None


class _Unasked:
    """Takes the place of calibration while passes run that declare that they need no ranges."""

    def __init__(self, data: CalibrationData | None) -> None:
        self.data = data

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        raise RangesError(
            "a pass requests ranges that its ranges_wanted does not return",
            remedy="let ranges_wanted return the tensors whose ranges apply requests",
        )
