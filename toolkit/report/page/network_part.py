"""The data that a page's script needs to draw a network, and the choices of its controls."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from toolkit.base.precision import Precision
from toolkit.report.page.page_data import page_data
from toolkit.report.schema.report import LayerInfo, Report, word

_NO_FIGURES = (b"NaN", b"Infinity")


@dataclass(frozen=True)
class NetworkPart:
    """The drawing of one run's network, alone or compared with another run.

    Attributes:
        data: the script's input, see ``embed``.
        precisions: the precisions that occur.
        colours: the figures that layers can be coloured by, as (value, name).
        kernels: whether layers can be grouped by engine layers.
        reformats: whether reformats are known.
        differing: number of layers outlined in red.
        outlined: the meaning of the red outline.
    """

    data: str
    precisions: list[str]
    colours: list[tuple[str, str]]
    kernels: bool
    reformats: bool
    differing: int
    outlined: str


def network_part(report: Report, other: Mapping[str, LayerInfo] | None = None, label: str = "") -> NetworkPart | None:
    """The drawing of a run's network; None if the report has no tensors.

    Args:
        report: the run's report.
        other: the layers of the run to compare with, by the names of their counterparts in this run.
        label: the name of the other run.
    """
    if not report.tensors:
        return None
    layers = report.computing
    seen = {word(p) for layer in layers for p in (layer.asked_precision, layer.actual.precision)}
    if other is None:
        differing = sum(layer.status == "overridden" for layer in layers)
        outlined = "in another precision than requested"
    else:
        pairs = [(layer, other[layer.node]) for layer in layers if layer.node in other]
        differing = sum((a.actual.precision or a.asked_precision) != (b.actual.precision or b.asked_precision)
                        for a, b in pairs)  # fmt: skip
        outlined = f"in another precision than in {label}"
    return NetworkPart(
        data=embed(page_data(report, other, label)),
        precisions=[str(one) for one in Precision if str(one) in seen],
        colours=_colours(report, other),
        kernels=any(layer.engine_layers for layer in layers),
        reformats=report.payoff is not None and bool(report.payoff.against),
        differing=differing,
        outlined=outlined,
    )


def embed(content: Any) -> str:
    """JSON for the page's script, compressed by zlib, in base 64, so that no name can end the element or run as code.

    Raises:
        ValueError: a figure is NaN or infinite, which no report holds.
    """
    try:
        text = to_json(content, inf_nan_mode="constants")
    except PydanticSerializationError:
        # half of a surrogate pair, as in a file name that is not UTF-8
        plain = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text = plain.encode("utf-8", "surrogatepass")
    if any(word in text for word in _NO_FIGURES):
        # in names they may be; as figures json refuses them
        json.dumps(content, allow_nan=False)
    return base64.b64encode(zlib.compress(text, 6)).decode()


def _colours(report: Report, other: Mapping[str, LayerInfo] | None) -> list[tuple[str, str]]:
    runs = [report.layers, *([list(other.values())] if other is not None else [])]
    errors = [any(layer.error is not None for layer in layers) for layers in runs]
    times = [any(layer.time_ms for layer in layers) for layers in runs]
    found = [("precision", "precision")]
    if other is not None and all(errors):
        found.append(("lost", "SQNR lost"))
    if other is not None and all(times):
        found.append(("slower", "time lost"))
    if errors[0]:
        found.append(("level", "error (SQNR)"))
    if times[0]:
        found.append(("time", "time"))
    if report.harms:
        found.append(("harm", "sensitivity"))
    if any(layer.macs for layer in report.layers):
        found.append(("macs", "share of the work"))
    return found
