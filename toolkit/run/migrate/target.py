"""The files that a migration writes, and checks that it overwrites nothing but an earlier migration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.base.files import refuse_file, sha256_file, write_json
from toolkit.base.reading import own_json
from toolkit.run.folder.guard import refuse_anothers, refuse_writing_over
from toolkit.run.recipe.overwriting import refuse_overwriting

RECORD = "migration.json"
"""The record of a migration, beside its recipe."""
_KEYS = {"recipe", "source", "orders", "tensors"}
_UNFINISHED = "unfinished"
"""The record's key, until all files are written, for the SHA-256 of the recipe."""


def refuse_migration_over(inputs: Mapping[str, Path], recipe: Path, names: Iterable[str], force: bool) -> None:
    """Refuse a folder in which a migration would overwrite an input, or a file that no earlier migration wrote.

    A migration that was interrupted may be repeated: its files count as an earlier migration's, and its recipe may be
    overwritten unless it was changed since.

    Args:
        inputs: the files that the migration reads, keyed by their description for the message.
        recipe: the recipe to be written, in the migration's folder.
        names: the names of the other files to be written there, except the record.
        force: whether an earlier migration may be overwritten.

    Raises:
        QtoolError: the folder is a file; a file is an input; the recipe exists and ``force`` is not set, or it is no
            recipe; or another file exists, and the folder has no record of an earlier migration.
    """
    refuse_file(recipe.parent)
    refuse_writing_over(inputs, recipe)
    record = _record(recipe.with_name(RECORD))
    unfinished = record.get(_UNFINISHED) if record is not None else None
    interrupted = unfinished is not None and recipe.is_file() and sha256_file(recipe) == unfinished
    refuse_overwriting(recipe, force or interrupted)
    for name in (*names, RECORD):
        refuse_writing_over(inputs, recipe.with_name(name))
        refuse_anothers(
            recipe.with_name(name), lambda path: record is not None, "move it away, or give another folder with --out"
        )


def write_unfinished(recipe: Path, text: str, content: Mapping[str, Any]) -> None:
    """Write the record before all other files, so that an interrupted migration's files are known to be its own.

    Args:
        recipe: the recipe to be written.
        text: its text.
        content: what is known of the migration, in the record's form.
    """
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    write_json(recipe.with_name(RECORD), {**content, _UNFINISHED: digest})


def _record(path: Path) -> Mapping[str, Any] | None:
    """The content of a file that is the record of a migration; None if it is not."""
    content = own_json(path)
    return content if isinstance(content, dict) and content.keys() >= _KEYS else None
