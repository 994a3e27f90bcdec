"""What a run must know of a recipe's passes to find their result again: their code, and what they look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base.versions import module_fingerprint
from toolkit.run.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys import engine_key, evaluation_key, gpu_here

NOT_EVALUATING = frozenset(
    {"fold_constants", "fold_batchnorm", "strip_qdq", "insert_qdq", "keep_precision", "guard_fp16"}
)
"""qtool's own passes that look at neither the evaluation's settings nor its data; of any other nobody knows."""


def passes_key(inputs: Inputs) -> dict[str, Any]:
    """The passes' part of the key: settings, code, and the measured times, GPU and evaluation that they look at."""
    entries = inputs.job.recipe.passes
    passes = [_pass_key(entry["use"]) for entry in entries]
    # a pass that is not qtool's own may measure by default
    measures = any("code" in key for key in passes) or any(map(_measures, entries))
    return {
        "passes": entries,
        "pass code": passes,
        "measured times": {what: inputs.prints.of(path) for what, path in times_files(inputs.job).items()},
        "measured on": [engine_key(inputs.job)["engine"], gpu_here()] if measures else [],
        "predicted for": gpu_here() if any(_predicts(entry) for entry in entries) else "",
        "services": evaluation_key(inputs) if any(entry["may evaluate"] for entry in passes) else [],
    }


def times_files(job: Job) -> dict[str, Path]:
    """The reports of earlier runs whose measured times a search uses, by what they are."""
    found = {}
    for number, entry in enumerate(job.recipe.passes, 1):
        given = entry.get("times", []) if entry["use"] == "search_precision" else []
        # whatever else it is, the pass itself refuses with the right words
        for path in [given] if isinstance(given, str) else given if isinstance(given, list) else ():
            place = job.place(str(path))
            found[f"times of pass {number} ({path})"] = place / "report.json" if place.is_dir() else place
    return found


def _pass_key(use: str) -> dict[str, Any]:
    """The code of a pass: by qtool's own fingerprint, or by its module's where it is anybody else's."""
    from toolkit.contract.passes import installed

    if ":" in use:
        return {"code": module_fingerprint(use.partition(":")[0]), "may evaluate": True}
    entry = installed().get(use)
    if entry is None:
        return {"may evaluate": False}
    if entry.dist is not None and entry.dist.name == "qtool":
        return {"may evaluate": use not in NOT_EVALUATING}
    return {
        "distribution": [entry.dist.name, entry.dist.version] if entry.dist is not None else [],
        "entry point": entry.value,
        "code": module_fingerprint(entry.module),
        "may evaluate": True,
    }


def _measures(entry: Mapping[str, Any]) -> bool:
    """Whether a pass of the recipe measures engines, where there is a GPU."""
    searches = entry["use"] == "search_precision" and entry.get("measure", True) and not entry.get("times")
    return bool(entry.get("only_if_faster")) or (searches and bool(gpu_here()))


def _predicts(entry: Mapping[str, Any]) -> bool:
    """Whether a pass predicts times for the GPU that is here."""
    return entry["use"] == "search_precision" and not entry.get("gpu")
