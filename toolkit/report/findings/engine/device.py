"""Messages on the engine's run on the GPU: why it was skipped or failed, and which samples it left out."""

from __future__ import annotations

from toolkit.base.text import count as counted
from toolkit.report.codes import ReportCode
from toolkit.report.findings.table import Table
from toolkit.report.findings.words import quoted


def _not_run(profile: str, unfit: bool) -> str:
    why = "no sample fits it" if unfit else "none of the samples that were read could be judged in it"
    return f"Profile '{profile}' was not run: {why}."


def _skipped(count: int) -> str:
    return (
        f"{count} samples fit no profile and were skipped."
        if count > 1
        else "1 sample fits no profile and was skipped."
    )


def _filled(count: int) -> str:
    batches = "1 batch was" if count == 1 else f"{count} batches were"
    return f"{batches} filled up to the smallest size that the profile allows."


def _left_out(count: int, why: str) -> str:
    return f"{counted(count, 'run')} of a sample {'was' if count == 1 else 'were'} left out: {why}."


DEVICE: Table = {
    ReportCode.DEVICE_RUN_FAILED: "The engine failed on the GPU: {why}.",
    ReportCode.DEVICE_RUN_SKIPPED: "The engine's outputs on a GPU are unknown: {why}.",
    ReportCode.DEVICE_CHECK_OFF: "switched off by --no-device-check",
    ReportCode.DEVICE_NOT_USABLE: "{error}",
    ReportCode.BACKEND_BUILT_NOTHING: "the backend built no engine",
    ReportCode.ENGINE_ERROR: "{error}",
    ReportCode.OUTPUT_LACKING: "the engine has no output '{output}'",
    ReportCode.METRIC_REFUSES_OUTPUTS: "the metric does not accept the engine's outputs: {error}",
    ReportCode.NO_OUTPUT_TO_COMPARE: lambda plugins: (
        f"onnxruntime cannot run {quoted(plugins)}, so the float model has no output to compare the engine's with"
    ),
    ReportCode.NO_SAMPLE_FITS: "no sample fits the batches of any profile",
    ReportCode.SAMPLES_MIXED: (
        "there are fewer samples than the smallest batch of a profile, and an output without a batch axis mixes them "
        "with the samples that filled the batch"
    ),
    ReportCode.PROFILE_NOT_RUN: _not_run,
    ReportCode.SAMPLES_LEFT_OUT: lambda count: _left_out(count, "their batches do not fit the profile's shapes"),
    ReportCode.SAMPLES_MIXED_LEFT_OUT: _left_out,
    ReportCode.BATCHES_FILLED: _filled,
    ReportCode.SAMPLES_SKIPPED: _skipped,
}
