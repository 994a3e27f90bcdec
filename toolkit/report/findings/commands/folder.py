"""Messages on a run folder: results that are out of date, and two recipes in one folder."""

from __future__ import annotations

from toolkit.contract.findings import Code
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table


def _of_unfinished(step: str, why: str, maker: str, new: bool) -> str:
    whose = f"is from the unfinished run (step '{maker}')" if new else f"is from the run before it (step '{maker}')"
    return (
        f"A run in this folder did step '{step}' again ({why}) and has not finished, so its files come from two runs: "
        f"this one {whose}. Run the recipe again."
    )


def _of_setting(key: str, value: str, before: str | None) -> str:
    file = "which the recipe's file leaves out" if before is None else f"where the recipe's file says {before}"
    return f"{key} = {value} was given by --set, {file}."


FOLDER: Table = {
    ReportCode.SETTING_GIVEN: _of_setting,
    Code.READS_UNKNOWN: (
        "The files that the recipe's code reads cannot be tracked: {why}. Results that depend on it are computed again "
        "each time; a pass that returns the files it reads from input_files, and a metric with a list named inputs, "
        "are trusted."
    ),
    Code.MEASURED_AGAIN: "Earlier measurements are not used and were repeated: {why}.",
    ReportCode.OUT_OF_DATE: (
        "OUT OF DATE: a later run in this folder did step '{step}' again ({why}) and has not finished; run the recipe "
        "again. What follows is from the run before it. {headline}"
    ),
    ReportCode.RUN_UNFINISHED: (
        "A run in this folder did step '{step}' again ({why}) and has not finished. Run the recipe again."
    ),
    ReportCode.MEASUREMENT_UNFINISHED: (
        "Out of date: a later measurement of this recipe began and has not finished. Measure again."
    ),
    ReportCode.FILE_OF_UNFINISHED: _of_unfinished,
    ReportCode.OTHER_SAMPLES_BY_NOW: (
        "{data} no longer holds the run's samples, so the run's figures and these are of different samples."
    ),
    ReportCode.FOLDER_OF_ANOTHER: (
        "This folder held the results of another recipe, {recipe}. "
        "Its results are reused only if everything they depend on is the same."
    ),
}
