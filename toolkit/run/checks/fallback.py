"""The fallback of ``backend = "auto"``: if the chosen backend cannot build the model, the next one is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit.backends.codes import EngineCode
from toolkit.base.errors import BackendError
from toolkit.base.files import write_json
from toolkit.contract.findings import Finding
from toolkit.run.folder.run_folder import BUILD_LOG
from toolkit.run.job import Job


def decided(job: Job) -> bool:
    """Whether no fallback is possible: the recipe names the backend, or [engine] compare or open needs it."""
    engine = job.recipe.engine
    return engine.backend != "auto" or bool(engine.compare) or engine.open


def fall_back(job: Job, refusing: str, error: BackendError) -> Finding:
    """Switch to the backend after the one that refuses the model; returns the finding about it."""
    from toolkit.backends.choose import next_after

    job.fallback = EngineCode.BACKEND_REFUSES_MODEL(
        backend=refusing, why=error.what, taken=next_after(refusing), remedy=error.remedy
    )
    return job.fallback


def remember(job: Job, name: str, key: Mapping[str, Any]) -> None:
    """Store in the run folder which backend was fallen back to, or that none was, for runs with the same key."""
    file = job.folder.hidden / f"{name}.json"
    finding = job.fallback.to_json() if job.fallback is not None else None
    write_json(file, {"finding": finding, "logged": job.refusal_logged})
    job.folder.store(name, key, [file, *([job.folder.path / BUILD_LOG] if job.refusal_logged else [])])


def recall(job: Job, name: str, key: Mapping[str, Any]) -> bool:
    """Whether the run folder has an entry for exactly this key; if so, its backend is used."""
    if not job.folder.find(name, key)[0]:
        return False
    content = json.loads((job.folder.hidden / f"{name}.json").read_text(encoding="utf-8"))
    finding = content["finding"]
    job.fallback, job.refusal_logged = Finding.from_json(finding) if finding is not None else None, content["logged"]
    return True
