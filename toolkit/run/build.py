"""The step "engine": the lowered model built, and what every node of it runs in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.files import write_bytes, write_json, write_text
from toolkit.base.precision import Precision
from toolkit.contract.journal import Journal
from toolkit.run.engine_settings import engine_settings

if TYPE_CHECKING:
    from toolkit.backends.layer import Actual
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.run.pipeline import Pipeline


def build_engine(pipeline: Pipeline) -> list[Path]:
    """Write build.json, and model.engine, layers.json and build.log as far as the backend gives them.

    Returns:
        The files that belong to the step: all but the log, which a failed build leaves too.

    Raises:
        BackendError: the backend refuses the model or the settings, or crashed.
    """
    from toolkit.backends.attribution import attribute
    from toolkit.backends.choose import choose
    from toolkit.backends.layer import build_to_json
    from toolkit.backends.prepare import unmeasured
    from toolkit.graph.model import Model
    from toolkit.report.findings import sentence
    from toolkit.run.pipeline import _read_plan

    folder, hidden, recipe = pipeline.path, pipeline.folder.hidden, pipeline.recipe
    backend, reason = choose(recipe.engine.backend)
    plan = _read_plan(hidden / "lowered_plan.json")
    log: list[str] = []
    extras, settings = pipeline.extras(plan), engine_settings(pipeline.recipe)
    try:
        build = backend.build(folder / "model.onnx", pipeline.profiles, settings, log.append, pipeline.progress, extras)
    finally:
        if log:
            write_text(folder / "build.log", "".join(f"{line}\n" for line in log))
    actuals = attribute(Model.load(folder / "model.onnx"), build, plan)
    events = Journal.from_jsonl((hidden / "lowering.jsonl").read_text(encoding="utf-8")).of("declined")
    actuals = explain(actuals, plan, recipe.rest, {e.node: sentence(e.why) for e in events})
    measures = settings.measure and not backend.cannot_measure()
    content = {
        "build": build_to_json(build),
        "reason": reason,
        "typing": backend.typing_for(settings),
        "engine_bytes": len(build.engine) if build.engine is not None else None,
        "actuals": {name: asdict(value) for name, value in actuals.items()},
        "lacks": unmeasured(build, pipeline.profiles, log) if measures else {},
    }
    write_json(hidden / "build.json", content)
    written = [hidden / "build.json"]
    if build.engine is not None:
        write_bytes(folder / "model.engine", bytes(build.engine))
        written.append(folder / "model.engine")
    if build.raw is not None:
        raw = build.raw if isinstance(build.raw, str) else json.dumps(build.raw, indent=1)
        write_text(folder / "layers.json", raw)
        written.append(folder / "layers.json")
    return written


def explain(
    actuals: Mapping[str, Actual], plan: PrecisionPlan, rest: Precision, reasons: Mapping[str, str]
) -> dict[str, Actual]:
    """Nodes to which lowering gave another type than asked are overridden, for lowering's reason."""
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
