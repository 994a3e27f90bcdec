"""The context that a recipe's passes are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.contract.journal import Journal
from toolkit.run.calibrator import calibrator
from toolkit.run.engine_settings import engine_settings
from toolkit.run.folder import RunFolder
from toolkit.run.inputs import Inputs
from toolkit.run.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.backends.base import EngineSettings
    from toolkit.contract.passes import Context
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


def context_for(inputs: Inputs, model: Model, journal: Journal) -> Context:
    """A context for the recipe's passes on this model."""
    from toolkit.contract.passes import Context

    job = inputs.job
    data = inputs.calibration_data(model, journal)
    context = Context(
        journal=journal,
        profiles=job.profiles,
        rest=job.recipe.rest,
        progress=job.progress,
        provider=calibrator(inputs, data, journal)
        if data is not None or job.recipe.calibration.collection is not None
        else None,
    )
    context.services["pipeline"] = _Offered(inputs)
    return context


@dataclass(frozen=True)
class _Offered:
    """What passes may ask of the recipe that they are in."""

    inputs: Inputs

    @property
    def recipe(self) -> Recipe:
        return self.inputs.job.recipe

    @property
    def folder(self) -> RunFolder:
        return self.inputs.job.folder

    @property
    def path(self) -> Path:
        return self.inputs.job.folder.path

    @property
    def allow_code(self) -> bool:
        return self.inputs.job.allow_code

    def source(self) -> Model:
        return self.inputs.source()

    def evaluation_data(self, model: Model) -> tuple[CalibrationData | None, bool]:
        return self.inputs.evaluation_data(model)

    def calibration_data(self, model: Model) -> CalibrationData | None:
        return self.inputs.calibration_data(model)

    def calibrator_batches(self) -> Iterator[dict[str, Any]]:
        return self.inputs.calibrator_batches()

    def engine_settings(self) -> EngineSettings:
        return engine_settings(self.inputs.job.recipe)
