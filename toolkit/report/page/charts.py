"""The geometry of the page's charts: positions of bars, ticks and points, which the templates draw.

Lengths are in units of the viewBox.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from toolkit.report.schema.report import NONE, LayerInfo, RangeInfo, word

WIDTH = 1000.0
ERROR_HEIGHT = 180.0
_MOST_DOTS = 600
_MOST_BINS = 30
_MOST_COLUMNS = 500
_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", "S1")
_STEEPNESS = 1000.0
_SCALE = (len(_DIGITS) - 1) / math.log1p(_STEEPNESS)


@dataclass(frozen=True)
class Bar:
    """One bar of a strip: consecutive layers of one precision, or their share of a column (``y``, ``height``)."""

    x: float
    width: float
    precision: str
    y: float = 0.0
    height: float = 1.0


@dataclass(frozen=True)
class Dot:
    """The error of one layer: its position, the layer, and its number if marked (else 0)."""

    x: float
    y: float
    precision: str
    layer: LayerInfo
    rank: int = 0


@dataclass(frozen=True)
class PrecisionMap:
    """Strips of requested and actual precision over the layers in graph order, and the error below them."""

    asked: list[Bar]
    actual: list[Bar]
    line: str
    dots: list[Dot]
    marked: list[Dot]
    ticks: list[tuple[float, str]]
    step: float
    precisions: list[str] = field(default_factory=list)


def precision_map(layers: Sequence[LayerInfo], marked: Sequence[LayerInfo]) -> PrecisionMap:
    """The precision map of the computing layers, with ``marked`` numbered from 1."""
    step = WIDTH / max(len(layers), 1)
    asked = [word(layer.asked_precision) for layer in layers]
    actual = [word(layer.actual.precision) for layer in layers]
    levels = [_level(layer) for layer in layers]
    finite = [level for level in levels if level is not None and math.isfinite(level)]
    low, high, gap = _scale(finite)
    ranks = {layer.node: number for number, layer in enumerate(marked, 1)}

    def height(level: float) -> float:
        inside = min(max(level, low), high)
        return round(ERROR_HEIGHT * (1 - (inside - low) / (high - low)), 1)

    def point(index: int) -> tuple[float, float]:
        return round((index + 0.5) * step, 2), height(measured[index])

    def dot(index: int) -> Dot:
        return Dot(*point(index), actual[index], layers[index], ranks.get(layers[index].node, 0))

    measured = {index: level for index, level in enumerate(levels) if level is not None}
    line = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(map(point, _extremes(measured))))
    shown = map(dot, [index for index in measured if layers[index].node in ranks]) if ranks else ()
    ticks = [(height(low + gap * i), f"{low + gap * i:g}") for i in range(round((high - low) / gap) + 1)]
    return PrecisionMap(
        asked=_bars(asked, step), actual=_bars(actual, step), line=line,
        dots=list(map(dot, measured)) if len(measured) <= _MOST_DOTS else [],
        marked=sorted(shown, key=lambda dot: dot.rank),
        ticks=ticks if finite else [], step=step, precisions=sorted({*asked, *actual} - {NONE}),
    )  # fmt: skip


def _extremes(levels: Mapping[int, float]) -> list[int]:
    """The layers, or, if they are closer than a pixel, the highest and the lowest of each column, in order."""
    layers = list(levels)
    each = math.ceil(len(layers) / _MOST_COLUMNS)
    if each <= 2:
        return layers
    parts = [layers[start : start + each] for start in range(0, len(layers), each)]
    height = levels.__getitem__
    return [index for part in parts for index in sorted((max(part, key=height), min(part, key=height)))]


def histogram_digits(ranges: Iterable[RangeInfo]) -> list[str]:
    """Histograms, one base-36 digit per bin, on a log scale, which shows the thin tail beyond amax; empty for none."""
    counted = [info.histogram or [] for info in ranges]
    found = [""] * len(counted)
    alike: dict[int, list[int]] = defaultdict(list)
    for index, bins in enumerate(counted):
        alike[len(bins)].append(index)
    for length in alike.keys() - {0}:
        of = np.array([counted[index] for index in alike[length]], np.float64)
        merged = np.add.reduceat(of, range(0, length, math.ceil(length / _MOST_BINS)), axis=1)
        top = merged.max(axis=1, keepdims=True)
        shares = merged.clip(0) / np.where(top == 0, 1.0, top)
        digits = _DIGITS[np.rint(_SCALE * np.log1p(_STEEPNESS * shares)).astype(int)]
        for index, row in zip(alike[length], digits):
            found[index] = row.tobytes().decode()
    return found


def histogram_path(info: RangeInfo, width: float = 120.0, height: float = 28.0) -> str:
    """A range's histogram as an SVG path."""
    (digits,) = histogram_digits([info])
    if not digits:
        return ""
    step = width / len(digits)
    path = f"M0 {height:g}"
    for index, digit in enumerate(digits):
        y = round(height * (1 - int(digit, 36) / (len(_DIGITS) - 1)), 1)
        path += f"L{index * step:.1f} {y:g}L{(index + 1) * step:.1f} {y:g}"
    return path + f"L{width:g} {height:g}Z"


def amax_mark(info: RangeInfo, width: float = 120.0) -> float | None:
    """The position of amax on the histogram's axis; None if the axis is not known."""
    largest = max(abs(info.observed[0]), abs(info.observed[1])) if info.observed else 0.0
    return round(width * min(info.amax / largest, 1.0), 1) if largest > 0 else None


def _bars(words: Sequence[str], step: float) -> list[Bar]:
    """Bars over the layers: runs of one precision, or, if layers are narrower than a pixel, stacked columns."""
    if len(words) > _MOST_COLUMNS:
        return _columns(words, step)
    bars: list[Bar] = []
    start = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or words[index] != words[start]:
            bars.append(Bar(round(start * step, 2), round((index - start) * step, 2), words[start]))
            start = index
    return bars


def _columns(words: Sequence[str], step: float) -> list[Bar]:
    each = math.ceil(len(words) / _MOST_COLUMNS)
    bars: list[Bar] = []
    for start in range(0, len(words), each):
        part = words[start : start + each]
        tally = Counter(part)
        y = 0.0
        for name in sorted(tally):
            height = tally[name] / len(part)
            bars.append(Bar(round(start * step, 2), round(len(part) * step, 2), name, round(y, 3), round(height, 3)))
            y += height
    return bars


def _level(layer: LayerInfo) -> float | None:
    """The layer's SQNR in dB for the chart: infinity if identical, minus infinity if NaN or infinity occurred."""
    if layer.error is None:
        return None
    if layer.error.identical:
        return math.inf
    return -math.inf if layer.error.incomparable else layer.error.sqnr_db


def _scale(levels: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, upper end and step of an axis with round numbers that includes ``levels``."""
    if not levels:
        return 0.0, 60.0, 20.0
    low, high = min(levels), max(levels)
    gap = next((g for g in (2.0, 5.0, 10.0, 20.0, 50.0) if (high - low) / g <= 5), 100.0)
    bottom = math.floor(low / gap) * gap
    top = max(math.ceil(high / gap) * gap, bottom + gap)
    return bottom, top, gap
