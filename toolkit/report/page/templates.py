"""The templates of the pages, compiled once for each version of them and not at every run."""

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
    """Compiled templates in the folder in which Python keeps this package's compiled modules, as trusted as they are.

    Several processes may read and write them at once. What was compiled by another version of qtool, jinja2 or Python
    is compiled again, and so is everything where the folder cannot be written.
    """

    def __init__(self) -> None:
        folder = Path(importlib.util.cache_from_source(__file__)).parent
        super().__init__(str(folder), f"%s.{sys.implementation.cache_tag}.template")

    def get_source_checksum(self, source: str) -> str:
        """A checksum of all that a compiled template is made of: its text, qtool's settings for it and jinja2."""
        return super().get_source_checksum(source + code_fingerprint())

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read a compiled template; one that cannot be read is compiled again."""
        # a file that was cut short or is no cache raises whatever pickle raises
        with contextlib.suppress(Exception):
            super().load_bytecode(bucket)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep a compiled template, where its folder can be written."""
        with contextlib.suppress(OSError):
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            super().dump_bytecode(bucket)


def template_environment(**settings: Any) -> jinja2.Environment:
    """An environment of this package's templates.

    Args:
        settings: as ``jinja2.Environment`` takes them.
    """
    cache = None if sys.dont_write_bytecode else CompiledTemplates()
    return jinja2.Environment(
        loader=jinja2.PackageLoader("toolkit.report.page", "assets"), bytecode_cache=cache, **settings
    )
