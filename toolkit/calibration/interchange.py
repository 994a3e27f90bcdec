"""Ranges in other tools' files: TensorRT's calibration caches, dynamic-range text, onnxruntime's tables."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import write_json, write_text
from toolkit.base.reading import FileKind, parse_json, read_utf8, require_size
from toolkit.base.schema import value_words
from toolkit.base.text import count
from toolkit.contract.ranges import LARGEST, SCHEMA, Range, Ranges

_INT8 = 127.0
_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_LEGACY = re.compile(r"0 ([0-9a-fA-F]{1,16}) ([0-9a-fA-F]{1,16})")
_HEX = re.compile(r"[0-9a-fA-F]{1,8}")
ALGORITHMS = ("EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration", "LegacyCalibration")
_LIMIT = 1 << 26
_KIND = FileKind("it cannot be read as ranges", RangesError, "give ranges.json or a calibration cache", _LIMIT)
_JSON = FileKind("it is broken JSON", RangesError, "write the file again", _LIMIT)
KINDS = ("ranges", "tensorrt", "text", "onnxruntime")


def read_ranges(path: str | Path) -> Ranges:
    """Ranges from a file of any supported kind, which its content determines.

    ranges.json, a TensorRT calibration cache, onnxruntime's calibration table (calibration.json or its text form
    ``tensor value``), JSON with an amax, or a lowest and highest value, by tensor, or text with lines ``tensor:
    range``. ``made_from["kind"]`` says which it was. A cache's ranges are for INT8, ranges.json gives the type of each,
    and those of other files are for any type.

    Raises:
        RangesError: it cannot be read, or is of no such kind; the message names the line.
    """
    path = Path(path)
    require_ranges(path)
    text = read_utf8(path, _KIND)
    if not text.strip():
        raise RangesError("the file is empty", where=str(path), remedy="give ranges.json or a calibration cache")
    found = _parsed(text, path)
    if not found.tensors:
        raise RangesError("it holds no ranges", where=str(path), remedy="give ranges.json or a calibration cache")
    return found


def require_ranges(path: Path) -> None:
    """Refuse a file that holds no ranges, as its size and first bytes tell, before it is read as a whole.

    Raises:
        RangesError: it is a collection, or larger than any file of ranges.
    """
    from toolkit.calibration.collection_file import is_collection

    if path.suffix == ".npz" and path.is_file() and is_collection(path):
        raise RangesError(
            "it is a collection of statistics, from which no ranges were made yet",
            where=str(path),
            remedy="name it in [calibration] collection: a run with it writes ranges.json",
        )
    require_size(path, _KIND)


def _parsed(text: str, path: Path) -> Ranges:
    # a line of a text table may begin with a bracket too
    if text.lstrip().startswith("{" if path.suffix != ".json" else ("{", "[")):
        return ranges_of_json(parse_json(text, path, _JSON, unique=True), str(path))
    first = text.splitlines()[0].strip()
    if _HEADER.match(first) or _LEGACY.fullmatch(first):
        return parse_cache(text, str(path))
    return _from_lines(text, str(path))


def parse_cache(text: str, where: str = "calibration cache") -> Ranges:
    """Ranges from the text of a TensorRT calibration cache.

    A line is ``tensor name: hex``: the float32 scale (amax / 127), big-endian, leading zeros possibly stripped. Names
    may hold colons and spaces, so a line is split at its last colon. The first line is
    ``TRT-<version>-<algorithm>``, or ``0 <float64> <float64>`` (regression cutoff and quantile) from the legacy
    calibrator. The scales are for INT8. TensorRT writes NaN for tensors without a range:
    ``made_from["without"]`` lists them.

    Raises:
        RangesError: an invalid first line, or a line without a scale, which the message names; or NaN alone.
    """
    first = text.splitlines()[0].strip() if text else ""
    made_from: dict[str, Any] = {"kind": "tensorrt"}
    header, legacy = _HEADER.match(first), _LEGACY.fullmatch(first)
    if header:
        made_from.update(version=header[1], algorithm=header[2])
    elif legacy:
        cutoff, quantile = (struct.unpack(">d", bytes.fromhex(part.zfill(16)))[0] for part in legacy.groups())
        if not (math.isfinite(cutoff) and math.isfinite(quantile)):
            raise RangesError(
                f"the first line gives the cutoff {cutoff} and the quantile {quantile}",
                where=where,
                remedy="write the cache again with TensorRT",
            )
        made_from.update(algorithm=ALGORITHMS[3], quantile=quantile, cutoff=cutoff)
    else:
        raise RangesError(
            f"the first line is '{first[:40]}'", where=where, remedy="a calibration cache starts with TRT-<version>-"
        )
    tensors: dict[str, Range] = {}
    without = []
    for number, line in _lines(text, skip=1):
        name, colon, value = line.rpartition(":")
        value = value.strip()
        if not colon or not name or not _HEX.fullmatch(value):
            raise RangesError(
                f"'{line[:60]}' is not 'tensor name: scale in hex'",
                where=f"{where}, line {number}",
                remedy="write the cache again with TensorRT",
            )
        scale = struct.unpack(">f", bytes.fromhex(value.zfill(8)))[0]
        if math.isnan(scale):
            without.append(name)
        else:
            _take(tensors, name, scale * _INT8, "cache", f"{where}, line {number}")
    if without and not tensors:
        raise RangesError(
            f"it has NaN in place of a range for each of {count(len(without), 'tensor')}, such as '{without[0]}'",
            where=where,
            remedy="calibrate again with TensorRT",
        )
    if without:
        made_from["without"] = without
    return Ranges(tensors, made_from=made_from)


def cache_text(ranges: Ranges, algorithm: str = "EntropyCalibration2", version: int | str = 8600) -> str:
    """The text of a TensorRT calibration cache with these ranges.

    Args:
        ranges: the ranges; tensor names must not hold line breaks.
        algorithm: as in the first line; the calibrator that reads it back must be of this kind. The legacy one takes
            its quantile and cutoff from ``made_from`` (default 0.999 and 1.0).
        version: TensorRT's, as in the first line: 8600 for 8.6.0.

    Raises:
        RangesError: an unknown algorithm, or a name or range that the format cannot hold.
    """
    if algorithm not in ALGORITHMS:
        raise RangesError(f"there is no calibrator '{algorithm}'", remedy=did_you_mean(algorithm, ALGORITHMS))
    if algorithm == ALGORITHMS[3]:
        numbers = ranges.made_from.get("cutoff", 1.0), ranges.made_from.get("quantile", 0.999)
        lines = ["0 " + " ".join(struct.pack(">d", float(number)).hex() for number in numbers)]
    else:
        lines = [f"TRT-{version}-{algorithm}"]
    for name, value in ranges.tensors.items():
        try:
            scale = struct.pack(">f", value.amax / _INT8)
        except OverflowError as error:
            raise RangesError(
                f"tensor '{name}' has amax {value.amax}, outside the range of float32", remedy="leave it out"
            ) from error
        lines.append(f"{_one_line(name)}: {scale.hex() if any(scale) else '0'}")
    return "\n".join(lines) + "\n"


def release_number(release: str) -> int:
    """A release of TensorRT as a cache's first line has it: 8600 for 8.6.0, 100300 for 10.3 (NvInferVersion.h)."""
    parts = [int(part) for part in release.split(".")[:3] if part.isdecimal()]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def write_ranges(
    ranges: Ranges, path: str | Path, kind: str = "ranges", algorithm: str = "EntropyCalibration2", version: int = 8600
) -> Path:
    """Write ranges for another tool atomically.

    Args:
        kind: ``ranges`` (ranges.json), ``tensorrt`` (calibration cache), ``text`` (``tensor: range`` a line) or
            ``onnxruntime`` (calibration.json).
        algorithm: for a cache, see ``cache_text``.
        version: for a cache, see ``cache_text``.

    Raises:
        RangesError: an unknown kind, or names that the format cannot hold.
    """
    path = Path(path)
    if kind not in KINDS:
        raise RangesError(f"there is no kind of file '{kind}'", remedy=did_you_mean(kind, KINDS))
    if kind == "ranges":
        ranges.save(path)
    elif kind == "tensorrt":
        write_text(path, cache_text(ranges, algorithm, version))
    elif kind == "text":
        write_text(path, "".join(f"{_one_line(name)}: {value.amax!r}\n" for name, value in ranges.tensors.items()))
    else:
        write_json(path, {name: _tensor_data(value) for name, value in ranges.tensors.items()})
    return path


def _one_line(name: str) -> str:
    if not name or "\n" in name or "\r" in name:
        raise RangesError(f"the tensor name {name!r} cannot be written in a line of text", remedy="rename the tensor")
    return name


def _tensor_data(value: Range) -> dict[str, Any]:
    # onnxruntime uses the range as given, so write the clipped range, not the observed one
    def number(x: float) -> dict[str, Any]:
        return {"data": x, "dtype": "float32", "CLS": "numpy.array"}

    return {"lowest": number(-value.amax), "highest": number(value.amax), "CLS": "TensorData"}


def ranges_of_json(content: Any, where: str) -> Ranges:
    """The ranges of a parsed JSON file: ranges.json, onnxruntime's calibration.json, or a table of amax by tensor.

    Raises:
        RangesError: it has none, or an invalid one; the message names the tensor.
    """
    if isinstance(content, Mapping) and "schema" in content:
        ranges = Ranges.from_json(content, where)
        ranges.made_from.setdefault("kind", "ranges")
        return ranges
    if isinstance(content, Mapping) and isinstance(content.get("data"), Mapping) and "CLS" in content:
        content = content["data"]
    if not isinstance(content, Mapping) or not content:
        raise RangesError(
            "it holds no ranges", where=where, remedy=f"give ranges.json ({SCHEMA}) or onnxruntime's calibration.json"
        )
    tensors = {}
    for name, entry in content.items():
        if isinstance(entry, Mapping):
            low, high = _number(entry.get("lowest")), _number(entry.get("highest"))
        elif (amax := _number(entry)) is not None:
            high = _checked(amax, name, where)
            low = -high
        elif isinstance(entry, list) and len(entry) == 2:
            low, high = _number(entry[0]), _number(entry[1])
        else:
            low = high = None
        if low is None or high is None:
            raise RangesError(
                f"tensor '{name}' has no lowest and highest value: {value_words(entry)}",
                where=where,
                remedy="write it with onnxruntime's write_calibration_table",
            )
        if low > high:
            raise RangesError(
                f"tensor '{name}' has the lowest value {low:g} above the highest, {high:g}",
                where=where,
                remedy="write it with onnxruntime's write_calibration_table",
            )
        amax = _checked(max(abs(low), abs(high)), name, where)
        # a single number is the largest magnitude; observed values are unknown
        seen = None if isinstance(entry, (int, float)) else (low, high)
        tensors[str(name)] = Range(amax, "table", seen)
    return Ranges(tensors, made_from={"kind": "onnxruntime"})


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("data")
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > LARGEST:
        return None
    return float(value)


def _from_lines(text: str, where: str) -> Ranges:
    """Lines ``tensor: range``, or onnxruntime's ``tensor range``: the format that fits every line."""
    kinds: dict[str, Callable[[str], tuple[str, str, str]]] = {
        "text": lambda line: line.rpartition(":"),
        "onnxruntime": lambda line: line.rpartition(" "),
    }
    faults = {}
    for kind, split in kinds.items():
        tensors: dict[str, Range] = {}
        for number, line in _lines(text):
            if line.startswith("#"):
                continue
            name, _, value = split(line)
            try:
                amax = float(value)
            except ValueError:
                faults[kind] = number, line
                break
            if not name:
                faults[kind] = number, line
                break
            _take(tensors, name, amax, "table", f"{where}, line {number}")
        else:
            return Ranges(tensors, made_from={"kind": kind})
    number, line = max(faults.values())
    raise RangesError(
        f"'{line[:60]}' is not 'tensor: range'",
        where=f"{where}, line {number}",
        remedy="give ranges.json, a TensorRT calibration cache, onnxruntime's table, or lines 'tensor: range'",
    )


def _lines(text: str, skip: int = 0) -> Iterator[tuple[int, str]]:
    # splitlines would also split at separators that a tensor name may hold
    for number, line in enumerate(text.split("\n"), start=1):
        if number > skip and line.strip():
            yield number, line.rstrip("\r")


def _take(tensors: dict[str, Range], name: str, amax: float, method: str, where: str) -> None:
    value = Range(_checked(amax, name, where), method)
    if tensors.setdefault(name, value) != value:
        raise RangesError(
            f"tensor '{name}' has the range {amax:g} here and {tensors[name].amax:g} above",
            where=where,
            remedy="remove one of the two",
        )


def _checked(amax: float, name: str, where: str) -> float:
    if not 0 <= amax <= LARGEST:
        raise RangesError(
            f"tensor '{name}' has the range {amax}", where=where, remedy="a range is positive and fits float32"
        )
    return amax
