"""The recipe: one TOML file with the model, profiles, data, passes, engine, evaluation and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from toolkit.base.errors import QtoolError, RecipeError, did_you_mean
from toolkit.base.precision import Precision
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.reading import FileKind, fault_words, read_utf8, reading, require_regular
from toolkit.base.schema import no_number, validation_words, value_words
from toolkit.base.settings import without_effect
from toolkit.base.text import shell_word
from toolkit.base.toml import parse_toml
from toolkit.run.folder.state import RunState
from toolkit.run.recipe.fields import remedy
from toolkit.run.recipe.idle_settings import idle_settings
from toolkit.run.recipe.lines import holds_value, place_of, place_of_value
from toolkit.run.recipe.objects import entries_of, named
from toolkit.run.recipe.sections import (
    SHARES,
    CalibrationSection,
    EngineSection,
    EvaluationSection,
    ModelSection,
    ProfileSection,
    ReportSection,
    RunSection,
    Section,
)
from toolkit.run.recipe.settings import Setting, apply_settings

_SEVERAL = {"profile", "pass"}
LOCK_ENDING = ".lock.toml"
_TOML = FileKind("not TOML", RecipeError, "fix the file", 1 << 22)


class Recipe(Section):
    """All settings of a run. Read one with ``Recipe.load``, or build it in Python.

    Example:
        >>> recipe = Recipe.load("recipes/digits_int8.toml")     # doctest: +SKIP
    """

    model: ModelSection
    profile: list[ProfileSection] = Field([])
    calibration: CalibrationSection = Field(default_factory=CalibrationSection)
    passes: Annotated[list[dict[str, Any]], BeforeValidator(entries_of)] = Field([], alias="pass")
    engine: EngineSection = Field(default_factory=EngineSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    report: ReportSection = Field(default_factory=ReportSection)
    # results do not depend on it, so it is not part of keys and lock files
    run: RunSection = Field(default_factory=RunSection, exclude=True)
    _path: Path | None = PrivateAttr(None)
    _folder: Path | None = PrivateAttr(None)
    _text: str = PrivateAttr("")
    _place: str = PrivateAttr("the recipe")
    _resolved: bool = PrivateAttr(False)
    _locked: dict[str, Any] = PrivateAttr(default_factory=dict)
    _settings: list[Setting] = PrivateAttr(default_factory=list)
    _name: str = PrivateAttr("recipe")

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @field_validator("passes")
    @classmethod
    def _passes_say_use(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in value:
            if not isinstance(entry.get("use"), str):
                raise ValueError('every [[pass]] needs use = "name"')
        return value

    @classmethod
    def load(cls, path: str | Path, settings: Sequence[str] = ()) -> Recipe:
        """Read a recipe file, or a run's lock file: the recipe with every setting resolved, to repeat the run.

        Args:
            path: the file. Relative paths are relative to its folder; in a lock file, to that of the recipe that ran,
                even if both were moved together.
            settings: settings that override the file's, each ``section.key=value``; see ``recipe_settings``.

        Raises:
            RecipeError: the file is missing or not TOML, a key is unknown, a value invalid, or a setting without
                effect; the message names the line.
        """
        path = Path(path)
        if path.is_dir():
            raise RecipeError("this is a folder, not a recipe", where=str(path), remedy="name the .toml file in it")
        if path.exists():
            require_regular(path)
        else:
            raise RecipeError("no such recipe", where=str(path), remedy="`qtool new MODEL` writes one")
        if path.suffix.lower() == ".onnx":
            raise RecipeError(
                "this is an ONNX model, not a recipe",
                where=str(path),
                remedy=f"make a recipe: qtool new {shell_word(path)}",
            )
        text = read_utf8(path, _TOML)
        if not path.name.endswith(LOCK_ENDING):
            return cls.parse(text, path, settings)
        with reading(path, _TOML):
            content = parse_toml(text)
        lock = content.pop("lock", None)
        ran = RunState.load(path.parent).recipe_file(path.parent)
        recipe = cls._made(content, text, ran, apply_settings(content, settings, cls), path)
        recipe._resolved = True
        recipe._locked = lock.get("fingerprints", {}) if isinstance(lock, dict) else {}
        return recipe

    @classmethod
    def parse(cls, text: str, path: Path | None = None, settings: Sequence[str] = ()) -> Recipe:
        """Read a recipe's text; relative paths are relative to ``path``'s folder, ``settings`` are as in ``load``."""
        place = str(path or "the recipe")
        with reading(place, _TOML):
            content = parse_toml(text)
        for table in _SEVERAL & content.keys():
            # a table that was written with single brackets
            content[table] = [content[table]] if isinstance(content[table], dict) else content[table]
        recipe = cls._made(content, text, path, apply_settings(content, settings, cls))
        recipe._refuse_idle()
        return recipe

    @classmethod
    def resolved(cls, content: Mapping[str, Any], path: Path | None) -> Recipe:
        """The recipe in a lock file's content; ``path`` is the file of the recipe itself."""
        recipe = cls._made(content, "", path)
        recipe._resolved = True
        return recipe

    @classmethod
    def build(cls, name: str = "recipe", **tables: Any) -> Recipe:
        """Build a recipe in Python: ``tables`` are those of the file, with ``passes`` for ``[[pass]]``.

        Where a file names code, objects may be given: passes, data loaders (anything that can be iterated repeatedly
        and yields dictionaries of arrays, such as a torch DataLoader) and metrics. Relative paths are relative to the
        working directory.

        Example:
            >>> Recipe.build("mine", model={"path": "m.onnx"}, calibration={"data": loader},  # doctest: +SKIP
            ...              passes=[InsertQDQ(dtype="int8")])

        Raises:
            RecipeError: an unknown table or key, an invalid value, or a setting without effect given the others.
        """
        recipe = cls._made(tables, "", None)
        recipe._name = name
        recipe._refuse_idle()
        return recipe

    def with_objects(
        self, *, passes: Any = None, calibration: Any = None, evaluation: Any = None, metric: Any = None
    ) -> Recipe:
        """This recipe with other passes, samples or metric; None keeps what it has.

        Args:
            passes: one or more passes that replace the recipe's.
            calibration: the calibration samples: a path, or an object that yields dictionaries of arrays.
            evaluation: the test samples, with their labels.
            metric: the metric's name, its class, or an object with ``update`` and ``value``.

        Raises:
            RecipeError: one of them is invalid, or does not fit the recipe.
        """
        twin = self.model_copy(deep=True)
        if passes is not None:
            try:
                twin.passes = self._passes_say_use(entries_of(passes))
            except ValueError as error:
                raise RecipeError(str(error), where="passes") from error
        if calibration is not None:
            twin.calibration.data, twin.calibration.random = named(calibration), None
            twin.calibration.collection = None
        if evaluation is not None:
            twin.evaluation.data = named(evaluation)
        if metric is not None:
            twin.evaluation.metric = named(metric)
        twin._check_sense()
        return twin

    @classmethod
    def _made(
        cls,
        content: Mapping[str, Any],
        text: str,
        path: Path | None,
        settings: Sequence[Setting] = (),
        file: Path | None = None,
    ) -> Recipe:
        """A recipe with this content; paths are relative to the folder of ``path``; ``file`` is where ``text`` is."""
        place = str(file or path or "the recipe")
        try:
            recipe = cls.model_validate(content, context={"file": bool(text)})
            fault: Mapping[str, Any] | None = no_number(content, recipe)
        except ValidationError as error:
            # a misspelt table is also missing
            recipe, fault = None, min(error.errors(), key=lambda one: one["type"] == "missing")
        except (OverflowError, RecursionError) as error:
            raise _TOML.fault(place, fault_words(error)) from error
        if fault is not None or recipe is None:
            assert fault is not None
            raise RecipeError(
                validation_words(fault),
                where=_where(settings, fault["loc"]) or place_of(place, text, fault["loc"]),
                remedy=remedy(cls, fault),
            )
        recipe._path, recipe._text, recipe._settings = path, text, list(settings)
        recipe._place = place
        recipe._folder = path.resolve().parent if path is not None else None
        recipe.profiles()
        recipe._check_sense()
        return recipe

    def _check_sense(self) -> None:
        if self.calibration.data is not None and self.calibration.random is not None:
            raise RecipeError(
                "[calibration] has both data and random",
                where=self.locate("calibration", "random"),
                remedy="remove random: real data is better",
            )
        names = {p.name for p in self.profile}
        if self.engine.compare and "compare" in names:
            raise RecipeError(
                "a profile is named 'compare', the name under which [engine] compare reports its latencies",
                where=self.locate("engine", "compare"),
                remedy="give the profile another name",
            )
        for name in self.calibration.weights:
            if name not in names:
                raise RecipeError(
                    f"[calibration] weights names the profile '{name}'",
                    where=self.locate("calibration", "weights"),
                    remedy=did_you_mean(name, names),
                )
        chosen = self.engine.calibration_profile
        if chosen is not None and chosen not in names:
            raise RecipeError(
                f"[engine] calibration_profile names the profile '{chosen}'",
                where=self.locate("engine", "calibration_profile"),
                remedy=did_you_mean(chosen, names),
            )
        self._check_shares()

    def _refuse_idle(self) -> None:
        sections = self.calibration, self.evaluation, self.engine
        for table, name, why in idle_settings(*sections, len(self.profile), self.passes):
            value = getattr(getattr(self, table), name)
            # only the name of a table: its value also contains defaults
            said = f"[{table}] {name}" + ("" if isinstance(value, Section) else f" = {value_words(value)}")
            what, remedy = without_effect(said, why, name)
            raise RecipeError(what, where=self.locate(table, name), remedy=remedy)

    def _check_shares(self) -> None:
        """Refuse percentages for metrics between 0 and 1: either every result would meet them, or none."""
        metric, budget = self.evaluation.metric, self.evaluation.budget
        if metric not in SHARES:
            return
        given: list[tuple[Any, tuple[str | int, ...]]] = [
            (budget.max_drop, ("evaluation", "budget", "max_drop")),
            (budget.min_value, ("evaluation", "budget", "min_value")),
        ]
        given += [(entry.get("max_drop"), ("pass", index, "max_drop")) for index, entry in enumerate(self.passes)]
        for value, place in given:
            if isinstance(value, (int, float)) and value > 1:
                example = "0.02 is 2 points" if place[-1] == "max_drop" else "0.95 is 95%"
                raise RecipeError(
                    f"{place[-1]} is {value:g}, but {metric} is between 0 and 1",
                    where=self.locate(*place),
                    remedy=f"write it as a share: {place[-1]} = {example}",
                )

    @property
    def name(self) -> str:
        """The recipe's name: its file name without the extension."""
        return self._path.stem if self._path is not None else self._name

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that override the file's."""
        return tuple(self._settings)

    def override(self, option: str, table: str, key: str, value: Any) -> None:
        """Set a key from a command-line option, which messages about it then name."""
        section = getattr(self, table)
        self._settings.append(Setting(f"{table}.{key}", (table, key), value, getattr(section, key), option))
        setattr(section, key, value)

    @property
    def path(self) -> Path | None:
        """The file that the recipe was read from; None for a recipe built in Python."""
        return self._path

    @property
    def is_resolved(self) -> bool:
        """Whether it is from a lock file, which has every setting, including those without effect."""
        return self._resolved

    @property
    def locked(self) -> Mapping[str, Any]:
        """The fingerprints in a lock file that was loaded; empty for any other recipe."""
        return self._locked

    @property
    def folder(self) -> Path:
        """The folder that relative paths are relative to."""
        return self._folder if self._folder is not None else Path.cwd()

    def resolve(self, path: str) -> Path:
        """The absolute path of a path in the recipe."""
        return (self.folder / Path(path).expanduser()).resolve()

    def locate(self, *loc: str | int) -> str:
        """``file:line`` of a key, or of the nearest place found; or the overriding setting."""
        return _where(self._settings, loc) or place_of(self._place, self._text, loc)

    def locate_value(self, value: str, *loc: str | int) -> str:
        """``file:line`` of a value: within the table ``loc``, else of its first occurrence, else of the table.

        It may be part of a value, or a key, such as a tensor's name. An overriding setting that has it is the place.
        """
        given = [one for one in self._settings if (value or "''") in repr(one.value) or value in one.place[1:]]
        within = [one for one in given if one.place[: len(loc)] == loc]
        if within or (given and not holds_value(self._text, loc, value)):
            return (within or given)[-1].where
        return place_of_value(self._place, self._text, loc, value)

    def profiles(self) -> Profiles:
        """The shape profiles.

        Raises:
            RecipeError: shapes of different rank, min above max, a missing min, opt or max, or a duplicate name.
        """
        found: list[ShapeProfile] = []
        for index, section in enumerate(self.profile):
            where = self.locate("profile", index, "shapes")
            if section.name in {p.name for p in found}:
                raise RecipeError(
                    f"two profiles are named '{section.name}'",
                    where=self.locate("profile", index, "name"),
                    remedy="give each its own name",
                )
            extents = {}
            for tensor, shapes in section.shapes.items():
                missing = [key for key in ("min", "opt", "max") if key not in shapes]
                if missing:
                    raise RecipeError(
                        f"profile '{section.name}' gives no {missing[0]} shape for '{tensor}'",
                        where=where,
                        remedy="write { min = [..], opt = [..], max = [..] }",
                    )
                try:
                    extents[tensor] = Extent(tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
                except QtoolError as error:
                    raise RecipeError(
                        f"profile '{section.name}', input '{tensor}': {error.what}", where=where, remedy=error.remedy
                    ) from error
            found.append(ShapeProfile(section.name, extents))
        return Profiles(tuple(found))

    @property
    def rest(self) -> Precision:
        """The precision of nodes without a requested precision."""
        return Precision(self.engine.rest)


def _where(settings: Sequence[Setting], loc: Sequence[str | int]) -> str:
    """The last setting for a place; empty if there is none."""
    return next((one.where for one in reversed(settings) if one.covers(loc)), "")
