"""Which passes are installed here, found through their entry points."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from email.parser import HeaderParser
from typing import Any

from toolkit.base.modules import OWN_PACKAGES
from toolkit.base.reads import aside
from toolkit.contract.roles import Role

GROUP = "qtool.passes"
_METADATA = ("METADATA", "PKG-INFO", "")
"""Where importlib.metadata looks for metadata: in a wheel, in the folder of an egg, in an egg of one file."""


def installed_passes() -> dict[str, importlib.metadata.EntryPoint]:
    """The installed passes by name, qtool's and third-party ones, from the same entry-point group."""
    with aside():
        return dict(_entries(tuple((place, _changed(place)) for place in sys.path)))


@functools.lru_cache(maxsize=4)
def _entries(places: tuple[tuple[str, int], ...]) -> dict[str, importlib.metadata.EntryPoint]:
    """Cached by the folders' change times, so that newly installed passes are seen: reading takes milliseconds."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def named(distribution: importlib.metadata.Distribution) -> str:
    """The name and version of a distribution, as its metadata has them now.

    importlib.metadata parses all of it for each of the two, which takes milliseconds where it holds a long README.
    """
    with aside():
        text = next(filter(None, map(distribution.read_text, _METADATA)), "")
    return _named(text)


@functools.lru_cache(maxsize=64)
def _named(metadata: str) -> str:
    found = HeaderParser().parsestr(metadata)
    return f"{found['Name']} {found['Version']}"


def _changed(place: str) -> int:
    """When an entry was last added to or removed from a folder of ``sys.path``, in nanoseconds."""
    try:
        return os.stat(place or ".").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def installed_for(role: Role) -> list[tuple[str, type[Any]]]:
    """The classes of installed passes with a role, qtool's own first; those that cannot be imported are left out."""
    found = []
    for name, entry in installed_passes().items():
        try:
            kind = entry.load()
        except Exception:
            continue
        if isinstance(kind, type) and getattr(kind, "role", None) is role:
            found.append((name, kind))
    # qtool's own first, so that advice does not depend on what else is installed
    return sorted(found, key=lambda one: (one[1].__module__.partition(".")[0] not in OWN_PACKAGES, one[0]))
