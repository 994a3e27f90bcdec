"""The tensorrt backend: versions 8.6, 10 and 11, by the features of the installed module. Builds on the local GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.backends.backend import Backend, EngineSettings, Extras, LogLine, Typing
from toolkit.backends.execution.measure import cuda_runtime
from toolkit.backends.layers.inspector import read_layers
from toolkit.backends.layers.layer import Build
from toolkit.backends.processes.children import CAN_STOP
from toolkit.backends.processes.exchange import profiles_to_json
from toolkit.backends.processes.process import ProcessDiedError, run_job
from toolkit.backends.processes.turns import measure_turns
from toolkit.base.errors import BackendError
from toolkit.base.files import writing
from toolkit.base.gpu import find_gpu
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.temporary import temporary_folder
from toolkit.contract.bench import TurnsFound
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role

_NEWEST_OPSET = (((11, 0), 25), ((10, 9), 22), ((10, 3), 21), ((10, 0), 20), ((8, 5), 17))


class TensorRTBackend(Backend):
    """Builds with TensorRT through Polygraphy, then queries the engine inspector for what every layer runs in.

    Args:
        features: the result of ``probe`` for the installed module.
    """

    name = "tensorrt"

    def __init__(self, features: Mapping[str, Any]) -> None:
        self._features = dict(features)

    @property
    def typing(self) -> Typing:
        """Strong if this version supports it, else weak."""
        return "strong" if self._features["strong"] else "weak"

    def typing_for(self, settings: EngineSettings) -> Typing:
        """The requested typing; ``auto`` is this version's default, or weak for implicit quantization.

        Raises:
            BackendError: this version does not support the typing, or implicit quantization.
        """
        version = self.version()
        if settings.quantization == "implicit":
            if not self._features["implicit"]:
                raise BackendError(
                    f"TensorRT {version} quantizes with Q/DQ pairs only",
                    where='[engine] quantization = "implicit"',
                    remedy=f'use the pass {pass_name(Role.QUANTIZE)} and quantization = "explicit", or TensorRT 8.6 to '
                    "10",
                )
            if settings.typing == "strong":
                raise BackendError(
                    "implicit quantization needs weak typing, and the recipe says strong",
                    where="[engine] typing",
                    remedy="leave typing out",
                )
            return "weak"
        if settings.typing == "auto":
            return self.typing
        if not self._features[settings.typing]:
            raise BackendError(
                f"TensorRT {version} has no {settings.typing} typing",
                where=f'[engine] typing = "{settings.typing}"',
                remedy='leave typing out: "auto" selects the one that this version supports',
            )
        return settings.typing

    def version(self) -> str:
        """The version of the installed module."""
        return str(self._features["version"])

    def cannot_measure(self) -> str:
        """Why nothing can be measured: no GPU, or no cuda-python; empty if measuring is possible."""
        if find_gpu() is None:
            return "there is no GPU here to measure on"
        return "" if cuda_runtime() is not None else "cuda-python is not installed"

    def parallel_build_memory(self) -> int:
        """Free GPU memory when the module was probed; see ``Backend.parallel_build_memory``."""
        return int(self._features.get("free_bytes", 0)) if CAN_STOP else 0

    def in_turn(self, engines: Mapping[str, Path], profiles: Profiles, progress: Progress = silent) -> TurnsFound:
        """Measure engines in turns; see ``Backend.in_turn``."""
        return measure_turns(self.name, engines, profiles, progress)

    def max_opset(self) -> int:
        """The newest opset that its parser supports."""
        mine = tuple(int(part) for part in self.version().split(".")[:2] if part.isdigit())
        return next((opset for version, opset in _NEWEST_OPSET if mine >= version), 17)

    def parse(self, model_path: Path, profiles: Profiles, settings: EngineSettings) -> None:
        """Parse the model; see ``Backend.parse``."""
        from toolkit.backends.lowering.conditionals import refuse_conditionals

        refuse_conditionals(model_path, profiles, f"TensorRT {self.version()}", recurrent=False)
        request = {
            "model": str(model_path.resolve()),
            "profiles": profiles_to_json(profiles),
            "settings": {"typing": self.typing_for(settings)},
        }
        run_job("parse_tensorrt", request)

    def build(
        self,
        model_path: Path,
        profiles: Profiles,
        settings: EngineSettings,
        log: LogLine = silent,
        progress: Progress = silent,
        extras: Extras | None = None,
    ) -> Build:
        """Build, inspect and measure; see ``Backend.build``."""
        typing = self.typing_for(settings)
        extras = extras or Extras()
        plan = extras.plan if extras.plan is not None else PrecisionPlan()
        resolved = {
            **settings.model_dump(mode="json"),
            "typing": typing,
            "rest": extras.rest,
            "profiles": profiles.names,
        }
        with temporary_folder("trt") as folder:
            answer = run_job(
                "build_tensorrt",
                {
                    "model": str(model_path.resolve()),
                    "folder": str(folder),
                    "profiles": profiles_to_json(profiles),
                    "settings": resolved,
                    "plan": {node: str(ask.precision) for node, ask in plan.items() if not ask.free},
                    "amax": _amax(extras) if settings.quantization == "implicit" else {},
                    "batches": _store_batches(extras, settings, folder),
                    "calibration_profile": extras.calibration_profile,
                    "calibration_cache": str(extras.calibration_cache) if extras.calibration_cache else None,
                    "opened": list(extras.opened),
                },
                log,
                progress,
            )
            found = _examined(folder, profiles, settings, log, progress)
            engine = (folder / "model.engine").read_bytes()
            said = [json.loads((folder / f).read_text("utf-8"), strict=False) for f in found["inspected"]]
        source = "inspector" if said else "none"
        layers = [layer for index, content in enumerate(said) for layer in read_layers(content, index)]
        return Build(
            backend=self.name,
            version=answer["version"],
            engine=engine,
            layers=layers,
            source=source,
            raw={"source": source, "version": answer["version"], "profiles": said},
            log=list(dict.fromkeys([*answer["log"], *found["log"]])),
            seconds=answer["seconds"],
            settings={**resolved, "constraints": answer["constraints"]},
            time_ms=found["time_ms"],
            latency=found["latency"],
            lacks=found["lacks"],
            unmarked=answer["unmarked"],
        )


def _examined(
    folder: Path, profiles: Profiles, settings: EngineSettings, log: LogLine, progress: Progress
) -> dict[str, Any]:
    """The result of ``examine_engine``, without inspection if its process dies twice; empty if it dies again.

    TensorRT 8.6.0 was observed to crash when a context is created for the inspector, but not on the next attempt
    («missing offset in id2offset»): the engine, which took minutes to build, must not be lost.
    """
    request = {
        "folder": str(folder),
        "profiles": profiles_to_json(profiles),
        "measure": settings.measure,
        "version_compatible": settings.version_compatible,
    }
    warnings: list[str] = []
    for inspect in (True, True, False):
        try:
            found = run_job("examine_tensorrt", {**request, "inspect": inspect}, log, progress)
            return {**found, "log": [*warnings, *found["log"]]}
        except ProcessDiedError as error:
            warnings.append(f"WARNING: the engine was built, but examining it failed: {error}")
            log(warnings[-1])
    lacks = dict.fromkeys(profiles.names or ["default"], warnings[-1]) if settings.measure else {}
    return {"inspected": [], "log": warnings, "time_ms": {}, "latency": {}, "lacks": lacks}


def _amax(extras: Extras) -> dict[str, float]:
    """The amax of every tensor: the calibrated one for tensors that placement quantizes, else the largest magnitude."""
    if extras.ranges is None:
        return {}
    seen = {name: max(abs(low), abs(high)) for name, (low, high) in extras.ranges.observed.items()}
    return {**seen, **{name: one.amax for name, one in extras.ranges.tensors.items()}}


def _store_batches(extras: Extras, settings: EngineSettings, folder: Path) -> list[str]:
    """Write calibration batches to files for the child process, all of the same shapes.

    Raises:
        BackendError: there are no batches, or their shapes differ (TensorRT would silently end calibration there).
    """
    if settings.quantization != "implicit" or settings.calibrator == "ranges":
        return []
    import numpy as np

    files: list[str] = []
    first: dict[str, tuple[int, ...]] = {}
    for number, batch in enumerate(extras.batches):
        shapes = {name: tuple(values.shape) for name, values in batch.items()}
        first = first or shapes
        if shapes != first:
            raise BackendError(
                f"calibration batch {number} has shapes {shapes}, the first has {first}",
                where=f'[engine] calibrator = "{settings.calibrator}"',
                remedy='TensorRT calibrates at one shape: give calibration data with outside = "pad" or "crop", '
                'or use calibrator = "ranges"',
            )
        path = folder / f"batch{number}.npz"
        with writing(path, sum(values.nbytes for values in batch.values())):
            np.savez(path, allow_pickle=False, **dict(batch))
        files.append(str(path))
    if not files:
        raise BackendError(
            f"TensorRT's {settings.calibrator} calibrator got no batch of calibration data",
            where=f'[engine] calibrator = "{settings.calibrator}"',
            remedy="add [calibration] data with samples for the calibration profile",
        )
    return files
