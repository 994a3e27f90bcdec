"""The recipe that a run folder belongs to, and the progress of its last run; outdated results are marked."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pydantic import Field, ValidationError

from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_file, write_json
from toolkit.base.reading import own_json
from toolkit.base.schema import FileSchema
from toolkit.contract.findings import Finding
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence

_STATE, _STEPS = "state.json", "steps.json"


class Unfinished(FileSchema):
    """A run that has begun to produce results but has not written its report yet.

    Attributes:
        step: the first step that was executed instead of reused.
        why: why that step was not reused.
        current: the steps whose results are of this run; all others are of the previous run.
    """

    step: str
    why: str
    current: list[str] = Field(default_factory=list)


class RunState(FileSchema):
    """The state of a run folder besides the results of its steps.

    Attributes:
        recipe: the file of the recipe that ran here last; empty for a recipe made in Python.
        place: the same file relative to the folder, since both may have been moved together.
        digest: SHA-256 of the recipe file at that time; empty for a recipe made in Python.
        model: the recipe's model file.
        before: the recipe whose results were here when this one started; empty once this one's report exists.
        unfinished: the current run, or one that failed or was killed.
        samples: SHA-256 of the samples that user code supplied for these results, keyed by use and name in the recipe.
    """

    recipe: str = ""
    place: str = ""
    digest: str = ""
    model: str = ""
    before: str = ""
    unfinished: Unfinished | None = None
    samples: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Load the state of a run folder; a missing or damaged file gives an empty state."""
        with suppress(ValidationError):
            return cls.model_validate(own_json(folder / ".qtool" / _STATE))
        return cls()

    @property
    def known(self) -> bool:
        """Whether it tells what ran in the folder; it does not if the file was missing or damaged."""
        return bool(self.recipe or self.model)

    def recipe_file(self, folder: Path) -> Path | None:
        """The file of the recipe that ran in ``folder``; None for a recipe made in Python.

        If a folder was moved without its recipe, another recipe may be at the same relative path. It is used only if
        the original file no longer exists, or if both have the same content.
        """
        near, own = folder / self.place, Path(self.recipe) if self.recipe else None
        if not self.place or not near.is_file():
            return own
        moved_alone = own is not None and own.is_file() and bool(self.digest) and _digest(near) != self.digest
        return own if moved_alone else near.resolve()

    def save(self, folder: Path) -> None:
        """Write the state atomically."""
        write_json(folder / ".qtool" / _STATE, self.model_dump(mode="json"))


def taken_over(folder: Path, by_name: bool, recipe: Path | None, model: Path) -> Finding | None:
    """Record in a run folder which recipe it belongs to; returns a finding if it belonged to another recipe.

    Args:
        folder: the run folder, locked by this process.
        by_name: whether the folder was derived from the recipe's name only.
        recipe: the recipe's file; None for a recipe made in Python, which is identified by its model.
        model: the recipe's model file.

    Raises:
        QtoolError: it belongs to another recipe of the same name, and the folder was not given by the user.
    """
    state, own = refuse_another(folder, by_name, recipe, model)
    if own != state:
        own.save(folder)
    return ReportCode.FOLDER_OF_ANOTHER(recipe=own.before) if own.before else None


def refuse_another(folder: Path, by_name: bool, recipe: Path | None, model: Path) -> tuple[RunState, RunState]:
    """The current state of a run folder, and its state after this recipe takes it over; see ``taken_over``."""
    state = RunState.load(folder)
    file = str(recipe.resolve()) if recipe is not None else ""
    place = os.path.relpath(file, folder.resolve()) if file else ""
    digest = _digest(recipe) if recipe is not None else ""
    own = state.model_copy(update={"recipe": file, "place": place, "digest": digest, "model": str(model)})
    # a recipe that was moved with its results is the same recipe
    gone = bool(state.recipe) and not Path(state.recipe).is_file()
    same = state.recipe == own.recipe and (bool(own.recipe) or state.model == own.model)
    another = bool(state.recipe or state.model) and not gone and not same
    before = state.recipe or f"one made in Python for {state.model}"
    if another and by_name:
        raise QtoolError(
            f"the folder holds the results of another recipe of this name, {before}",
            where=str(folder),
            remedy="give this run its own folder with --out (in Python, out=), or rename one of the recipes",
        )
    own.before = before if another else own.before
    return state, own


def _digest(file: Path) -> str:
    """SHA-256 of a recipe's file; empty if it cannot be read."""
    with suppress(OSError):
        return sha256_file(file)
    return ""


def mark_report(folder: Path, unfinished: Unfinished) -> None:
    """Mark the report of a run folder, JSON and HTML, as out of date; damaged reports are removed."""
    from toolkit.report.page.html import write_html
    from toolkit.report.schema.report import Report

    file, page = folder / "report.json", folder / "report.html"
    try:
        report = Report.load(file)
    except QtoolError:
        for path in (page, file):
            path.unlink(missing_ok=True)
        return
    summary = report.summary
    if summary.verdict == "outdated":
        return
    summary.headline = sentence(
        ReportCode.OUT_OF_DATE(step=unfinished.step, why=unfinished.why, headline=summary.headline)
    )
    summary.verdict = "outdated"
    if page.is_file():
        write_html(report, page)
    report.save(file)


def unfinished_note(path: Path) -> Finding | None:
    """The note on a file or run folder whose last run did not finish; None if there is nothing to report."""
    place = path if path.is_dir() else path.parent
    folder = place.parent if place.name == ".qtool" else place
    found = RunState.load(folder).unfinished
    if found is None:
        return None
    if path.is_dir():
        return ReportCode.RUN_UNFINISHED(step=found.step, why=found.why)
    maker = _maker(folder, path)
    if maker is None:
        return None
    return ReportCode.FILE_OF_UNFINISHED(step=found.step, why=found.why, maker=maker, new=maker in found.current)


def _maker(folder: Path, path: Path) -> str | None:
    """The step that wrote a file of a run folder; None if unknown."""
    with suppress(ValueError, AttributeError, TypeError, KeyError):
        steps = own_json(folder / ".qtool" / _STEPS)
        name = path.relative_to(folder).as_posix()
        return next((step for step, entry in steps.items() if name in entry["files"]), None)
    return None
