"""Key parts of a recipe's passes, so that their result can be reused: their code, and the inputs they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.backends.choose import lacks_int8
from toolkit.base.errors import QtoolError
from toolkit.base.given import is_given, taken
from toolkit.contract.passes import Pass
from toolkit.contract.registry import configure_pass, find_pass
from toolkit.contract.roles import Role
from toolkit.placement.ops import TARGETS
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.keys import engine_key, evaluation_key, gpu_here
from toolkit.run.keys.pass_code import pass_code
from toolkit.run.recipe.passes import members
from toolkit.run.task.task import TaskRecord


def passes_key(inputs: Inputs, task: TaskRecord) -> dict[str, Any]:
    """The passes' part of the key: settings, code, and the files, GPU and evaluation that they declare to use."""
    job = inputs.job
    steps = job.passes
    return {
        "passes": job.recipe.passes,
        "pass code": [pass_code(step) for step in steps],
        "files of passes": [inputs.prints.of(path) for step in steps for path in step.input_files(job.recipe.folder)],
        "measured on": [engine_key(job)["engine"], gpu_here()] if _measured(steps, job) else [],
        "without INT8 kernels": _without_kernels(steps, inputs),
        "predicted for": gpu_here() if any(step.predicts_times() for step in steps) else "",
        "services": [evaluation_key(inputs), task.content()] if any(step.reads_evaluation() for step in steps) else [],
    }


def _without_kernels(steps: Sequence[Pass], inputs: Inputs) -> list[str]:
    """The model's operators that stay float because the backend has no INT8 kernel for them."""
    if not any(step.role in (Role.QUANTIZE, Role.SEARCH) for step in steps):
        return []
    present = {node.op for node, _ in inputs.source().walk() if node.op in TARGETS}
    return sorted(op for op in present if lacks_int8(inputs.job.backend, op))


def _measured(steps: Sequence[Pass], job: Job) -> bool:
    """Whether a pass decides by engines built here: it declares so, or quantizers check their speed on a local GPU."""
    quantize = any(step.role in (Role.QUANTIZE, Role.SEARCH) for step in steps)
    engine = job.recipe.engine
    guards = engine.prefer == "speed" and engine.quantization == "explicit" and engine.measure
    return (quantize and guards and bool(gpu_here())) or any(step.measures_engines() for step in steps)


def pass_files(job: Job, code: bool = False) -> dict[str, Path]:
    """The files in the settings of passes, keyed by their description; arguments as in ``located_files``."""
    return {what: path for what, path, _ in located_files(job, code)}


def located_files(job: Job, code: bool = False) -> Iterator[tuple[str, Path, str]]:
    """The files in the settings of passes: description, path, and place of the pass in the recipe.

    Args:
        code: whether to include passes that the recipe names as ``module:Name``, which requires importing them;
            otherwise only installed passes and those made in Python.
    """
    for number, step in _known(job, code):
        where = job.recipe.locate("pass", number - 1, "use")
        for count, path in enumerate(step.input_files(job.recipe.folder), 1):
            file = "a file" if count == 1 else f"file {count}"
            yield f"{file} of pass {number}, {step.title()}", path, where


def code_of_passes(job: Job) -> list[tuple[int, str]]:
    """The code that the settings of installed passes name, each with the index of the pass."""
    return [
        (number - 1, name)
        for number, step in _known(job, code=False)
        if not is_given(job.recipe.passes[number - 1]["use"])
        for name in step.code_named()
    ]


def _known(job: Job, code: bool) -> Iterator[tuple[int, Pass]]:
    """The recipe's passes with their numbers; user-defined ones are imported only with ``code``, else left out."""
    for number, entry in enumerate(job.recipe.passes, 1):
        use = entry["use"]
        if ":" in use and not (code or is_given(use)):
            continue
        try:
            settings = {key: value for key, value in entry.items() if key != "use"}
            step = taken(use) if is_given(use) else configure_pass(find_pass(use, code and job.allow_code), settings)
        except QtoolError:
            # reported when the passes are created
            continue
        for member in members(step):
            yield number, member
