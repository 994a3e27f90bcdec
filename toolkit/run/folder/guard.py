"""The files that a command writes, and checks that it does not overwrite its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from toolkit.base.errors import QtoolError, system_remedy
from toolkit.base.reading import require_regular

FILES = (
    "report.html",
    "report.json",
    "model.onnx",
    "model.engine",
    "ranges.json",
    "layers.json",
    "journal.jsonl",
    "recipe.lock.toml",
)
"""The files of a run folder that are meant for people and other tools."""
_OTHERS = (
    "build.log", "search.json", "sensitivity.json", "faster.json", "calibration.cache", "calibration.cache.json",
)  # fmt: skip
_DATA = re.compile(r"model\.onnx\.[0-9a-f]{16}\.data")


def files_of_run(folder: Path) -> list[Path]:
    """The paths that a run writes in its folder, existing or not, and the files in its hidden folder."""
    kept = [path for path in (folder / ".qtool").rglob("*") if path.is_file()]
    data = [path for path in folder.iterdir() if _DATA.fullmatch(path.name)]
    return [*(folder / name for name in (*FILES, *_OTHERS)), *data, *kept]


def refuse_missing(path: Path, what: str) -> None:
    """Refuse a path that does not exist.

    Raises:
        QtoolError: it does not exist, with ``what`` as the message, or it cannot be accessed.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise QtoolError(what, where=str(path), remedy="check the path") from error
    except OSError as error:
        raise QtoolError(
            error.strerror or str(error), where=str(path), remedy=system_remedy(error, "check the path")
        ) from error


def require_run_folder(path: Path) -> None:
    """Refuse a path that is not a folder.

    Raises:
        QtoolError: it does not exist, is a file, or cannot be accessed.
    """
    refuse_missing(path, "no such run folder")
    if not path.is_dir():
        raise QtoolError("this is a file, not a run folder", where=str(path), remedy="name the folder of a run")


def refuse_run_over(inputs: Mapping[str, Path], folder: Path) -> None:
    """Refuse a run folder in which a run would overwrite one of its inputs, or change an input folder.

    Args:
        inputs: files and folders that are read, keyed by their description for the message.
        folder: the run folder; it need not exist.

    Raises:
        QtoolError: an input is among the files that the run writes, or an input folder contains the run folder.
    """
    roots, existing = set(_places(folder)), _identities(folder)
    written = {root / name for root in roots for name in (*FILES, *_OTHERS)}
    for what, path in inputs.items():
        same, places = _same(path, existing), _places(path)
        for root in roots:
            for place in places:
                hidden = root / ".qtool"
                name = place.name if place in written and place.parent == root else same
                if name is not None:
                    _refuse(what, path, f"the run would overwrite it as {folder / name}")
                if place == hidden or hidden in place.parents or (place.parent == root and _DATA.fullmatch(place.name)):
                    _refuse(what, path, "it is in a place where the run keeps and removes its own files")
                if path.is_dir() and (place == root or place in root.parents):
                    _refuse(what, path, f"the run folder {folder} is in it, so the run would change its own input")


def refuse_writing_over(inputs: Mapping[str, Path], target: Path, remedy: str = "give another --out") -> None:
    """Refuse to overwrite an input, or a folder, pipe or device.

    Raises:
        QtoolError: ``target`` is one of the inputs, which the message names, or exists and is not a regular file.
    """
    if target.exists():
        require_regular(target)
    for what, path in inputs.items():
        if set(_places(path)) & set(_places(target)) or _samefile(path, target):
            raise QtoolError(f"this is {what}: writing here would destroy it", where=str(target), remedy=remedy)


def refuse_anothers(
    target: Path,
    own: Callable[[Path], bool],
    remedy: str = "move it away, or give another --out",
    what: str = "qtool did not write this file",
) -> None:
    """Refuse to overwrite a file that qtool did not write.

    Args:
        target: the file to be written; it need not exist.
        own: tells whether a file was written by this command.
        remedy: what the user can do.
        what: what such a file is, if something other than who wrote it is known.

    Raises:
        QtoolError: the file exists and something else wrote it; empty files may be overwritten.
    """
    if target.is_file() and target.stat().st_size and not own(target):
        raise QtoolError(f"{what}, and writing here would destroy it", where=str(target), remedy=remedy)


def refuse_no_run_folder(folder: Path) -> None:
    """Refuse a folder that no run has used if it holds files with the names of a run's files.

    Raises:
        QtoolError: it holds such a file, which the message names.
    """
    if not (folder / ".qtool").exists():
        for name in (*FILES, *_OTHERS):
            refuse_anothers(folder / name, lambda path: False, "move it away, or give another folder with --out")


def _refuse(what: str, path: Path, why: str) -> None:
    raise QtoolError(f"this is {what}, and {why}", where=str(path), remedy="give another folder with --out")


def _places(path: Path) -> Sequence[Path]:
    """The target of a path and the path itself: overwriting a link destroys the link, though not its target."""
    return path.resolve(), path.parent.resolve() / path.name


def _identities(folder: Path) -> dict[tuple[int, int], str]:
    """The names of a run's files that exist in a folder, by device and inode."""
    found: dict[tuple[int, int], str] = {}
    for name in (*FILES, *_OTHERS):
        with suppress(OSError, ValueError):
            state = (folder / name).stat()
            found.setdefault((state.st_dev, state.st_ino), name)
    return found


def _same(path: Path, existing: Mapping[tuple[int, int], str]) -> str | None:
    """The folder's file that an existing input is under another name: a link, or another spelling of upper case."""
    if not existing or not path.is_file():
        return None
    try:
        state = path.stat()
    except OSError:
        return None
    return existing.get((state.st_dev, state.st_ino))


def _samefile(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
