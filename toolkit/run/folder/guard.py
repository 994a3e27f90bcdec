"""The files that a command writes, and refusing to write over its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
"""The files of a run folder that are for people and other tools."""
_OTHERS = (
    "build.log", "search.json", "sensitivity.json", "faster.json", "calibration.cache", "calibration.cache.json",
)  # fmt: skip
_DATA = re.compile(r"model\.onnx\.[0-9a-f]{16}\.data")


def files_of_run(folder: Path) -> list[Path]:
    """What a run writes into its folder, whether it is there or not, and what it keeps there for itself."""
    kept = [path for path in (folder / ".qtool").rglob("*") if path.is_file()]
    data = [path for path in folder.iterdir() if _DATA.fullmatch(path.name)]
    return [*(folder / name for name in (*FILES, *_OTHERS)), *data, *kept]


def refuse_missing(path: Path, what: str) -> None:
    """Refuse a path at which nothing is.

    Raises:
        QtoolError: nothing is there, with ``what`` as the message, or it cannot be looked at.
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
    """Refuse what is no folder of a run: nothing, or a file.

    Raises:
        QtoolError: it is none, or it cannot be looked at.
    """
    refuse_missing(path, "no such run folder")
    if not path.is_dir():
        raise QtoolError("this is a file, not a run folder", where=str(path), remedy="name the folder of a run")


def refuse_run_over(inputs: Mapping[str, Path], folder: Path) -> None:
    """Refuse a run folder in which a run would write over one of its inputs, or in which an input folder changes.

    Args:
        inputs: what is read, by its name in the message: files and folders.
        folder: the run folder; it need not exist.

    Raises:
        QtoolError: an input is among the files that the run writes; the message names it.
    """
    for what, path in inputs.items():
        for root in set(_places(folder)):
            for place in _places(path):
                hidden = root / ".qtool"
                if place in [root / name for name in (*FILES, *_OTHERS)] or _same(path, folder):
                    _refuse(what, path, f"the run would overwrite it as {folder / place.name}")
                if place == hidden or hidden in place.parents or (place.parent == root and _DATA.fullmatch(place.name)):
                    _refuse(what, path, "it lies where the run keeps and removes its own files")
                if path.is_dir() and (place == root or place in root.parents):
                    _refuse(what, path, f"the run folder {folder} is in it, so the run would change its own input")


def refuse_writing_over(inputs: Mapping[str, Path], target: Path, remedy: str = "give another --out") -> None:
    """Refuse to write a file that is an input, or in the place of a folder, pipe or device.

    Raises:
        QtoolError: ``target`` is one of the inputs, and the message names it; or no regular file.
    """
    if target.exists():
        require_regular(target)
    for what, path in inputs.items():
        if set(_places(path)) & set(_places(target)) or _samefile(path, target):
            raise QtoolError(f"this is {what}: writing here would destroy it", where=str(target), remedy=remedy)


def refuse_anothers(
    target: Path, own: Callable[[Path], bool], remedy: str = "move it away, or give another --out"
) -> None:
    """Refuse to write over a file that is not qtool's own.

    Args:
        target: the file to be written; it need not exist.
        own: whether a file is one that the command writes.
        remedy: what the user can do.

    Raises:
        QtoolError: there is a file that something else wrote; one without content is nobody's.
    """
    if target.is_file() and target.stat().st_size and not own(target):
        what = "qtool did not write this file, and writing here would destroy it"
        raise QtoolError(what, where=str(target), remedy=remedy)


def refuse_no_run_folder(folder: Path) -> None:
    """Refuse a folder that no run has used and that holds files under the names of a run's.

    Raises:
        QtoolError: there is one; the message names it.
    """
    if not (folder / ".qtool").exists():
        for name in (*FILES, *_OTHERS):
            refuse_anothers(folder / name, lambda path: False, "move it away, or give another folder with --out")


def _refuse(what: str, path: Path, why: str) -> None:
    raise QtoolError(f"this is {what}, and {why}", where=str(path), remedy="give another folder with --out")


def _places(path: Path) -> Sequence[Path]:
    """Where a path leads, and where it is itself: a link that is overwritten is lost, though its target is not."""
    return path.resolve(), path.parent.resolve() / path.name


def _same(path: Path, folder: Path) -> bool:
    """Whether an existing input is one of the folder's files under another spelling, as where case is ignored."""
    return path.is_file() and any(_samefile(path, folder / name) for name in (*FILES, *_OTHERS))


def _samefile(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
