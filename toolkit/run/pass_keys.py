"""What a run must know of a recipe's passes to find their result again: their code, and what they look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.given import code_print, is_given, nameless
from toolkit.base.versions import OWN_PACKAGES, module_fingerprint
from toolkit.contract.passes import Pass
from toolkit.contract.registry import configure, find, installed
from toolkit.run.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys import engine_key, evaluation_key, gpu_here
from toolkit.run.recipe_passes import passes_of


def passes_key(inputs: Inputs) -> dict[str, Any]:
    """The passes' part of the key: settings, code, and the files, GPU and evaluation that they say they look at."""
    job = inputs.job
    steps = passes_of(job.recipe, job.allow_code)
    return {
        "passes": nameless(job.recipe.passes),
        "pass code": [_code(entry["use"], step) for entry, step in zip(job.recipe.passes, steps)],
        "files of passes": [inputs.prints.of(path) for step in steps for path in step.input_files(job.recipe.folder)],
        "measured on": [engine_key(job)["engine"], gpu_here()] if any(s.measures_engines() for s in steps) else [],
        "predicted for": gpu_here() if any(step.predicts_times() for step in steps) else "",
        "services": evaluation_key(inputs) if any(step.reads_evaluation() for step in steps) else [],
    }


def pass_files(job: Job) -> dict[str, Path]:
    """The files that the settings of installed passes name, by what they are."""
    found = {}
    for number, entry in enumerate(job.recipe.passes, 1):
        try:
            # a pass of the recipe's own is not imported before its code is allowed and within reach
            step = configure(find(entry["use"]), {key: value for key, value in entry.items() if key != "use"})
        except QtoolError:
            # said with the right words when the passes are made
            continue
        for path in step.input_files(job.recipe.folder):
            found[f"a file of pass {number}, {step.title()} ({path.name})"] = path
    return found


def _code(use: str, step: Pass) -> list[str]:
    """The code of a pass that is not qtool's own, whose code is in every key."""
    module = type(step).__module__
    if is_given(use) and module.partition(".")[0] not in OWN_PACKAGES:
        return [code_print(use)]
    if module.partition(".")[0] in OWN_PACKAGES:
        return []
    entry = installed().get(use)
    named = [entry.value] if entry is not None else []
    if entry is not None and entry.dist is not None:
        named += [entry.dist.name, entry.dist.version]
    return [*named, module_fingerprint(module)]
