"""recipe.lock.toml: the recipe with every setting resolved, and what the run was made from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from toolkit.base.code import code_of
from toolkit.base.errors import RecipeError
from toolkit.base.modules import OWN_PACKAGES
from toolkit.base.reading import FileKind, read_utf8, reading
from toolkit.base.schema import FileSchema
from toolkit.base.versions import versions
from toolkit.contract.findings import Finding
from toolkit.data.codes import DataCode
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.pass_code import SETTINGS, pass_code
from toolkit.run.recipe.passes import named_passes
from toolkit.run.recipe.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _code(inputs: Inputs) -> list[str]:
    """Own code of passes and of the metric, by what the recipe calls it; settings are the lock file's own."""
    recipe = inputs.job.recipe
    found = [
        f"{use} {part}"
        for use, step in named_passes(recipe, inputs.job.allow_code)
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
        inputs: the recipe with fingerprints of what it reads.
        backend: what built the engine.
        lowering: ``strong`` or ``weak``.
    """
    import tomli_w

    recipe = inputs.job.recipe
    settings = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["pass"] = [
        {"use": use, **step.model_dump(mode="json", exclude_none=True, exclude=set(step.unused_settings()))}
        for use, step in named_passes(recipe, inputs.job.allow_code)
    ]
    # not in any key, since it changes no result; but reopening the run should use the same memory limit
    settings["run"] = recipe.run.model_dump(mode="json", exclude_none=True, exclude={"on"})
    settings["lock"] = {
        "backend": backend,
        "lowering": lowering,
        "versions": versions(),
        "fingerprints": {name: fingerprint(inputs) for name, fingerprint in _FINGERPRINTS.items()},
    }
    return tomli_w.dumps(settings)


class LockInfo(FileSchema):
    """What a lock file holds besides the recipe.

    Attributes:
        backend: what built the engine.
        lowering: ``strong`` or ``weak``.
        versions: by package, of what the run was made with.
        fingerprints: SHA-256 of what was read; empty where the recipe names nothing.
    """

    backend: str
    lowering: str
    versions: dict[str, str] = Field(default_factory=dict)
    fingerprints: dict[str, str | list[str]] = Field(default_factory=dict)


def not_as_locked(inputs: Inputs) -> list[Finding]:
    """A finding that what a lock file's recipe reads is not what the run read that left the lock file."""
    files = [_FILES[name] for name in changed_since(inputs, inputs.job.recipe.locked, tuple(_FILES))]
    return [DataCode.NOT_AS_LOCKED(files=files)] if files else []


def changed_since(inputs: Inputs, known: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of what a run read, by the names of fingerprints, what is different by now; an unknown fingerprint says nothing.

    Args:
        inputs: what the recipe reads now.
        known: the run's fingerprints, by name.
        names: those to compare.
    """
    return [name for name in names if name in known and known[name] != _FINGERPRINTS[name](inputs)]


def read_lock(path: Path, base: Path | None = None) -> tuple[Recipe, LockInfo]:
    """A lock file: the recipe with every setting resolved, and what the run was made from.

    Args:
        path: the file.
        base: the recipe's file, in whose folder relative paths start; the working folder where None.

    Raises:
        RecipeError: it cannot be read, or is no lock file.
    """
    kind = FileKind("not a lock file", RecipeError, "name the recipe.lock.toml of a run folder")
    with reading(path, kind):
        content = tomllib.loads(read_utf8(path, kind))
        try:
            info = LockInfo.model_validate(content.pop("lock", None))
        except ValidationError as error:
            raise kind.fault(path, "it has no table [lock] of qtool's") from error
    return Recipe.resolved(content, base), info
