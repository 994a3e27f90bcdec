"""What the values of opened tensors told, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from toolkit.base.text import count
from toolkit.report.schema import LayerInfo


def opened_words(layers: Iterable[LayerInfo]) -> str:
    """How many opaque nodes computed as quantized and as float, by their values; empty where none was opened so."""
    inner = [layer.actual.opened for layer in layers if layer.actual.opened is not None]
    tally = Counter(one.values.verdict for one in inner if one.values is not None)
    if not tally:
        return ""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in tally.most_common())
    return f"{count(tally.total(), 'node')} inside opaque blocks, by their values once opened: {counts}"
