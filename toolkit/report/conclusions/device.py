"""Effects of the engine's run on the GPU on the verdict."""

from __future__ import annotations

from toolkit.contract.findings import Code, Finding
from toolkit.report.codes import ReportCode
from toolkit.report.schema.accuracy import Accuracy
from toolkit.report.schema.engine import DeviceInfo
from toolkit.report.schema.report import Verdict

FEW = 8
"""With fewer samples the result is uncertain: the first line says so, and no profile is called broken."""
_WORST_FIRST: tuple[Verdict, ...] = ("broken", "missed", "unmeasured", "doubtful", "usable")


def worse(first: Verdict, second: Verdict) -> Verdict:
    """The worse of two verdicts."""
    return min(first, second, key=_WORST_FIRST.index)


def failure(device: DeviceInfo | None) -> Finding | None:
    """Why the engine failed on its GPU; None if it ran or was not tried."""
    if device is None or device.status != "failed":
        return None
    return ReportCode.ENGINE_FAILED(gpu=device.gpu, why=device.why)


def on_device(device: DeviceInfo | None) -> Accuracy | None:
    """The accuracy measured on the engine; None if it was not run."""
    return device.accuracy if device is not None and device.status == "ran" else None


def judged(device: DeviceInfo) -> list[tuple[str, Accuracy]]:
    """Name and accuracy of the profiles with enough samples to be called broken."""
    return [
        (name, one)
        for name, one in device.profiles.items()
        if one.samples >= FEW or any(output.incomparable for output in one.outputs.values())
    ]


def device_warnings(device: DeviceInfo | None) -> list[Finding]:
    """Warnings about the engine's run; that it was skipped only if there is a GPU."""
    if device is None or device.status == "failed":
        return []
    if device.status == "skipped":
        return [ReportCode.ENGINE_NOT_RUN(gpu=device.gpu, why=device.why)] if device.gpu else []
    return [Code.OWN_WORDS(text=note) for note in device.notes]
