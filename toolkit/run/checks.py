"""What a recipe names, checked before anything is computed or written: files, code, and names of tensors."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import DataError, ModelError, NotAllowedError, QtoolError, RecipeError, did_you_mean
from toolkit.base.versions import module_fingerprint, path_fingerprint
from toolkit.placement.quantized import refuse_integer_operators
from toolkit.run.recipe import Recipe
from toolkit.run.steps import RunFolder

if TYPE_CHECKING:
    from toolkit.contract.passes import Progress
    from toolkit.graph.header import Header
    from toolkit.graph.model import Model


class RunChecks:
    """A recipe with its run folder, and what can be said of both before the run."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, allow_code: bool = False, progress: Progress | None = None
    ) -> None:
        self.recipe, self.folder, self.allow_code = recipe, folder, allow_code
        self.progress = progress or (lambda what, done, total: None)
        self.profiles = recipe.profiles()
        self.model_path = recipe.resolve(recipe.model.path)
        self._source: Model | None = None
        self._prints: dict[Path, str] = {}

    @cached_property
    def header(self) -> Header | None:
        """Names of inputs and outputs and files of weights; None where the model file cannot be parsed."""
        from toolkit.graph.header import read_header

        return read_header(self.model_path)

    def input_files(self) -> dict[str, Path]:
        """Every file and folder that the recipe reads, by what it is; links are not followed."""
        recipe = self.recipe
        found = {"the recipe": recipe.path.absolute()} if recipe.path is not None else {}
        found["the model"] = self._place(recipe.model.path)
        for number, path in enumerate(self.header.external if self.header is not None else (), 1):
            found["the model's weights" + (f" ({number})" if number > 1 else "")] = path
        for table, key in (
            ("calibration", "data"), ("calibration", "ranges"), ("calibration", "collection"),
            ("evaluation", "data"), ("engine", "timing_cache"),
        ):  # fmt: skip
            value = getattr(getattr(recipe, table), key)
            if value is not None and not self._names_code(value):
                found[f"[{table}] {key}"] = self._place(value)
        return {**found, **self.times_files()}

    def times_files(self) -> dict[str, Path]:
        """The reports of earlier runs whose measured times a search uses, by what they are."""
        found = {}
        for number, entry in enumerate(self.recipe.passes, 1):
            given = entry.get("times", []) if entry["use"] == "search_precision" else []
            # whatever else it is, the pass itself refuses with the right words
            for path in [given] if isinstance(given, str) else given if isinstance(given, list) else ():
                place = self._place(str(path))
                found[f"times of pass {number} ({path})"] = place / "report.json" if place.is_dir() else place
        return found

    def _place(self, path: str) -> Path:
        return self.recipe.folder / Path(path).expanduser()

    def _names_code(self, data: str) -> bool:
        return is_code(data) and not self._place(data).exists()

    def code_allowed(self) -> None:
        """Check that the recipe names no code unless the user allowed it; nothing is imported.

        Raises:
            NotAllowedError: it does.
        """
        if self.allow_code:
            return
        recipe = self.recipe
        named: list[tuple[str, str, tuple[str | int, ...]]] = [
            ("pass", entry["use"], ("pass", index, "use"))
            for index, entry in enumerate(recipe.passes)
            if ":" in entry["use"]
        ]
        named += [
            ("data", data, (table, "data"))
            for table, data in (("calibration", recipe.calibration.data), ("evaluation", recipe.evaluation.data))
            if data is not None and self._names_code(data)
        ]
        if recipe.evaluation.metric is not None and ":" in recipe.evaluation.metric:
            named.append(("metric", recipe.evaluation.metric, ("evaluation", "metric")))
        for kind, use, place in named:
            raise NotAllowedError(
                f"the recipe names the {kind} '{use}', which is code",
                where=recipe.locate(*place),
                remedy="run again with --allow-code if you trust the recipe's author",
            )

    def names_exist(self) -> None:
        """Check what else can be checked before anything is computed: operators, metric and names of tensors.

        Raises:
            ModelError: the model is quantized with operators that no backend takes.
            RecipeError: there is no such metric, or no such input or output.
        """
        section, header = self.recipe.evaluation, self.header
        if header is not None:
            refuse_integer_operators(header.ops, str(self.model_path))
        if section.metric is not None:
            from toolkit.evaluation.metrics import make_metric

            where = self.recipe.locate("evaluation", "metric")
            try:
                make_metric(section.metric, section.output, self.allow_code)
            except QtoolError as error:
                raise type(error)(error.what, where=where, remedy=error.remedy) from error
            except Exception as error:
                raise RecipeError(
                    f"the metric '{section.metric}' cannot be made: {type(error).__name__}: {error}",
                    where=where,
                    remedy="a metric is a class that takes no arguments",
                ) from error
        if header is None:
            return
        if section.output is not None and section.output not in header.outputs:
            raise RecipeError(
                f"the model has no output '{section.output}'",
                where=self.recipe.locate("evaluation", "output"),
                remedy=did_you_mean(section.output, header.outputs),
            )
        for name in self.recipe.engine.io:
            if name not in (*header.inputs, *header.outputs):
                raise RecipeError(
                    f"[engine] io names '{name}', which is neither an input nor an output of the model",
                    where=self.recipe.locate("engine", "io"),
                    remedy=did_you_mean(name, [*header.inputs, *header.outputs]),
                )

    def inputs_exist(self) -> None:
        """Check that the files the recipe names are there, and that it may run the code that it names.

        Raises:
            ModelError: the model is not there.
            DataError: data is not.
            NotAllowedError: the recipe names code.
        """
        self.code_allowed()
        if not self.model_path.is_file():
            raise ModelError(
                f"no such model: {self.model_path}",
                where=self.recipe.locate("model", "path"),
                remedy="paths are relative to the recipe",
            )
        for table in ("calibration", "evaluation"):
            data = getattr(self.recipe, table).data
            if data is not None and not self._names_code(data) and not self.recipe.resolve(data).exists():
                raise DataError(
                    f"no such data: {self.recipe.resolve(data)}",
                    where=self.recipe.locate(table, "data"),
                    remedy="paths are relative to the recipe",
                )
        for key in ("ranges", "collection"):
            file = getattr(self.recipe.calibration, key)
            if file is not None and not self.recipe.resolve(file).is_file():
                raise DataError(
                    f"no such file: {self.recipe.resolve(file)}",
                    where=self.recipe.locate("calibration", key),
                    remedy="paths are relative to the recipe",
                )

        for what, path in self.times_files().items():
            if not path.is_file():
                raise DataError(
                    f"no such file: {path}, {what}",
                    where=str(self.recipe.path or "the recipe"),
                    remedy="give report.json or the run folder of an earlier run; paths are relative to the recipe",
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
        if self._names_code(data):
            return module_fingerprint(data.partition(":")[0])
        return self.file_print(data)

    def file_print(self, path: str | None) -> str:
        """SHA-256 of a file that the recipe names."""
        return self.print_of(self.recipe.resolve(path)) if path is not None else ""


def is_code(name: str) -> bool:
    """Whether a setting names code: ``module:Name``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None
