"""The pages' templates, compiled once per version and cached across runs."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket

from toolkit.base.versions import code_fingerprint


class CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """A cache of compiled templates in the folder of this package's compiled modules, and as trusted as these.

    Several processes can read and write it at once. Templates compiled by another version of qtool, jinja2 or Python
    are compiled again, as are all templates if the folder is not writable.
    """

    def __init__(self) -> None:
        folder = Path(importlib.util.cache_from_source(__file__)).parent
        super().__init__(str(folder), f"%s.{sys.implementation.cache_tag}.template")

    def get_source_checksum(self, source: str) -> str:
        """A checksum of everything a compiled template depends on: its text, qtool's code and jinja2."""
        return super().get_source_checksum(source + code_fingerprint())

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read a compiled template; if unreadable, it is compiled again."""
        # for a truncated or foreign file, pickle can raise any exception
        with contextlib.suppress(Exception):
            super().load_bytecode(bucket)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Save a compiled template, if the folder is writable."""
        with contextlib.suppress(OSError):
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            super().dump_bytecode(bucket)


def template_environment(**settings: Any) -> jinja2.Environment:
    """A jinja2 environment of this package's templates.

    Args:
        settings: further arguments of ``jinja2.Environment``.
    """
    cache = None if sys.dont_write_bytecode else CompiledTemplates()
    return jinja2.Environment(
        loader=jinja2.PackageLoader("toolkit.report.page", "assets"), bytecode_cache=cache, **settings
    )
