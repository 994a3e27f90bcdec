"""The form of the model that calibration runs on: that before the first pass that requests ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from toolkit.base.errors import RangesError
from toolkit.base.precision import Precision

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.contract.passes import Pass
    from toolkit.contract.ranges import Ranges
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


class Unasked:
    """Takes the place of calibration while passes run that declare that they need no ranges.

    Attributes:
        data: the calibration samples, which these passes may read; None if there are none.
    """

    def __init__(self, data: CalibrationData | None) -> None:
        self.data = data

    def __call__(self, model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        """Refuse the request.

        Raises:
            RangesError: always.
        """
        raise RangesError(
            "a pass requests ranges that its ranges_wanted does not return",
            remedy="let ranges_wanted return the tensors whose ranges apply requests",
        )


def calibrated_form(
    steps: Sequence[Pass], source: Model, model: Model, context: Context, applies: Callable[[Pass], bool]
) -> tuple[Model, list[str] | None] | None:
    """The model that a run calibrates, and the names of the tensors whose ranges a pass requests first.

    Args:
        steps: the passes still to be applied.
        source: the float model, which a run calibrates if no pass requests ranges.
        model: the graph before ``steps``; it is changed.
        context: its provider is ``Unasked``.
        applies: whether a pass that requests no ranges may be applied.

    Returns:
        The names are None if the run has no pass that requests ranges, and empty for all that placement could need.
        None if a pass comes first that may not be applied.

    Raises:
        QtoolError: a pass failed, or requests ranges although it declares none.
    """
    for step in steps:
        trial = model.copy()
        asked = step.ranges_wanted(trial, context.fork())
        if asked is not None:
            return trial, list(asked)
        if not applies(step):
            return None
        step(model, context)
    return source, None
