"""What a run must know of a recipe's passes to find their result again: their code, and what they look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from toolkit.base.errors import QtoolError
from toolkit.base.given import code_print, nameless
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
        "pass code": [_code(step) for step in steps],
        "files of passes": [inputs.prints.of(path) for step in steps for path in step.input_files(job.recipe.folder)],
        "measured on": [engine_key(job)["engine"], gpu_here()] if any(s.measures_engines() for s in steps) else [],
        "predicted for": gpu_here() if any(step.predicts_times() for step in steps) else "",
        "services": evaluation_key(inputs) if any(step.reads_evaluation() for step in steps) else [],
    }


def pass_files(job: Job) -> dict[str, Path]:
    """The files that the settings of installed passes name, by what they are."""
    found = {}
    for number, step in _installed(job):
        for path in step.input_files(job.recipe.folder):
            found[f"a file of pass {number}, {step.title()} ({path.name})"] = path
    return found


def code_of_passes(job: Job) -> list[tuple[int, str]]:
    """The code that the settings of installed passes name, each with the pass's index."""
    return [(number - 1, name) for number, step in _installed(job) for name in step.code_named()]


def _installed(job: Job) -> Iterator[tuple[int, Pass]]:
    """The recipe's passes that are installed ones, each with its number."""
    for number, entry in enumerate(job.recipe.passes, 1):
        try:
            # a pass of the recipe's own is not imported before its code is allowed and within reach
            yield number, configure(find(entry["use"]), {key: value for key, value in entry.items() if key != "use"})
        except QtoolError:
            # said with the right words when the passes are made
            continue


def _code(step: Pass) -> list[str]:
    """Which pass it is, with what settings, and the code that is not qtool's own, whose code is in every key."""
    kind = type(step)
    try:
        settings = step.model_dump_json()
    except Exception:
        # settings that are no JSON: nothing made with them is found again
        settings = uuid4().hex
    found = [kind.__module__, kind.__qualname__, settings]
    for module in (kind.__module__, *(name.partition(":")[0] for name in step.code_named())):
        if module.partition(".")[0] not in OWN_PACKAGES:
            found.append(code_print(kind) if module == "__main__" else module_fingerprint(module))
    found += [f"{entry.dist.name} {entry.dist.version}" for entry in installed().values()
              if entry.dist is not None and entry.value == f"{kind.__module__}:{kind.__name__}"]  # fmt: skip
    return found
