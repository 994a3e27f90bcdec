"""The versions that must be the same on all machines that share work, since results and messages depend on them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import cache

from toolkit.base.errors import QtoolError
from toolkit.base.versions import source_fingerprint, versions

_ALIKE = ("python", "qtool", "code", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "ml_dtypes", "numba")


@cache
def stamp() -> dict[str, str]:
    """This machine's versions of everything that must match."""
    own = versions()
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: own[name] for name in _ALIKE if name in own} | {"python": python, "code": source_fingerprint()}


def refuse_unlike(ours: Mapping[str, str], theirs: Mapping[str, str], machine: str) -> None:
    """Refuse a machine with other versions.

    Raises:
        QtoolError: a version differs; the message names the machine, the package and both versions.
    """
    if "lacks" in theirs:
        raise QtoolError(
            f"qtool cannot be imported there: {theirs['lacks']}",
            where=machine,
            remedy="install this version of qtool on every machine of the cluster",
        )
    for name in _ALIKE:
        here, there = ours.get(name, "none"), theirs.get(name, "none")
        if here != there:
            what = "qtool's source" if name == "code" else name
            raise QtoolError(
                f"the worker has {what} {there[:12]}, and here it is {here[:12]}: results would differ",
                where=machine,
                remedy=f"install the same {what} on every machine of the cluster",
            )


def version_reporter() -> Callable[[list[str]], dict[str, str]]:
    """A function that returns a machine's versions. It is sent as code, since qtool may be missing there."""

    def tell(paths: list[str]) -> dict[str, str]:
        import sys

        sys.path += [path for path in paths if path not in sys.path]
        try:
            from toolkit.base.matching_versions import stamp
        except Exception as error:
            return {"lacks": f"{type(error).__name__}: {error}"}
        return stamp()

    return tell
