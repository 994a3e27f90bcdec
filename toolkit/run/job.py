"""A recipe at work: with its run folder, and what the user allows and wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.given import is_given, names_code
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import aside
from toolkit.contract.findings import Finding
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.recipe.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.graph.files.header import Header


@dataclass
class Job:
    """One recipe in one run folder.

    Attributes:
        recipe: the recipe.
        folder: the run folder.
        allow_code: whether the recipe may name code (``module:Name``).
        progress: called with what is being done, how much is done, and of how much.
        found: findings about what the run folder held before.
        fallback: the finding that a backend which ``auto`` took refuses the model, and which is taken instead.
        refusal_logged: whether build.log holds what that backend said.
    """

    recipe: Recipe
    folder: RunFolder
    allow_code: bool = False
    progress: Progress = silent
    found: Finding | None = None
    fallback: Finding | None = None
    refusal_logged: bool = False

    def __post_init__(self) -> None:
        told = self.progress

        def progress(what: str, done: int, total: int) -> None:
            # listeners do not affect the results
            with aside():
                told(what, done, total)

        self.progress = progress

    @cached_property
    def profiles(self) -> Profiles:
        """The recipe's shape profiles."""
        return self.recipe.profiles()

    @cached_property
    def model_path(self) -> Path:
        """The file of the float model, absolute."""
        return self.recipe.resolve(self.recipe.model.path)

    @cached_property
    def header(self) -> Header | None:
        """Names of inputs and outputs and files of weights; None where the model file cannot be parsed."""
        from toolkit.graph.files.header import read_header

        return read_header(self.model_path)

    @property
    def backend(self) -> str:
        """The backend's name: the recipe's, or the one that ``auto`` falls back to."""
        return str(self.fallback.values["taken"]) if self.fallback is not None else self.recipe.engine.backend

    def place(self, path: str) -> Path:
        """A path of the recipe; links are not followed."""
        return self.recipe.folder / Path(path).expanduser()

    def names_code(self, data: str) -> bool:
        """Whether a setting names code, ``module:Name``, rather than a file of that name."""
        if is_given(data):
            return True
        return names_code(data) and not self.place(data).exists()
