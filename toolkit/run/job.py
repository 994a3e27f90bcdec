"""A recipe being run: with its run folder, the user's permissions and the progress display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.given import is_given, names_code
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import aside
from toolkit.contract.findings import Finding
from toolkit.contract.roles import Role
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.recipe.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.contract.passes import Pass
    from toolkit.graph.files.header import Header


@dataclass
class Job:
    """One recipe in one run folder.

    Attributes:
        recipe: the recipe.
        folder: the run folder.
        allow_code: whether the recipe may name code (``module:Name``).
        progress: called with the current task, the amount done, and the total.
        found: findings about earlier contents of the run folder.
        fallback: the finding that the backend chosen by ``auto`` refuses the model, and which one is used instead.
        refusal_logged: whether build.log has that backend's messages.
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
    def named_passes(self) -> Sequence[tuple[str, Pass]]:
        """The recipe's passes, made once to read what they declare; see ``toolkit.run.recipe.passes.named_passes``.

        Passes to be applied are made anew by ``passes_of``.

        Raises:
            RecipeError: an unknown pass or setting; the message names the line.
        """
        from toolkit.run.recipe.passes import named_passes

        return tuple(named_passes(self.recipe, self.allow_code))

    @property
    def passes(self) -> list[Pass]:
        """``named_passes`` without the names."""
        return [step for _, step in self.named_passes]

    @property
    def stripping_passes(self) -> list[Pass]:
        """Those of ``passes`` that remove Q/DQ pairs."""
        return [step for step in self.passes if step.role is Role.STRIP]

    @cached_property
    def model_path(self) -> Path:
        """The file of the float model, absolute."""
        return self.recipe.resolve(self.recipe.model.path)

    @cached_property
    def header(self) -> Header | None:
        """Names of inputs, outputs and weight files; None if the model file cannot be parsed."""
        from toolkit.graph.files.header import read_header

        return read_header(self.model_path)

    @property
    def backend(self) -> str:
        """The backend's name: the recipe's, or the one that ``auto`` falls back to."""
        return str(self.fallback.values["taken"]) if self.fallback is not None else self.recipe.engine.backend

    def place(self, path: str) -> Path:
        """A path given in the recipe, made absolute; links are not followed."""
        return self.recipe.folder / Path(path).expanduser()

    def names_code(self, data: str) -> bool:
        """Whether a setting names code, ``module:Name``, rather than a file of that name."""
        if is_given(data):
            return True
        return names_code(data) and not self.place(data).exists()
