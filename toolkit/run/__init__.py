"""The recipe, the run folder, the steps, the pipeline.

``toolkit.run`` is both this package and, when called, the function that runs a recipe: ``toolkit.run.pipeline.run``.
Python sets a subpackage as an attribute of its parent, so a plain function of this name would be overwritten by the
first import from the package.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        from toolkit.run.pipeline import run

        return run(*args, **options)


sys.modules[__name__].__class__ = _Callable
