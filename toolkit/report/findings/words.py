"""Formatting of names, lists and figures within sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from toolkit.base.text import count, plain
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role

_LONG, _HEAD, _TAIL = 90, 60, 27


def joined(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def every(number: int) -> str:
    """``both`` or ``all 3``, before a plural."""
    return "both" if number == 2 else f"all {number}"


def clause(words: str) -> str:
    """A sentence as a clause: without its full stop, in lower case unless it begins with a name or an abbreviation."""
    first = words.partition(" ")[0]
    plain = first[1:].islower() or len(first) == 1
    return f"{words[:1].lower() if plain else words[:1]}{words[1:]}".rstrip(".")


def capital(words: str) -> str:
    """The words with a capital first letter."""
    return f"{words[:1].upper()}{words[1:]}"


def quoted(names: Sequence[str], most: int = 3) -> str:
    """``'a', 'b' and 4 more``."""
    shown = [f"'{plain(name)}'" for name in names[:most]]
    return joined([*shown, f"{len(names) - most} more"] if len(names) > most else shown)


def shortened(name: str) -> str:
    """A name with its middle left out if it is long: TensorRT lists a block's whole content in its name."""
    return name if len(name) <= _LONG else f"{name[:_HEAD]}...{name[-_TAIL:]}"


def db(level: float | str | None) -> str:
    """A level in decibels; numbers that are not finite come from findings as strings."""
    number = float(level) if level is not None else math.nan
    if math.isnan(number):
        return "NaN"
    return f"{number:.1f} dB" if math.isfinite(number) else ("exact" if number > 0 else "-inf dB")


def output_words(output: str, squashed_by: str | None = None) -> str:
    """An output's name, and the operator before it that maps it to a fixed range, if any."""
    return f"'{output}'{f' (after {squashed_by})' if squashed_by else ''}" if output else "the outputs"


def float_metric(metric: str, value: float, samples: int) -> str:
    """The beginning of a sentence about the float model's value of a metric."""
    return f"The float model's own {metric} is {value:.4g} on {count(samples, 'sample')}"


def percent(share: float | str, digits: int = 1) -> str:
    """A share in percent."""
    return f"{100 * float(share):.{digits}f} %"


def share_percent(share: float) -> str:
    """A share of the arithmetic in percent: only 0 is shown as 0 %, only 1 as 100 %."""
    value = 100 * share
    if 0 < value < 1:
        return f"{value:.2g} %"
    return percent(share if value == 100 else min(share, 0.999))


def times(ratio: float | str, digits: int = 3) -> str:
    """A ratio, without powers of ten below a million."""
    shown = f"{float(ratio):.{digits}g}"
    return f"{float(ratio):,.0f}" if "e+" in shown and float(ratio) < 1e6 else shown


def work_share(share: float, of: str = "macs") -> str:
    """A share of the arithmetic and its unit in words; ``of`` as in ``toolkit.graph.layers.work.Work``."""
    return f"{share_percent(share)} of the {'multiply-accumulates' if of == 'macs' else 'computing layers'}"


@lru_cache
def pass_for(role: Role) -> str:
    """The name of the installed pass with a role."""
    return pass_name(role)
