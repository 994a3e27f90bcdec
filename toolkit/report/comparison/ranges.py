"""Comparison of two files of ranges: tensors in only one of them, and the ratios, most different first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.files import write_text
from toolkit.base.text import text_of
from toolkit.contract.ranges import Ranges
from toolkit.report.page.html import asset, environment, script_hash, script_text

_HALF = 300


@dataclass
class RangesComparison:
    """The differences between two files of ranges.

    Attributes:
        labels: the names of the two files.
        ratios: (tensor, first amax, second amax, second / first).
        only_first: the tensors that only the first file has.
        only_second: those that only the second file has.
        other_models: whether the ranges are of different models.
    """

    labels: tuple[str, str]
    ratios: list[tuple[str, float, float, float]] = field(default_factory=list)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    other_models: bool = False

    @property
    def median_ratio(self) -> float | None:
        """The median of the ratios of tensors that both files have."""
        found = sorted(ratio for *_, ratio in self.ratios if math.isfinite(ratio))
        return found[len(found) // 2] if found else None

    def to_json(self) -> dict[str, Any]:
        """As JSON; the ratio to a range of zero is null."""
        return {
            "first": self.labels[0],
            "second": self.labels[1],
            "other_models": self.other_models,
            "median_ratio": self.median_ratio,
            "tensors": [
                {"tensor": name, "first": a, "second": b, "ratio": ratio if math.isfinite(ratio) else None}
                for name, a, b, ratio in self.ratios
            ],
            "only_first": self.only_first,
            "only_second": self.only_second,
        }

    def to_text(self) -> str:
        """As text, the largest differences first."""
        first, second = self.labels
        lines = ["The ranges are of DIFFERENT MODELS."] if self.other_models else []
        lines += [f"{len(self.ratios)} tensors in both, {len(self.only_first)} only in {first}, "
                 f"{len(self.only_second)} only in {second}"]  # fmt: skip
        if self.median_ratio is not None:
            lines.append(f"median ratio {self.median_ratio:.4f}")
        lines += [f"{'ratio':>10}  {'first amax':12} {'second amax':12} tensor"] if self.ratios else []
        lines += [f"{ratio:10.4f}  {a:<12.6g} {b:<12.6g} {name}" for name, a, b, ratio in self.ratios]
        lines += [f"only in {first}: {name}" for name in self.only_first]
        lines += [f"only in {second}: {name}" for name in self.only_second]
        return text_of(lines)

    def to_html(self) -> str:
        """As a self-contained HTML page: a plot of the ratios on a log scale, then the table."""
        shown = [(name, ratio) for name, _, _, ratio in self.ratios if math.isfinite(ratio) and ratio > 0]
        span = max((abs(math.log2(ratio)) for _, ratio in shown), default=1.0) or 1.0
        bars = []
        for name, ratio in shown:
            width = abs(math.log2(ratio)) / span * _HALF
            start = _HALF if ratio >= 1 else _HALF - width
            bars.append({"name": name, "ratio": ratio, "x": start, "width": max(width, 0.5)})
        first, second = self.labels
        script = script_text()
        return (
            environment()
            .get_template("ranges.html.jinja")
            .render(
                first=first,
                second=second,
                ratios=self.ratios,
                other_models=self.other_models,
                span=span,
                bars=bars,
                only=[(first, self.only_first), (second, self.only_second)],
                script=script,
                script_hash=script_hash(script),
                style=asset("style.css"),
                data="",
            )
        )


def compare_ranges(first: Ranges, second: Ranges, labels: tuple[str, str]) -> RangesComparison:
    """Compare two files of ranges by tensor name."""
    models = {str(one.made_from["model"]) for one in (first, second) if {"model", "settings"} <= one.made_from.keys()}
    found = RangesComparison(labels, other_models=len(models) > 1)
    for name in sorted({*first.tensors, *second.tensors}):
        if name not in second.tensors:
            found.only_first.append(name)
        elif name not in first.tensors:
            found.only_second.append(name)
        else:
            a, b = first.tensors[name].amax, second.tensors[name].amax
            found.ratios.append((name, a, b, b / a if a > 0 else (1.0 if b == 0 else math.inf)))
    found.ratios.sort(key=lambda entry: -abs(math.log(entry[3])) if 0 < entry[3] < math.inf else -math.inf)
    return found


def write_ranges_html(comparison: RangesComparison, path: Path) -> None:
    """Write the page atomically."""
    write_text(path, comparison.to_html())
