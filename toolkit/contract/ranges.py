"""What calibration learnt of the tensors: amax by tensor, how it was found, and where it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import write_json
from toolkit.base.precision import Precision

SCHEMA = "qtool-ranges-1"
GIVEN = frozenset({"manual", "stripped", "cache"})
"""Methods of ranges that were given rather than calibrated: they win over calibration."""


@dataclass(frozen=True)
class Range:
    """The range of one tensor.

    Attributes:
        amax: the largest magnitude kept; the scale is amax / 127 for INT8, amax / 448 for FP8.
        method: minmax, entropy, percentile, mse, or where the value came from: manual, stripped, cache.
        observed: the smallest and largest value seen, where values were seen.
        per_profile: the amax that each profile's samples alone would give.
        samples: how many samples were seen.
        diagnosis: amax by method, fraction clipped, SQNR and the like, by name.
        dtype: the type whose grid the method weighed: ``int8`` or ``fp8``.
    """

    amax: float
    method: str
    observed: tuple[float, float] | None = None
    per_profile: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    diagnosis: dict[str, Any] = field(default_factory=dict)
    dtype: str = "int8"


@dataclass
class Ranges:
    """Ranges by tensor name, with the fingerprints of what they were made from.

    Attributes:
        tensors: a Range for every tensor that placement wants.
        observed: smallest and largest value of every float tensor seen, for float16's limits.
        samples: how many samples each profile had.
        made_from: fingerprints and settings: model, data, method, tool version.
    """

    tensors: dict[str, Range] = field(default_factory=dict)
    observed: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)

    def amax(self, tensor: str) -> float:
        """The amax of one tensor.

        Raises:
            RangesError: the tensor has no range.
        """
        if tensor not in self.tensors:
            raise RangesError(f"there is no range for tensor '{tensor}'", remedy=did_you_mean(tensor, self.tensors))
        return self.tensors[tensor].amax

    def fits(self, tensor: str, dtype: Precision) -> bool:
        """Whether the tensor's range is known and holds for a type: by minmax, or given, it holds for all of them."""
        known = self.tensors.get(tensor)
        return known is not None and (known.dtype == str(dtype) or known.method in (*GIVEN, "minmax"))

    def to_json(self) -> dict[str, Any]:
        """The content of ranges.json; ``dtype`` is left out where it is INT8."""
        return {
            "schema": SCHEMA,
            "made_from": self.made_from,
            "samples": self.samples,
            "tensors": {name: _entry(value) for name, value in sorted(self.tensors.items())},
            "observed": {name: list(value) for name, value in sorted(self.observed.items())},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "ranges") -> Ranges:
        """Read what ``to_json`` gave.

        Raises:
            RangesError: another schema, or an amax that is negative, infinite or not a number.
        """
        if content.get("schema") != SCHEMA:
            raise RangesError(
                f"schema is {content.get('schema')!r}, not '{SCHEMA}'", where=where, remedy="calibrate again"
            )
        tensors = {}
        for name, entry in content.get("tensors", {}).items():
            amax = entry.get("amax")
            if not isinstance(amax, (int, float)) or not math.isfinite(amax) or amax < 0:
                raise RangesError(f"tensor '{name}' has amax {amax!r}", where=where, remedy="calibrate again")
            observed = entry.get("observed")
            tensors[name] = Range(**{**entry, "observed": tuple(observed) if observed else None})
        observed_all = {name: (float(v[0]), float(v[1])) for name, v in content.get("observed", {}).items()}
        return cls(tensors, observed_all, dict(content.get("samples", {})), dict(content.get("made_from", {})))

    def save(self, path: Path) -> None:
        """Write ranges.json whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read ranges.json.

        Raises:
            RangesError: not readable as ranges.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RangesError(f"cannot be read: {error}", where=str(path), remedy="calibrate again") from error
        return cls.from_json(content, str(path))


def _entry(value: Range) -> dict[str, Any]:
    entry = asdict(value)
    if value.dtype == "int8":
        del entry["dtype"]
    return entry
