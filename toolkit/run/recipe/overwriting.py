"""Check that a new recipe replaces no file that is not a recipe."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from toolkit.base.errors import QtoolError, RecipeError
from toolkit.base.reading import FileKind, read_utf8
from toolkit.base.toml import parse_toml
from toolkit.run.folder.guard import refuse_anothers
from toolkit.run.recipe.recipe import Recipe

_TOML = FileKind("not TOML", RecipeError, "fix the file", 1 << 22)
_LOCK = "lock"


def refuse_overwriting(target: Path, force: bool) -> None:
    """Refuse to write a recipe over an existing file, unless it may be overwritten and is a recipe.

    Args:
        target: the file to be written; it need not exist.
        force: whether a recipe may be overwritten.

    Raises:
        QtoolError: the file exists, and ``force`` is not set or the file is neither a recipe nor empty.
    """
    if target.exists() and not force and (is_recipe(target) or not target.stat().st_size):
        raise QtoolError(
            "the recipe already exists", where=str(target), remedy="give another --out, or --force to overwrite it"
        )
    refuse_anothers(target, is_recipe, what="this is not a recipe that qtool can read")


def is_recipe(path: Path) -> bool:
    """Whether a file is a recipe or a run's lock file: TOML with a recipe's tables, of which one names a model.

    Settings may be unknown or invalid, so a recipe with a mistake is one too.
    """
    with suppress(QtoolError, OSError, ValueError, RecursionError):
        content = parse_toml(read_utf8(path, _TOML))
        model = content.get("model")
        tables = {field.alias or name for name, field in Recipe.model_fields.items()}
        return isinstance(model, dict) and "path" in model and content.keys() <= tables | {_LOCK}
    return False
