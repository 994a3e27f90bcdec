"""``[engine] compare``: the model as it came, built in plain precisions and timed beside the quantized engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolkit.errors import RecipeError

if TYPE_CHECKING:
    from toolkit.calibration.ranges import Ranges
    from toolkit.pipeline import Pipeline
    from toolkit.report.payoff import Timed


def comparable(pipeline: Pipeline) -> None:
    """Check that what ``[engine] compare`` asks for can be measured here.

    Raises:
        RecipeError: there is no GPU, no backend that measures, or measuring is switched off.
    """
    from toolkit.backends.choose import choose

    section = pipeline.recipe.engine
    if not section.compare:
        return
    lacks = "measure is false" if not section.measure else choose(section.backend)[0].cannot_measure()
    if lacks:
        raise RecipeError(
            f"[engine] compare builds the model in other precisions and compares latencies, and {lacks}",
            where=pipeline.recipe.locate("engine", "compare"),
            remedy="run on a machine with a GPU, TensorRT and cuda-python, or remove compare",
        )


def compare(pipeline: Pipeline, ranges: Ranges | None) -> dict[str, Any]:
    """The plain model's engines by precision: each one's layers, times and latency, and which layers run which node.

    Q/DQ pairs that the model came with are taken out first. Nodes that leave float16's range stay FP32, as in any run.

    Returns:
        {precision: {"build": see ``build_to_json``, "runs": {node: names of engine layers}, "lacks": {profile: why its
        latency was not measured}}}

    Raises:
        BackendError: TensorRT refuses the model.
    """
    from toolkit.backends.attribution import attribute
    from toolkit.backends.base import Extras
    from toolkit.backends.choose import choose
    from toolkit.backends.layer import build_to_json
    from toolkit.backends.prepare import lower_for, save_for, unmeasured
    from toolkit.graph_pass import Context, find
    from toolkit.journal import Journal
    from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
    from toolkit.plan import PrecisionPlan
    from toolkit.precision import Precision

    section = pipeline.recipe.engine
    backend, _ = choose(section.backend)
    settings = pipeline.engine_settings().model_copy(update={"quantization": "explicit", "calibrator": "ranges"})
    plain = pipeline.source().copy()
    # stored INT8 weights have a DequantizeLinear alone
    if any(node.op in (QUANTIZE, DEQUANTIZE) for node, _ in plain.walk()):
        find("strip_qdq")()(plain, Context())
    io = {name: Precision(value) for name, value in section.io.items()}
    observed = ranges.observed if ranges is not None else None
    found: dict[str, Any] = {}
    for number, name in enumerate(section.compare):
        pipeline.progress("compare", number, len(section.compare))
        lowered, plan = lower_for(
            backend, settings, plain, PrecisionPlan(), rest=Precision(name), observed=observed, io=io, journal=Journal()
        )
        path = pipeline.folder.hidden / f"compare_{name}.onnx"
        try:
            save_for(backend, settings, lowered, path)
            said: list[str] = []
            extras = Extras(plan=plan, rest=name)
            build = backend.build(path, pipeline.profiles, settings, said.append, extras=extras)
        finally:
            for file in pipeline.folder.hidden.glob(f"{path.name}*"):
                file.unlink()
        actuals = attribute(lowered, build, plan)
        runs = {node: list(actual.engine_layers) for node, actual in actuals.items() if actual.engine_layers}
        lacks = unmeasured(build, pipeline.profiles, said)
        found[name] = {"build": build_to_json(build), "runs": runs, "lacks": lacks}
    pipeline.progress("compare", len(section.compare), len(section.compare))
    return found


def compared(content: Mapping[str, Any]) -> dict[str, Timed]:
    """What ``compare`` gave, as the report takes it, by precision."""
    from toolkit.backends.layer import build_from_json
    from toolkit.report.payoff import Timed

    return {name: Timed(build_from_json(one["build"]), one["runs"]) for name, one in content.items()}
