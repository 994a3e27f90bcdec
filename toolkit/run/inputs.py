"""What a recipe's run starts from: the model and the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import QtoolError, RecipeError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.placement.quantized import pair_count
from toolkit.run.fingerprints import Fingerprints
from toolkit.run.job import Job
from toolkit.run.profile_check import check
from toolkit.run.recipe_passes import stripping_passes
from toolkit.run.sections import RandomSection

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


class Inputs:
    """Opens what a job's recipe names; the model once.

    Attributes:
        job: the recipe at work.
        prints: fingerprints of what is read.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.prints = job, Fingerprints(job)
        self._source: Model | None = None
        self._reference: Model | None = None
        self._source_notes: Sequence[Finding] = ()

    def source(self, journal: Journal | None = None) -> Model:
        """The model as it was loaded; loaded once. ``journal`` gets what there is to say of it."""
        from toolkit.graph.model import Model

        if self._source is None:
            said = Journal()
            self._source = Model.load(self.job.model_path)
            for what, number in self._source.changed.items():
                said.noted(Code.LOADED(what=what, number=number))
            check(self.job.profiles, self._source, self.job.recipe)
            self._reference = self._source
            if pair_count(self._source):
                self._reference = self._stripped(self._source)
                if pairs := pair_count(self._reference):
                    said.noted(Code.QUANTIZED_SOURCE(pairs=pairs))
            self._source_notes = [event.why for event in said]
        if journal is not None:
            for known in self._source_notes:
                journal.noted(known)
        return self._source

    def reference(self) -> Model:
        """The model that results are compared with: the source without the pairs that the recipe has taken out.

        Pairs that a pass names by what an earlier pass made stay in it.
        """
        source = self.source()
        return source if self._reference is None else self._reference

    def _stripped(self, model: Model) -> Model:
        from toolkit.contract.context import Context

        for step in stripping_passes(self.job.recipe, self.job.allow_code):
            stripped = model.copy()
            with suppress(RecipeError):
                step(stripped, Context())
                model = stripped
        return model

    def calibration_data(
        self, model: Model, journal: Journal | None = None, profiles: Profiles | None = None
    ) -> CalibrationData | None:
        """The calibration samples, without those held out for evaluation where the recipe has no test data.

        ``profiles`` replaces the recipe's own, where samples must fit other shapes.
        """
        section = self.job.recipe.calibration
        if section.data is None and section.random is None:
            return None
        data = self._samples(section.data, model, profiles, journal=journal, random=section.random)
        if section.samples is not None and section.samples < len(data):
            kept, _ = data.split(1 - section.samples / len(data))
            if journal is not None:
                journal.noted(Code.LIMITED(left_out=len(data) - len(kept), total=len(data), limit=section.samples))
            data = kept
        if self.job.recipe.evaluation.data is None and len(data) > 1:
            data = data.split(self.job.recipe.evaluation.hold_out)[0]
        return data

    def evaluation_data(self, model: Model) -> tuple[CalibrationData | None, bool]:
        """The samples to measure on, and whether calibration did not see them."""
        section, calibration = self.job.recipe.evaluation, self.job.recipe.calibration
        labels = section.metric is not None
        if section.data is not None:
            data = self._samples(section.data, model, labels=labels)
            return data, not self.prints.same_samples(section.data, calibration.data)
        if calibration.data is None and calibration.random is None:
            return None, True
        data = self._samples(calibration.data, model, labels=labels, random=calibration.random)
        return (data.split(section.hold_out)[1], True) if len(data) > 1 else (data, False)

    def _samples(
        self,
        data: str | None,
        model: Model,
        profiles: Profiles | None = None,
        *,
        journal: Journal | None = None,
        labels: bool = False,
        random: RandomSection | None = None,
    ) -> CalibrationData:
        from toolkit.data.dataset import CalibrationData

        section = self.job.recipe.calibration
        try:
            return CalibrationData.open(
                self._opened(data),
                model,
                self.job.profiles if profiles is None else profiles,
                outside=section.outside,
                labels=labels,
                base=self.job.recipe.folder,
                journal=journal,
                allow_code=self.job.allow_code,
                mask=section.mask,
                images=section.images.model_dump() if section.images is not None else None,
                random=random.model_dump() if random is not None else None,
            )
        except QtoolError as error:
            if error.value:
                error.at(self.job.recipe.locate_value(error.value, "calibration"))
            raise

    def _opened(self, data: str | None) -> str | None:
        return data if data is None or self.job.names_code(data) else str(self.job.recipe.resolve(data))

    def calibrator_batches(self) -> Iterator[dict[str, Any]]:
        """Batches for TensorRT's own calibrators: every sample made to fit the calibration profile's opt shape.

        Nothing where the ranges are qtool's own. Samples that do not fill a last batch are left out.
        """
        section = self.job.recipe.engine
        if section.quantization != "implicit" or section.calibrator == "ranges":
            return
        model = self.source()
        fixed = Profiles()
        if len(self.job.profiles):
            chosen = self.job.profiles[section.calibration_profile or self.job.profiles.names[0]]
            shapes = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in chosen.shapes.items()}
            fixed = Profiles((ShapeProfile(chosen.name, shapes),))
        data = self.calibration_data(model, profiles=fixed)
        if data is None:
            return
        size = min((e.opt[0] for p in fixed for e in p.shapes.values()), default=1)
        for batch in data.batches(size):
            if batch.count == size or not data.can_batch:
                yield dict(batch.inputs)
