"""Trial engines: lowered, built and timed with the settings of the run's own engine, and recorded in one log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.backends.attribution.unit_times import unit_times
from toolkit.backends.backend import Backend, EngineSettings, Extras, LogLine
from toolkit.backends.lowering.prepare import lower_for, save_for
from toolkit.backends.trials.engine_cache import EngineCache
from toolkit.backends.trials.prebuilds import Prebuilds
from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_json
from toolkit.base.gpu import find_gpu
from toolkit.base.log import Log as Outcomes
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.base.progress import Progress, silent
from toolkit.base.temporary import temporary_folder
from toolkit.base.text import count
from toolkit.base.versions import code_fingerprint, versions
from toolkit.contract.bench import Latency, Measurement, TurnsFound
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model
from toolkit.placement.ops import PAIR_OPERATORS

if TYPE_CHECKING:
    import numpy as np

    from toolkit.backends.layers.layer import Build

_TRIAL = "/trial"
"""Suffix of the log keys of trial engines."""
CalibratorBatches = Callable[[], Iterable[Mapping[str, "np.ndarray[Any, Any]"]]]


def _level(settings: EngineSettings) -> int:
    """The builder optimization level; TensorRT's default is 3."""
    return 3 if settings.optimization_level is None else settings.optimization_level


@dataclass
class EngineBench:
    """A backend with everything needed for a build except the model; the ``Bench`` of a ``Context``.

    Example:
        >>> bench = EngineBench(folder=Path("trials"))                                    # doctest: +SKIP
        >>> InsertQDQ(only_if_faster=True)(model, Context(provider=..., bench=bench))     # doctest: +SKIP

    Attributes:
        backend: the backend, or its name as in ``[engine] backend``.
        settings: the engine's settings.
        shapes: the shape profiles to build and time.
        rest: the float type of nodes without a request.
        io: types of inputs and outputs that differ from the model's.
        calibration_profile: the profile for TensorRT's own calibrators.
        batches: returns the batches of TensorRT's own calibrators.
        batches_print: a fingerprint of these batches.
        folder: folder of the log, the timing cache, the measured engines and the model being built; None for a
            temporary one.
        progress: called with the progress of a build.
    """

    backend: Backend | str = "auto"
    settings: EngineSettings = field(default_factory=EngineSettings)
    shapes: Profiles = field(default_factory=Profiles)
    rest: Precision = Precision.FP16
    io: Mapping[str, Precision] = field(default_factory=dict)
    calibration_profile: str = ""
    batches: CalibratorBatches = tuple
    batches_print: str = ""
    folder: Path | None = None
    progress: Progress = silent
    _seconds: float = field(default=0.0, init=False)

    @cached_property
    def builder(self) -> Backend:
        """The backend, chosen when first needed.

        Raises:
            QtoolError: the named backend cannot be used on this machine.
        """
        from toolkit.backends.choose import choose

        return choose(self.backend)[0] if isinstance(self.backend, str) else self.backend

    @cached_property
    def _prebuilds(self) -> Prebuilds:
        """Engines started before they are needed."""
        return Prebuilds(self)

    @property
    def profiles(self) -> Sequence[str]:
        """Names of the profiles that are timed; ``default`` if there are none."""
        return self.shapes.names or ["default"]

    @property
    def _trial_settings(self) -> EngineSettings:
        """The settings of trial engines."""
        level = min(self.settings.trial_level, _level(self.settings))
        return self.settings.model_copy(update={"optimization_level": level})

    @property
    def has_trial_level(self) -> bool:
        """Whether trial engines use a lower optimization level than the run's own engine."""
        return self.settings.trial_level < _level(self.settings)

    @property
    def trial_seconds(self) -> float | None:
        """See ``Bench.trial_seconds``."""
        early = one.seconds() if (one := self._prebuilds.background) is not None else None
        return next((one["seconds"] for place, one in self.log.found.items() if place.endswith(_TRIAL)), early)

    @property
    def prefers_speed(self) -> bool:
        """Whether low latency takes precedence over a large quantized share."""
        return self.settings.prefer == "speed"

    @property
    def implicit(self) -> bool:
        """Whether TensorRT itself chooses the faster of a layer's quantized and float kernels."""
        return self.settings.quantization == "implicit"

    def cannot_measure(self) -> str:
        """Why no latency can be measured on this machine; empty if it can."""
        try:
            return self.builder.cannot_measure() if self.settings.measure else "[engine] measure is false"
        except QtoolError as error:
            return str(error)

    def fingerprint(self) -> str:
        """Digest of what measured latencies depend on besides the model: settings, profiles, GPU and versions."""
        settings = self.settings.model_dump(mode="json", exclude={"timing_cache"})
        backend = [self.builder.name, self.builder.version()]
        own = self.batches_print if self.settings.calibrator != "ranges" else ""
        wanted = [repr(self.shapes), self.calibration_profile, str(self.rest), own]
        return sha256_json([settings, backend, repr(find_gpu()), wanted, versions(), code_fingerprint()])

    @cached_property
    def log(self) -> Outcomes:
        """All measurements; each is written to disk at once."""
        return Outcomes(self.folder / "engines.jsonl" if self.folder is not None else None, self.fingerprint())

    @cached_property
    def kept(self) -> EngineCache:
        """The measured engines, kept until the run takes its own from them."""
        return EngineCache(self.folder)

    def lowered(
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, settings: EngineSettings | None = None
    ) -> tuple[Model, PrecisionPlan]:
        """The model lowered for the backend; see ``lower_for``."""
        observed = ranges.observed if ranges is not None else None
        made = lower_for(
            self.builder, settings or self.settings, model, plan, rest=self.rest, observed=observed, io=self.io,
            journal=Journal(),
        )  # fmt: skip
        return made.model, made.plan

    def measure(
        self,
        model: Model,
        plan: PrecisionPlan,
        nodes: Collection[str],
        ranges: Ranges | None = None,
        *,
        float_only: bool = False,
        repeat: int = 0,
        rebuild: bool = False,
        trial: bool = False,
    ) -> Measurement:
        """See ``Bench.measure``.

        Raises:
            BackendError: the engine cannot be built.
        """
        settings = self.settings_for(float_only, trial)
        lowered, own = self.lowered(model, plan, ranges, settings)
        key = self.key(lowered, own, ranges, settings)
        if float_only:
            self._prebuilds.only(key)
        if trial and not rebuild and self._prebuilds.as_run(key, repeat):
            trial, settings = False, self.settings_for(float_only, False)
        place = f"{key}/{sha256_json(sorted(nodes))[:12]}/{repeat}{_TRIAL if trial else ''}"
        entry = self.log.get(place) if not rebuild else None
        reused = entry is not None
        if entry is None:
            entry = self._timed(lowered, own, ranges, settings, nodes, self.name_of(key, repeat, trial), rebuild)
            if trial and not rebuild and not entry["anew"]:
                entry["anew"] = self._prebuilds.failed_before(key, repeat)
            self.log.add(place, entry)
        latency = {profile: Latency(*values) for profile, values in entry["latency"].items()}
        if float_only:
            # trials are compared with a trial of the float engine, if there is one
            self._prebuilds.bar = {} if trial else latency
        elif trial and self._prebuilds.undecided(latency):
            return self.measure(model, plan, nodes, ranges, repeat=repeat, rebuild=rebuild)
        return Measurement(
            key=key,
            latency=latency,
            ms=entry["ms"],
            rest=entry["rest"],
            ties=entry["ties"],
            lacks=entry["lacks"],
            reused=reused,
            engine=entry["engine"],
            rebuilt="" if reused else entry["anew"],
            prebuild_s=entry["ahead"],
            parallel=entry["beside"],
        )

    def apart(self) -> EngineBench:
        """A copy of the bench without the objects that belong to this process and thread."""
        return replace(self, folder=None, progress=silent, batches=tuple)

    def remote_builds(self) -> AbstractContextManager[None]:
        """See ``Bench.remote_builds``."""
        return self._prebuilds.remote_builds()

    @property
    def free_gpus(self) -> int:
        """See ``Bench.free_gpus``."""
        return self._prebuilds.free_gpus

    def prebuild(
        self,
        model: Model,
        plan: PrecisionPlan,
        ranges: Ranges | None = None,
        *,
        float_only: bool = False,
        trial: bool = False,
    ) -> str:
        """See ``Bench.prebuild``."""
        return self._prebuilds.order(model, plan, ranges, float_only, trial)

    def forget(self, engine: str) -> None:
        """See ``Bench.forget``."""
        self._prebuilds.forget(engine)

    def prebuild_float(
        self, model: Model, plan: PrecisionPlan, ranges: Ranges | None = None
    ) -> AbstractContextManager[None]:
        """See ``Bench.prebuild_float``."""
        return self._prebuilds.prebuild_float(model, plan, ranges)

    def make_room(self) -> bool:
        """See ``Bench.make_room``."""
        return self._prebuilds.make_room()

    def settings_for(self, float_only: bool, trial: bool) -> EngineSettings:
        """The settings of an engine with or without pairs, at the run's own optimization level or that of trials."""
        settings = self._trial_settings if trial else self.settings
        # with implicit quantization TensorRT runs any layer with ranges in INT8
        own: dict[str, Any] = {"quantization": "explicit", "calibrator": "ranges"} if float_only else {}
        # kernels that several engines share are timed once
        cache = settings.timing_cache or (self.folder / "engines.timing" if self.folder is not None else None)
        if cache is not None and trial and self.has_trial_level:
            # TensorRT 8.6 rejects times measured at another level
            cache = cache.with_name(f"{cache.stem}-level{settings.optimization_level}{cache.suffix}")
        return settings.model_copy(update={**own, "timing_cache": cache})

    def in_turn(self, *engines: str) -> TurnsFound | None:
        """See ``Bench.in_turn``.

        Raises:
            BackendError: the engines cannot be measured.
        """
        place = "/".join(("turns", *engines))
        entry = self.log.get(place)
        if entry is None:
            files = {name: file for name in engines if (file := self.kept.file(name)) is not None}
            if len(files) < len(engines):
                return None
            entry = vars(self.builder.in_turn(files, self.shapes, self.progress))
            self.log.add(place, entry)
        return TurnsFound(entry["turns"], entry["lacks"])

    def built(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None) -> Build | None:
        """The build of a lowered model that was measured before; None if there is none."""
        return self.kept.build(self.name_of(self.key(model, plan, ranges, self.settings))) if self.kept.any() else None

    def name_of(self, key: str, repeat: int = 0, trial: bool = False) -> str:
        """The name under which an engine is cached."""
        return sha256_json([self.fingerprint(), key, repeat, trial])[:24]

    def key(self, model: Model, plan: PrecisionPlan, ranges: Ranges | None, settings: EngineSettings) -> str:
        """A digest of what is built: the lowered model, its requests, and its ranges if they define quantization."""
        # requests without a constraint do not affect the engine
        asks = {node: str(ask.precision) for node, ask in plan.items() if not ask.free}
        implicit = settings.quantization == "implicit" and ranges is not None
        amax = {name: one.amax for name, one in ranges.tensors.items()} if implicit and ranges is not None else {}
        return sha256_json([model.fingerprint(), asks, settings.quantization, amax])

    def build(
        self,
        model: Model,
        plan: PrecisionPlan,
        ranges: Ranges | None,
        path: Path,
        settings: EngineSettings | None = None,
        log: LogLine = silent,
    ) -> Build:
        """Build an engine from a lowered model, which is written to ``path`` during the build.

        Raises:
            BackendError: the backend rejects the model or the settings.
        """
        settings = settings or self.settings
        extras = Extras(
            plan=plan,
            rest=str(self.rest),
            ranges=ranges,
            batches=self.batches() if settings.calibrator != "ranges" else (),
            calibration_profile=self.calibration_profile,
        )
        try:
            save_for(self.builder, settings, model, path)
            build = self.builder.build(path, self.shapes, settings, log, self._naming(model, plan), extras)
            self._seconds = build.seconds
            return build
        finally:
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()

    def _naming(self, model: Model, plan: PrecisionPlan) -> Progress:
        """The progress callback, extended by which engine is being built and how long the last build took."""
        own = {node.name for node in model.nodes if node.op not in PAIR_OPERATORS}
        quantized = sum(ask.precision.quantized for name, ask in plan.items() if name in own)
        which = f"an engine with {count(quantized, 'quantized layer')}" if quantized else "an engine without pairs"
        last = f" (the last one took {self._seconds:.0f} s)" if self._seconds else ""

        def progress(what: str, done: int, total: int) -> None:
            beside = one.aside if (one := self._prebuilds.background) is not None else ""
            self.progress(f"building {which}{last}" + beside if what == "building" else what, done, total)

        return progress

    def _timed(
        self,
        model: Model,
        plan: PrecisionPlan,
        ranges: Ranges | None,
        settings: EngineSettings,
        nodes: Collection[str],
        name: str,
        rebuild: bool,
    ) -> dict[str, Any]:
        # the same engine may have been measured for another set of nodes
        build = self.kept.build(name) if not rebuild else None
        kept, why = build is not None, ""
        background = None
        if build is None:
            build, why, background = self._prebuilds.take(name)
            kept = build is not None and self.kept.keep(name, build)
        if build is None:
            with temporary_folder("trial") as folder:
                # a fixed path in the run folder, so that a file left by a killed run is overwritten
                path = (self.folder or folder) / "qtool-trial.onnx"
                if self.make_room() and self._prebuilds.background is not None:
                    self._prebuilds.background.others += 1
                build = self.build(model, plan, ranges, path, settings)
            kept = self.kept.keep(name, build)
        lacks = build.unmeasured(self.shapes)
        latency = {}
        for profile in self.profiles:
            if profile in lacks:
                continue
            times = build.latency[profile]
            latency[profile] = [times["opt"], times.get("opt p05", times["opt"]), times.get("opt p95", times["opt"])]
        found = unit_times(model, build, list(nodes))
        return {"latency": latency, "ms": found.ms, "rest": found.rest, "ties": found.ties, "lacks": lacks,
                "seconds": build.seconds, "engine": name if kept else "", "anew": why,
                "ahead": build.seconds if background is not None else 0.0,
                "beside": background.others if background is not None else 0}  # fmt: skip
