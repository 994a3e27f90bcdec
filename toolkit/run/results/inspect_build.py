"""Contents of files that belong to a build: recipes, lock files, logs, engines and timing caches."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.reading import FileKind, open_regular, read_utf8, reading, require_regular
from toolkit.base.text import text_of
from toolkit.base.versions import path_fingerprint, versions
from toolkit.report.terminal.report import size
from toolkit.run.folder.state import RunState
from toolkit.run.folder.timing_cache import is_timing_cache
from toolkit.run.keys.lock import read_lock
from toolkit.run.recipe.recipe import LOCK_ENDING, Recipe
from toolkit.run.results.rendered import Rendered

_LOG = FileKind("it cannot be read as a build log", QtoolError, "name the build.log of a run folder")
_FILE = FileKind("it cannot be read", QtoolError, "check the file")
_TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
"""The first bytes of an engine. TensorRT's are kPLAN_FILE_TAG in samples/common/sampleEngines.cpp, which reads the
version
from bytes 24 to 27; TensorRT-RTX's were observed with 1.7.1.116, which stores its version there too."""
_HEADER = 28
_OFF: tuple[Any, ...] = (None, False, "", [], {})
"""Values of pass settings that are not in use."""
_LINE = re.compile(r"^(VERBOSE|INFO|WARNING|ERROR|INTERNAL_ERROR): (.*)$")


def engine_tag(path: Path) -> str:
    """The backend that built an engine file; empty if the file is not an engine."""
    with reading(path, _FILE), open_regular(path) as stream:
        return _TAGS.get(stream.read(4), "")


def render_engine(path: Path, layers: Callable[[Path], Rendered]) -> Rendered:
    """Show an engine's header, and the layers in layers.json next to it.

    Args:
        path: the engine.
        layers: renders a layers.json.

    Raises:
        QtoolError: the file does not begin like an engine.
    """
    with reading(path, _FILE), open_regular(path) as stream:
        head = stream.read(_HEADER)
    backend = _TAGS.get(head[:4])
    if backend is None or len(head) < _HEADER:
        raise QtoolError(
            "this is not an engine: it has no header of TensorRT or TensorRT-RTX",
            where=str(path),
            remedy="build it again",
        )
    version = ".".join(str(number) for number in head[24:28])
    installed = _installed(backend)
    content: dict[str, Any] = {
        "kind": "engine", "backend": backend, "version": version, "bytes": path.stat().st_size,
        "installed": installed, "layers": [],
    }  # fmt: skip
    fits = "" if installed == version else f", not the {installed} installed here" if installed else ", not installed"
    lines = [f"{path}: an engine of {backend} {version}{fits}, {size(path.stat().st_size)}"]
    beside = path.with_name("layers.json")
    if beside.is_file():
        found = layers(beside)
        content["layers"] = found.content
        return Rendered(content, text_of(lines) + found.text, found.warnings)
    lines.append("the types of its layers are unknown: its run folder's layers.json is not next to it")
    return Rendered(content, text_of(lines))


def _installed(backend: str) -> str:
    """The installed version of the module that opens engines of a backend; empty if it is not installed."""
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13") if backend == "tensorrt" else ("tensorrt-rtx",)
    known = versions()
    return next((known[name] for name in names if name in known), "")


def render_timing(path: Path) -> Rendered:
    """Show a timing cache, which is binary and readable only by the TensorRT version that wrote it.

    Raises:
        QtoolError: the file does not begin like a timing cache.
    """
    with reading(path, _FILE):
        require_regular(path)
        known = is_timing_cache(path)
    if not known:
        raise QtoolError(
            "this is not a timing cache: it has no header of TensorRT",
            where=str(path),
            remedy="check the path; a build creates a timing cache if there is none",
        )
    length = path.stat().st_size
    text = (
        f"{path}: a timing cache of TensorRT, {size(length)}. It holds kernel times of one GPU and one version, which "
        "alone can read it; [engine] timing_cache takes it.\n"
    )
    return Rendered({"kind": "timing cache", "bytes": length, "sha256": path_fingerprint(path)}, text)


def render_log(path: Path) -> Rendered:
    """Show the warnings of a build log, each line once.

    Raises:
        QtoolError: the file cannot be read, or has no log line of TensorRT.
    """
    levels: Counter[str] = Counter()
    loud: Counter[tuple[str, str]] = Counter()
    for line in read_utf8(path, _LOG).splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        levels[match[1]] += 1
        if match[1] not in ("VERBOSE", "INFO"):
            loud[match[1], match[2]] += 1
    if not levels:
        raise _LOG.fault(path, "no line begins with INFO, WARNING or ERROR")
    lines = [f"{path}: " + ", ".join(f"{number} {level}" for level, number in levels.most_common())]
    lines += [f"{level}: {text}" + (f" ({n} times)" if n > 1 else "") for (level, text), n in loud.items()]
    said = [{"level": level, "text": text, "times": number} for (level, text), number in loud.items()]
    return Rendered({"kind": "build log", "levels": dict(levels), "messages": said}, text_of(lines))


def render_recipe(path: Path) -> Rendered:
    """Show a recipe or lock file, and whether its files exist or have changed.

    Raises:
        RecipeError: it cannot be read.
    """
    if path.name.endswith(LOCK_ENDING):
        return _lock(path)
    recipe = Recipe.load(path)
    content = {"kind": "recipe", **recipe.model_dump(mode="json", by_alias=True, exclude_none=True)}
    missing = [f"{what}: {file}" for what, file in _files(recipe).items() if not file.exists()]
    lines = [f"{path}: a recipe", *_lines(recipe), "`qtool check` shows what it would do"]
    return Rendered(content, text_of(lines), [f"not there: {one}" for one in missing])


def _lock(path: Path) -> Rendered:
    recipe, lock = read_lock(path, RunState.load(path.parent).recipe_file(path.parent))
    content = {"kind": "lock file", "lock": lock.model_dump(mode="json"),
               **recipe.model_dump(mode="json", by_alias=True, exclude_none=True)}  # fmt: skip
    lines = [f"{path}: a recipe as it ran, by {lock.backend} ({lock.lowering} typing)", *_lines(recipe)]
    lines.append("made with " + ", ".join(f"{name} {version}" for name, version in lock.versions.items()))
    here = versions()
    others = [f"{name} {here.get(name, 'none')}" for name, known in lock.versions.items() if here.get(name) != known]
    lines += [f"here instead: {', '.join(others)}"] if others else []
    known = {"the model": "model", "[calibration] data": "calibration_data", "[evaluation] data": "evaluation_data"}
    now: dict[str, str] = {}
    for what, print_ in known.items():
        place = _files(recipe).get(what)
        if place is not None and place.exists():
            now[what] = "same" if path_fingerprint(place) == lock.fingerprints.get(print_) else "changed"
        elif place is not None:
            now[what] = "not there"
    content["now"] = now
    told = [f"{what}: {state} since the run" if state == "changed" else f"{what}: {state}"
            for what, state in now.items() if state != "same"]  # fmt: skip
    return Rendered(content, text_of(lines), told)


def _files(recipe: Recipe) -> dict[str, Path]:
    """The files that the recipe reads, keyed by their description."""
    from toolkit.run.checks.preflight import input_files
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job

    return input_files(Job(recipe, RunFolder.of(recipe.name, None)))


def _lines(recipe: Recipe) -> list[str]:
    """The recipe's settings, table by table, without settings at their defaults."""
    lines = [f"model: {recipe.model.path}"]
    for profile in recipe.profiles():
        shapes = ", ".join(
            f"{name} {list(e.min)} .. {list(e.opt)} .. {list(e.max)}" for name, e in profile.shapes.items()
        )
        lines.append(f"profile {profile.name}: {shapes}")
    tables = [(f"pass {entry['use']}", {k: v for k, v in entry.items() if k != "use" and v not in _OFF})
              for entry in recipe.passes]  # fmt: skip
    for name in ("calibration", "engine", "evaluation", "report"):
        found = getattr(recipe, name).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        tables += [(name, found)] if found else []
    for name, settings in tables:
        said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        lines.append(f"{name}: {said}" if said else name)
    return lines
