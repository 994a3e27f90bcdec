"""Samples with labels for a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.base.errors import DataError

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData


def with_labels(data: CalibrationData) -> CalibrationData | None:
    """The same samples with their labels; None if they have none."""
    labelled = data.part(lambda index: True, data.name)
    labelled.labels = True
    try:
        next(iter(labelled.samples()), None)
    except DataError:
        return None
    return labelled
