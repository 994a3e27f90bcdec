"""The geometry of the picture of what each layer costs at the output. The template only draws."""

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
    """One layer: where its figures lie, from the top of the picture; None where they are infinite or not known."""

    harm: LayerHarm
    x: float
    alone: float | None
    without: float | None
    bar: float


@dataclass(frozen=True)
class HarmsChart:
    """The picture: dots of SQNR with one layer alone quantized and with all but it, bars of its share of the loss.

    ``left_out`` is how many layers with the smallest shares are not drawn.
    """

    columns: list[HarmColumn]
    step: float
    full: float | None
    ticks: list[tuple[float, str]]
    left_out: int
    most: float


def harms_chart(harms: Sequence[LayerHarm], order: Mapping[str, int], full_db: float | None) -> HarmsChart | None:
    """The picture of layers in the graph's order; None where no figure is finite.

    Args:
        harms: the layers, the costliest first.
        order: each node's place in the graph.
        full_db: SQNR with every layer quantized, of the worst output: a layer that is judged at another output has no
            mark beside it.
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
