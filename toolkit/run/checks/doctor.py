"""What is installed on this machine, and which functions of qtool work with it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toolkit.base.cpu import cores
from toolkit.base.errors import QtoolError
from toolkit.base.text import text_of
from toolkit.base.versions import versions

_BACKENDS = ("tensorrt", "tensorrt_rtx")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_FOR_USERS = ("rtx", "tensorrt", "images", "detection")
"""The extras that add functions for users; the others are for developers."""


@dataclass(frozen=True)
class Capability:
    """A function of qtool, and whether it works here.

    Attributes:
        what: ``build``, ``run`` or ``measure`` an engine, or ``simulate`` it in onnxruntime.
        by: the backend or package that does it.
        able: whether it works.
        why: what prevents it; otherwise a note, such as the compute capability that engines are built for.
        remedy: what the user can do.
    """

    what: str
    by: str
    able: bool
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Health:
    """The state of the installation: machine, packages, GPU and capabilities.

    Attributes:
        machine: the system, the number of usable cores, and the Python version.
        packages: version of each package.
        missing: required packages that are not installed.
        extras: for each extra, its packages that are not installed; empty if all are.
        gpu: name, compute capability and the newest CUDA version that its driver supports; empty if there is no GPU.
        abilities: the capabilities.
        auto: the backend that ``backend = "auto"`` chooses, and why.
    """

    machine: dict[str, str]
    packages: dict[str, str]
    missing: list[str]
    extras: dict[str, list[str]]
    gpu: dict[str, str]
    abilities: list[Capability] = field(default_factory=list)
    auto: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines of text for people."""
        lines = [f"{name}: {value}" for name, value in self.machine.items()]
        lines.append("GPU: " + (", ".join(self.gpu.values()) if self.gpu else "none"))
        lines.append("packages: " + ", ".join(f"{name} {version}" for name, version in self.packages.items()))
        lines += [f"MISSING: {name}; run pip install {name}" for name in self.missing]
        for name, missing in self.extras.items():
            words = f"not installed ({', '.join(missing)}); run pip install 'qtool[{name}]'" if missing else "installed"
            lines.append(f"extra {name}: {words}")
        alike: dict[Capability, list[str]] = {}
        for one in self.abilities:
            alike.setdefault(replace(one, what=""), []).append(one.what)
        for one, whats in alike.items():
            said = f"{', '.join(whats)} with {one.by}: {'yes' if one.able else 'NO'}"
            said += f", {one.why}" if one.why else ""
            lines.append(said + (f". To fix it: {one.remedy}" if one.remedy else ""))
        lines.append(f'backend = "auto" chooses {self.auto}')
        return text_of(lines)


def examine() -> Health:
    """Examine this machine: packages, GPU and backends; each backend is loaded in a separate process."""
    from toolkit.backends.choose import choose
    from toolkit.report.findings import sentence

    backend, reason = choose("auto")
    needed, extras = _requirements()
    return Health(
        machine={
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": str(cores()),
        },
        packages=versions(),
        missing=[name for name in needed if not _installed(name)],
        extras={name: [one for one in parts if not _installed(one)] for name, parts in extras.items()},
        gpu=_gpu(),
        abilities=[_simulating(), *(one for name in _BACKENDS for one in _of_backend(name))],
        auto=f"{backend.name} ({sentence(reason)})",
    )


def _gpu() -> dict[str, str]:
    from toolkit.base.gpu import driver_cuda, find_gpu

    gpu = find_gpu()
    if gpu is None:
        return {}
    known = {"name": gpu.name, "compute_capability": f"compute capability {gpu.compute_capability}"}
    return {**known, "cuda": f"driver for CUDA up to {cuda}"} if (cuda := driver_cuda()) else known


def _simulating() -> Capability:
    """Simulation of accuracy, without an engine."""
    try:
        import onnxruntime
    except ImportError as error:
        return Capability("simulate", "onnxruntime", False, str(error), "run pip install onnxruntime")
    return Capability("simulate", f"onnxruntime {onnxruntime.__version__}", True, "on the CPU")


def _of_backend(name: str) -> list[Capability]:
    """The capabilities of a backend on this machine; if it cannot build, it cannot run or measure either."""
    from toolkit.backends.backend import EngineSettings
    from toolkit.backends.choose import choose, usable
    from toolkit.backends.rtx import target_capabilities
    from toolkit.base.gpu import find_gpu
    from toolkit.report.findings import sentence

    _, refusal = usable(name)
    if refusal is not None:
        return [Capability(what, name, False, refusal.what, refusal.remedy) for what in ("build", "run", "measure")]
    try:
        backend = choose(name)[0]
    except QtoolError as error:
        return [Capability("build", name, False, error.what, error.remedy)]
    gpu, by = find_gpu(), f"{name} {backend.version()}"
    built_for, target = "", ""
    if name == "tensorrt_rtx":
        capabilities, why = target_capabilities(EngineSettings())
        built_for = f"for compute capability {', '.join(capabilities)} ({sentence(why)})"
        target = "" if gpu is not None and gpu.compute_capability in capabilities else built_for
    build = Capability("build", by, True, built_for)
    elsewhere = "run on a machine that has the GPU"
    if gpu is None:
        no_gpu = "there is no GPU here"
        return [build, *(Capability(what, by, False, no_gpu, elsewhere) for what in ("run", "measure"))]
    run = Capability("run", by, not target, f"engines are {target}" if target else "", elsewhere if target else "")
    obstacle = backend.cannot_measure()
    remedy = "run pip install cuda-python" if "cuda-python" in obstacle else "use tensorrt" if obstacle else ""
    return [build, run, Capability("measure", by, not obstacle, obstacle, remedy)]


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that qtool requires, and those of each extra for users."""
    needed: list[str] = []
    extras: dict[str, list[str]] = {name: [] for name in _FOR_USERS}
    try:
        listed = importlib.metadata.requires("qtool") or []
    except importlib.metadata.PackageNotFoundError:
        # qtool runs from its source tree
        return needed, {}
    for line in listed:
        name, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        if name is not None and extra is None and ";" not in line:
            needed.append(name[1])
        elif name is not None and extra is not None and extra[1] in extras:
            extras[extra[1]].append(name[1])
    return needed, extras


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
