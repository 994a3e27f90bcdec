"""What a recipe's run starts from: the model, the samples, the calibration and the passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import QtoolError, RangesError, RecipeError, did_you_mean
from toolkit.base.files import sha256_json
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.versions import code_fingerprint
from toolkit.contract.journal import Journal
from toolkit.placement.quantized import QUANTIZED_SOURCE, STRIP, already_quantized, pair_count
from toolkit.run.checks import RunChecks
from toolkit.run.recipe import RandomSection, Recipe

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.passes import Context, Pass
    from toolkit.data.dataset import CalibrationData
    from toolkit.graph.model import Model


class RunInputs(RunChecks):
    """Opens what a recipe names; each thing once."""

    _source_notes: Sequence[tuple[str, str]] = ()
    _reference: Model | None = None

    # ---------------------------------------------------------------- model and data

    def source(self, journal: Journal | None = None) -> Model:
        """The model as it was loaded; loaded once. ``journal`` gets what there is to say of it."""
        from toolkit.graph.model import Model

        if self._source is None:
            said = Journal()
            self._source = Model.load(self.model_path)
            for note in self._source.notes:
                said.noted(note, rule="load")
            self._check_profiles(self._source)
            self._reference = self._source
            if pair_count(self._source):
                self._reference = self._stripped(self._source)
                if pairs := pair_count(self._reference):
                    said.noted(already_quantized(pairs), rule=QUANTIZED_SOURCE)
            self._source_notes = [(event.reason, event.rule) for event in said]
        for reason, rule in self._source_notes if journal is not None else ():
            journal.noted(reason, rule=rule)  # type: ignore[union-attr]
        return self._source

    def reference(self) -> Model:
        """The model that results are compared with: the source without the pairs that the recipe has taken out.

        Pairs that a pass names by what an earlier pass made stay in it.
        """
        source = self.source()
        return source if self._reference is None else self._reference

    def _stripped(self, model: Model) -> Model:
        from toolkit.contract.passes import Context

        for step in self._strips():
            stripped = model.copy()
            with suppress(RecipeError):
                step(stripped, Context())
                model = stripped
        return model

    def _strips(self) -> list[Pass]:
        """The recipe's passes that remove Q/DQ pairs."""
        return [step for step in self.passes() if step.title() == STRIP]

    def _check_profiles(self, model: Model) -> None:
        from toolkit.run.profile_check import check

        check(self.profiles, model, self.recipe)

    def calibration_data(
        self, model: Model, journal: Journal | None = None, profiles: Profiles | None = None
    ) -> CalibrationData | None:
        """The calibration samples, without those held out for evaluation where the recipe has no test data.

        ``profiles`` replaces the recipe's own, where samples must fit other shapes.
        """
        section = self.recipe.calibration
        if section.data is None and section.random is None:
            return None
        data = self._samples(section.data, model, profiles, journal=journal, random=section.random)
        if section.samples is not None and section.samples < len(data):
            kept, _ = data.split(1 - section.samples / len(data))
            if journal is not None:
                journal.noted(
                    f"{len(data) - len(kept)} of {len(data)} samples are left out, as samples = {section.samples} says",
                    rule="cut",
                )
            data = kept
        if self.recipe.evaluation.data is None and len(data) > 1:
            data = data.split(self.recipe.evaluation.hold_out)[0]
        return data

    def evaluation_data(self, model: Model) -> tuple[CalibrationData | None, bool]:
        """The samples to measure on, and whether calibration did not see them."""
        section, calibration = self.recipe.evaluation, self.recipe.calibration
        labels = section.metric is not None
        if section.data is not None:
            data = self._samples(section.data, model, labels=labels)
            return data, not self._same_samples(section.data, calibration.data)
        if calibration.data is None and calibration.random is None:
            return None, True
        data = self._samples(calibration.data, model, labels=labels, random=calibration.random)
        return (data.split(section.hold_out)[1], True) if len(data) > 1 else (data, False)

    def _same_samples(self, data: str, other: str | None) -> bool:
        """Whether both name the same samples; of code in one file it is the names that tell."""
        if other is not None and self._names_code(data) and self._names_code(other):
            return data == other
        return self.data_print(data) == self.data_print(other)

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

        section = self.recipe.calibration
        try:
            return CalibrationData.open(
                self._opened(data),
                model,
                self.profiles if profiles is None else profiles,
                outside=section.outside,
                labels=labels,
                base=self.recipe.folder,
                journal=journal,
                allow_code=self.allow_code,
                mask=section.mask,
                images=section.images.model_dump() if section.images is not None else None,
                random=random.model_dump() if random is not None else None,
            )
        except QtoolError as error:
            if error.value:
                error.at(self.recipe.locate_value(error.value, "calibration"))
            raise

    def _opened(self, data: str | None) -> str | None:
        return data if data is None or self._names_code(data) else str(self.recipe.resolve(data))

    def _collected(self) -> Collection | None:
        """The collection that the recipe names.

        Raises:
            RangesError: it is none, parts of it are missing, or it knows other profiles.
        """
        from toolkit.calibration.collection import Collection
        from toolkit.data.sample import EVERYTHING

        name = self.recipe.calibration.collection
        if name is None:
            return None
        path = self.recipe.resolve(name)
        found = Collection.load(path)
        if found.missing_parts:
            raise RangesError(
                f"the collection lacks the parts {', '.join(found.missing_parts)}",
                where=str(path),
                remedy="join all parts with qtool merge",
            )
        known = self.profiles.names or [EVERYTHING]
        odd = sorted(set(found.profiles) - set(known))
        if odd:
            raise RangesError(
                f"the collection has samples of profile '{odd[0]}', which the recipe does not have",
                where=str(path),
                remedy=did_you_mean(odd[0], known),
            )
        return found

    def calibrator_batches(self) -> Iterator[dict[str, Any]]:
        """Batches for TensorRT's own calibrators: every sample made to fit the calibration profile's opt shape.

        Nothing where the ranges are qtool's own. Samples that do not fill a last batch are left out.
        """
        section = self.recipe.engine
        if section.quantization != "implicit" or section.calibrator == "ranges":
            return
        model = self.source()
        fixed = Profiles()
        if len(self.profiles):
            chosen = self.profiles[section.calibration_profile or self.profiles.names[0]]
            shapes = {name: Extent(extent.opt, extent.opt, extent.opt) for name, extent in chosen.shapes.items()}
            fixed = Profiles((ShapeProfile(chosen.name, shapes),))
        data = self.calibration_data(model, profiles=fixed)
        if data is None:
            return
        size = min((e.opt[0] for p in fixed for e in p.shapes.values()), default=1)
        for batch in data.batches(size):
            if batch.count == size or not data.can_batch:
                yield dict(batch.inputs)

    def calibrator(self, data: CalibrationData | None, journal: Journal) -> Calibrator:
        """The recipe's calibration over ``data``; what it collects is kept in the run folder.

        ``data`` may be None where the recipe names a collection.
        """
        from toolkit.base.precision import Precision
        from toolkit.calibration.provider import Calibrator
        from toolkit.data.dataset import CalibrationData

        section = self.recipe.calibration
        collected = self._collected()
        if data is None:
            data = CalibrationData.open([], self.source(), self.profiles)
        data_print = [data.fingerprint(), len(data)] if collected is None else []
        fp8 = any(p["use"] == "insert_qdq" and p.get("dtype") == "fp8" for p in self.recipe.passes)

        def keep(model: Model, taps: list[str], scalars: list[str]) -> Path:
            key = [
                model.fingerprint(),
                taps,
                scalars,
                data_print,
                section.batch,
                section.device,
                section.outside,
                section.mask,
                repr(self.profiles),
                code_fingerprint(),
            ]
            return self.folder.hidden / f"collection-{sha256_json(key)[:20]}.npz"

        given = None
        if section.ranges is not None:
            from toolkit.calibration.interchange import read_ranges

            given = read_ranges(self.recipe.resolve(section.ranges))
        return Calibrator(
            data,
            section.method,
            section.percentile,
            Precision.FP8 if fp8 else Precision.INT8,
            section.methods,
            section.weights,
            section.batch,
            _bytes(section.memory, self.recipe),
            section.manual,
            given,
            section.ranges_use,
            journal,
            self.progress,
            keep,
            collected,
            section.device,
            self.recipe.engine.tactic_sources,
        )

    def passes(self) -> list[Pass]:
        """The recipe's passes with their settings.

        Raises:
            RecipeError: an unknown pass or setting; the message names the line.
        """
        from toolkit.contract.passes import configure, find

        found = []
        for index, entry in enumerate(self.recipe.passes):
            settings = {key: value for key, value in entry.items() if key != "use"}
            try:
                step = configure(find(entry["use"], self.allow_code), settings)
            except RecipeError as error:
                raise RecipeError(
                    error.what, where=self.recipe.locate("pass", index, "use"), remedy=error.remedy
                ) from error
            step.comes_from(partial(self._place_in_pass, index))
            found.append(step)
        return found

    def _place_in_pass(self, index: int, value: str) -> str:
        return self.recipe.locate_value(value, "pass", index)

    def context(self, model: Model, journal: Journal) -> Context:
        """A context for the recipe's passes on this model."""
        from toolkit.contract.passes import Context

        data = self.calibration_data(model, journal)
        context = Context(
            journal=journal,
            profiles=self.profiles,
            rest=self.recipe.rest,
            progress=self.progress,
            provider=self.calibrator(data, journal)
            if data is not None or self.recipe.calibration.collection is not None
            else None,
        )
        context.services["pipeline"] = self
        return context


def _bytes(text: str | None, recipe: Recipe) -> int | None:
    if text is None:
        return None
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    number = text.strip().upper().rstrip("KMGB")
    unit = text.strip().upper()[len(number) :].strip()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError) as error:
        raise RecipeError(
            f"memory is '{text}'", where=recipe.locate("calibration", "memory"), remedy="write it as '2GB'"
        ) from error
