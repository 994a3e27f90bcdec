"""Objects that a recipe names as ``module:Name``: its author's code, which runs only if the user allows it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from toolkit.base.errors import FAILURES, NotAllowedError, RecipeError, did_you_mean
from toolkit.base.given import CallerObject, code_print, is_given, taken
from toolkit.base.modules import module_fingerprint
from toolkit.base.owners import is_users


def load_object(use: str, allow_code: bool, kind: str) -> Any:
    """The object named ``module:Name``, or passed in by the caller (see ``toolkit.base.given``).

    Raises:
        NotAllowedError: code is not allowed.
        RecipeError: the module cannot be imported, raises an error when imported, or has no such name.
    """
    if is_given(use):
        return taken(use)
    if not allow_code:
        raise NotAllowedError(
            f"the {kind} '{use}' is code",
            remedy="run again with --allow-code if you trust its author",
        )
    module, _, name = use.partition(":")
    try:
        loaded = importlib.import_module(module)
    except (SyntaxError, NameError) as error:
        raise RecipeError(
            f"the module '{module}' of the {kind} '{use}' has a fault: {type(error).__name__}: {error}",
            remedy="fix the file",
        ) from error
    except ImportError as error:
        as_file = module.removesuffix(".py").replace("/", ".").lstrip(".")
        raise RecipeError(
            f"the module '{module}' of the {kind} '{use}' cannot be imported: {error}",
            remedy="put the file beside the recipe or install its package"
            if as_file == module
            else f"name the module without folder and ending, as in '{as_file}:{name}'",
        ) from error
    except FAILURES as error:
        raise RecipeError(
            f"the module '{module}' of the {kind} '{use}' fails while it is imported: {failure_of(error)}",
            remedy="fix the file; --debug shows the traceback",
        ) from error
    if not hasattr(loaded, name):
        _refuse_other_file(loaded, use, kind)
        raise RecipeError(f"the module '{module}' has no '{name}'", remedy=did_you_mean(name, _public(loaded)))
    return getattr(loaded, name)


def _refuse_other_file(module: ModuleType, use: str, kind: str) -> None:
    """Refuse a module from elsewhere, such as Python's own, if a file beside the recipe has the same name.

    Raises:
        RecipeError: the module is not that file.
    """
    file, beside = getattr(module, "__file__", None), Path(sys.path[0] or ".") / f"{module.__name__}.py"
    if beside.is_file() and (file is None or Path(file).resolve() != beside.resolve()):
        raise RecipeError(
            f"the module '{module.__name__}' of the {kind} '{use}' is {file or 'built into Python'}, which is loaded "
            f"already, and not {beside.name} beside the recipe",
            remedy="give your file another name",
        )


def failure_of(error: BaseException) -> str:
    """An exception as text, with the last line of user code in its traceback, such as (file.py, line 3)."""
    kind, trace, line = type(error).__name__, error.__traceback__, ""
    said = f"{kind}: {error}" if str(error) else kind
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_users(file):
            line = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{said}{line}"


def code_of(use: str) -> str:
    """A fingerprint of the code of an object named in a recipe, as far as its source shows; empty for qtool's own."""
    if isinstance(use, CallerObject):
        return code_print(use.thing)
    return module_fingerprint(use.partition(":")[0]) if ":" in use and not is_given(use) else ""


class _SourceFinder(MetaPathFinder):
    """Finds modules in a folder like Python does, but compiles them from source every time.

    Python matches compiled files by size and modification time in seconds, which is too coarse for a file being edited:
    an outdated version might run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module whose source is in the folder; None leaves it to other finders."""
        spec = PathFinder.find_spec(fullname, [str(self.folder)] if path is None else path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return None
        if not Path(spec.origin).resolve().is_relative_to(self.folder):
            return None
        spec.loader = _SourceLoader(fullname, spec.origin)
        return spec


class _SourceLoader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """The code compiled from source."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _public(module: ModuleType) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]


@contextmanager
def import_path(folder: Path | None) -> Iterator[None]:
    """Make modules beside the recipe importable within the block, if the user allows code (``folder`` is not None).

    They are unloaded afterwards, so that the next run in this process reads the files again, as its keys do.
    """
    if folder is None:
        yield
        return
    before, finder = set(sys.modules), _SourceFinder(folder)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).resolve().is_relative_to(folder.resolve()):
                del sys.modules[name]
