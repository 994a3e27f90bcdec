"""recipe.lock.toml: the recipe with every setting resolved, and fingerprints of the run's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from toolkit.base.code import code_of
from toolkit.base.errors import RecipeError
from toolkit.base.modules import OWN_PACKAGES
from toolkit.base.reading import FileKind, read_utf8, reading
from toolkit.base.schema import FileSchema
from toolkit.base.toml import parse_toml
from toolkit.base.versions import versions
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.pass_code import SETTINGS, pass_code
from toolkit.run.recipe.recipe import Recipe


def _code(inputs: Inputs) -> list[str]:
    """User code of passes and metric, under its name in the recipe; settings are in the lock file itself."""
    recipe = inputs.job.recipe
    found = [
        f"{use} {part}"
        for use, step in inputs.job.named_passes
        if step.code_named() or type(step).__module__.partition(".")[0] not in OWN_PACKAGES
        for part in pass_code(step)[SETTINGS:]
    ]
    metric = recipe.evaluation.metric
    code = code_of(metric) if metric is not None else ""
    return [*found, *([f"{metric} {code}"] if code else [])]


_FINGERPRINTS: dict[str, Callable[[Inputs], str | list[str]]] = {
    "model": lambda inputs: inputs.prints.of(inputs.job.model_path),
    "calibration_data": lambda inputs: inputs.prints.of_data(inputs.job.recipe.calibration.data),
    "evaluation_data": lambda inputs: inputs.prints.of_data(inputs.job.recipe.evaluation.data),
    "external_data": lambda inputs: inputs.prints.of_weights(),
    "ranges": lambda inputs: inputs.prints.of_file(inputs.job.recipe.calibration.ranges),
    "collection": lambda inputs: inputs.prints.of_file(inputs.job.recipe.calibration.collection),
    "code": _code,
}
_FILES = {
    "model": "the model", "external_data": "its weights", "calibration_data": "[calibration] data",
    "evaluation_data": "[evaluation] data", "ranges": "[calibration] ranges", "collection": "[calibration] collection",
    "code": "the code of its passes or metric",
}  # fmt: skip


def lock_text(inputs: Inputs, backend: str, lowering: str) -> str:
    """The content of recipe.lock.toml.

    Args:
        inputs: the recipe with fingerprints of its inputs.
        backend: the backend that built the engine.
        lowering: ``strong`` or ``weak``.
    """
    import tomli_w

    recipe = inputs.job.recipe
    settings = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["pass"] = [
        {"use": use, **step.model_dump(mode="json", exclude_none=True, exclude=set(step.unused_settings()))}
        for use, step in inputs.job.named_passes
    ]
    # in no key, since it changes no result; but reopening the run should use the same memory limit
    settings["run"] = recipe.run.model_dump(mode="json", exclude_none=True, exclude={"on"})
    settings["lock"] = {
        "backend": backend,
        "lowering": lowering,
        "versions": versions(),
        "fingerprints": {name: fingerprint(inputs) for name, fingerprint in _FINGERPRINTS.items()},
    }
    return tomli_w.dumps(settings)


class LockInfo(FileSchema):
    """The contents of a lock file besides the recipe.

    Attributes:
        backend: the backend that built the engine.
        lowering: ``strong`` or ``weak``.
        versions: versions of the packages that the run used.
        fingerprints: SHA-256 of each input; empty if the recipe names none.
    """

    backend: str
    lowering: str
    versions: dict[str, str] = Field(default_factory=dict)
    fingerprints: dict[str, str | list[str]] = Field(default_factory=dict)


def not_as_locked(inputs: Inputs) -> list[Finding]:
    """A finding if a lock file's recipe reads other inputs than the run that wrote the lock file."""
    files = [_FILES[name] for name in changed_since(inputs, inputs.job.recipe.locked, tuple(_FILES))]
    return [DataCode.NOT_AS_LOCKED(files=files)] if files else []


def changed_since(inputs: Inputs, known: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The names of a run's inputs that have changed since; inputs without a known fingerprint are not included.

    Args:
        inputs: the recipe's inputs now.
        known: the run's fingerprints, by name.
        names: the fingerprints to compare.
    """
    return [name for name in names if name in known and known[name] != _FINGERPRINTS[name](inputs)]


def read_lock(path: Path, base: Path | None = None) -> tuple[Recipe, LockInfo]:
    """Read a lock file: the recipe with every setting resolved, and the run's versions and fingerprints.

    Args:
        base: the recipe's file, to whose folder paths are relative; None for the working directory.

    Raises:
        RecipeError: the file cannot be read or is not a lock file.
    """
    kind = FileKind("not a lock file", RecipeError, "name the recipe.lock.toml of a run folder")
    with reading(path, kind):
        content = parse_toml(read_utf8(path, kind))
        try:
            info = LockInfo.model_validate(content.pop("lock", None))
        except ValidationError as error:
            raise kind.fault(path, "it has no table [lock] of qtool's") from error
    return Recipe.resolved(content, base), info
