"""Checks of the files, code and tensor names in a recipe, before anything is computed or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.backends.processes.children import spare_children
from toolkit.base.code import failure_of, import_path
from toolkit.base.collection import collector_seldom
from toolkit.base.cpu import blas_threads
from toolkit.base.errors import DataError, ModelError, NotAllowedError, QtoolError, RecipeError, did_you_mean
from toolkit.base.given import is_given, shown
from toolkit.base.reading import require_regular
from toolkit.base.temporary import clear_left_folders
from toolkit.placement.quantized import refuse_integer_operators
from toolkit.run.folder.guard import refuse_anothers, refuse_no_run_folder, refuse_run_over, refuse_writing_over
from toolkit.run.folder.state import refuse_another, taken_over
from toolkit.run.folder.timing_cache import is_timing_cache
from toolkit.run.inputs.engine_settings import engine_settings
from toolkit.run.job import Job
from toolkit.run.keys.user_code import followed
from toolkit.run.steps.pass_keys import code_of_passes, located_files, pass_files
from toolkit.run.working import working


@contextmanager
def opened(job: Job) -> Iterator[None]:
    """Lock the run folder, make the recipe's code importable if allowed, and run the work where the recipe says.

    Raises:
        QtoolError: an input is missing, would be overwritten, or is code that is not allowed; Ray is not installed; or
            the folder is in use. Nothing has been written in these cases.
    """
    with reachable(job), working(job.recipe.run.on), job.folder, spare_children():
        job.found = taken_over(job.folder.path, job.folder.by_name, job.recipe.path, job.model_path)
        yield


@contextmanager
def reachable(job: Job) -> Iterator[None]:
    """Like ``opened``, but without locking the run folder or writing anything.

    Raises:
        QtoolError: see ``opened``.
    """
    clear_left_folders()
    inputs_exist(job)
    refuse_run_over(input_files(job), job.folder.path)
    refuse_no_run_folder(job.folder.path)
    _cache_is_apart(job)
    from toolkit.graph.large_models.memory import memory_limit

    limit = memory_limit(job.recipe.run.memory_bytes)
    code = import_path(job.recipe.folder if job.allow_code else None)
    with code, followed(job), limit, blas_threads(), collector_seldom():
        # the files of a recipe's own pass classes are known only after these are imported
        own = pass_files(job, code=True)
        _files_exist(located_files(job, code=True))
        refuse_run_over(own, job.folder.path)
        refuse_another(job.folder.path, job.folder.by_name, job.recipe.path, job.model_path)
        yield


def preflight(job: Job) -> None:
    """Check a recipe for errors that can be found without reading the model and samples.

    Raises:
        QtoolError: a file is missing or would be overwritten, a name does not exist, or a setting is invalid.
    """
    inputs_exist(job)
    _files_exist(located_files(job, code=True))
    _cache_is_apart(job)
    names_exist(job)
    engine_settings(job.recipe)
    if job.recipe.engine.compare:
        from toolkit.run.steps.compare import comparable

        comparable(job)
    _gpu_known(job)


def _gpu_known(job: Job) -> None:
    from toolkit.search.cost.gpus import gpu_spec

    if job.recipe.report.gpu:
        try:
            gpu_spec(job.recipe.report.gpu)
        except RecipeError as error:
            raise RecipeError(error.what, where=job.recipe.locate("report", "gpu"), remedy=error.remedy) from error


def _cache_is_apart(job: Job) -> None:
    inputs = input_files(job)
    cache = inputs.pop("[engine] timing_cache", None)
    if cache is not None:
        remedy = "give [engine] timing_cache a file of its own"
        refuse_writing_over(inputs, cache, remedy)
        refuse_anothers(cache, is_timing_cache, remedy)


def input_files(job: Job) -> dict[str, Path]:
    """Every file and folder that the recipe reads, keyed by its description; links are not followed."""
    recipe = job.recipe
    found = {"the recipe": recipe.path.absolute()} if recipe.path is not None else {}
    found["the model"] = job.place(recipe.model.path)
    for number, path in enumerate(job.header.external if job.header is not None else (), 1):
        found["the model's weights" + (f" ({number})" if number > 1 else "")] = path
    for table, key in (
        ("calibration", "data"), ("calibration", "ranges"), ("calibration", "collection"),
        ("evaluation", "data"), ("engine", "timing_cache"),
    ):  # fmt: skip
        value = getattr(getattr(recipe, table), key)
        if value is not None and not job.names_code(value):
            found[f"[{table}] {key}"] = job.place(value)
    return {**found, **pass_files(job)}


def code_allowed(job: Job) -> None:
    """Check that the recipe names no code unless the user allowed code; nothing is imported.

    Raises:
        NotAllowedError: the recipe names code.
    """
    if job.allow_code:
        return
    recipe = job.recipe
    named: list[tuple[str, str, tuple[str | int, ...]]] = [
        ("pass", entry["use"], ("pass", index, "use"))
        for index, entry in enumerate(recipe.passes)
        if ":" in entry["use"] and not is_given(entry["use"])
    ]
    named += [
        ("data", data, (table, "data"))
        for table, data in (("calibration", recipe.calibration.data), ("evaluation", recipe.evaluation.data))
        if data is not None and job.names_code(data) and not is_given(data)
    ]
    named += [("pass", name, ("pass", index, "use")) for index, name in code_of_passes(job)]
    metric = recipe.evaluation.metric
    if metric is not None and ":" in metric and not is_given(metric):
        named.append(("metric", metric, ("evaluation", "metric")))
    for kind, use, place in named:
        raise NotAllowedError(
            f"the {kind} '{use}' is code",
            where=recipe.locate(*place),
            remedy="run again with --allow-code if you trust its author",
        )


def _refuse_integer_operators(job: Job) -> None:
    header, where = job.header, str(job.model_path)
    if header is None:
        from toolkit.graph.files.onnx_file import parse

        # said before the file, which may be huge, is read for its fingerprint
        parse(job.model_path)
        return
    try:
        refuse_integer_operators(header.ops, where)
    except ModelError:
        # the file's header counts nodes that nothing reads too
        from toolkit.placement.spellings import load_source

        refuse_integer_operators(Counter(node.op for node, _ in load_source(job.model_path).walk()), where)


def names_exist(job: Job) -> None:
    """Check operators, metric and tensor names before anything is computed.

    Raises:
        ModelError: the model cannot be parsed, or is quantized with operators that no backend supports.
        RecipeError: there is no such metric, or no such input or output.
    """
    section, header = job.recipe.evaluation, job.header
    _refuse_integer_operators(job)
    if section.metric is not None:
        from toolkit.evaluation.metrics.by_name import make_metric

        where = job.recipe.locate("evaluation", "metric")
        try:
            make_metric(section.metric, section.output, job.allow_code)
        except QtoolError as error:
            raise type(error)(error.what, where=where, remedy=error.remedy) from error
        except Exception as error:
            raise RecipeError(
                f"the metric '{shown(section.metric)}' cannot be created: {failure_of(error)}",
                where=where,
                remedy="a metric is a class that takes no arguments",
            ) from error
    if header is None:
        return
    if section.output is not None and section.output not in header.outputs:
        raise RecipeError(
            f"the model has no output '{section.output}'",
            where=job.recipe.locate("evaluation", "output"),
            remedy=did_you_mean(section.output, header.outputs),
        )
    for name in job.recipe.engine.io:
        if name not in (*header.inputs, *header.outputs):
            raise RecipeError(
                f"[engine] io names '{name}', which is neither an input nor an output of the model",
                where=job.recipe.locate("engine", "io"),
                remedy=did_you_mean(name, [*header.inputs, *header.outputs]),
            )


def inputs_exist(job: Job) -> None:
    """Check that the files named in the recipe exist, and that its code may be run.

    Raises:
        ModelError: the model does not exist.
        DataError: a data file does not exist.
        NotAllowedError: the recipe names code.
    """
    code_allowed(job)
    if job.model_path.exists() and not job.model_path.is_dir():
        require_regular(job.model_path)
    else:
        folder = job.model_path.is_dir()
        raise ModelError(
            f"the model is a folder: {job.model_path}" if folder else f"no such model: {job.model_path}",
            where=job.recipe.locate("model", "path"),
            remedy="name the .onnx file in it" if folder else "paths are relative to the recipe",
        )
    for table in ("calibration", "evaluation"):
        data = getattr(job.recipe, table).data
        if data is not None and not job.names_code(data) and not job.recipe.resolve(data).exists():
            raise DataError(
                f"no such data: {job.recipe.resolve(data)}",
                where=job.recipe.locate(table, "data"),
                remedy="paths are relative to the recipe",
            )
    for key in ("ranges", "collection"):
        file = getattr(job.recipe.calibration, key)
        if file is not None:
            _refuse_no_file(job.recipe.resolve(file), job.recipe.locate("calibration", key), f"[calibration] {key}")

    cache = job.recipe.engine.timing_cache
    if cache is not None and job.recipe.resolve(cache).exists() and not job.recipe.resolve(cache).is_file():
        raise RecipeError(
            f"the timing cache is not a file: {job.recipe.resolve(cache)}",
            where=job.recipe.locate("engine", "timing_cache"),
            remedy="name a file; it is created if there is none",
        )
    _files_exist(located_files(job))


def _files_exist(files: Iterable[tuple[str, Path, str]]) -> None:
    for what, path, where in files:
        _refuse_no_file(path, where, what)


def _refuse_no_file(path: Path, where: str, what: str) -> None:
    if path.is_dir():
        raise DataError(f"{what} is a folder: {path}", where=where, remedy="name a file in it")
    if path.exists():
        require_regular(path)
    else:
        raise DataError(f"no such file: {path}, {what}", where=where, remedy="paths are relative to the recipe")
