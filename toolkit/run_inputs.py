"""What a recipe's run starts from: the model, the samples, the calibration and the passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DataError, ModelError, RecipeError
from toolkit.files import sha256_json
from toolkit.journal import Journal
from toolkit.recipe import Recipe
from toolkit.steps import RunFolder
from toolkit.versions import code_fingerprint, module_fingerprint, path_fingerprint

if TYPE_CHECKING:
    from toolkit.calibration.provider import Calibrator
    from toolkit.data import CalibrationData
    from toolkit.graph_pass import Context, Pass, Progress
    from toolkit.model import Model


class RunInputs:
    """Opens what a recipe names; each thing once."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, allow_code: bool = False, progress: Progress | None = None
    ) -> None:
        self.recipe, self.folder, self.allow_code = recipe, folder, allow_code
        self.progress = progress or (lambda what, done, total: None)
        self.profiles = recipe.profiles()
        self.model_path = recipe.resolve(recipe.model.path)
        self._source: Model | None = None
        self._prints: dict[Path, str] = {}

    def inputs_exist(self) -> None:
        """Check that the files the recipe names are there.

        Raises:
            ModelError: the model is not.
            DataError: data is not.
        """
        if not self.model_path.is_file():
            raise ModelError(
                f"no such model: {self.model_path}",
                where=self.recipe.locate("model", "path"),
                remedy="paths are relative to the recipe",
            )
        for table in ("calibration", "evaluation"):
            data = getattr(self.recipe, table).data
            if data is not None and not is_code(data) and not self.recipe.resolve(data).exists():
                raise DataError(
                    f"no such data: {self.recipe.resolve(data)}",
                    where=self.recipe.locate(table, "data"),
                    remedy="paths are relative to the recipe",
                )

    def print_of(self, path: Path) -> str:
        """SHA-256 of a file or folder, computed once; empty where there is none."""
        if path not in self._prints:
            self._prints[path] = path_fingerprint(path) if path.exists() else ""
        return self._prints[path]

    def data_print(self, data: str | None) -> str:
        """SHA-256 of a recipe's data, or of the module that gives it."""
        if data is None:
            return ""
        return module_fingerprint(data.partition(":")[0]) if is_code(data) else self.print_of(self.recipe.resolve(data))

    # ---------------------------------------------------------------- model and data

    def source(self, journal: Journal | None = None) -> Model:
        """The float model as it was loaded; loaded once."""
        from toolkit.model import Model

        if self._source is None:
            self._source = Model.load(self.model_path, journal)
            self._check_profiles(self._source)
        return self._source

    def _check_profiles(self, model: Model) -> None:
        from toolkit.profile_check import check

        check(self.profiles, model, self.recipe)

    def calibration_data(self, model: Model, journal: Journal | None = None) -> CalibrationData | None:
        """The calibration samples, without those held out for evaluation where the recipe has no test data."""
        from toolkit.data import CalibrationData

        section = self.recipe.calibration
        if section.data is None and section.random is None:
            return None
        data = CalibrationData.open(
            self._opened(section.data),
            model,
            self.profiles,
            outside=section.outside,
            base=self.recipe.folder,
            journal=journal,
            allow_code=self.allow_code,
            mask=section.mask,
            images=section.images.model_dump() if section.images is not None else None,
            random=section.random.model_dump() if section.random is not None else None,
        )
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
        from toolkit.data import CalibrationData

        section = self.recipe.evaluation
        if section.data is not None:
            data = CalibrationData.open(
                self._opened(section.data),
                model,
                self.profiles,
                outside=self.recipe.calibration.outside,
                labels=section.metric is not None,
                base=self.recipe.folder,
                allow_code=self.allow_code,
                mask=self.recipe.calibration.mask,
                images=self.recipe.calibration.images.model_dump()
                if self.recipe.calibration.images is not None
                else None,
            )
            return data, self.data_print(section.data) != self.data_print(self.recipe.calibration.data)
        calibration = self.recipe.calibration
        if calibration.data is None and calibration.random is None:
            return None, True
        data = CalibrationData.open(
            self._opened(calibration.data),
            model,
            self.profiles,
            outside=calibration.outside,
            labels=section.metric is not None,
            base=self.recipe.folder,
            allow_code=self.allow_code,
            mask=calibration.mask,
            images=calibration.images.model_dump() if calibration.images is not None else None,
            random=calibration.random.model_dump() if calibration.random is not None else None,
        )
        return (data.split(section.hold_out)[1], True) if len(data) > 1 else (data, False)

    def _opened(self, data: str | None) -> str | None:
        return data if data is None or is_code(data) else str(self.recipe.resolve(data))

    def calibrator(self, data: CalibrationData, journal: Journal) -> Calibrator:
        """The recipe's calibration over ``data``; what it collects is kept in the run folder."""
        from toolkit.calibration.provider import Calibrator
        from toolkit.precision import Precision

        section = self.recipe.calibration
        data_print = [data.fingerprint(), len(data)]
        fp8 = any(p["use"] == "insert_qdq" and p.get("dtype") == "fp8" for p in self.recipe.passes)

        def keep(model: Model, taps: list[str], scalars: list[str]) -> Path:
            key = [
                model.fingerprint(),
                taps,
                scalars,
                data_print,
                section.batch,
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
        )

    def passes(self) -> list[Pass]:
        """The recipe's passes with their settings.

        Raises:
            RecipeError: an unknown pass or setting; the message names the line.
        """
        from toolkit.graph_pass import configure, find

        found = []
        for index, entry in enumerate(self.recipe.passes):
            settings = {key: value for key, value in entry.items() if key != "use"}
            try:
                found.append(configure(find(entry["use"], self.allow_code), settings))
            except RecipeError as error:
                raise RecipeError(
                    error.what, where=self.recipe.locate("pass", index, "use"), remedy=error.remedy
                ) from error
        return found

    def context(self, model: Model, journal: Journal) -> Context:
        """A context for the recipe's passes on this model."""
        from toolkit.graph_pass import Context

        data = self.calibration_data(model, journal)
        context = Context(
            journal=journal,
            profiles=self.profiles,
            rest=self.recipe.rest,
            progress=self.progress,
            provider=self.calibrator(data, journal) if data is not None else None,
        )
        context.services["pipeline"] = self
        return context


def is_code(name: str) -> bool:
    """Whether a setting names code: ``module:Name``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


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
