"""No backend: the run ends with the ONNX model."""

from __future__ import annotations

from pathlib import Path

from toolkit.backends.backend import Backend, EngineSettings, Extras, LogLine, Typing
from toolkit.backends.layers.layer import Build
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent


class NoBackend(Backend):
    """Builds no engine; the lowered ONNX model is the result."""

    name = "none"
    typing: Typing = "strong"

    def typing_for(self, settings: EngineSettings) -> Typing:
        """Strong unless the settings request weak: the model is lowered as for TensorRT."""
        return "weak" if settings.typing == "weak" else "strong"

    def version(self) -> str:
        """Empty, since there is no TensorRT."""
        return ""

    def cannot_measure(self) -> str:
        """Why nothing can be measured: there is no engine."""
        return "no backend here builds an engine"

    def max_opset(self) -> int:
        """The newest opset that qtool supports."""
        return 23

    def parse(self, model_path: Path, profiles: Profiles, settings: EngineSettings) -> None:
        """Do nothing: there is no parser."""

    def build(
        self,
        model_path: Path,
        profiles: Profiles,
        settings: EngineSettings,
        log: LogLine = silent,
        progress: Progress = silent,
        extras: Extras | None = None,
    ) -> Build:
        """A Build without an engine."""
        return Build(backend=self.name, settings={"typing": self.typing_for(settings)})
