"""The files that a migration writes, and checks that it overwrites nothing but an earlier migration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from toolkit.base.files import refuse_file
from toolkit.base.reading import own_json
from toolkit.run.folder.guard import refuse_anothers, refuse_writing_over
from toolkit.run.recipe.overwriting import refuse_overwriting

RECORD = "migration.json"
"""The record of a migration, beside its recipe."""
_KEYS = {"recipe", "source", "orders", "tensors"}


def refuse_migration_over(inputs: Mapping[str, Path], recipe: Path, names: Iterable[str], force: bool) -> None:
    """Refuse a folder in which a migration would overwrite an input, or a file that no earlier migration wrote.

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
    refuse_overwriting(recipe, force)
    earlier = _is_record(recipe.with_name(RECORD))
    for name in (*names, RECORD):
        refuse_writing_over(inputs, recipe.with_name(name))
        refuse_anothers(recipe.with_name(name), lambda path: earlier, "move it away, or give another folder with --out")


def _is_record(path: Path) -> bool:
    """Whether a file is the record of a migration."""
    content = own_json(path)
    return isinstance(content, dict) and content.keys() >= _KEYS
