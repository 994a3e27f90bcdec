"""What every backend offers, and the settings of an engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pydantic

from toolkit.backends.layer import Build
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges

LogLine = Callable[[str], None]
Typing = Literal["strong", "weak"]


class EngineSettings(pydantic.BaseModel):
    """Settings of the engine. Every default is TensorRT's own."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    typing: Literal["auto", "strong", "weak"] = pydantic.Field(
        "auto", description="strong: types as they stand in the graph; weak: TensorRT chooses within the plan"
    )
    constraints: Literal["obey", "prefer"] = pydantic.Field(
        "obey", description="weak typing: whether the plan's layer precisions are orders or wishes"
    )
    quantization: Literal["explicit", "implicit"] = pydantic.Field(
        "explicit", description="explicit: Q/DQ pairs; implicit: ranges given to TensorRT (8.6 to 10, weak typing)"
    )
    calibrator: Literal["ranges", "entropy2", "entropy", "minmax", "legacy"] = pydantic.Field(
        "ranges", description="implicit quantization: qtool's ranges, or one of TensorRT's own calibrators"
    )
    compute_capabilities: tuple[str, ...] = pydantic.Field(
        (), description="TensorRT-RTX: the GPUs to build for, as in ['8.9']; empty: this machine's, else 8.9"
    )
    workspace: int | None = pydantic.Field(None, gt=0, description="limit of the scratch memory, in bytes")
    timing_cache: Path | None = pydantic.Field(None, description="file of measured kernel times, kept between builds")
    tactic_sources: tuple[str, ...] | None = pydantic.Field(
        None, description="the kernel libraries TensorRT may use; [] is none but its own"
    )
    optimization_level: int | None = pydantic.Field(None, ge=0, le=5, description="builder effort, 0 to 5")
    avg_timing_iterations: int | None = pydantic.Field(
        None, ge=1, le=1000, description="runs of which a kernel's time is the mean when TensorRT chooses it"
    )
    refit: bool = pydantic.Field(False, description="weights can be replaced in the built engine")
    version_compatible: bool = pydantic.Field(False, description="the engine runs on later releases of TensorRT")
    hardware_compatible: bool = pydantic.Field(False, description="the engine runs on any GPU from Ampere on")
    sparse_weights: bool = pydantic.Field(False, description="use 2:4 sparsity where weights have it")
    tf32: bool = pydantic.Field(True, description="FP32 layers may multiply in TF32")
    measure: bool = pydantic.Field(True, description="measure latency and layer times where a GPU is present")

    @pydantic.field_validator("compute_capabilities")
    @classmethod
    def _capability(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for capability in value:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise ValueError(f"'{capability}' is no compute capability: write it as in '8.9'")
        return value


@dataclass(frozen=True)
class Extras:
    """What a build needs besides the model; all but ``opened`` is for weak typing, strong typing ignores it.

    Attributes:
        plan: layer precisions to ask for.
        rest: the precision allowed to layers that nobody asked about.
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
        min_opset: the oldest ONNX operator set it takes.
    """

    name: str
    min_opset: int

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

    def max_opset(self) -> int:
        """The newest ONNX operator set it takes."""
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
