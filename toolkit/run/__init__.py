"""The recipe, the run folder, the steps, the pipeline.

``toolkit.run`` is this package and, called, the function that runs a recipe: see ``toolkit.run.pipeline.run``. Python
makes a package's module an attribute of its parent, so that a plain function of this name would not survive the first
import from the package.
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
