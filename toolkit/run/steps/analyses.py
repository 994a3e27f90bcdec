"""Results of ``qtool sensitivity`` and ``qtool bisect`` in a run folder, which are added to the run's report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_json, write_json
from toolkit.base.reading import own_json
from toolkit.base.schema import FileSchema
from toolkit.base.versions import code_fingerprint, versions
from toolkit.report.schema.analysis import BisectionInfo, SensitivityInfo

if TYPE_CHECKING:
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.inputs.inputs import Inputs

_FILE, _RECORD = "analyses.json", "report.json"


class Analyses(FileSchema):
    """The results of analyses, each with a digest of its inputs.

    Attributes:
        sensitivity: the last sensitivity analysis.
        bisection: the last bisection.
        basis: digests of their inputs by name, see ``basis_of``.
    """

    sensitivity: SensitivityInfo | None = None
    bisection: BisectionInfo | None = None
    basis: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, folder: RunFolder) -> Analyses:
        """Load the analyses of a run folder; a missing or damaged file counts as empty."""
        try:
            return cls.model_validate(own_json(path_of(folder)) or {})
        except ValidationError:
            return cls()

    def now(self, basis: str) -> Analyses:
        """These analyses, marked as outdated if their inputs differ from ``basis``."""
        found = self.model_copy(deep=True)
        for name in ("sensitivity", "bisection"):
            info = getattr(found, name)
            if info is not None:
                info.outdated = self.basis.get(name) != basis
        return found


def path_of(folder: RunFolder) -> Path:
    """The file of a run folder's analyses."""
    return folder.hidden / _FILE


def basis_of(inputs: Inputs) -> str:
    """Digest of the inputs of sensitivity and bisection: recipe without engine and report, model, samples and code."""
    recipe, prints = inputs.job.recipe, inputs.prints
    return sha256_json(
        [
            recipe.as_key(by_alias=True, exclude={"engine", "report"}),
            prints.of_model(),
            prints.of_data(recipe.calibration.data),
            prints.of_data(recipe.evaluation.data),
            prints.of_ranges(),
            prints.of_collection(),
            versions(),
            code_fingerprint(),
        ]
    )


def join_analysis(inputs: Inputs, found: SensitivityInfo | BisectionInfo) -> Path | None:
    """Store a result for later reports, and add it to the existing report.

    Returns:
        The page; None if there is none, or it is of another recipe, model or data.
    """
    from toolkit.report.page.html import write_html
    from toolkit.report.schema.report import Report

    folder, basis = inputs.job.folder, basis_of(inputs)
    name = "sensitivity" if isinstance(found, SensitivityInfo) else "bisection"
    kept = Analyses.load(folder)
    setattr(kept, name, found)
    kept.basis[name] = basis
    write_json(path_of(folder), kept.model_dump(mode="json"))
    file, page = folder.path / "report.json", folder.path / "report.html"
    record = own_json(folder.hidden / _RECORD)
    if not isinstance(record, dict) or record.get("basis") != basis:
        return None
    try:
        report = Report.load(file)
    except QtoolError:
        return None
    setattr(report, name, found)
    report.save(file)
    if not page.is_file():
        return None
    write_html(report, page)
    return page
