"""Trial engines built on other GPUs, one per GPU, in parallel with the engine that this process builds.

The GPUs are of the same kind as this one. All engines are measured on this GPU, in turns with the engine without pairs:
latencies are comparable on one GPU, whereas two GPUs of a kind differ in clocks and cooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit.backends.backend import EngineSettings
from toolkit.base.errors import QtoolError
from toolkit.base.gpu import find_gpu
from toolkit.base.places import Pending, Workers
from toolkit.base.temporary import temporary_folder
from toolkit.base.versions import versions
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel

if TYPE_CHECKING:
    from toolkit.backends.layers.layer import Build
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges


@dataclass(frozen=True)
class EngineOrder:
    """A lowered model to build an engine from; see ``Builds``."""

    model: LightModel
    plan: PrecisionPlan
    ranges: Ranges | None
    settings: EngineSettings


class Builds(Protocol):
    """The part of ``EngineBench`` that builds engines."""

    def build(
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, path: Path, settings: EngineSettings
    ) -> Build:
        """Build an engine from a lowered model, which is written to ``path`` during the build."""
        ...


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines; can be sent to another process, see ``SharedWork``.

    Attributes:
        bench: the bench that requests the engines, without the objects of its process.
        like: the result of ``engines_like`` in the requesting process.
    """

    bench: Builds
    like: tuple[str, ...]

    def open(self) -> Callable[[EngineOrder], Build | str]:
        """See ``SharedWork``: answers with the build, or why its engine would not match those of the bench."""
        here = engines_like()

        def build(order: EngineOrder) -> Build | str:
            if here != self.like:
                return f"it would be built with {', '.join(here)}, and engines here with {', '.join(self.like)}"
            with temporary_folder("trial") as folder:
                model = Model.from_light(order.model)
                return self.bench.build(model, order.plan, order.ranges, folder / "trial.onnx", order.settings)

        return build


def engines_like() -> tuple[str, ...]:
    """Everything that an engine built here depends on: the GPU, and the versions of TensorRT's packages."""
    found = [f"{name} {version}" for name, version in versions().items() if name.startswith("tensorrt")]
    gpu = find_gpu()
    return (gpu.name if gpu is not None else "no GPU", *sorted(found))


@dataclass
class RemoteBuilds:
    """Engines being built on other GPUs.

    Attributes:
        workers: the workers that build them.
        under_way: pending builds by the name under which the engine is cached.
    """

    workers: Workers[EngineOrder, Build | str]
    under_way: dict[str, Pending[Build | str]] = field(default_factory=dict)

    @property
    def free_gpus(self) -> int:
        """Number of further builds that would start at once."""
        return max(self.workers.window - len(self.under_way), 0)

    def order(self, name: str, order: EngineOrder) -> None:
        """Start building an engine."""
        self.under_way[name] = self.workers.submit(order)

    def forget(self, name: str) -> None:
        """Cancel an engine that will not be needed."""
        if name in self.under_way:
            self.under_way.pop(name).give_up()

    def take(self, name: str) -> Build | str | None:
        """The build, or why it failed; None if it was not ordered.

        A build that fails on another GPU, whose memory others may use, may succeed on this one.
        """
        pending = self.under_way.pop(name, None)
        try:
            return pending.result() if pending is not None else None
        except QtoolError as error:
            return str(error)
