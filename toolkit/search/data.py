"""What a precision search decides on: the samples, and the metric where they have labels for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from toolkit.base.errors import DataError
from toolkit.contract.findings import Code
from toolkit.contract.registry import named
from toolkit.contract.roles import Role
from toolkit.simulation.simulation import with_labels

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def refuse_without_samples(which: Literal["calibration", "evaluation"], context: Context) -> None:
    """Refuse in a dry run what ``samples_to_decide_on`` would refuse.

    Raises:
        DataError: there are no samples.
    """
    if which == "calibration" and not context.can_calibrate:
        raise _none()


def _none() -> DataError:
    return DataError(
        "the search has no samples to decide on",
        remedy=f'give [calibration] data, or data = "evaluation" in the pass; ranges alone are enough for '
        f"{named(Role.QUANTIZE)}",
    )


def samples_to_decide_on(
    which: Literal["calibration", "evaluation"], model: Model, context: Context
) -> tuple[CalibrationData, str | None]:
    """The samples to decide on, and the metric where they have labels for it.

    Raises:
        DataError: there are none.
    """
    evaluation = context.evaluation
    metric = evaluation.metric if evaluation is not None else None
    data: CalibrationData | None
    if which == "evaluation":
        data = evaluation.samples(model) if evaluation is not None else None
        context.journal.noted(Code.SEARCH_ON_EVALUATION())
    else:
        data = getattr(context.provider, "data", None)
    if data is None:
        raise _none()
    if metric is None:
        return data, None
    labelled = with_labels(data)
    if labelled is not None:
        return labelled, metric
    context.journal.noted(Code.SEARCH_WITHOUT_LABELS(data=data.name, metric=metric))
    return data, None
