"""What every backend offers, and the settings of an engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pydantic

from toolkit.backends.layers.layer import Build
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
    """Settings that a recipe's ``[engine]`` and a backend share. Every default is TensorRT's own.

    Attributes:
        refit: weights can be replaced in the built engine.
        sparse_weights: use 2:4 sparsity where weights have it.
        version_compatible: the engine runs on later releases of TensorRT.
        hardware_compatible: the engine runs on any GPU from Ampere on.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    typing: Literal["auto", "strong", "weak"] = pydantic.Field("auto", description="how TensorRT learns the precisions")
    quantization: Literal["explicit", "implicit"] = pydantic.Field(
        "explicit", description="Q/DQ pairs, or ranges (8.6 and 10)"
    )
    calibrator: Literal["ranges", "entropy2", "entropy", "minmax", "legacy"] = pydantic.Field(
        "ranges", description="implicit quantization: qtool's ranges, or one of TensorRT's own calibrators"
    )
    prefer: Literal["speed", "int8"] = pydantic.Field(
        "speed",
        description="speed: where a GPU measures that quantizing makes the engine slower than the float one in a "
        "profile, the layers that do not pay off stay in float; int8: they are quantized anyway, and a search looks "
        "for much in int8",
    )
    measure: bool = pydantic.Field(True, description="measure latency and layer times where a GPU is present")
    compute_capabilities: list[str] = pydantic.Field([], description="TensorRT-RTX: GPUs to build for, such as 8.9")
    tactic_sources: list[str] | None = pydantic.Field(None, description="TensorRT's default if not given; [] for none")
    optimization_level: int | None = pydantic.Field(None, ge=0, le=5, description="builder optimization level")
    trial_level: int = pydantic.Field(
        2, ge=0, le=5,
        description="builder optimization level of trial engines where many are compared, or building takes long; at "
        "most optimization_level, at which what is taken is built and measured",
    )  # fmt: skip
    side_by_side: bool = pydantic.Field(
        True, description="where building takes long and the GPU has the memory, build trial engines alongside the "
        "engine without pairs, each measured alone; false: one engine at a time",
    )  # fmt: skip
    avg_timing_iterations: int | None = pydantic.Field(
        None, ge=1, le=1000,
        description="runs of which a kernel's time is the mean when TensorRT chooses it; its default is 1. More make "
        "engines that differ less from build to build; take a new timing_cache with it",
    )  # fmt: skip
    constraints: Literal["auto", "obey", "prefer"] = pydantic.Field(
        "auto",
        description="weak typing: how strictly layer precisions hold; auto is prefer for a network with Q/DQ pairs and "
        "obey for any other",
    )
    refit: bool = False
    sparse_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False


class EngineSettings(EngineChoices):
    """Settings of the engine, as backends take them."""

    model_config = pydantic.ConfigDict(frozen=True)

    workspace: int | None = pydantic.Field(None, gt=0, description="limit of the scratch memory, in bytes")
    timing_cache: Path | None = pydantic.Field(None, description="file of measured kernel times, kept between builds")
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
    """What a build needs besides the model; all but ``opened`` is for weak typing, strong typing ignores it.

    Attributes:
        plan: layer precisions to ask for.
        rest: the precision allowed to layers without a request.
        ranges: amax by tensor, for implicit quantization.
        batches: calibration batches for TensorRT's calibrators, each input name to array, all of one shape.
        calibration_profile: the name of the profile whose opt shape the batches have.
        calibration_cache: where TensorRT's calibration cache is read and written.
        opened: inner tensors to mark, so that the inspector shows more of opaque blocks; for ``tensorrt`` alone, since
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
        """How the network is typed where the settings leave it open."""
        ...

    def typing_for(self, settings: EngineSettings) -> Typing:
        """How the network is typed with these settings.

        Raises:
            BackendError: this version cannot do what the settings ask.
        """
        ...

    def version(self) -> str:
        """The version of the TensorRT module, empty where there is none."""
        ...

    def cannot_measure(self) -> str:
        """Why ``build`` measures no latencies here, empty where it does."""
        ...

    def parallel_build_memory(self) -> int:
        """Bytes of GPU memory for engines that are built side by side; 0 where none can be built alongside others."""
        ...

    def in_turn(self, engines: Mapping[str, Path], profiles: Profiles, progress: Progress = silent) -> TurnsFound:
        """Measure the latency of several engines in turn.

        Args:
            engines: files of engines that it built, by name.
            profiles: the profiles that they were built with.
            progress: called with what is being done, how much is done, and of how much.

        Raises:
            BackendError: an engine cannot be opened, or nothing can be measured here.
        """
        ...

    def max_opset(self) -> int:
        """The newest ONNX operator set it takes."""
        ...

    def unbuilt(self) -> Mapping[Precision, frozenset[str]]:
        """The operators that it fails to build in a float type, although its parser takes them: they stay FP32."""
        ...

    def parse(self, model_path: Path, profiles: Profiles, settings: EngineSettings) -> None:
        """Let the backend's parser read an ONNX file; nothing is built.

        Args:
            model_path: the ONNX file, lowered for ``typing_for(settings)``.
            profiles: all shape profiles.
            settings: the engine's settings.

        Raises:
            BackendError: it refuses the model, the profiles or the settings, or is known to fail on a node.
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
        """Build an engine and learn what can be known of its layers.

        Args:
            model_path: the ONNX file, lowered for ``typing_for(settings)``.
            profiles: all shape profiles; each must cover every dynamic input.
            settings: the engine's settings.
            log: called with each of TensorRT's messages.
            progress: called with what is being done, how much is done, and of how much.
            extras: what weak typing needs besides.

        Raises:
            BackendError: TensorRT is missing, refused the model, or crashed.
        """
        ...
