"""What tells a collection from other archives of arrays, without reading its content."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from toolkit.base.errors import QtoolError, RangesError
from toolkit.base.reading import FileKind
from toolkit.data.arrays import Stored, open_archive

KIND = FileKind("it cannot be read as a collection", RangesError, "calibrate again")
_SHOWN = 4


def collection_arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a collection by name, of which only the headers are read.

    Raises:
        RangesError: it is not an archive of arrays, or holds other arrays.
    """
    arrays = open_archive(path, KIND)
    if "head" not in arrays:
        raise _no_collection(path, arrays)
    return arrays


def holds_collection(path: Path) -> bool:
    """Whether an archive is marked as a collection, rather than being a file of samples.

    Raises:
        DataError: it is not an archive of arrays, or damaged.
    """
    head = open_archive(path).get("head")
    return head is not None and head.dtype.kind in "US"


def is_collection(path: Path) -> bool:
    """Whether a file is a collection; False for anything that is not an archive of arrays."""
    with suppress(QtoolError):
        return holds_collection(path)
    return False


def _no_collection(path: Path, found: Mapping[str, Stored]) -> RangesError:
    arrays = [f"'{key}' {list(stored.shape)}" for key, stored in found.items()]
    more = f" and {len(arrays) - _SHOWN} more" if len(arrays) > _SHOWN else ""
    return RangesError(
        f"this is not a collection of statistics but holds arrays, such as samples: {', '.join(arrays[:_SHOWN])}{more}",
        where=str(path),
        remedy="samples go into [calibration] data; a collection is what qtool calibrate and qtool merge write",
    )
