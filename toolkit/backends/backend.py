"""The interface of all backends, and the settings of an engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pydantic

from toolkit.backends.layers.layer import Build
from toolkit.base.errors import BackendError
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.contract.bench import TurnsFound

if TYPE_CHECKING:
    import numpy as np

    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges

LogLine = Callable[[str], None]
Typing = Literal["strong", "weak"]


class EngineChoices(pydantic.BaseModel):
    """Settings shared by a recipe's ``[engine]`` and the backends. All defaults are TensorRT's own.

    Attributes:
        refit: whether weights can be replaced in the built engine.
        sparse_weights: whether to use 2:4 sparsity of weights that have it.
        version_compatible: whether the engine runs on later releases of TensorRT.
        hardware_compatible: whether the engine runs on any GPU from Ampere on.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    typing: Literal["auto", "strong", "weak"] = pydantic.Field(
        "auto", description="how TensorRT is told the precisions"
    )
    quantization: Literal["explicit", "implicit"] = pydantic.Field(
        "explicit", description="explicit: Q/DQ pairs; implicit: ranges (TensorRT 8.6 and 10)"
    )
    calibrator: Literal["ranges", "entropy2", "entropy", "minmax", "legacy"] = pydantic.Field(
        "ranges", description="implicit quantization: qtool's ranges, or one of TensorRT's own calibrators"
    )
    prefer: Literal["speed", "int8"] = pydantic.Field(
        "speed",
        description="speed: if the engine measures slower than the float one in any profile, the layers that do not "
        "pay off stay in float; int8: they are quantized anyway, and a search looks "
        "for much in int8",
    )
    measure: bool = pydantic.Field(True, description="measure latency and layer times if a GPU is present")
    compute_capabilities: list[str] = pydantic.Field([], description="TensorRT-RTX: GPUs to build for, such as 8.9")
    tactic_sources: list[str] | None = pydantic.Field(None, description="default: TensorRT's own choice; [] for none")
    optimization_level: int | None = pydantic.Field(None, ge=0, le=5, description="builder optimization level")
    trial_level: int = pydantic.Field(
        2, ge=0, le=5,
        description="builder optimization level of trial engines, used if many are compared or builds take long; at "
        "most optimization_level, at which the chosen engine is built and measured",
    )  # fmt: skip
    side_by_side: bool = pydantic.Field(
        True, description="if builds take long and GPU memory suffices, build trial engines in parallel with the "
        "engine without pairs; each is measured alone. false: one engine at a time",
    )  # fmt: skip
    avg_timing_iterations: int | None = pydantic.Field(
        None, ge=1, le=1000,
        description="runs over which TensorRT averages a kernel's time when it selects tactics; its default is 1. More "
        "make builds more reproducible; use a new timing_cache with it",
    )  # fmt: skip
    constraints: Literal["auto", "obey", "prefer"] = pydantic.Field(
        "auto",
        description="weak typing: how strictly layer precisions are enforced; auto is prefer for a network with Q/DQ "
        "pairs and obey for any other",
    )
    refit: bool = False
    sparse_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False


class EngineSettings(EngineChoices):
    """The engine's settings, as passed to backends."""

    model_config = pydantic.ConfigDict(frozen=True)

    workspace: int | None = pydantic.Field(None, gt=0, description="workspace limit in bytes")
    timing_cache: Path | None = pydantic.Field(None, description="file of kernel timings, reused between builds")
    tf32: bool = pydantic.Field(True, description="FP32 layers may multiply in TF32")

    @pydantic.field_validator("compute_capabilities")
    @classmethod
    def _capability(cls, value: list[str]) -> list[str]:
        for capability in value:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise ValueError(f"'{capability}' is not a compute capability: write it as in '8.9'")
        return value


@dataclass(frozen=True)
class Extras:
    """What a build needs besides the model; strong typing ignores everything but ``opened``.

    Attributes:
        plan: layer precisions to request.
        rest: the precision allowed to layers without a request.
        ranges: amax by tensor, for implicit quantization.
        batches: calibration batches for TensorRT's calibrators, each input name to array, all of one shape.
        calibration_profile: the name of the profile whose opt shape the batches have.
        calibration_cache: the file for TensorRT's calibration cache.
        opened: inner tensors to mark, so that the inspector shows more of opaque blocks; only for ``tensorrt``, since
            no other backend has opaque blocks.
    """

    plan: PrecisionPlan | None = None
    rest: str = "fp16"
    ranges: Ranges | None = None
    batches: Iterable[Mapping[str, np.ndarray]] = field(default=())
    calibration_profile: str = ""
    calibration_cache: Path | None = None
    opened: tuple[str, ...] = ()


class Backend(Protocol):
    """Builds an engine from an ONNX file.

    Attributes:
        name: tensorrt, tensorrt_rtx or none.
    """

    name: str

    @property
    def typing(self) -> Typing:
        """The default typing of networks."""
        ...

    def typing_for(self, settings: EngineSettings) -> Typing:
        """The typing of networks with these settings.

        Raises:
            BackendError: this version does not support the settings.
        """
        ...

    def version(self) -> str:
        """The version of the TensorRT module; empty if there is none."""
        ...

    def cannot_measure(self) -> str:
        """Why ``build`` measures no latencies here; empty if it does."""
        ...

    def parallel_build_memory(self) -> int:
        """Bytes of GPU memory for building engines in parallel; 0 if that is not possible."""
        return 0

    def in_turn(self, engines: Mapping[str, Path], profiles: Profiles, progress: Progress = silent) -> TurnsFound:
        """Measure the latency of several engines in turns.

        Args:
            engines: files of engines built by this backend, by name.
            profiles: the profiles that they were built with.
            progress: called with the current task, the amount done, and the total.

        Raises:
            BackendError: an engine cannot be opened, or this machine cannot measure.
        """
        raise BackendError(self.cannot_measure(), where="measuring engines in turn", remedy="use the backend tensorrt")

    def max_opset(self) -> int:
        """The newest ONNX operator set that it supports."""
        ...

    def unbuilt(self) -> Mapping[Precision, frozenset[str]]:
        """Operators that its parser accepts but that it cannot build in a 16-bit float type: they stay in FP32."""
        return {}

    def parse(self, model_path: Path, profiles: Profiles, settings: EngineSettings) -> None:
        """Have the backend's parser read an ONNX file; nothing is built.

        Args:
            model_path: the ONNX file, lowered for ``typing_for(settings)``.

        Raises:
            BackendError: it refuses the model, the profiles or the settings, or is known to fail at a node.
        """
        ...

    def build(
        self,
        model_path: Path,
        profiles: Profiles,
        settings: EngineSettings,
        log: LogLine = silent,
        progress: Progress = silent,
        extras: Extras | None = None,
    ) -> Build:
        """Build an engine, and determine what can be known about its layers.

        Args:
            model_path: the ONNX file, lowered for ``typing_for(settings)``.
            profiles: all shape profiles; each must cover every dynamic input.
            log: called with each of TensorRT's messages.
            progress: called with the current task, the amount done, and the total.
            extras: further inputs, mainly for weak typing.

        Raises:
            BackendError: TensorRT is missing, rejected the model, or crashed.
        """
        ...
