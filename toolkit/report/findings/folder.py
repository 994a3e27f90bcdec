"""What there is to say of a run folder: results that are out of date, and two recipes in one folder."""

from __future__ import annotations

from toolkit.contract.findings import Code
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table


def _of_unfinished(step: str, why: str, maker: str, new: bool) -> str:
    whose = f"is the unfinished run's (step '{maker}')" if new else f"is of the run before it (step '{maker}')"
    return (
        f"A run in this folder did step '{step}' again ({why}) and has not finished, so its files are of two runs: "
        f"this one {whose}. Run the recipe again."
    )


def _of_setting(key: str, value: str, before: str | None) -> str:
    file = "which the recipe's file leaves out" if before is None else f"where the recipe's file says {before}"
    return f"{key} = {value} was given by --set, {file}."


FOLDER: Table = {
    ReportCode.SETTING_GIVEN: _of_setting,
    Code.READS_UNKNOWN: (
        "What code of the recipe reads cannot be followed: {why}. Results that it has a part in are made again each "
        "time; a pass that returns from input_files what it reads, and a metric with a list named inputs, are taken at "
        "their word."
    ),
    Code.MEASURED_AGAIN: "What was measured before is not used and was measured again: {why}.",
    ReportCode.OUT_OF_DATE: (
        "OUT OF DATE: a later run in this folder did step '{step}' again ({why}) and has not finished; run the recipe "
        "again. What follows is of the run before it. {headline}"
    ),
    ReportCode.RUN_UNFINISHED: (
        "A run in this folder did step '{step}' again ({why}) and has not finished. Run the recipe again."
    ),
    ReportCode.MEASUREMENT_UNFINISHED: (
        "Out of date: a later measurement of this recipe began and has not finished. Measure again."
    ),
    ReportCode.FILE_OF_UNFINISHED: _of_unfinished,
    ReportCode.FOLDER_OF_ANOTHER: (
        "This folder held the results of another recipe, {recipe}. "
        "A result of it is reused only where all that it depends on is the same."
    ),
}
