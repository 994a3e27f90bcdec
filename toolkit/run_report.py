"""The last step of a run: everything the steps left, joined into report, journal and lock file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from toolkit.files import write_text
from toolkit.journal import Journal
from toolkit.versions import versions

if TYPE_CHECKING:
    from toolkit.model import Facts, Model
    from toolkit.pipeline import Pipeline
    from toolkit.profiles import Profiles
    from toolkit.recipe import Recipe


def make_report(pipeline: Pipeline) -> list[Path]:
    """Write report.json, report.html, journal.jsonl and recipe.lock.toml; returns their paths."""
    from toolkit.backends.layer import Actual, build_from_json
    from toolkit.model import Model
    from toolkit.pipeline import _read_plan
    from toolkit.precision import Precision
    from toolkit.report.describe import model_info
    from toolkit.report.html import write_html
    from toolkit.report.join import join
    from toolkit.report.schema import PassInfo, RecipeInfo, Step
    from toolkit.run_accuracy import accuracy_of

    folder, hidden, recipe = pipeline.path, pipeline.folder.hidden, pipeline.recipe
    journal = Journal()
    for name in ("passes", "lowering"):
        journal.events += Journal.from_jsonl((hidden / f"{name}.jsonl").read_text(encoding="utf-8")).events
    built = json.loads((hidden / "build.json").read_text(encoding="utf-8"))
    measured = json.loads((hidden / "evaluation.json").read_text(encoding="utf-8"))
    actuals = {
        name: Actual(
            **{
                **entry,
                "precision": Precision(entry["precision"]) if entry["precision"] else None,
                **{k: tuple(entry[k]) for k in ("input_types", "output_types", "engine_layers")},
            }
        )
        for name, entry in built["actuals"].items()
    }
    build = build_from_json(built["build"])
    if recipe.engine.compare:
        build.latency["compare"] = json.loads((hidden / "compare.json").read_text(encoding="utf-8"))
    ranges = pipeline._ranges()
    errors = {name: SimpleNamespace(**entry) for name, entry in measured.get("nodes", {}).items()}
    final = Model.load(folder / "model.onnx")
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
        source=model_info(pipeline.source(), pipeline.profiles, path=recipe.model.path),
        profiles=pipeline.profiles,
        facts=_facts(final, Model.load(hidden / "prepared.onnx"), pipeline.profiles),
        ranges=ranges,
        reason=built["reason"],
        typing=built["typing"] if built["engine_bytes"] else "",
        engine_bytes=built["engine_bytes"],
        steps=[Step(name=s.name, status=s.status, seconds=s.seconds, why=s.why) for s in pipeline.folder.steps],
        warnings=_warnings(measured, journal, recipe),
    )
    write_text(folder / "journal.jsonl", journal.to_jsonl())
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
    from toolkit.costs import facts_at_opt, shape_of

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
    found = []
    if recipe.calibration.random is not None:
        found.append("RANDOM DATA: the ranges come from made-up values and mean nothing for real inputs")
    if not measured.get("measured"):
        found.append("nothing was measured: the recipe has neither evaluation data nor calibration data")
    found += measured.get("notes", [])
    found += [e.reason for e in journal.of("noted") if e.rule in ("unlike-scales", "empty profile", "few samples")]
    return found


def lock_text(pipeline: Pipeline, built: dict[str, Any]) -> str:
    """The recipe with every setting resolved, and what the run was made from."""
    import tomli_w

    recipe = pipeline.recipe
    settings = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["pass"] = [
        {"use": entry["use"], **step.model_dump(mode="json", exclude_none=True)}
        for entry, step in zip(recipe.passes, pipeline.passes())
    ]
    settings["lock"] = {
        "backend": built["build"]["backend"],
        "lowering": built["typing"],
        "versions": versions(),
        "fingerprints": {
            "model": pipeline.print_of(pipeline.model_path),
            "calibration_data": pipeline.data_print(recipe.calibration.data),
            "evaluation_data": pipeline.data_print(recipe.evaluation.data),
            "external_data": [pipeline.print_of(p) for p in (pipeline.header.external if pipeline.header else ())],
            "ranges": pipeline.file_print(recipe.calibration.ranges),
            "collection": pipeline.file_print(recipe.calibration.collection),
        },
    }
    return tomli_w.dumps(settings)
