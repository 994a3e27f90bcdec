"""What a pass or a backend has to say: a code with typed values. Sentences for people are made in report/findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

Value: TypeAlias = "str | int | float | bool | Finding | tuple[Value, ...] | None"
"""What a finding can hold: names, numbers, lists of them, and the finding that it follows from.

JSON has no infinity and no NaN: such numbers are the words ``inf`` and ``nan``.
"""


class BaseCode(str, Enum):
    """What a code is. Each floor of the library has its codes in an enumeration of its own, with unlike values."""

    def __call__(self, **values: Any) -> Finding:
        """The finding with these values; enumerations, arrays' numbers and lists are made plain."""
        return Finding(self, values)

    def __str__(self) -> str:
        return str(self.value)

    @staticmethod
    def of(value: str) -> BaseCode:
        """The code of that value, whichever enumeration has it.

        Raises:
            ValueError: no enumeration that was imported has it.
        """
        for kind in BaseCode.__subclasses__():
            if value in kind._value2member_map_:
                return kind(value)
        raise ValueError(f"'{value}' is not a code")


class Code(BaseCode):
    """What passes, lowering, calibration and search can say. The value is the code in JSON; of what a pass declined it
    is the rule in report.json.

    Example:
        >>> Code.OWN_WORDS(text="its input is a constant").code.value
        'own-words'
    """

    OWN_WORDS = "own-words"
    """The words of a pass that is not one of qtool's own."""

    FLOAT_READS_PAIRS = "float-reads-pairs"
    """A node that was asked to be float, and reads Q/DQ pairs all the same."""

    # ---- pairs that are removed
    NO_PAIR = "no-pair"
    KEPT_RANGES = "kept-ranges"
    READS_FLOAT = "reads-float"
    STRIPPED = "stripped"
    INSERTED = "inserted"
    CLAMP_RESTORED = "clamp-restored"
    CLAMPS_UNSURE = "clamps-unsure"
    CAST_RESTORED = "cast-restored"
    COMPUTED_SCALE = "computed-scale"
    OUTPUT_NAME_KEPT = "output-name-kept"
    STRIP_MEASURED = "strip-measured"
    STRIP_NOT_MEASURED = "strip-not-measured"


@dataclass(frozen=True)
class Finding:
    """One thing that is known: a code, and the values that tell it from others of that code.

    Attributes:
        code: what it is.
        values: names, numbers, tuples of them, and findings that explain this one; not to be changed.
    """

    code: BaseCode
    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {name: _value(value) for name, value in self.values.items()})

    def __hash__(self) -> int:
        return hash((self.code, frozenset(self.values.items())))

    def to_json(self) -> dict[str, Any]:
        """``{code, values}``; ``from_json`` reads it."""
        return {"code": self.code.value, "values": {name: _json(value) for name, value in self.values.items()}}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In a pydantic model: itself, or read from its JSON; written as its JSON."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda given: given if isinstance(given, Finding) else cls.from_json(given),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Finding:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: there is no such code.
            KeyError: it is not a finding.
        """
        return cls(BaseCode.of(content["code"]), content["values"])


def finding(said: Finding | str) -> Finding:
    """What was said, as a finding: plain text becomes one of code ``OWN_WORDS``."""
    return said if isinstance(said, Finding) else Code.OWN_WORDS(text=said)


def _value(given: Any) -> Value:
    if isinstance(given, (str, Enum)):
        return str(given.value if isinstance(given, Enum) else given)
    if isinstance(given, float) and not math.isfinite(given):
        return str(float(given))
    if given is None or isinstance(given, (bool, int, float, Finding)):
        return given
    if isinstance(given, Mapping):
        return Finding.from_json(given)
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:
        return _value(given.item())
    return tuple(_value(one) for one in given)


def _json(value: Value) -> Any:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return value.to_json() if isinstance(value, Finding) else value
