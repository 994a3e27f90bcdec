"""What the run on the GPU says of the result: its verdict beside the simulation's, in words."""

from __future__ import annotations

from toolkit.report.engine_parts import DeviceInfo
from toolkit.report.parts import Accuracy
from toolkit.report.schema import Verdict

FEW = 8
"""Fewer samples than this tell little: the first line says so, and no profile is called broken by them."""
_WORST_FIRST: tuple[Verdict, ...] = ("broken", "missed", "unmeasured", "usable")


def worse(first: Verdict, second: Verdict) -> Verdict:
    """The worse of two verdicts."""
    return min(first, second, key=_WORST_FIRST.index)


def failure(device: DeviceInfo | None) -> str:
    """Why the engine does not run on its own GPU, in words; empty where it does or was not tried."""
    if device is None or device.status != "failed":
        return ""
    return f"the engine failed on its own GPU{f' ({device.gpu})' if device.gpu else ''}: {device.why.rstrip('.')}"


def on_device(device: DeviceInfo | None) -> Accuracy | None:
    """The engine's own accuracy, or None where it was not run."""
    return device.accuracy if device is not None and device.status == "ran" else None


def judged(device: DeviceInfo) -> list[tuple[str, Accuracy]]:
    """Each profile's accuracy with its place in words, of profiles with samples enough to say that one is broken."""
    return [
        (f"in profile '{name}'", one)
        for name, one in device.profiles.items()
        if one.samples >= FEW or any(output.incomparable for output in one.outputs.values())
    ]


def device_warnings(device: DeviceInfo | None) -> list[str]:
    """What to know of the engine's own numbers; that they are missing only where a GPU could have given them."""
    if device is None or device.status == "failed":
        return []
    if device.status == "skipped":
        return [f"the engine was not run on {device.gpu}: {device.why}"] if device.gpu else []
    return list(device.notes)
