"""Folders of .npz files, or of .npy files named after inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError, did_you_mean
from toolkit.data.files import Files
from toolkit.data.images import IMAGE_SUFFIXES
from toolkit.data.sample import LABELS, Specs


def open_folder(folder: Path, specs: Specs) -> Files:
    """The samples in a folder of .npz files, or of .npy files named after inputs.

    Raises:
        DataError: it holds both kinds or neither, or the files do not fit the inputs.
    """
    archives = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npz")
    plain = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".npy")
    if archives and plain:
        raise DataError(
            f"the folder holds both .npz ({archives[0].name}) and .npy ({plain[0].name}) files",
            where=str(folder),
            remedy="keep one of the two kinds in it",
        )
    if archives:
        return Files([(str(path), path) for path in archives], specs)
    if plain:
        return Files(_group(folder, plain, specs), specs)
    others = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    but, forms = (f", but {others[0]}" if others else ""), ", ".join(IMAGE_SUFFIXES)
    raise DataError(
        f"the folder holds no .npz, .npy or image files{but}",
        where=str(folder),
        remedy=f"save arrays as .npz, images as {forms}" if others else "check the path of the data",
    )


def _group(folder: Path, files: list[Path], specs: Specs) -> list[tuple[str, Any]]:
    """Group .npy files named ``<input>/<stem>``, ``<input>.<stem>`` or ``<stem>.<input>`` into sets by stem.

    If every file is named ``<input>``, they hold the stacked samples of one set, like the arrays of an .npz.

    Raises:
        DataError: a file has no such name, the two forms are mixed, or a sample lacks an input.
    """
    names = {**{_file_name(name): name for name in specs}, **{label: label for label in LABELS if label not in specs}}
    stacked = {names[path.stem]: path for path in files if path.parent == folder and path.stem in names}
    if len(stacked) == len(files) and not stacked.keys().isdisjoint(specs):
        return [(str(folder), stacked)]
    whole = next((stacked[name] for name in specs if name in stacked), None)
    if whole is not None:
        other = next(path for path in files if path not in stacked.values()).relative_to(folder)
        raise DataError(
            f"'{whole.name}' holds all samples of an input, and '{other}' beside it is no such file",
            where=str(folder),
            remedy=f"give one file for each input and label ({', '.join(f'{name}.npy' for name in names)}), or one for "
            f"each sample, as {next(iter(names))}/00000.npy",
        )
    sets: dict[str, dict[str, Path]] = {}
    only = next(iter(specs)) if len(specs) == 1 else None
    for path in files:
        name, stem = _input_and_stem(path, folder, names, only)
        sets.setdefault(stem, {})[name] = path
    for stem, members in sets.items():
        lacking = [name for name in specs if name not in members]
        if lacking:
            raise DataError(
                f"sample '{stem}' has no file for input '{lacking[0]}'",
                where=str(folder),
                remedy="every input needs files of the same stems",
            )
    return [(f"{folder}, '{stem}'", members) for stem, members in sorted(sets.items())]


def _input_and_stem(path: Path, folder: Path, names: Mapping[str, str], only: str | None) -> tuple[str, str]:
    """The input that a file belongs to, and the sample's name; see ``_group``.

    Args:
        folder: the folder of the samples.
        names: inputs and labels by their spelling in file names.
        only: the input that files without an input name belong to; None if that is an error.
    """
    parts = path.relative_to(folder).parts
    head, _, tail = path.stem.partition(".")
    start, _, last = path.stem.rpartition(".")
    if len(parts) == 2 and parts[0] in names:
        return names[parts[0]], path.stem
    if len(parts) == 1 and tail and head in names:
        return names[head], tail
    if len(parts) == 1 and start and last in names:
        return names[last], start
    if len(parts) == 1 and only is not None and path.stem not in names:
        return only, path.stem
    raise DataError(
        "the file's name does not say which input it is for",
        where=str(path),
        remedy=f"name it '<input>.{path.stem}.npy' or put it into a sub-folder named like the input: "
        + did_you_mean(head, names),
    )


def _file_name(name: str) -> str:
    """An input's name as spelled in file names."""
    return re.sub(r"[/\\:]", "_", name)
