"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import BackendError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.report.schema.report import Accuracy, DeviceInfo, Report, StepInfo, Verdict
from toolkit.run.folder.guard import FILES

if TYPE_CHECKING:
    from toolkit.backends.execution.runner import EngineRunner
    from toolkit.graph.sessions.session import Session


def no_engine(folder: Path, report: Report, otherwise: str = "") -> BackendError:
    """The error that a run built no engine, with the reason.

    Args:
        otherwise: what else the user can do, as the end of the remedy.
    """
    return BackendError(
        f"the run built no engine ({report.backend.reason.rstrip('.')})",
        where=str(folder),
        remedy=f"run its recipe with --backend auto where TensorRT or TensorRT-RTX is installed{otherwise}",
    )


@dataclass(repr=False)
class Result:
    """The result of a run.

    Attributes:
        folder: the run folder.
        report: the joined report.
        steps: which steps were done and which reused.
        exit_status: 0; 1 if a target of the recipe was missed or the result is broken; 3 if the engine failed on its
            own GPU.
    """

    folder: Path
    report: Report
    steps: list[StepInfo] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Result of {self.report.recipe.name} in {self.folder}: {self.report.summary.headline}>"

    def session(self) -> Session:
        """model.onnx in onnxruntime, on the CPU: ``session().run({input: array})`` gives ``{output: array}``.

        If onnxruntime lacks a CPU kernel for one of its types, it is run in float32 with the same Q/DQ pairs, as for
        the report's figures.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        from toolkit.run.folder.opened import open_model

        refused = self.report.accuracy is not None and self.report.accuracy.refused
        return open_model(self.folder, refused)

    def engine(self) -> EngineRunner:
        """The engine on this machine's GPU: ``engine().run({input: array})`` gives ``{output: array}``.

        It is loaded on the first run, and released by ``with`` or ``close``.

        Raises:
            BackendError: the run built no engine.
        """
        from toolkit.backends.execution.runner import EngineRunner

        path = self.folder / "model.engine"
        if not path.is_file():
            raise no_engine(self.folder, self.report, ", or use session() for model.onnx")
        profiles = [
            ShapeProfile(one.name, {n: Extent(tuple(e.min), tuple(e.opt), tuple(e.max)) for n, e in one.shapes.items()})
            for one in self.report.profiles
            if one.shapes
        ]
        return EngineRunner(path.read_bytes(), self.report.backend.name, Profiles(tuple(profiles)))

    @property
    def exit_status(self) -> int:
        """0 done; 1 done, but the result misses its target or is broken; 3 the engine does not run on its own GPU."""
        return status_of(self.report.summary.verdict, self.report.accuracy, self.report.device)

    @property
    def files(self) -> list[Path]:
        """The files in the run folder that are meant for people and other tools."""
        weights = sorted(self.folder.glob("model.onnx.*.data"))
        return [*(p for name in FILES if (p := self.folder / name).exists()), *weights]


def status_of(verdict: Verdict, accuracy: Accuracy | None, device: DeviceInfo | None) -> int:
    """0 done; 1 done, but the result misses its target or is broken; 3 the engine does not run on its own GPU."""
    if device is not None and device.status == "failed":
        return 3
    # a recipe without a budget demands nothing: the task's own limit is reported in the first line
    demanded = verdict == "broken" or (verdict == "missed" and not (accuracy is not None and accuracy.by_default))
    return 1 if demanded else 0
