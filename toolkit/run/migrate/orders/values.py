"""Parsing of flag values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from toolkit.run.migrate.orders.terms import Term

TYPES = {
    "fp32": "fp32", "float32": "fp32", "float": "fp32", "fp16": "fp16", "float16": "fp16", "half": "fp16",
    "bf16": "bf16", "bfloat16": "bf16", "int8": "int8", "fp8": "fp8", "int4": "int4",
}  # fmt: skip
"""Names of types in TensorRT and its tools, with the names that recipes use."""
_UNITS = {"": 1 << 20, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)\s*([BKMG]?)i?B?", re.IGNORECASE)
_SHAPE = re.compile(r"[0-9]+(?:x[0-9]+)*", re.IGNORECASE)
_SCALAR = "scalar"
_ON_BY_DEFAULT = {"edge_mask_convolutions", "jit_convolutions"}
"""TensorRT 10's default tactic sources, which trtexec changes with ``+`` and ``-``."""
_IO = re.compile(r"(?:(\w+):)?([\w+]+)")


def type_word(text: str) -> str:
    """A type's name in recipes.

    Raises:
        ValueError: it is not a float or quantized type.
    """
    word = text.strip().lower().removeprefix("datatype.").removeprefix("trt.")
    if word not in TYPES:
        raise ValueError(text)
    return TYPES[word]


def hardware_word(member: str) -> str:
    """A member of ``HardwareCompatibilityLevel`` as trtexec writes it."""
    return {"ampere_plus": "ampere+"}.get(member.lower(), member.lower())


def whole(number: Any) -> int:
    """A number truncated to an integer.

    Raises:
        ValueError: it is infinite or NaN.
        TypeError: it is not a number.
    """
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(number)
    return int(number)


def amax_of(ends: Any) -> float | None:
    """The largest magnitude of a range, given as one number or both ends; None if it is neither, or not finite."""
    both = ends if isinstance(ends, list) and len(ends) == 2 else [ends]
    if not all(isinstance(one, (int, float)) and math.isfinite(one) for one in both):
        return None
    return float(max(map(abs, both)))


def trtexec_value(term: Term, text: str) -> Any:
    """Parse the value of a trtexec flag.

    Shapes are ``{input: [...]}``; precisions ``[(layer, type)]``; formats ``[(type or "", layout)]``; sizes in bytes.

    Raises:
        ValueError: it does not match trtexec's grammar.
    """
    readers: dict[Term, Callable[[str], Any]] = {
        Term.LAYERS: _pairs,
        Term.TYPES: lambda given: [(name, kind.split("+")[0]) for name, kind in _pairs(given, several=True)],
        Term.OBEY: lambda given: _one_of(given, "obey", "prefer", "none"),
        Term.INPUT_IO: _formats,
        Term.OUTPUT_IO: _formats,
        Term.PROFILE: int,
        Term.WORKSPACE: _pool,
        Term.TACTICS: _tactics,
        Term.TIMES: lambda given: _between(given, 1),
        Term.LEVEL: _level,
        Term.SPARSE: lambda given: _one_of(given, "enable", "disable", "force"),
        Term.HARDWARE: lambda given: _one_of(given, "none", "ampere+", "samecomputecapability"),
        **dict.fromkeys((Term.MIN, Term.OPT, Term.MAX, Term.SHAPES), _shapes),
    }
    return readers[term](text) if term in readers else text


def polygraphy_value(term: Term, words: Sequence[str]) -> Any:
    """Parse the value of a Polygraphy flag from the words after it; in the form of ``trtexec_value``.

    Raises:
        ValueError: it does not match Polygraphy's grammar.
    """
    one = words[0] if words else ""
    if term in (Term.MIN, Term.OPT, Term.MAX, Term.SHAPES):
        return dict(_named_shape(word) for word in _regrouped(words))
    if term in (Term.LAYERS, Term.TENSOR_IO):
        return [(name, type_word(kind)) for name, kind in (_last_colon(word) for word in words)]
    if term is Term.WORKSPACE:
        return _workspace(words)
    if term is Term.LEVEL:
        return _level(one)
    if term is Term.QUANTILE:
        return float(one)
    if term is Term.OBEY:
        return _one_of(one, "obey", "prefer", "none")
    if term is Term.HARDWARE:
        return hardware_word(one)
    if term in (Term.TACTICS, Term.GPUS):
        return [word.lower().removeprefix("tacticsource.") for word in words]
    return list(words) if term is Term.INPUTS else one


def _level(text: str) -> int:
    return _between(text, 0, 5)


def _between(text: str, least: int, most: int = 1 << 31) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError(text)
    return number


def _one_of(text: str, *known: str) -> str:
    if text.lower() not in known:
        raise ValueError(text)
    return text.lower()


def _split(text: str) -> list[str]:
    """Split at commas outside quotation marks, which enclose layer names with commas."""
    parts, quote = [""], ""
    for letter in text:
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        elif letter == "," and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part]


def _last_colon(text: str) -> tuple[str, str]:
    name, colon, value = text.rpartition(":")
    if not colon or not name:
        raise ValueError(text)
    return name.strip("'\""), value


def _pairs(text: str, several: bool = False) -> list[tuple[str, str]]:
    found = []
    for part in _split(text):
        name, kind = _last_colon(part)
        found.append((name, "+".join(map(_any_type, kind.split("+"))) if several else _any_type(kind)))
    if not found:
        raise ValueError(text)
    return found


def _any_type(kind: str) -> str:
    # layers of shape arithmetic have integer types
    return kind if kind in ("int32", "int64", "bool", "uint8") else type_word(kind)


def _shapes(text: str) -> dict[str, list[int]]:
    found = {}
    for part in _split(text):
        name, shape = _last_colon(part)
        if shape != _SCALAR and not _SHAPE.fullmatch(shape):
            raise ValueError(part)
        found[name] = [] if shape == _SCALAR else [int(size) for size in shape.lower().split("x")]
    if not found:
        raise ValueError(text)
    return found


def _formats(text: str) -> list[tuple[str, str]]:
    found = []
    for part in _split(text):
        match = _IO.fullmatch(part)
        if match is None:
            raise ValueError(part)
        found.append((match[1] or "", match[2].lower()))
    return found


def _tactics(text: str) -> list[str]:
    """The enabled tactic sources."""
    found = set(_ON_BY_DEFAULT)
    for part in _split(text.lower()):
        (found.discard if part.startswith("-") else found.add)(part.lstrip("+-"))
    return sorted(found)


def _pool(text: str) -> int | None:
    """Bytes of the workspace; None if only other pools are limited."""
    if ":" not in text:
        return _bytes(text)
    pools = dict(_last_colon(part) for part in _split(text))
    return _bytes(pools["workspace"]) if "workspace" in pools else None


def _bytes(text: str, unit: str = "") -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[(match[2] or unit).upper()])


def _workspace(words: Sequence[str]) -> int | None:
    """``_pool`` for Polygraphy's words, in which a number alone is in bytes."""
    if len(words) == 1 and ":" not in words[0]:
        return _bytes(words[0], "B")
    pools = dict(_last_colon(word) for word in words)
    return _bytes(pools["workspace"], "B") if "workspace" in pools else None


def _regrouped(words: Sequence[str]) -> list[str]:
    """Join the words of ``name:[1, 3, 8]``, which the shell may have split."""
    found: list[str] = []
    for word in words:
        if found and "[" in found[-1] and "]" not in found[-1]:
            found[-1] += word
        else:
            found.append(word)
    return found


def _named_shape(word: str) -> tuple[str, list[int]]:
    """``name:[1,3,8]``; older forms are ``name:1x3x8`` and ``name,1x3x8``."""
    name, _, shape = word.rpartition(":" if ":" in word else ",")
    sizes = re.split(r"[x,]", shape.strip("[]()").replace(" ", "").lower())
    if not name or not all(size.isdecimal() for size in sizes if size):
        raise ValueError(word)
    return name.strip("'\""), [int(size) for size in sizes if size]
