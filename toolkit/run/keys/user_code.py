"""User code named in a recipe: its modules, its declared inputs, and tracking of the files that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.base.code import load_object
from toolkit.base.errors import QtoolError
from toolkit.base.given import is_given, taken
from toolkit.base.modules import OWN_PACKAGES, is_stdlib, module_file
from toolkit.base.reads import Reads, following
from toolkit.contract.passes import Pass
from toolkit.run.job import Job


@contextmanager
def followed(job: Job) -> Iterator[None]:
    """Track the files that user-defined passes and metrics of the recipe read within the block.

    Data functions are not tracked: all their samples are read for the fingerprint of the data.

    Raises:
        QtoolError: a pass or the metric cannot be created.
    """
    modules = _modules(job)
    if not modules:
        yield
        return
    reads = Reads(job.folder.path, modules, job.recipe.folder)
    with following(reads):
        reads.declared = _all_declare(job)
        yield


def passes_use_own_code(job: Job) -> bool:
    """Whether user code contributes to the result of the passes."""
    steps = job.passes
    return any(_is_users(step) for step in steps) or (
        _metric(job) is not None and any(step.reads_evaluation() for step in steps)
    )


def measuring_uses_own_code(job: Job) -> bool:
    """Whether user code contributes to measurements: a metric, or a pass that makes the reference model."""
    return _metric(job) is not None or reference_uses_own_code(job)


def reference_uses_own_code(job: Job) -> bool:
    """Whether user code makes the model that results are compared with."""
    return any(_is_users(step) for step in job.stripping_passes)


def metric_inputs(job: Job) -> list[Path]:
    """The files that a user's metric declares in its attribute ``inputs``; empty if there is none."""
    kind = _metric(job)
    named = getattr(kind, "inputs", None)
    if kind is None or not isinstance(named, (list, tuple)):
        return []
    file = module_file(inspect.getattr_static(kind, "__module__", ""))
    return [(file.parent if file is not None else job.recipe.folder) / Path(path) for path in named]


def _metric(job: Job) -> Any:
    """The class or object of a user's metric; None if there is none.

    Raises:
        QtoolError: it cannot be created.
    """
    name = job.recipe.evaluation.metric
    if name is None or ":" not in name:
        return None
    try:
        return load_object(name, job.allow_code, "metric")
    except QtoolError as error:
        error.at(job.recipe.locate("evaluation", "metric"))
        raise


def _modules(job: Job) -> list[str]:
    """Names of the modules of user-defined passes and metrics."""
    found = []
    for step in job.passes:
        found += [kind.__module__ for kind in type(step).__mro__]
        found += [name.partition(":")[0] for name in step.code_named()]
    name = job.recipe.evaluation.metric
    if name is not None and ":" in name:
        thing = taken(name) if is_given(name) else None
        found.append(_module_of(thing) if thing is not None else name.partition(":")[0])
    known = (*OWN_PACKAGES, "pydantic")
    return sorted({name for name in found if (top := name.partition(".")[0]) not in known and not is_stdlib(top)})


def _module_of(thing: Any) -> str:
    kind = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    return str(kind.__module__)


def _all_declare(job: Job) -> bool:
    """Whether all user code declares the files it reads: passes in ``input_files``, a metric in ``inputs``."""
    said = [_declares(step) for step in job.passes if _is_users(step)]
    kind = _metric(job)
    return all([*said, *([hasattr(kind, "inputs")] if kind is not None else [])])


def _is_users(step: Pass) -> bool:
    """Whether a pass is not qtool's own, or calls user code."""
    return type(step).__module__.partition(".")[0] not in OWN_PACKAGES or bool(step.code_named())


def _declares(step: Pass) -> bool:
    """Whether a pass's own class declares the files it reads, rather than a base class of qtool's."""
    owner = next(kind for kind in type(step).__mro__ if "input_files" in vars(kind))
    return owner.__module__.partition(".")[0] not in OWN_PACKAGES
