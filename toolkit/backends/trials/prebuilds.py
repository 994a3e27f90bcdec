"""Trial engines started before their latency is requested: on other GPUs, or in the background on this one."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from toolkit.backends.trials.background_build import BackgroundBuild
from toolkit.backends.trials.remote_builds import Builds, EngineBuilder, EngineOrder, RemoteBuilds, engines_like
from toolkit.base.errors import BackendError
from toolkit.base.files import write_bytes
from toolkit.base.places import elsewhere
from toolkit.base.temporary import temporary_folder
from toolkit.contract.bench import CLEARLY_FASTER, LONG, NOISE, Latency
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model

if TYPE_CHECKING:
    from toolkit.backends.backend import Backend, EngineSettings
    from toolkit.backends.layers.layer import Build
    from toolkit.backends.trials.engine_cache import EngineCache
    from toolkit.base.log import Log as Outcomes
    from toolkit.base.profiles import Profiles
    from toolkit.base.progress import Progress

_PARALLEL_BUILD_MEMORY = 24 << 30
"""Free GPU memory, in bytes, needed to build two engines at once: a builder takes as much as it wants."""


class BuildsTrials(Protocol):
    """The parts of ``EngineBench`` that lower, name, build and cache engines; see there."""

    settings: EngineSettings
    shapes: Profiles

    @property
    def progress(self) -> Progress: ...  # noqa: D102

    @property
    def builder(self) -> Backend: ...  # noqa: D102

    @property
    def log(self) -> Outcomes: ...  # noqa: D102

    @property
    def kept(self) -> EngineCache: ...  # noqa: D102

    def apart(self) -> Builds: ...  # noqa: D102

    def cannot_measure(self) -> str: ...  # noqa: D102

    def settings_for(self, float_only: bool, trial: bool) -> EngineSettings: ...  # noqa: D102

    def lowered(  # noqa: D102
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, settings: EngineSettings
    ) -> tuple[Model, PrecisionPlan]: ...

    def key(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, settings: EngineSettings) -> str: ...  # noqa: D102

    def name_of(self, key: str, repeat: int = 0, trial: bool = False) -> str: ...  # noqa: D102


class Prebuilds:
    """Engines that an ``EngineBench`` has started before they are needed.

    Args:
        bench: lowers, names, builds and caches the engines.

    Attributes:
        background: the engine without pairs that is built in the background on this GPU; None if there is none.
        bar: latency per profile of the engine without pairs as the run would build it; empty until known.
    """

    def __init__(self, bench: BuildsTrials) -> None:
        self._bench = bench
        self._others: RemoteBuilds | None = None
        self.background: BackgroundBuild | None = None
        self.bar: Mapping[str, Latency] = {}

    # ---------------------------------------------------------------- on other GPUs

    @contextmanager
    def remote_builds(self) -> Iterator[None]:
        """See ``Bench.remote_builds``."""
        place, bench = elsewhere(), self._bench
        if place is None or self._others is not None or bench.cannot_measure():
            yield
            return
        with place.gpu_workers(EngineBuilder(bench.apart(), engines_like())) as workers:
            self._others = RemoteBuilds(workers) if workers is not None else None
            try:
                yield
            finally:
                self._others = None

    @property
    def free_gpus(self) -> int:
        """See ``Bench.free_gpus``."""
        return self._others.free_gpus if self._others is not None else 0

    def order(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, float_only: bool, trial: bool) -> str:
        """See ``Bench.prebuild``. Engines calibrated by TensorRT's own calibrators are built only in this process."""
        bench = self._bench
        settings = bench.settings_for(float_only, trial)
        if not self.free_gpus or settings.calibrator != "ranges":
            return ""
        model, plan = bench.lowered(model, plan, ranges, settings)
        name = bench.name_of(bench.key(model, plan, ranges, settings), 0, trial)
        assert self._others is not None
        if name not in self._others.under_way and bench.kept.file(name) is None:
            # it may be built on another machine, which does not have this timing cache
            settings = settings.model_copy(update={"timing_cache": None})
            self._others.order(name, EngineOrder(model.to_light(), plan, ranges, settings))
        return name

    def forget(self, engine: str) -> None:
        """See ``Bench.forget``."""
        if self._others is not None:
            self._others.forget(engine)

    def take(self, name: str) -> tuple[Build | None, str, BackgroundBuild | None]:
        """An engine that was started early, with its latency on this GPU; or None, and why if its build failed.

        Also returns the ``BackgroundBuild`` that built it, if it was built in the background.
        """
        if self.background is not None and self.background.name == name:
            built = self.background.result(self._bench.progress)
            return (None, built, None) if isinstance(built, str) else (built, "", self.background)
        found = self._others.take(name) if self._others is not None else None
        if found is None or isinstance(found, str):
            return None, found or "", None
        return *self._measured_here(found, name), None

    def _measured_here(self, found: Build, name: str) -> tuple[Build | None, str]:
        """An engine built on another GPU, with its latency on this one; or None, and why it cannot be measured."""
        assert found.engine is not None
        bench = self._bench
        with temporary_folder("trial") as folder:
            path = folder / f"{name}.engine"
            write_bytes(path, found.engine)
            try:
                turns = bench.builder.in_turn({name: path}, bench.shapes, bench.progress)
            except BackendError as error:
                return None, str(error)
        runs = {profile: sorted(turns.turns[profile][name]) for profile in turns.turns}
        found.latency = {
            profile: {"opt": statistics.median(ms), "opt p05": ms[0], "opt p95": ms[-1]} for profile, ms in runs.items()
        }
        found.lacks = dict(turns.lacks)
        return found, ""

    # ---------------------------------------------------------------- in the background

    @contextmanager
    def prebuild_float(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None) -> Iterator[None]:
        """See ``Bench.prebuild_float``."""
        begun = self._begun(model, plan, ranges) if self.background is None else None
        if begun is None:
            yield
            return
        self.background = begun
        try:
            yield
        finally:
            self.background = None
            begun.give_up()

    def _begun(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None) -> BackgroundBuild | None:
        """Start building the engine without pairs; None if this is impossible or its latency is known."""
        bench = self._bench
        settings = bench.settings_for(True, False)
        # under strong typing, types depend on ranges
        early = ranges is None and bench.builder.typing_for(settings) != "weak"
        if bench.cannot_measure() or early or not bench.builder.parallel_build_memory() or elsewhere() is not None:
            return None
        model, plan = bench.lowered(model, plan, ranges, settings)
        key = bench.key(model, plan, ranges, settings)
        name = bench.name_of(key)
        if bench.kept.file(name) is not None or any(place.startswith(f"{key}/") for place in bench.log.found):
            return None
        apart = bench.apart()

        def build() -> Build:
            with temporary_folder("beside") as folder:
                return apart.build(model, plan, ranges, folder / "beside.onnx", settings)

        return BackgroundBuild(name, build)

    def make_room(self) -> bool:
        """See ``Bench.make_room``."""
        if self.background is None:
            return False
        bench = self._bench
        together = bench.settings.side_by_side and bench.builder.parallel_build_memory() >= _PARALLEL_BUILD_MEMORY
        self.background.wait(bench.progress, LONG if together else None)
        return not self.background.done

    def only(self, key: str) -> None:
        """Cancel the background build if the engine without pairs is now built from another graph."""
        if self.background is not None and self.background.name != self._bench.name_of(key):
            self.background.give_up()

    def as_run(self, key: str, repeat: int) -> bool:
        """Whether there is an engine as the run would build it; waits for one that is being built."""
        name = self._bench.name_of(key, repeat)
        if self.background is not None and self.background.name == name:
            return not isinstance(self.background.result(self._bench.progress), str)
        return self._bench.kept.file(name) is not None

    def failed_before(self, key: str, repeat: int) -> str:
        """Why an early build of the run's own engine failed; empty if there was none."""
        begun = self.background
        if begun is None or begun.name != self._bench.name_of(key, repeat) or not begun.done:
            return ""
        found = begun.result(self._bench.progress)
        return found if isinstance(found, str) else ""

    def undecided(self, latency: Mapping[str, Latency]) -> bool:
        """Whether a trial exceeds the float engine's latency by no more than a higher optimization level can gain."""
        ratios = [latency[profile].ms / one.ms for profile, one in self.bar.items() if profile in latency]
        return any(1 - NOISE < ratio < (1 + NOISE) / CLEARLY_FASTER for ratio in ratios)
