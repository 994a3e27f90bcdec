"""Calibration results: amax by tensor, how it was found, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from toolkit.base.errors import RangesError, did_you_mean
from toolkit.base.files import write_json
from toolkit.base.precision import Precision
from toolkit.base.reading import FileKind, read_json
from toolkit.base.schema import Extremes, FileSchema, Natural, Number, validated, value_words
from toolkit.contract.findings import Finding

SCHEMA = "qtool-ranges-1"
BY_HAND = "manual"
"""Method of a range that the recipe sets: a search does not replace it."""
GIVEN = frozenset({BY_HAND, "table", "stripped", "cache"})
"""Methods of ranges that were given rather than calibrated: they override calibration."""
ANY_TYPE = frozenset({"minmax", BY_HAND, "table"})
"""Methods that return the largest magnitude itself, for any type; others minimize the error for one type."""
LARGEST = 3.4028234663852886e38
"""The largest possible amax: scales are float32."""
SMALLEST = 1e-30
"""The smallest amax above 0 that is accepted: smaller ones come from damaged files. Its scale is 0 in float16 by
far."""
_KIND = FileKind("it cannot be read as ranges", RangesError, "calibrate again", limit=1 << 26)
Amax = Annotated[Number, Field(ge=0, le=LARGEST)]
Shares = Annotated[list[Number], Field(max_length=4096)]


class Diagnosis(FileSchema):
    """A range's ``diagnosis`` as qtool writes it; see ``toolkit.calibration.diagnosis.diagnose``."""

    model_config = ConfigDict(extra="allow")
    amax: dict[str, Amax] = Field(default_factory=dict)
    clipped: Number | None = None
    sqnr_db: Number | None = None
    outlier_ratio: Number | None = None
    zeros: Number | None = None
    nonfinite: Natural = 0
    histogram: Shares = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class RangeEntry(FileSchema):
    """One tensor in ranges.json; see ``Range``."""

    amax: Amax
    method: str
    observed: Extremes | None = None
    per_profile: dict[str, Amax] = Field(default_factory=dict)
    samples: Natural = 0
    diagnosis: Diagnosis = Diagnosis()
    dtype: Literal["int8", "int4", "fp8", "mxfp8", "nvfp4"] = "int8"


class RangesFile(FileSchema):
    """The content of ranges.json; see ``Ranges``."""

    schema_id: str = Field(alias="schema")
    made_from: dict[str, Any] = Field(default_factory=dict)
    samples: dict[str, Natural] = Field(default_factory=dict)
    tensors: dict[str, RangeEntry] = Field(default_factory=dict)
    observed: dict[str, Extremes] = Field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The range of one tensor.

    Attributes:
        amax: the largest magnitude kept; the scale is amax / 127 for INT8, amax / 448 for FP8.
        method: minmax, entropy, percentile, mse, output (by a search, for the tensor's readers), or the source of the
            value: manual, table, stripped, cache.
        observed: the smallest and largest value seen; None if no values were seen.
        per_profile: the amax that each profile's samples alone would give.
        samples: how many samples were seen.
        diagnosis: amax by method, fraction clipped, SQNR and the like, by name.
        dtype: the type for which the method minimized the error, or for which a given range was made: ``int8`` or
            ``fp8``.
        rechosen: makes the range for another amax and method from the calibration statistics; None if they are not
            available. Not kept in files or copies.
    """

    amax: float
    method: str
    observed: tuple[float, float] | None = None
    per_profile: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    diagnosis: dict[str, Any] = field(default_factory=dict)
    dtype: str = "int8"
    rechosen: Callable[[float, str], Range] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """All but ``rechosen``, which holds the calibration statistics."""
        return {name: value for name, value in vars(self).items() if name != "rechosen"}

    def with_amax(self, amax: float, method: str) -> Range:
        """The range with an amax chosen by another method, and the diagnosis of that amax.

        Without calibration statistics the diagnosis lacks ``clipped`` and ``sqnr_db``, and ``per_profile`` is empty:
        they applied to the former amax.
        """
        if self.rechosen is not None:
            return self.rechosen(amax, method)
        known = {key: value for key, value in self.diagnosis.items() if key not in ("clipped", "sqnr_db")}
        return replace(self, amax=amax, method=method, per_profile={}, diagnosis=known)

    def holds_for(self, dtype: Precision) -> bool:
        """Whether it is valid for that type; see ``ANY_TYPE``."""
        return self.dtype == str(dtype) or self.method.partition(":")[0] in ANY_TYPE


@dataclass
class Ranges:
    """Ranges by tensor name, with the fingerprints of their sources.

    Attributes:
        tensors: a Range for every tensor that placement needs.
        observed: smallest and largest value of every float tensor seen, to check them against float16's limits.
        samples: how many samples each profile had.
        made_from: fingerprints and settings: model, data, method, tool version.
        missing: why there is no range, by requested tensor; not kept in files.
    """

    tensors: dict[str, Range] = field(default_factory=dict)
    observed: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, Finding] = field(default_factory=dict)

    def amax(self, tensor: str) -> float:
        """The amax of one tensor.

        Raises:
            RangesError: the tensor has no range.
        """
        if tensor not in self.tensors:
            raise RangesError(f"there is no range for tensor '{tensor}'", remedy=did_you_mean(tensor, self.tensors))
        return self.tensors[tensor].amax

    def fits(self, tensor: str, dtype: Precision) -> bool:
        """Whether the tensor has a range that is valid for a type; see ``ANY_TYPE``."""
        known = self.tensors.get(tensor)
        return known is not None and known.holds_for(dtype)

    def to_json(self) -> dict[str, Any]:
        """The content of ranges.json; ``dtype`` is omitted for INT8."""
        return {
            "schema": SCHEMA,
            "made_from": self.made_from,
            "samples": self.samples,
            "tensors": {name: _entry(value) for name, value in sorted(self.tensors.items())},
            "observed": {name: list(value) for name, value in sorted(self.observed.items())},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "ranges") -> Ranges:
        """Read what ``to_json`` returned.

        Raises:
            RangesError: another schema, or an amax that is negative, infinite or not a number.
        """
        schema = content.get("schema") if isinstance(content, Mapping) else None
        if schema != SCHEMA:
            raise RangesError(f"schema is {value_words(schema)}, not '{SCHEMA}'", where=where, remedy=_KIND.remedy)
        found = validated(RangesFile, content, where, _KIND)
        tensors = {
            name: Range(
                entry.amax,
                entry.method,
                entry.observed,
                entry.per_profile,
                entry.samples,
                # as written: other tools may have added entries
                content["tensors"][name].get("diagnosis", {}),
                entry.dtype,
            )
            for name, entry in found.tensors.items()
        }
        return cls(tensors, found.observed, found.samples, found.made_from)

    def save(self, path: str | Path) -> None:
        """Write ranges.json atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read ranges.json.

        Raises:
            RangesError: not readable as ranges.
        """
        return cls.from_json(read_json(path, _KIND), str(path))


def _entry(value: Range) -> dict[str, Any]:
    entry = value.__getstate__()
    if value.dtype == "int8":
        del entry["dtype"]
    return entry
