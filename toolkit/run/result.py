"""What a run leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from toolkit.report.schema import Report, StepInfo
from toolkit.run.guard import FILES


@dataclass
class Result:
    """What a run left.

    Attributes:
        folder: the run folder.
        report: the joined report.
        steps: what was done and what was found again.
        exit_status: 0; 1 where a target was missed or the result is broken; 3 where the engine failed on its own GPU.
    """

    folder: Path
    report: Report
    steps: list[StepInfo] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 done; 1 done, but the result misses its target or is broken; 3 the engine does not run on its own GPU."""
        if self.report.device is not None and self.report.device.status == "failed":
            return 3
        return 0 if self.report.summary.verdict in ("usable", "unmeasured") else 1

    @property
    def files(self) -> list[Path]:
        """The files of the run folder that are for people and other tools."""
        weights = sorted(self.folder.glob("model.onnx.*.data"))
        return [*(p for name in FILES if (p := self.folder / name).exists()), *weights]
