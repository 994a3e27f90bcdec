"""Parts of steps' keys: digests of a step's inputs, so that outdated results are not reused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.base.code import code_of
from toolkit.base.versions import code_fingerprint, path_fingerprint, versions
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.pass_code import pass_code
from toolkit.run.keys.user_code import metric_inputs


def engine_key(job: Job) -> dict[str, Any]:
    """Parts of the key for lowering and building, besides the model."""
    return {
        "engine": job.recipe.engine.model_dump(mode="json", exclude={"compare", "open"}),
        "backend": job.backend,
        "versions": versions(),
        "code": code_fingerprint(),
    }


def _stripped(inputs: Inputs) -> list[Any]:
    """Key part for the reference model: samples decide which clamps replace the stripped Q/DQ pairs."""
    job = inputs.job
    steps = [pass_code(step) for step in job.stripping_passes]
    settings = job.recipe.calibration
    return [*steps, inputs.prints.of_data(settings.data), settings.samples] if steps else []


def evaluation_key(inputs: Inputs) -> dict[str, Any]:
    """Parts of the key for measuring accuracy, besides the models."""
    job, prints = inputs.job, inputs.prints
    evaluation, calibration = job.recipe.evaluation, job.recipe.calibration
    return {
        "evaluation settings": evaluation.as_key(),
        "metric code": [code_of(evaluation.metric or ""), *(prints.of(path) for path in metric_inputs(job))],
        "evaluation data": prints.of_data(evaluation.data),
        "held out of": prints.of_data(calibration.data) if evaluation.data is None else "",
        "seen by calibration": evaluation.data is not None and prints.same_samples(evaluation.data, calibration.data),
        "stripped": _stripped(inputs),
        "how data is read": calibration.model_dump(mode="json", include={"outside", "mask", "images", "random"}),
        "profiles": repr(job.profiles),
    }


def model_hash(path: Path) -> list[str]:
    """Digests of a model in the run folder and of its weight file, computed anew at each call."""
    from toolkit.graph.files.header import model_files

    return [path_fingerprint(file) for file in model_files(path)] if path.is_file() else []


def hashes(*paths: Path) -> dict[str, str]:
    """Digests of files in the run folder by name, computed anew at each call; empty for missing files."""
    return {path.name: path_fingerprint(path) if path.is_file() else "" for path in paths}


def gpu_here() -> str:
    """The GPU of this machine; empty if there is none."""
    from toolkit.base.gpu import find_gpu

    gpu = find_gpu()
    return repr(gpu) if gpu is not None else ""
