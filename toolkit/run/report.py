"""The last step of a run: everything the steps left, joined into report, journal and lock file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from toolkit.base.files import write_text
from toolkit.base.versions import versions
from toolkit.contract.journal import Journal
from toolkit.placement.quantized import QUANTIZED_SOURCE
from toolkit.run.recipe_passes import passes_of

if TYPE_CHECKING:
    from toolkit.base.profiles import Profiles
    from toolkit.graph.facts import Facts
    from toolkit.graph.model import Model
    from toolkit.run.pipeline import Pipeline
    from toolkit.run.recipe import Recipe


def make_report(pipeline: Pipeline) -> list[Path]:
    """Write report.json, report.html, journal.jsonl and recipe.lock.toml; returns their paths."""
    from toolkit.backends.layer import actual_from_json, build_from_json
    from toolkit.evaluation.clipping import Clipping, unlike_data, unlike_warnings
    from toolkit.graph.model import Model
    from toolkit.placement.qdq import quantized_tensors
    from toolkit.report.describe import model_info
    from toolkit.report.findings import sentence
    from toolkit.report.html import write_html
    from toolkit.report.join import join
    from toolkit.report.schema import PassInfo, RecipeInfo, Step
    from toolkit.report.search_section import read_search
    from toolkit.report.verdict import culprits
    from toolkit.report.weak import blame_data, data_suggestions, weak_spots_from_ranges
    from toolkit.run.accuracy import accuracy_of, device_of
    from toolkit.run.compare import compared, in_turn
    from toolkit.run.device import device_result
    from toolkit.run.pipeline import _read_plan

    folder, hidden, recipe = pipeline.path, pipeline.folder.hidden, pipeline.recipe
    journal = Journal()
    for name in ("passes", "lowering", *(["opened"] if recipe.engine.open else [])):
        journal.events += Journal.from_jsonl((hidden / f"{name}.jsonl").read_text(encoding="utf-8")).events
    built = json.loads((hidden / "build.json").read_text(encoding="utf-8"))
    measured = json.loads((hidden / "evaluation.json").read_text(encoding="utf-8"))
    if recipe.engine.open:
        built["actuals"] |= json.loads((hidden / "opened.json").read_text(encoding="utf-8"))
    actuals = {name: actual_from_json(entry) for name, entry in built["actuals"].items()}
    build = build_from_json(built["build"])
    others, lacking = {}, []
    turns: dict[str, dict[str, list[float]]] = {}
    if recipe.engine.compare:
        content = json.loads((hidden / "compare.json").read_text(encoding="utf-8"))
        others = compared(content)
        lacking = [line for name, one in content.items() for line in _unmeasured(f"the {name} engine", one)]
        turns, said = in_turn(pipeline, build.latency)
        lacking += said
        build.latency["compare"] = {name: one.build.latency for name, one in others.items()}
    device = device_of(device_result(pipeline), recipe)
    if device.why:
        journal.by = "device"
        journal.noted(f"the engine's outputs on a GPU are not known: {device.why}", rule=f"device {device.status}")
    ranges = pipeline._ranges()
    errors = {name: SimpleNamespace(**entry) for name, entry in measured.get("nodes", {}).items()}
    final, prepared = Model.load(folder / "model.onnx"), Model.load(hidden / "prepared.onnx")
    search, spots = read_search(folder / "search.json")
    clipping = {name: Clipping(**one) for name, one in measured.get("clipping", {}).items()}
    inputs = [tensor.name for tensor in pipeline.inputs.source().graph.inputs]
    report = join(
        final,
        _read_plan(hidden / "lowered_plan.json"),
        actuals,
        journal,
        errors,
        accuracy_of(measured, recipe),
        build,
        recipe=RecipeInfo(
            name=recipe.name,
            path=str(recipe.path or ""),
            passes=[PassInfo(use=p["use"], settings={k: v for k, v in p.items() if k != "use"}) for p in recipe.passes],
            rest=recipe.rest,
            calibration=_short(recipe.calibration.model_dump(mode="json", exclude_defaults=True)),
            evaluation=_short(recipe.evaluation.model_dump(mode="json", exclude_defaults=True)),
        ),
        source=model_info(pipeline.inputs.source(), pipeline.profiles, path=recipe.model.path),
        profiles=pipeline.profiles,
        facts=_facts(final, prepared, pipeline.profiles),
        ranges=ranges,
        # with implicit quantization TensorRT gives INT8 to whatever has a range
        quantized=quantized_tensors(prepared) if recipe.engine.quantization == "explicit" else None,
        reason=built["reason"],
        typing=built["typing"] if built["engine_bytes"] else "",
        engine_bytes=built["engine_bytes"],
        steps=[Step(name=s.name, status=s.status, seconds=s.seconds, why=s.why) for s in pipeline.folder.steps],
        warnings=[
            *_warnings(measured, journal, recipe),
            *unlike_warnings(clipping, ranges, inputs),
            *_unmeasured("the engine", built),
            *lacking,
        ],
        search=search,
        device=device,
        compared=others,
        turns=turns,
    )
    spots = spots or weak_spots_from_ranges(culprits(report.layers), report.layers, prepared, ranges)
    unlike = unlike_data(clipping, ranges)
    report.weak_spots = blame_data(spots, prepared, unlike)
    report.summary.next[:0] = data_suggestions(unlike)
    write_text(folder / "journal.jsonl", journal.to_jsonl(sentence))
    write_text(folder / "recipe.lock.toml", lock_text(pipeline, built))
    report.save(folder / "report.json")
    written = [folder / "journal.jsonl", folder / "recipe.lock.toml", folder / "report.json"]
    if "html" in recipe.report.formats:
        write_html(report, folder / "report.html")
        written.append(folder / "report.html")
    return written


def _facts(final: Model, prepared: Model, profiles: Profiles) -> Facts:
    """Types and shapes of the final graph; shapes that inference loses there are those before lowering.

    Lowering keeps tensors' names and shapes, but writes shape arithmetic in forms that TensorRT parses better than
    ONNX's shape inference does.
    """
    from toolkit.graph.work import facts_at_opt, shape_of

    facts, before = facts_at_opt(final, profiles), facts_at_opt(prepared, profiles)
    for name, shapes in before.shapes.items():
        if shape_of(facts, name) is None:
            facts.shapes[name] = shapes
    for node in final.nodes:
        source = node.inputs[0].name if node.inputs else ""
        if node.op in ("Cast", "QuantizeLinear", "DequantizeLinear") and shape_of(facts, node.outputs[0].name) is None:
            facts.shapes[node.outputs[0].name] = facts.shapes.get(source, [])
    return facts


def _short(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value not in (None, {}, [])}


def _warnings(measured: dict[str, Any], journal: Journal, recipe: Recipe) -> list[str]:
    from toolkit.report.findings import sentence

    found = []
    if recipe.calibration.random is not None:
        found.append("RANDOM DATA: the ranges come from made-up values and mean nothing for real inputs")
    if not measured.get("measured"):
        found.append("nothing was measured: the recipe has neither evaluation data nor calibration data")
    found += measured.get("notes", [])
    rules = ("unlike-scales", "empty profile", "few samples", "unvaried samples", QUANTIZED_SOURCE)
    found += [sentence(event.why) for event in journal.of("noted") if event.rule in rules]
    return found


def _unmeasured(what: str, built: dict[str, Any]) -> list[str]:
    return [f"the latency of {what} in profile '{name}' is not known: {why}" for name, why in built["lacks"].items()]


def lock_text(pipeline: Pipeline, built: dict[str, Any]) -> str:
    """The recipe with every setting resolved, and what the run was made from."""
    import tomli_w

    recipe = pipeline.recipe
    settings = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["pass"] = [
        {"use": entry["use"], **step.model_dump(mode="json", exclude_none=True)}
        for entry, step in zip(recipe.passes, passes_of(recipe, pipeline.allow_code))
    ]
    settings["lock"] = {
        "backend": built["build"]["backend"],
        "lowering": built["typing"],
        "versions": versions(),
        "fingerprints": {
            "model": pipeline.inputs.prints.of(pipeline.job.model_path),
            "calibration_data": pipeline.inputs.prints.of_data(recipe.calibration.data),
            "evaluation_data": pipeline.inputs.prints.of_data(recipe.evaluation.data),
            "external_data": pipeline.inputs.prints.of_weights(),
            "ranges": pipeline.inputs.prints.of_file(recipe.calibration.ranges),
            "collection": pipeline.inputs.prints.of_file(recipe.calibration.collection),
        },
    }
    return tomli_w.dumps(settings)
