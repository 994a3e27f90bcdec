"""The step "engine": builds the lowered model, and determines the precision that each of its nodes runs in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.files import write_bytes, write_text
from toolkit.base.precision import Precision
from toolkit.contract.findings import Finding
from toolkit.contract.plan import PrecisionPlan
from toolkit.run.folder.run_folder import BUILD_LOG
from toolkit.run.inputs.engine_settings import engine_settings, extras_for
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import engine_key, gpu_here, hashes
from toolkit.run.keys.step import Record, Step
from toolkit.run.steps.context import engine_bench
from toolkit.run.steps.lowering import LoweringRecord
from toolkit.run.steps.passes import PassesRecord

if TYPE_CHECKING:
    from toolkit.backends.backend import Backend, EngineSettings, Extras

_ENGINE, _LAYERS = "model.engine", "layers.json"


class EngineRecord(Record):
    """The result of the build.

    Attributes:
        build: the build, without the engine's bytes and the inspector's output, which are in separate files.
        reason: why this backend was used.
        typing: ``strong`` or ``weak``.
        engine_bytes: the engine's size in bytes; None if no engine was built.
        actuals: the precision that each node of the final graph runs in.
        lacks: why the latency was not measured, by profile.
    """

    build: Build
    reason: Finding
    typing: str
    engine_bytes: int | None
    actuals: dict[str, Actual]
    lacks: dict[str, str]

    @property
    def refused(self) -> list[Finding]:
        """The finding that ``auto`` fell back to this backend, if it did."""
        return [self.reason] if self.reason.code is EngineCode.BACKEND_REFUSES_MODEL else []

    @property
    def engine_file(self) -> Path | None:
        """The engine's file; None if no engine was built."""
        return self.path(_ENGINE)

    def engine_key(self) -> dict[str, str]:
        """Digest of the engine's file."""
        return hashes(self._folder / _ENGINE)

    def layers_key(self) -> dict[str, str]:
        """Digest of the inspector's output."""
        return hashes(self._folder / _LAYERS)


class EngineStep(Step[EngineRecord]):
    """Writes model.engine, layers.json and build.log, as far as the backend provides them."""

    name = "engine"
    kind = EngineRecord
    leaves = (_ENGINE, _LAYERS)

    def __init__(self, inputs: Inputs, passes: PassesRecord, lowering: LoweringRecord) -> None:
        super().__init__(inputs)
        self.passes, self.lowering = passes, lowering

    def key(self) -> Mapping[str, Any]:
        """The final graph with its plan and ranges, the engine's settings, the profiles and the GPU."""
        return {
            **engine_key(self.job),
            "model": self.lowering.model_key(),
            # weak typing reads the precisions from the plan, implicit quantization the ranges
            "plan": self.lowering.plan.to_json(),
            **self.passes.ranges_key(),
            "profiles": repr(self.job.profiles),
            "calibrator's batches": self.inputs.calibrator_print(),
            "gpu": gpu_here(),
        }

    def run(self) -> EngineRecord:
        """Build the engine. The log is not part of the record, since a failed build writes it too.

        Raises:
            BackendError: the backend refuses the model or the settings, or crashed.
        """
        from toolkit.backends.attribution.nodes import attribute
        from toolkit.backends.choose import choose

        backend, reason = choose(self.job.backend)
        plan, profiles, root = self.lowering.plan, self.job.profiles, self.folder.path
        settings = engine_settings(self.recipe, self.folder.hidden)
        model, ranges, bench = self.lowering.model(), self.passes.ranges(), engine_bench(self.inputs)
        build = bench.built(model, plan, ranges)
        if build is None:
            build = self._built(backend, settings, extras_for(self.inputs, plan, ranges))
        else:
            # a pass has already built and measured exactly this engine
            self._write_log(build.log)
        actuals = attribute(model, build, plan)
        reasons = {event.node: event.why for event in self.lowering.journal.of("declined")}
        measures = settings.measure and not backend.cannot_measure()
        files = []
        if build.engine is not None:
            write_bytes(root / _ENGINE, bytes(build.engine))
            files.append(_ENGINE)
        if build.raw is not None:
            raw = build.raw if isinstance(build.raw, str) else json.dumps(build.raw, indent=1)
            write_text(root / _LAYERS, raw)
            files.append(_LAYERS)
        return EngineRecord(
            build=replace(build, engine=None, raw=None),
            reason=self.job.fallback or reason,
            typing=backend.typing_for(settings),
            engine_bytes=len(build.engine) if build.engine is not None else None,
            actuals=explain(actuals, plan, self.recipe.rest, reasons),
            lacks=build.unmeasured(profiles) if measures else {},
            files=files,
        )

    def _built(self, backend: Backend, settings: EngineSettings, extras: Extras) -> Build:
        """Build the engine now, and write TensorRT's log to build.log."""
        log: list[str] = []
        try:
            return backend.build(
                self.lowering.model_path, self.job.profiles, settings, log.append, self.job.progress, extras
            )
        finally:
            self._write_log(log)

    def _write_log(self, lines: Sequence[str]) -> None:
        path = self.folder.path / BUILD_LOG
        if not self.job.refusal_logged:
            path.unlink(missing_ok=True)
        if lines:
            write_text(path, "".join(f"{line}\n" for line in lines))


def explain(
    actuals: Mapping[str, Actual], plan: PrecisionPlan, rest: Precision, reasons: Mapping[str, Finding]
) -> dict[str, Actual]:
    """Mark nodes for which lowering chose another type than requested as overridden, with its reason."""
    found = dict(actuals)
    for name, reason in reasons.items():
        actual, ask = found.get(name), plan.get(name)
        asked = ask.precision if ask is not None else rest
        if actual is None or (asked.quantized and (actual.precision is None or actual.precision.quantized)):
            continue
        if actual.precision is None and actual.output_types and actual.source != "none":
            known = [p for p in Precision if str(p) == actual.output_types[0]]
            actual = replace(actual, precision=known[0] if known else None)
        if actual.precision is None:
            continue
        if actual.precision is not asked:
            found[name] = replace(actual, status="overridden", reason=reason)
    return found
