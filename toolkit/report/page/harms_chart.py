"""The geometry of the chart of each layer's cost at the output, which the template draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.report.page.search_chart import WIDTH, axis
from toolkit.report.schema.search import LayerHarm

HEIGHT, BARS = 200.0, 60.0
_MOST = 500


@dataclass(frozen=True)
class HarmColumn:
    """One layer: the positions of its figures, from the top of the chart; None if infinite or not known."""

    harm: LayerHarm
    x: float
    alone: float | None
    without: float | None
    bar: float


@dataclass(frozen=True)
class HarmsChart:
    """The chart: by layer, dots of SQNR with only it and with all but it quantized, and a bar of its share of the loss.

    ``left_out`` counts the layers with the smallest shares, which are not drawn.
    """

    columns: list[HarmColumn]
    step: float
    full: float | None
    ticks: list[tuple[float, str]]
    left_out: int
    most: float


def harms_chart(harms: Sequence[LayerHarm], order: Mapping[str, int], full_db: float | None) -> HarmsChart | None:
    """The chart of the layers in graph order; None if no figure is finite.

    Args:
        harms: the layers, the costliest first.
        order: each node's position in the graph.
        full_db: SQNR in dB of the worst output with every layer quantized; a layer judged at another output has no
            ``without`` dot.
    """
    shown = sorted(harms[:_MOST], key=lambda harm: order.get(harm.node, len(order)))
    levels = [db for harm in shown for db in (harm.alone_db, harm.without_db) if db is not None and math.isfinite(db)]
    known = [*levels, *([full_db] if full_db is not None and math.isfinite(full_db) else [])]
    if not known:
        return None
    low, high, gap = axis(known)
    most = max((harm.share for harm in shown), default=0.0) or 1.0
    step = WIDTH / len(shown) if shown else WIDTH

    def place(db: float | None) -> float | None:
        return round(HEIGHT * (1 - (db - low) / (high - low)), 1) if db is not None and math.isfinite(db) else None

    return HarmsChart(
        columns=[
            HarmColumn(harm, round((index + 0.5) * step, 1), place(harm.alone_db),
                       place(harm.without_db) if harm.full_db in (None, full_db) else None,
                       round(BARS * harm.share / most, 1))
            for index, harm in enumerate(shown)
        ],
        step=step,
        full=place(full_db),
        ticks=[(place(low + gap * i) or 0.0, f"{low + gap * i:g}") for i in range(round((high - low) / gap) + 1)],
        left_out=max(0, len(harms) - _MOST),
        most=most,
    )  # fmt: skip
