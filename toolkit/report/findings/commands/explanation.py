"""Facts about one node and its tensors in words, for ``qtool explain`` and the page's panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

from toolkit.base.precision import Precision
from toolkit.report.findings.outputs.accuracy import IDENTICAL, NOT_FINITE, ZERO_SIGNAL
from toolkit.report.findings.words import share_percent
from toolkit.report.schema.engine import PayoffGroup
from toolkit.report.schema.report import Declined, LayerError, LayerInfo, Measured, OpenedInfo, RangeInfo, word
from toolkit.report.schema.search import CauseInfo, LayerHarm

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8"}
_SAME_DB = 0.05


class Chip(str):
    """The name of a precision, which the page shows in its colour."""


class Blank(NamedTuple):
    """The place of words in a fact that differ from node to node.

    Attributes:
        figure: the layer's column in which a page finds these words: ``sqnr``, ``drop``, ``macs``, ``node``, ``why``,
            or ``time`` and a profile; empty if there is none, or if the page would format it differently.
    """

    figure: tuple[str, ...] = ()


_WHY = Blank(("why",))
FactPiece = str | Blank
Pieces = tuple[FactPiece, ...]
"""The term of a fact and the pieces of its words."""


class Fact(NamedTuple):
    """One fact about a node: its subject, and its words."""

    term: str
    text: str


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


class RareFacts(NamedTuple):
    """Facts that few nodes have, by their place among the others."""

    other_run: tuple[Pieces, ...] = ()
    declined: tuple[Pieces, ...] = ()
    sensitivity: tuple[Pieces, ...] = ()
    paid: tuple[Pieces, ...] = ()


class FactKind(NamedTuple):
    """Everything that the pieces of a node's facts depend on; a large network has few kinds of nodes.

    Attributes:
        asked: the requested precision, the pass that requests it, and the reason.
        actual: the actual precision, and how it is known.
        status: of the node.
        reason: why it runs in its precision, if that is not the reason of the request.
        remedy: what to do if the two precisions differ.
        rare: facts that few nodes have.
        error: if it is measured, the words in place of its SQNR, if there is none; whether the SQNR is rounded to minus
            zero; by ``same``, ``below`` or ``above`` how it compares with the inputs', empty if not known; and whether
            the largest difference is known, and not 0.
        times: by profile, whether Python writes the time as a power of ten.
        work: the share of the model's work in words, empty if not known; None for no work.
        types: the types of its inputs and outputs in the engine.
        layers: whether its engine layers have words before its name, its name, and words after it.
    """

    asked: tuple[Precision | None, str, FactPiece] | None
    actual: tuple[Precision | None, str]
    status: str
    reason: FactPiece
    remedy: str
    rare: RareFacts
    error: tuple[str, bool, str, bool] | None
    times: tuple[tuple[str, bool], ...]
    work: str | None
    types: tuple[tuple[str, ...], tuple[str, ...]] | None
    layers: tuple[bool, ...]


_NO_RARE = RareFacts()


def facts(known: Known) -> list[Fact]:
    """The facts about a node, those asked for most often first."""
    kind, words = kind_of(known)
    own = iter(words)
    return [
        Fact(str(term), "".join(next(own) if isinstance(one, Blank) else one for one in pieces))
        for term, *pieces in wording(kind)
    ]


def kind_of(known: Known) -> tuple[FactKind, list[str]]:
    """The kind of a node, and its words for the blanks in the facts of this kind, in order."""
    layer, actual = known.layer, known.layer.actual
    words: list[str] = []
    asked, reason = _reasons(layer, words)
    error = _error(layer.error, words) if layer.error is not None else None
    rare = _rare(known, words) if _has_rare(known) else _NO_RARE
    times = _times(layer.time_ms, words) if layer.time_ms else ()
    work = None
    if layer.macs:
        words.append(f"{layer.macs:,}")
        work = "" if known.work_share is None else share_percent(known.work_share)
    types = None
    if actual.input_types or actual.output_types:
        types = tuple(actual.input_types), tuple(actual.output_types)
    layers = _engine_layers(layer, words) if layer.engine_layers else ()
    runs_in = actual.precision, actual.source
    return FactKind(asked, runs_in, layer.status, reason, layer.remedy, rare, error, times, work, types, layers), words


def _reasons(layer: LayerInfo, words: list[str]) -> tuple[tuple[Precision | None, str, FactPiece] | None, FactPiece]:
    """The attributes ``asked`` and ``reason`` of a node's kind; reasons equal to ``layer.why`` are blank."""
    asked, why, reason = layer.asked, layer.why, layer.reason
    request = None
    # a type that is not requested matters only if the actual one is not known
    if asked is not None and (asked.precision is not None or layer.actual.precision is None):
        request = asked.precision, asked.by, _piece(asked.reason, why, words)
        reason = "" if asked.precision is not None and asked.reason == reason else reason
    return request, _piece(reason, why, words)


def _piece(reason: str, why: str, words: list[str]) -> FactPiece:
    if not reason or reason != why:
        return reason
    words.append(reason)
    return _WHY


def _error(error: LayerError, words: list[str]) -> tuple[str, bool, str, bool]:
    unmeasured, minus_zero, side = "", False, ""
    if error.sqnr_db is None:
        unmeasured = decibels(error)
    else:
        words.append(f"{error.sqnr_db:.1f}")
        minus_zero = words[-1] == "-0.0"
    if error.drop_db is not None and abs(error.drop_db) < _SAME_DB:
        side = "same"
    elif error.drop_db is not None:
        words.append(f"{abs(error.drop_db):.1f}")
        side = "below" if error.drop_db > 0 else "above"
    if error.max_abs:
        words.append(f"{error.max_abs:.3g}")
    return unmeasured, minus_zero, side, bool(error.max_abs)


def _times(time_ms: Mapping[str, float], words: list[str]) -> tuple[tuple[str, bool], ...]:
    own = [f"{ms:.4g}" for ms in time_ms.values()]
    words += own
    return tuple([(name, "e" in time) for name, time in zip(time_ms, own)])


def _engine_layers(layer: LayerInfo, words: list[str]) -> tuple[bool, ...]:
    parts = "; ".join(layer.engine_layers).partition(layer.node)
    words += filter(None, parts)
    return tuple(map(bool, parts))


def _has_rare(known: Known) -> bool:
    return bool(known.label or known.declined or known.layer.actual.opened is not None or known.harm is not None
                or known.kept or known.causes or known.group is not None)  # fmt: skip


def _rare(known: Known, words: list[str]) -> RareFacts:
    opened = known.layer.actual.opened
    return RareFacts(
        ((f"In {known.label}", *_in_other(known.other)),) if known.label else (),
        (*_declined(known), *(_opened(opened) if opened is not None else ())),
        (*_sensitivity(known, words),),
        (*_paid(known.group, known.against),) if known.group is not None else (),
    )


def _declined(known: Known) -> Iterator[Pieces]:
    layer, asked = known.layer, known.layer.asked
    reasons = [asked.reason if asked is not None and asked.precision is not None else "", layer.reason]
    for entry in known.declined:
        # a pass that requests a float type gives the same reason twice
        said = any(one in entry.reason or entry.reason in one for one in reasons if one)
        yield "Declined", "by ", entry.by, ", rule ", entry.rule, *(() if said else (": ", entry.reason))
        reasons.append(entry.reason)


def _sensitivity(known: Known, words: list[str]) -> Iterator[Pieces]:
    """The accuracy that quantizing the node costs, and why."""
    if known.harm is not None:
        levels = (("with it alone quantized ", known.harm.alone_db, " dB at the model's output, "),
                  ("with all but it ", known.harm.without_db, " dB, "))  # fmt: skip
        there = [(before, level, after) for before, level, after in levels if level is not None]
        words += (f"{level:.1f}" for _, level, _ in there)
        pieces = [piece for before, _, after in there for piece in (before, Blank(), after)]
        kept = "; it stays in float" if known.harm.kept else ""
        yield "Sensitivity", *pieces, share_percent(known.harm.share), " of the loss of all layers", kept
    if known.kept:
        yield "Bisection", "one of the layers that must stay in float for the check to pass"
    for cause in known.causes:
        yield "Cause", cause.text, ". Remedy: ", cause.remedy, "."


def wording(kind: FactKind) -> list[Pieces]:
    """The facts about nodes of a kind, with blanks for the words of each node, and without empty pieces."""
    every = (*_types_pieces(kind), *_error_pieces(kind), *_cost_pieces(kind), *_engine_pieces(kind))
    return [tuple(filter(None, pieces)) for pieces in every]


def _types_pieces(kind: FactKind) -> Iterator[Pieces]:
    """The requested and the actual precision, that in the other run, and the reasons, each once."""
    (precision, source), asked = kind.actual, kind.asked
    if asked is not None and asked[0] is not None:
        by = (" by ", asked[1]) if asked[1] else ()
        yield "Requested", _chip(asked[0]), *by, ": ", asked[2]
    if precision is not None:
        yield "Runs in", _chip(precision), f" {kind.status}, known from: {source}"
    elif asked is not None and asked[0] is None:
        yield "Runs in", "no precision of its own: ", asked[2], f" ({kind.status})"
    else:
        yield "Runs in", f"not known ({kind.status})"
    yield from kind.rare.other_run
    if kind.reason:
        yield "Why", kind.reason
    if kind.remedy:
        yield "What to do", kind.remedy
    yield from kind.rare.declined


def _error_pieces(kind: FactKind) -> Iterator[Pieces]:
    if kind.error is not None:
        unmeasured, minus_zero, side, differs = kind.error
        level: Pieces = (unmeasured, " at its output")
        if not unmeasured:
            # JavaScript formats minus zero without its sign
            level = Blank(() if minus_zero else ("sqnr",)), " dB SQNR at its output"
        drop: Pieces = (", ", Blank(("drop",)), f" dB {side} its inputs") if side else ()
        if side == "same":
            drop = (", the same as at its inputs",)
        yield "Error", *level, *drop, *((", max abs difference ", Blank()) if differs else ())
    yield from kind.rare.sensitivity


def _cost_pieces(kind: FactKind) -> Iterator[Pieces]:
    """The node's time, whether quantizing it paid, and its work."""
    pieces: list[FactPiece] = []
    for name, in_power in kind.times:
        # JavaScript formats such small and large numbers without an exponent
        figure = () if in_power else ("time", name)
        pieces += (", " if pieces else "", Blank(figure), f" ms in profile '{name}'")
    if pieces:
        yield "Time", *pieces
    yield from kind.rare.paid
    if kind.work is not None:
        share = (", ", kind.work, " of the model's") if kind.work else ()
        yield "Work", Blank(("macs",)), " multiply-accumulates", *share


def _engine_pieces(kind: FactKind) -> Iterator[Pieces]:
    if kind.types is not None:
        inputs, outputs = map(", ".join, kind.types)
        yield "Engine types", f"{inputs} → {outputs}"
    if kind.layers:
        yield "Engine layers", *compress((Blank(), Blank(("node",)), Blank()), kind.layers)


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


def decibels(error: Measured | None) -> str:
    """An SQNR in words."""
    if error is None:
        return ""
    if error.identical:
        return IDENTICAL
    if error.incomparable:
        return NOT_FINITE
    return f"{error.sqnr_db:.1f}" if error.sqnr_db is not None else ZERO_SIGNAL


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
