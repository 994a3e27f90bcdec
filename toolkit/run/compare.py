"""``[engine] compare``: the model as it came, built in plain precisions and timed beside the quantized engine.

Each engine is measured when it is built, layer by layer. Those numbers lie minutes apart, in which the GPU's clocks
change; so the latencies that are compared are measured once more, all engines in turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import BackendError, RecipeError
from toolkit.base.files import write_bytes, write_json
from toolkit.run.engine_settings import engine_settings

if TYPE_CHECKING:
    from toolkit.contract.ranges import Ranges
    from toolkit.report.payoff import Timed
    from toolkit.run.job import Job
    from toolkit.run.pipeline import Pipeline

OURS = "ours"
"""The quantized engine's name among those measured in turn."""
_ROUNDS = 5


def comparable(job: Job) -> None:
    """Check that what ``[engine] compare`` asks for can be measured here.

    Raises:
        RecipeError: there is no GPU, no backend that measures, or measuring is switched off.
    """
    from toolkit.backends.choose import choose

    section = job.recipe.engine
    if not section.compare:
        return
    lacks = "measure is false" if not section.measure else choose(section.backend)[0].cannot_measure()
    if lacks:
        raise RecipeError(
            f"[engine] compare builds the model in other precisions and compares latencies, and {lacks}",
            where=job.recipe.locate("engine", "compare"),
            remedy="run on a machine with a GPU, TensorRT and cuda-python, or remove compare",
        )


def compare(pipeline: Pipeline, ranges: Ranges | None) -> list[Path]:
    """Build the plain model's engines, and write each one's layers, times and latency.

    Q/DQ pairs that the model came with are taken out first. Nodes that leave float16's range stay FP32, as in any run.

    Returns:
        The engines' files, and compare.json: {precision: {"build": see ``build_to_json``, "runs": {node: names of
        engine layers}, "lacks": {profile: why its latency was not measured}}}

    Raises:
        BackendError: TensorRT refuses the model.
    """
    from toolkit.backends.attribution import attribute
    from toolkit.backends.base import Extras
    from toolkit.backends.choose import choose
    from toolkit.backends.layer import build_to_json
    from toolkit.backends.prepare import lower_for, save_for, unmeasured
    from toolkit.base.precision import Precision
    from toolkit.contract.context import Context
    from toolkit.contract.journal import Journal
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.contract.registry import playing
    from toolkit.contract.roles import Role
    from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

    section = pipeline.recipe.engine
    backend, _ = choose(section.backend)
    settings = engine_settings(pipeline.recipe).model_copy(update={"quantization": "explicit", "calibrator": "ranges"})
    plain = pipeline.inputs.source().copy()
    # stored INT8 weights have a DequantizeLinear alone
    if any(node.op in (QUANTIZE, DEQUANTIZE) for node, _ in plain.walk()):
        for _, strip in playing(Role.STRIP)[:1]:
            strip()(plain, Context())
    io = {name: Precision(value) for name, value in section.io.items()}
    observed = ranges.observed if ranges is not None else None
    found: dict[str, Any] = {}
    written = [pipeline.folder.hidden / "compare.json"]
    for number, name in enumerate(section.compare):
        pipeline.progress("compare", number, len(section.compare))
        made = lower_for(
            backend, settings, plain, PrecisionPlan(), rest=Precision(name), observed=observed, io=io, journal=Journal()
        )
        path = pipeline.folder.hidden / f"compare_{name}.onnx"
        try:
            save_for(backend, settings, made.model, path)
            said: list[str] = []
            extras = Extras(plan=made.plan, rest=name)
            build = backend.build(path, pipeline.profiles, settings, said.append, extras=extras)
        finally:
            for file in pipeline.folder.hidden.glob(f"{path.name}*"):
                file.unlink()
        actuals = attribute(made.model, build, made.plan)
        runs = {node: list(actual.engine_layers) for node, actual in actuals.items() if actual.engine_layers}
        lacks = unmeasured(build, pipeline.profiles, said)
        found[name] = {"build": build_to_json(build), "runs": runs, "lacks": lacks}
        if build.engine is not None:
            written.append(plain_engine(pipeline, name))
            write_bytes(written[-1], build.engine)
    for stale in set(pipeline.folder.hidden.glob("compare_*.engine")) - set(written):
        stale.unlink()
    write_json(written[0], found)
    pipeline.progress("compare", len(section.compare), len(section.compare))
    return written


def plain_engine(pipeline: Pipeline, precision: str) -> Path:
    """Where the plain model's engine lies."""
    return pipeline.folder.hidden / f"compare_{precision}.engine"


def measure_in_turn(pipeline: Pipeline) -> list[Path]:
    """Measure the quantized engine and the plain ones in turn.

    Returns:
        in_turn.json: {"turns": {profile: {engine: [median milliseconds of each round]}}, "lacks": {profile: why it was
        not measured}}
    """
    from toolkit.backends.choose import choose
    from toolkit.backends.process import run_job
    from toolkit.backends.rtx import profiles_to_json

    path = pipeline.folder.hidden / "in_turn.json"
    engines = {OURS: pipeline.path / "model.engine"}
    engines |= {name: plain_engine(pipeline, name) for name in pipeline.recipe.engine.compare}
    files = {name: str(file.resolve()) for name, file in engines.items() if file.is_file()}
    request = {
        "backend": choose(pipeline.recipe.engine.backend)[0].name,
        "engines": files,
        "profiles": profiles_to_json(pipeline.profiles),
        "rounds": _ROUNDS,
    }
    found: dict[str, Any] = {"turns": {}, "lacks": {}}
    if len(files) == len(engines):
        try:
            found = run_job("measure_in_turn", request, progress=pipeline.progress)
        except BackendError as error:
            # what each build measured is known all the same
            found["lacks"] = dict.fromkeys(pipeline.profiles.names or ["default"], str(error))
    write_json(path, found)
    return [path]


def in_turn(pipeline: Pipeline, latency: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Latencies measured in turn, by profile and engine; and a warning for each profile that has others only."""
    found = json.loads((pipeline.folder.hidden / "in_turn.json").read_text(encoding="utf-8"))
    return found["turns"], [
        f"in profile '{name}' the engines were measured one after the other, not in turn: a difference of a few "
        f"percent may be chance ({why})" for name, why in found["lacks"].items() if name in latency
    ]  # fmt: skip


def compared(content: Mapping[str, Any]) -> dict[str, Timed]:
    """What ``compare`` gave, as the report takes it, by precision."""
    from toolkit.backends.layer import build_from_json
    from toolkit.report.payoff import Timed

    return {name: Timed(build_from_json(one["build"]), one["runs"]) for name, one in content.items()}
