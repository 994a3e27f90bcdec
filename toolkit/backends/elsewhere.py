"""Trial engines built on other GPUs, one each, beside the one that this process builds.

They are built on GPUs of the kind that is here and measured here, in turn with the engine without pairs, as all others
are: latencies of one GPU can be compared, those of two of one kind differ with their clocks and their cooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from toolkit.backends.base import EngineSettings
from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.gpu import find_gpu
from toolkit.base.places import Pending, Workers
from toolkit.base.progress import silent
from toolkit.base.temporary import temporary_folder
from toolkit.base.versions import versions
from toolkit.graph.light import LightModel
from toolkit.graph.model import Model

if TYPE_CHECKING:
    from toolkit.backends.bench import EngineBench
    from toolkit.backends.layer import Build
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.ranges import Ranges


@dataclass(frozen=True)
class EngineOrder:
    """A lowered model whose engine is wanted; see ``EngineBench.build``."""

    model: LightModel
    plan: PrecisionPlan
    ranges: Ranges | None
    settings: EngineSettings


@dataclass(frozen=True)
class EngineBuilder:
    """What engines are built with; can be sent to another process, see ``SharedWork``.

    Attributes:
        bench: the bench that they are for.
        like: the GPU and the versions that engines of this bench are made by.
    """

    bench: EngineBench
    like: tuple[str, ...]

    @classmethod
    def of(cls, bench: EngineBench) -> EngineBuilder:
        """The bench without what is of this process alone."""
        apart = replace(bench, folder=None, progress=silent, batches=tuple)
        return cls(apart, _like())

    def open(self) -> Callable[[EngineOrder], Build | str]:
        """See ``SharedWork``: answers with the build, or with why its engine would not be one of that bench."""
        here = _like()

        def build(order: EngineOrder) -> Build | str:
            if here != self.like:
                return f"it would be built with {', '.join(here)}, and engines here with {', '.join(self.like)}"
            with temporary_folder("trial") as folder:
                model = Model.from_light(order.model)
                return self.bench.build(model, order.plan, order.ranges, folder / "trial.onnx", order.settings)

        return build


def _like() -> tuple[str, ...]:
    found = [f"{name} {version}" for name, version in versions().items() if name.startswith("tensorrt")]
    gpu = find_gpu()
    return (gpu.name if gpu is not None else "no GPU", *sorted(found))


@dataclass
class BuildsElsewhere:
    """Engines that other GPUs build.

    Attributes:
        hands: who builds them.
        under_way: by the name that the engine is to be kept by.
    """

    hands: Workers[EngineOrder, Build | str]
    under_way: dict[str, Pending[Build | str]] = field(default_factory=dict)

    @property
    def spare(self) -> int:
        """How many more would be begun at once."""
        return max(self.hands.window - len(self.under_way), 0)

    def order(self, name: str, order: EngineOrder) -> None:
        """Have an engine built."""
        self.under_way[name] = self.hands.submit(order)

    def take(self, name: str) -> Build | str | None:
        """What was built, or why it was not; None where nobody was asked.

        Raises:
            BackendError: the engine cannot be built.
        """
        pending = self.under_way.pop(name, None)
        try:
            return pending.result() if pending is not None else None
        except BackendError:
            raise
        except QtoolError as error:
            return str(error)
