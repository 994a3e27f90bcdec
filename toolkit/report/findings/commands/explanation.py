"""Facts about one node and its tensors in words, for ``qtool explain`` and the page's panel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from toolkit.base.precision import Precision
from toolkit.report.findings.outputs.accuracy import IDENTICAL, NOT_FINITE, ZERO_SIGNAL
from toolkit.report.findings.words import share_percent
from toolkit.report.schema.engine import PayoffGroup
from toolkit.report.schema.report import Asked, Declined, LayerInfo, Measured, OpenedInfo, RangeInfo, word
from toolkit.report.schema.search import CauseInfo, LayerHarm

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8"}
_SAME_DB = 0.05
_WHY = ("why",)


class Chip(str):
    """The name of a precision, which the page shows in its colour."""


class Filling(str):
    """Words of a fact that differ from node to node.

    Attributes:
        figure: the layer's column in which a page finds these words: ``sqnr``, ``drop``, ``macs``, ``node``, ``why``,
            or ``time`` and a profile; empty if there is none, or if the page would format it differently.
    """

    # a page makes several for every node; with a dictionary of its own each takes longer
    __slots__ = ("figure",)
    figure: tuple[str, ...]


def _filling(words: str, *figure: str) -> Filling:
    made = Filling(words)
    made.figure = figure
    return made


class Fact(NamedTuple):
    """One fact about a node.

    Attributes:
        term: its subject.
        pieces: its words, in pieces shared with facts of other nodes, and ``Filling`` for those that are not.
    """

    term: str
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words of the fact."""
        return "".join(self.pieces)


class Known(NamedTuple):
    """The entries of a report that concern one node.

    Attributes:
        layer: the node.
        declined: the passes that declined it, with their reasons.
        harm: the cost of quantizing it at the model's output, if measured.
        kept: whether a bisection found that it must stay in float.
        causes: why it loses accuracy, for the worst layers.
        group: its time and that in the unquantized engine, if both were measured.
        against: the name of the unquantized engine.
        work_share: its share of the multiply-accumulates, 0 to 1, if known.
        other: its counterpart in another run.
        label: the name of the other run; empty if there is none.
    """

    layer: LayerInfo
    declined: Sequence[Declined] = ()
    harm: LayerHarm | None = None
    kept: bool = False
    causes: Sequence[CauseInfo] = ()
    group: PayoffGroup | None = None
    against: str = ""
    work_share: float | None = None
    other: LayerInfo | None = None
    label: str = ""


def decided(known: Known) -> list[Fact]:
    """The precisions of a node, with reasons; each ``Filling`` in these facts has the figure ``why``.

    Apart from these words, the facts are equal for nodes with equal ``decision``.
    """
    return [*_made(_types(known)), *_made(_reasons(known))]


def decision(known: Known) -> tuple[object, ...]:
    """Everything that ``decided`` depends on, except the words with the figure ``why``."""
    layer, asked, actual = known.layer, known.layer.asked, known.layer.actual
    why, asked_why = layer.why, asked.reason if asked is not None else ""
    # ``decided`` compares the reasons of declined nodes with these words
    shared = bool(why) and not known.declined
    return (
        (asked.precision, asked.by) if asked is not None else None,
        _WHY if shared and asked_why == why else asked_why,
        actual.precision,
        actual.source,
        layer.status,
        _WHY if shared and layer.reason == why else layer.reason,
        layer.remedy,
        tuple([(entry.by, entry.rule, entry.reason) for entry in known.declined]) if known.declined else (),
        # the other run's figures differ from node to node
        layer.node if known.label else "",
    )


def found(known: Known) -> Iterator[Fact]:
    """The other facts about a node: accuracy, time and work, and its layers in the engine."""
    if not _has_more(known):
        return
    opened = known.layer.actual.opened
    yield from _made(
        chain(_opened(opened) if opened is not None else (), _errors(known), _costs(known), _in_engine(known.layer))
    )


def _has_more(known: Known) -> bool:
    """Whether ``found`` yields anything; for most pairs and Casts of a large graph it does not."""
    layer, actual = known.layer, known.layer.actual
    return bool(
        layer.error is not None or layer.macs or layer.time_ms or layer.engine_layers or actual.opened is not None
        or actual.input_types or actual.output_types or known.harm is not None or known.kept or known.causes
        or known.group is not None
    )  # fmt: skip


def _made(words: Iterable[tuple[str, ...]]) -> Iterator[Fact]:
    for term, *pieces in words:
        yield Fact(term, tuple(filter(None, pieces)))


def _reason(layer: LayerInfo, asked: Asked | None = None) -> str:
    """The reason for a node's precision, or for ``asked``; as the figure ``why`` if equal to ``layer.why``."""
    words = layer.reason if asked is None else asked.reason
    return _filling(words, *_WHY) if words and words == layer.why else words


def _types(known: Known) -> Iterator[tuple[str, ...]]:
    """The requested and the actual precision, and those in the other run."""
    layer, asked, actual = known.layer, known.layer.asked, known.layer.actual
    if asked is not None and asked.precision is not None:
        by = (" by ", asked.by) if asked.by else ()
        yield "Requested", _chip(asked.precision), *by, ": ", _reason(layer, asked)
    if actual.precision is not None:
        yield "Runs in", _chip(actual.precision), f" {layer.status}, known from: {actual.source}"
    elif asked is not None and asked.precision is None:
        yield "Runs in", "no precision of its own: ", _reason(layer, asked), f" ({layer.status})"
    else:
        yield "Runs in", f"not known ({layer.status})"
    if known.label:
        yield f"In {known.label}", *_in_other(known.other)


def _reasons(known: Known) -> Iterator[tuple[str, ...]]:
    """The reasons for the node's precision, each once."""
    layer, asked = known.layer, known.layer.asked
    reasons = [asked.reason] if asked is not None and asked.precision is not None else []
    if layer.reason and layer.reason not in reasons:
        yield "Why", _reason(layer)
        reasons.append(layer.reason)
    if layer.remedy:
        yield "What to do", layer.remedy
    for entry in known.declined:
        # a pass that requests a float type gives the same reason twice
        said = any(one in entry.reason or entry.reason in one for one in reasons if one)
        yield "Declined", "by ", entry.by, ", rule ", entry.rule, *(() if said else (": ", entry.reason))
        reasons.append(entry.reason)


def _errors(known: Known) -> Iterator[tuple[str, ...]]:
    """The accuracy that the node costs, and why."""
    if known.layer.error is not None:
        yield "Error", *_error(known.layer)
    if known.harm is not None:
        yield "Sensitivity", *_harm(known.harm)
    if known.kept:
        yield "Bisection", "one of the layers that must stay in float for the check to pass"
    for cause in known.causes:
        yield "Cause", cause.text, ". Remedy: ", cause.remedy, "."


def _costs(known: Known) -> Iterator[tuple[str, ...]]:
    """The node's time, whether quantizing it paid, and its work."""
    layer = known.layer
    if layer.time_ms:
        yield "Time", *_times(layer.time_ms)
    if known.group is not None:
        yield from _paid(known.group, known.against)
    if layer.macs:
        share = () if known.work_share is None else (", ", share_percent(known.work_share), " of the model's")
        yield "Work", _filling(f"{layer.macs:,}", "macs"), " multiply-accumulates", *share


def _in_engine(layer: LayerInfo) -> Iterator[tuple[str, ...]]:
    actual = layer.actual
    if actual.input_types or actual.output_types:
        yield "Engine types", f"{', '.join(actual.input_types)} → {', '.join(actual.output_types)}"
    if layer.engine_layers:
        before, own, after = "; ".join(layer.engine_layers).partition(layer.node)
        yield "Engine layers", _filling(before), _filling(own, "node"), _filling(after)


def _chip(precision: Precision | None) -> Chip:
    return Chip(word(precision))


def _in_other(other: LayerInfo | None) -> Iterator[str]:
    if other is None:
        yield "no layer of this name"
        return
    yield from (_chip(other.asked_precision), " → ", _chip(other.actual.precision), f" {other.status}")
    if other.error is not None:
        yield from (", ", decibels(other.error), " dB" if other.error.sqnr_db is not None else "")
    yield from (f", {ms:.4g} ms" for ms in list(other.time_ms.values())[:1])


def _times(time_ms: Mapping[str, float]) -> Iterator[str]:
    for number, (name, ms) in enumerate(time_ms.items()):
        words = f"{ms:.4g}"
        # JavaScript formats such small and large numbers without an exponent
        figure = () if "e" in words else ("time", name)
        yield from (", " if number else "", _filling(words, *figure), f" ms in profile '{name}'")


def decibels(error: Measured | None) -> str:
    """An SQNR in words."""
    if error is None:
        return ""
    if error.identical:
        return IDENTICAL
    if error.incomparable:
        return NOT_FINITE
    return f"{error.sqnr_db:.1f}" if error.sqnr_db is not None else ZERO_SIGNAL


def _error(layer: LayerInfo) -> Iterator[str]:
    error = layer.error
    assert error is not None
    if error.sqnr_db is not None:
        words = f"{error.sqnr_db:.1f}"
        # JavaScript formats minus zero without its sign
        yield from (_filling(words, *(("sqnr",) if words != "-0.0" else ())), " dB SQNR at its output")
    else:
        yield from (decibels(error), " at its output")
    if error.drop_db is not None and abs(error.drop_db) < _SAME_DB:
        yield ", the same as at its inputs"
    elif error.drop_db is not None:
        yield from (
            ", ",
            _filling(f"{abs(error.drop_db):.1f}", "drop"),
            f" dB {'below' if error.drop_db > 0 else 'above'} its inputs",
        )
    if error.max_abs:
        yield from (", max abs difference ", _filling(f"{error.max_abs:.3g}"))


def _harm(harm: LayerHarm) -> Iterator[str]:
    if harm.alone_db is not None:
        yield from ("with it alone quantized ", _filling(f"{harm.alone_db:.1f}"), " dB at the model's output, ")
    if harm.without_db is not None:
        yield from ("with all but it ", _filling(f"{harm.without_db:.1f}"), " dB, ")
    yield from (share_percent(harm.share), " of the loss of all layers")
    if harm.kept:
        yield "; it stays in float"


def _opened(opened: OpenedInfo) -> Iterator[tuple[str, ...]]:
    yield "Opened", f"{word(opened.precision)} (source: {opened.source}), {opened.status}"
    values = opened.values
    if values is not None:
        levels = [
            f"{one.sqnr_db:.1f} dB" if one is not None and one.sqnr_db is not None else "no SQNR"
            for one in (values.engine, values.simulated)
        ]
        yield (
            "Opened values",
            f"'{values.tensor}' {values.verdict}; against the float model the engine has {levels[0]}, "
            f"the simulation {levels[1]}",
        )


def _paid(group: PayoffGroup, against: str) -> Iterator[tuple[str, ...]]:
    for profile, one in group.times.items():
        words = f"profile '{profile}': {one.ours_ms:.4g} ms, {one.other_ms:.4g} ms unquantized"
        words += f"; {one.reformat_ms:.4g} ms of it in reformats" if one.reformat_ms else ""
        words += f"; {one.qdq_ms:.4g} ms in Q/DQ kernels" if one.qdq_ms else ""
        words += f"; timed together with {len(group.nodes) - 1} more" if len(group.nodes) > 1 else ""
        yield f"Against {against.upper()}", words
    if group.why:
        yield "Does not pay", group.why


def tensor_words(dtype: str, shape: Sequence[int | str | None] | None) -> str:
    """A tensor's type and shape: fp16 8×3×32×32."""
    sizes = "" if shape is None else "×".join("?" if size is None else str(size) for size in shape) or "scalar"
    return " ".join(filter(None, (_SHORT.get(dtype, dtype), sizes)))


def folded_words(pair: bool, cast: bool, carried: str) -> str:
    """The conversions between a tensor and its reader; ``carried`` is the quantized type of a pair."""
    found = [f"in a Q/DQ pair as {_SHORT.get(carried, carried) or '?'}"] if pair else []
    return ", ".join([*found, *(["Cast"] if cast else [])])


def range_words(info: RangeInfo) -> str:
    """A tensor's range in words: amax with its method, observed values, and the clipped share."""
    words = f"±{info.amax:.4g}" + (f" ({info.method})" if info.method else "")
    if info.observed is not None:
        words += f", seen {info.observed[0]:.4g} to {info.observed[1]:.4g}"
    return words + (f", {share_percent(info.clipped)} clipped" if info.clipped else "")
