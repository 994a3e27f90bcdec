"""``[engine] open``: opaque blocks built once more with their inner tensors marked, to see what they can run in.

Where a GPU is here that engine is run too: what the inspector does not tell, the tensors' values may.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import BackendError
from toolkit.base.files import write_json, write_text
from toolkit.contract.journal import Journal
from toolkit.run.engine_settings import engine_settings

if TYPE_CHECKING:
    from toolkit.backends.layer import Actual
    from toolkit.run.pipeline import Pipeline

RULE = "open"


def open_opaque(pipeline: Pipeline) -> None:
    """The run's step, where the recipe asks for it."""
    if pipeline.recipe.engine.open:
        # a failed run is never found again: it may have been another program that held the GPU's memory
        if _failed(pipeline.folder.hidden / "opened.jsonl"):
            pipeline.folder.forget("open")
        pipeline.step("open", pipeline.open_key(), lambda: open_blocks(pipeline))
    else:
        pipeline.folder.forget("open")


def _failed(journal: Path) -> bool:
    from toolkit.run.open_values import FAILED

    events = Journal.from_jsonl(journal.read_text(encoding="utf-8")).events if journal.is_file() else []
    return any(event.rule == FAILED for event in events)


def open_blocks(pipeline: Pipeline) -> list[Path]:
    """Write opened.json (the opaque nodes with what was found), opened.jsonl and what the inspector said.

    A build or a run that fails leaves the nodes as they were: the engine itself is there and right.
    """
    from toolkit.backends.attribution import attribute
    from toolkit.backends.choose import choose
    from toolkit.backends.layer import actual_from_json
    from toolkit.backends.opened import MOST_TENSORS, marks, with_evidence, with_values
    from toolkit.graph.model import Model
    from toolkit.run.open_values import opened_values
    from toolkit.run.pipeline import _read_plan

    hidden = pipeline.folder.hidden
    written = [hidden / "opened.json", hidden / "opened.jsonl"]
    journal = Journal()
    journal.by = RULE
    built = json.loads((hidden / "build.json").read_text(encoding="utf-8"))
    actuals = {name: actual_from_json(entry) for name, entry in built["actuals"].items()}
    opaque = sum(actual.status == "opaque" for actual in actuals.values())
    found: dict[str, Actual] = {}
    path = pipeline.path / "model.onnx"
    model, plan = Model.load(path), _read_plan(hidden / "lowered_plan.json")
    chosen = marks(model, actuals, plan)
    if not opaque:
        why = "no node is inside an opaque block" if built["engine_bytes"] else "no engine was built"
        journal.noted(f"there is nothing to open: {why}", rule=RULE)
    elif not chosen.tensors:
        journal.noted(f"{opaque} nodes are opaque, and none of them has a float tensor to cut at", rule=RULE)
    else:
        said: list[str] = []
        backend, _ = choose(pipeline.recipe.engine.backend)
        extras = replace(pipeline.extras(plan), opened=chosen.tensors)
        try:
            build = backend.build(
                path, pipeline.profiles, engine_settings(pipeline.recipe), said.append, pipeline.progress, extras
            )
        except BackendError as error:
            journal.noted(f"the blocks could not be opened at {len(chosen.tensors)} tensors: {error}", rule=RULE)
        else:
            found, told = with_evidence(actuals, attribute(model, build, plan), build)
            journal.noted(
                f"{opaque} opaque nodes were opened at {len(chosen.tensors)} tensors: for {told} of them the opened "
                "engine shows a precision",
                rule=RULE,
            )
            if build.engine is not None:
                values = opened_values(pipeline, build.engine, build.backend, chosen.by_weight, journal)
                found = with_values(found, chosen, plan, values)
            if chosen.left_out:
                some = ", ".join(f"'{name}'" for name in chosen.left_out[:3])
                journal.noted(
                    f"{len(chosen.left_out)} more nodes were left out, {MOST_TENSORS} tensors are the most: {some}",
                    rule=RULE,
                )
            for line in said:
                if "tensors to open" in line:
                    journal.noted(line, rule=RULE)
            write_json(hidden / "opened_layers.json", build.raw)
            written.append(hidden / "opened_layers.json")
    write_json(hidden / "opened.json", {name: asdict(actual) for name, actual in found.items()})
    write_text(hidden / "opened.jsonl", journal.to_jsonl())
    return written
