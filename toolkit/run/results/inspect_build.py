"""Showing what belongs to a build: recipes, lock files, logs, engines and timing caches."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.reading import FileKind, open_regular, read_utf8, reading, require_regular
from toolkit.base.text import plain
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
"""How an engine begins. TensorRT's own is kPLAN_FILE_TAG in samples/common/sampleEngines.cpp, which reads the version
in bytes 24 to 27; RTX's was seen with 1.7.1.116, and has its version there too."""
_HEADER = 28
_OFF: tuple[Any, ...] = (None, False, "", [], {})
"""The values of pass settings that are not used."""
_LINE = re.compile(r"^(VERBOSE|INFO|WARNING|ERROR|INTERNAL_ERROR): (.*)$")


def engine_tag(path: Path) -> str:
    """The backend whose engine a file is; empty where it is none."""
    with reading(path, _FILE), open_regular(path) as stream:
        return _TAGS.get(stream.read(4), "")


def render_engine(path: Path, layers: Callable[[Path], Rendered]) -> Rendered:
    """An engine's header, and the layers in the file beside it.

    Args:
        path: the engine.
        layers: shows a layers.json.

    Raises:
        QtoolError: it does not begin as an engine does.
    """
    with reading(path, _FILE), open_regular(path) as stream:
        head = stream.read(_HEADER)
    backend = _TAGS.get(head[:4])
    if backend is None or len(head) < _HEADER:
        raise QtoolError(
            "this is not an engine: it does not begin as those of TensorRT and TensorRT-RTX do",
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
        return Rendered(content, "\n".join(lines) + "\n" + found.text, found.warnings)
    lines.append("what its layers run in is in the layers.json of its run folder, which is not beside it")
    return Rendered(content, "\n".join(lines) + "\n")


def _installed(backend: str) -> str:
    """The version of the module that opens engines of a backend; empty where it is not installed."""
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13") if backend == "tensorrt" else ("tensorrt-rtx",)
    known = versions()
    return next((known[name] for name in names if name in known), "")


def render_timing(path: Path) -> Rendered:
    """A timing cache: binary, and readable only by the TensorRT that wrote it.

    Raises:
        QtoolError: it does not begin as one does.
    """
    with reading(path, _FILE):
        require_regular(path)
        known = is_timing_cache(path)
    if not known:
        raise QtoolError(
            "this is not a timing cache: it does not begin as TensorRT's do",
            where=str(path),
            remedy="name it by what it holds; a build makes a new timing cache where there is none",
        )
    length = path.stat().st_size
    text = (
        f"{path}: a timing cache of TensorRT, {size(length)}. It holds kernel times of one GPU and one version, which "
        "alone can read it; [engine] timing_cache takes it.\n"
    )
    return Rendered({"kind": "timing cache", "bytes": length, "sha256": path_fingerprint(path)}, text)


def render_log(path: Path) -> Rendered:
    """The warnings of a build log, each line once.

    Raises:
        QtoolError: it cannot be read, or has no line of TensorRT's.
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
    lines += [f"{level}: {plain(text)}" + (f" ({n} times)" if n > 1 else "") for (level, text), n in loud.items()]
    said = [{"level": level, "text": text, "times": number} for (level, text), number in loud.items()]
    return Rendered({"kind": "build log", "levels": dict(levels), "messages": said}, "\n".join(lines) + "\n")


def render_recipe(path: Path) -> Rendered:
    """A recipe, or a lock file, with the present state of its files.

    Raises:
        RecipeError: it cannot be read.
    """
    if path.name.endswith(LOCK_ENDING):
        return _lock(path)
    recipe = Recipe.load(path)
    content = {"kind": "recipe", **recipe.model_dump(mode="json", by_alias=True, exclude_none=True)}
    missing = [f"{what}: {file}" for what, file in _files(recipe).items() if not file.exists()]
    lines = [f"{path}: a recipe", *_lines(recipe), "`qtool check` says what it would do"]
    return Rendered(content, "\n".join(lines) + "\n", [f"not there: {one}" for one in missing])


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
    return Rendered(content, "\n".join(lines) + "\n", told)


def _files(recipe: Recipe) -> dict[str, Path]:
    """The files that the recipe reads, by what they are."""
    from toolkit.run.checks.preflight import input_files
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job

    return input_files(Job(recipe, RunFolder.of(recipe.name, None)))


def _lines(recipe: Recipe) -> list[str]:
    """What the recipe says, table by table; what is TensorRT's or qtool's own default is left out."""
    lines = [f"model: {plain(recipe.model.path)}"]
    for profile in recipe.profiles():
        shapes = ", ".join(
            f"{name} {list(e.min)} .. {list(e.opt)} .. {list(e.max)}" for name, e in profile.shapes.items()
        )
        lines.append(plain(f"profile {profile.name}: {shapes}"))
    tables = [(f"pass {entry['use']}", {k: v for k, v in entry.items() if k != "use" and v not in _OFF})
              for entry in recipe.passes]  # fmt: skip
    for name in ("calibration", "engine", "evaluation", "report"):
        found = getattr(recipe, name).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        tables += [(name, found)] if found else []
    for name, settings in tables:
        said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        lines.append(plain(f"{name}: {said}" if said else name))
    return lines
