"""What a search decides on: the samples, and the metric if they have labels for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from toolkit.base.errors import DataError
from toolkit.contract.findings import Code
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.simulation.samples import with_labels
from toolkit.simulation.simulation import Settings, Simulation

_PARTS, _LAYERS_A_PART, _LEAST = 8, 3, 32
_MOST_MACS = 3e11
"""Multiply-accumulates of a float inference of all samples: some 12 seconds, and a search takes twenty of them."""

if TYPE_CHECKING:
    from toolkit.contract.context import Context
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def in_parts(settings: Settings, samples: int, layers: int) -> Settings:
    """The settings for this many samples, with batches small enough to judge plans on a subset of them.

    The more layers, the smaller the batches: each layer is run alone on at least one batch.
    """
    parts = max(_PARTS, layers // _LAYERS_A_PART)
    return replace(settings, samples=samples, batch=max(1, min(settings.batch, samples // parts)))


def limited_where_slow(simulation: Simulation) -> Simulation:
    """The simulation on as many samples as ``_MOST_MACS`` allows, but at least 32."""
    count = sum(feed.count for feed in simulation.feeds)
    few = max(int(count * _MOST_MACS / max(simulation.macs, 1.0)), _LEAST)
    return simulation.on(in_parts(simulation.settings, few, len(simulation.names))) if few < count else simulation


def refuse_without_samples(which: Literal["calibration", "evaluation"], context: Context) -> None:
    """In a dry run, raise the error that ``samples_to_decide_on`` would raise for calibration data.

    Raises:
        DataError: there are no samples.
    """
    if which == "calibration" and not context.can_calibrate:
        raise _none()


def _none() -> DataError:
    return DataError(
        "the search has no samples to decide on",
        remedy=f'give [calibration] data, or data = "evaluation" in the pass; ranges alone are enough for '
        f"{pass_name(Role.QUANTIZE)}",
    )


def samples_to_decide_on(
    which: Literal["calibration", "evaluation"], model: Model, context: Context
) -> tuple[CalibrationData, str | None]:
    """The samples to decide on, and the metric if they have labels for it.

    Raises:
        DataError: there are no samples.
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
    return data, None
