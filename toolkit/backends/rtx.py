"""The tensorrt_rtx backend: strongly typed engines, built with or without a GPU."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from toolkit.backends.backend import Backend, EngineSettings, Extras, LogLine, Typing
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build
from toolkit.backends.layers.network import network_layers
from toolkit.backends.layers.program import tactics
from toolkit.backends.processes.exchange import profiles_to_json
from toolkit.backends.processes.process import run_job
from toolkit.base.errors import BackendError
from toolkit.base.gpu import find_gpu
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.temporary import temporary_folder
from toolkit.contract.findings import Finding

DEFAULT_CAPABILITY = "8.9"
AMPERE_ON = ("8.0", "8.6", "8.9", "12.0", "12.1")
_WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_SUPPORTED = ("7.5", *AMPERE_ON)
_RECURRENT_BRANCHES_FAIL = (1, 7)
"""The newest release observed to fail on an LSTM or GRU inside an If, and on a Loop or Scan there with a scan
output that nothing reads, with an internal assertion of its builder."""
_BFLOAT16_DECONVOLUTIONS_FAIL = (1, 7)
"""The newest release observed to fail on a ConvTranspose in bfloat16: its builder infers no type of the result."""


class RtxBackend(Backend):
    """Builds with TensorRT-RTX through Polygraphy.

    Its layers are known from the typed network definition; for those with weights, the compiled program in the engine
    also tells what their kernels read.
    """

    name = "tensorrt_rtx"
    typing: Typing = "strong"

    def typing_for(self, settings: EngineSettings) -> Typing:
        """Always strong.

        Raises:
            BackendError: weak typing, implicit quantization, or another setting that TensorRT-RTX does not support.
        """
        if settings.typing == "weak" or settings.quantization == "implicit":
            asked = 'typing = "weak"' if settings.typing == "weak" else 'quantization = "implicit"'
            raise BackendError(
                f"TensorRT-RTX supports only strong typing and Q/DQ pairs, but the recipe says {asked}",
                where="[engine]",
                remedy='leave the setting out, or use backend = "tensorrt" (8.6 to 10)',
            )
        if settings.version_compatible:
            raise BackendError(
                "TensorRT-RTX cannot build version-compatible engines",
                where="[engine] version_compatible",
                remedy='leave the setting out, or use backend = "tensorrt"',
            )
        if settings.refit and find_gpu() is None:
            raise BackendError(
                "TensorRT-RTX builds refittable engines only on a machine with a GPU",
                where="[engine] refit",
                remedy="leave the setting out, or build on the GPU that will run the engine",
            )
        return "strong"

    def version(self) -> str:
        """The installed version of TensorRT-RTX; empty if it is not installed."""
        for distribution in ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"):
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    @property
    def _release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version().split(".")[:2] if part.isdigit())

    def cannot_measure(self) -> str:
        """Why nothing can be measured: TensorRT-RTX engines are only built, not run."""
        return "the tensorrt_rtx backend builds engines without measuring them"

    def max_opset(self) -> int:
        """The newest opset: its parser supports all that qtool supports."""
        return 23

    def unbuilt(self) -> Mapping[Precision, frozenset[str]]:
        """ConvTranspose in bfloat16, with any kernel, stride, rank or number of groups."""
        return {Precision.BF16: frozenset({"ConvTranspose"})} if self._release <= _BFLOAT16_DECONVOLUTIONS_FAIL else {}

    def parse(self, model_path: Path, profiles: Profiles, settings: EngineSettings) -> None:
        """Parse the model; see ``Backend.parse``."""
        from toolkit.backends.lowering.conditionals import refuse_conditionals

        # RNN, Loop and Scan whose outputs are read build inside an If, and so do LSTM and GRU outside of one
        recurrent = self._release <= _RECURRENT_BRANCHES_FAIL
        refuse_conditionals(model_path, profiles, f"TensorRT-RTX {self.version()}", recurrent)
        capabilities, _ = target_capabilities(settings)
        request = {
            "model": str(model_path.resolve()),
            "profiles": profiles_to_json(profiles),
            "settings": {"compute_capabilities": capabilities},
        }
        run_job("parse_rtx", request)

    def build(
        self,
        model_path: Path,
        profiles: Profiles,
        settings: EngineSettings,
        log: LogLine = silent,
        progress: Progress = silent,
        extras: Extras | None = None,
    ) -> Build:
        """Build an engine; see ``Backend.build``. The graph's types already contain the plan."""
        typing = self.typing_for(settings)
        capabilities, why = target_capabilities(settings)
        resolved = {
            **settings.model_dump(mode="json"),
            # Kernels are chosen on the GPU that runs the engine, so a build without a GPU measures no times to cache.
            "timing_cache": str(settings.timing_cache) if settings.timing_cache and find_gpu() else None,
            "typing": typing,
            "profiles": profiles.names,
            "compute_capabilities": capabilities,
            "compute_capabilities_reason": why.to_json(),
        }
        with temporary_folder("rtx") as folder:
            engine_path = folder / "model.engine"
            answer = run_job(
                "build_rtx",
                {
                    "model": str(model_path.resolve()),
                    "engine": str(engine_path),
                    "profiles": profiles_to_json(profiles),
                    "settings": {**resolved, "hardware_compatible": False},
                },
                log,
                progress,
            )
            engine = engine_path.read_bytes()
        kernels = tactics(engine)
        layers = [
            replace(layer, tactic=kernels[layer.nodes[0]])
            if layer.kind in _WEIGHTED and layer.nodes and layer.nodes[0] in kernels
            else layer
            for layer in network_layers(answer["network"])
        ]
        known = {"source": "network", "backend": self.name, "version": answer["version"], "kernels": kernels}
        return Build(
            backend=self.name,
            version=answer["version"],
            engine=engine,
            layers=layers,
            source="network",
            raw={**known, **answer["network"]},
            log=answer["log"],
            seconds=answer["seconds"],
            settings=resolved,
        )


def target_capabilities(settings: EngineSettings) -> tuple[list[str], Finding]:
    """The compute capabilities to build for, and why."""
    if settings.compute_capabilities:
        return list(settings.compute_capabilities), EngineCode.CAPABILITY_REQUESTED()
    if settings.hardware_compatible:
        return list(AMPERE_ON), EngineCode.CAPABILITY_COMPATIBLE()
    gpu = find_gpu()
    if gpu is None:
        return [DEFAULT_CAPABILITY], EngineCode.CAPABILITY_DEFAULT(capability=DEFAULT_CAPABILITY)
    if gpu.compute_capability in _SUPPORTED:
        return [gpu.compute_capability], EngineCode.CAPABILITY_OF_GPU(gpu=gpu.name)
    return [DEFAULT_CAPABILITY], EngineCode.CAPABILITY_UNSUPPORTED(
        capability=DEFAULT_CAPABILITY, gpu=gpu.name, gpu_capability=gpu.compute_capability
    )
