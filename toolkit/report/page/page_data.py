"""The input of the page's script: a report as columns, with each text stored once and numbers rounded as displayed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from toolkit.base.text import plain
from toolkit.report.explain import NodeFacts
from toolkit.report.findings.commands.explanation import Blank, Chip, FactKind, FactPiece, kind_of, range_words, wording
from toolkit.report.page.charts import histogram_digits
from toolkit.report.page.outline import Outline, outline, scope_of
from toolkit.report.page.packing import first_seen, packed_texts, steps
from toolkit.report.schema.report import LayerInfo, Measured, RangeInfo, Report, word
from toolkit.report.sections.describe import unlike_profiles
from toolkit.report.sections.wiring import Connection, Wiring, on_data

_NEXT = (0,)


class _Texts(dict[str, int]):
    """Numbers of texts, each stored once."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __missing__(self, text: str) -> int:
        self[text] = number = len(self.all)
        self.all.append(plain(text))
        return number

    def column(self, texts: Iterable[str]) -> list[int]:
        """The numbers of texts, encoded by ``first_seen``."""
        return first_seen(map(self.__getitem__, texts))


def page_data(report: Report, other: Mapping[str, LayerInfo] | None = None, label: str = "") -> dict[str, Any]:
    """The content of a page's data element; data.js documents the columns.

    Args:
        report: the run to show.
        other: the layers of the run to compare with, by the names of their counterparts in this run.
        label: the name of the other run.
    """
    texts, known = _Texts(), NodeFacts(report, other, label)
    wires = known.wiring
    nodes = {layer.node: index for index, layer in enumerate(report.layers)}
    tensors = _tensors(report, wires)
    numbers = {name: number for number, name in enumerate(tensors)}
    inner = [(wire.source, wire.target) for wire in wires.connections if wire.source >= 0 and wire.target >= 0]
    outlines = partial(outline, edges=inner, names=list(map(_short_name, report.layers)))
    built = any(layer.engine_layers for layer in report.layers)
    return {
        "layers": _layers(report.layers, on_data(report.layers, wires), texts),
        "tensors": {
            "name": packed_texts(map(plain, tensors)),
            "words": texts.column(known.carries(name) for name in tensors),
        },
        "edges": [*_edges(wires.connections, numbers), texts.column(map(known.between, wires.connections))],
        "weights": [*_edges(wires.weights, numbers), texts.column(map(known.between, wires.weights))],
        "facts": _facts(report, known, texts),
        "beside": [steps(column) for column in zip(*sorted(wires.readers.items()))] or [[], []],
        "scopes": _groups(outlines(_paths(report, wires)), texts),
        "kernels": _groups(outlines(_kernels(report, wires)), texts) if built else None,
        "ranges": _ranges(report.ranges or [], numbers, texts),
        "declined": [
            steps(_node(nodes, texts, entry.node) for entry in report.declined),
            *(texts.column(getattr(entry, key) for entry in report.declined) for key in ("op", "rule", "reason", "by")),
        ],
        "harms": _harms(report, nodes),
        "reformats": _reformats(report, nodes),
        "inputs": [plain(tensor.name) for tensor in report.model.inputs],
        "other": _other(report, other, label, texts) if other is not None else None,
        "outputs": [plain(name) for name in wires.outputs],
        "texts": packed_texts(texts.all),
    }  # fmt: skip


def shape_words(shape: Sequence[int | str | None] | None) -> str:
    """A shape in words: batch × 1 × 8 × 8."""
    if shape is None:
        return "?"
    return " × ".join("?" if s is None else str(s) for s in shape) or "scalar"


def _facts(report: Report, known: NodeFacts, texts: _Texts) -> list[list[Any]]:
    """Columns: sentences, each sentence's fillings in layer order, each layer's number of sentences, and which.

    A sentence is JSON of its term and its pieces. A piece is the number of a text, or -1 minus that number for a
    precision; a list names a figure of the layer (see ``Blank``), or is [0] for the next filling.
    """
    kinds, fillings, of = _Kinds(texts), defaultdict[int, list[str]](list), list[list[int]]()
    for layer in report.layers:
        kind, words = kind_of(known.known(layer))
        sentences, own = kinds[kind]
        of.append(sentences)
        for number, place in own:
            fillings[number].append(plain(words[place]))
    packed = packed_texts(json.dumps(one, separators=(",", ":")) for one in kinds.numbers)
    words_of = [fillings[number] for number in range(len(kinds.numbers))]
    return [[*packed], words_of, list(map(len, of)), first_seen(chain.from_iterable(of))]


class _Kinds(dict[FactKind, tuple[list[int], list[tuple[int, int]]]]):
    """By kind of nodes: the numbers of their sentences, and (sentence, place) of each word that no figure gives."""

    def __init__(self, texts: _Texts) -> None:
        self.numbers: dict[tuple[Any, ...], int] = {}
        self._texts = texts

    def __missing__(self, kind: FactKind) -> tuple[list[int], list[tuple[int, int]]]:
        sentences, blanks = [], list[tuple[int, Blank]]()
        for pieces in wording(kind):
            sentence = tuple([_piece(one, self._texts) for one in pieces])
            sentences.append(self.numbers.setdefault(sentence, len(self.numbers)))
            blanks += [(sentences[-1], one) for one in pieces if isinstance(one, Blank)]
        own = [(number, place) for place, (number, one) in enumerate(blanks) if not one.figure]
        self[kind] = sentences, own
        return sentences, own


def _piece(piece: FactPiece, texts: _Texts) -> int | tuple[str | int, ...]:
    if isinstance(piece, Blank):
        return tuple(map(plain, piece.figure)) or _NEXT
    return -1 - texts[piece] if isinstance(piece, Chip) else texts[piece]


def _layers(layers: Sequence[LayerInfo], data: Container[int], texts: _Texts) -> dict[str, Any]:
    profiles = list(dict.fromkeys(name for layer in layers if layer.time_ms for name in layer.time_ms))
    # nodes that process data are drawn, unlike others without float computation
    roles = ["data" if index in data else layer.role for index, layer in enumerate(layers)]
    errors = [layer.error for layer in layers]
    return {
        "node": packed_texts([plain(layer.node) for layer in layers]),
        "op": texts.column([layer.op for layer in layers]),
        "role": texts.column(roles),
        "asked": texts.column([word(layer.asked_precision) for layer in layers]),
        "actual": texts.column([word(layer.actual.precision) for layer in layers]),
        "status": texts.column([layer.status for layer in layers]),
        "why": texts.column([layer.why for layer in layers]),
        "sqnr": [None if error is None else _level(error) for error in errors],
        "drop": [None if error is None else _places(error.drop_db) for error in errors],
        "macs": [layer.macs for layer in layers],
        "profiles": [plain(name) for name in profiles],
        "time": [[_digits(layer.time_ms.get(name), 4) for layer in layers] for name in profiles],
    }


def _other(report: Report, other: Mapping[str, LayerInfo], label: str, texts: _Texts) -> dict[str, Any]:
    """The other run's figures for the layers of this run; null for a layer that it lacks."""
    there = [other.get(layer.node) for layer in report.layers]
    profile = next((name for layer in report.layers for name in layer.time_ms), "")
    return {
        "label": plain(label),
        "asked": [None if one is None else texts[word(one.asked_precision)] for one in there],
        "actual": [None if one is None else texts[word(one.actual.precision)] for one in there],
        "sqnr": [None if one is None else _level(one.error) for one in there],
        "time": [None if one is None else _digits(one.time_ms.get(profile), 4) for one in there],
    }


def _level(error: Measured | None) -> float | str | None:
    """SQNR in dB; "=" if identical to float, "!" if NaN or infinity occurred."""
    if error is None or error.sqnr_db is not None:
        return _places(error.sqnr_db) if error is not None else None
    return "=" if error.identical else "!" if error.incomparable else None


def _digits(value: float | None, count: int) -> float | None:
    return None if value is None else float(f"{value:.{count}g}")


def _places(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _tensors(report: Report, wires: Wiring) -> list[str]:
    named = [name for wire in (*wires.connections, *wires.weights) for name in (wire.tensor, wire.carried)]
    return list(dict.fromkeys([*named, *(info.tensor for info in report.ranges or ())]))


def _edges(found: Sequence[Connection], numbers: dict[str, int]) -> list[list[int]]:
    """Columns of connections: source, target, tensor, carried tensor (relative to the tensor) and marks."""
    return [
        steps(wire.source for wire in found),
        steps(wire.target for wire in found),
        steps(numbers[wire.tensor] for wire in found),
        [numbers[wire.carried] - numbers[wire.tensor] for wire in found],
        [int(wire.marks) for wire in found],
    ]


def _paths(report: Report, wires: Wiring) -> list[Sequence[str] | None]:
    scopes = lru_cache(scope_of)
    # neighbours in the graph share their scopes
    return [None if one else scopes(layer.node.rpartition("/")[0] + "/")
            for layer, one in zip(report.layers, wires.folded)]  # fmt: skip


def _kernels(report: Report, wires: Wiring) -> list[Sequence[str] | None]:
    return [None if one else layer.engine_layers[:1] for layer, one in zip(report.layers, wires.folded)]


def _groups(found: Outline, texts: _Texts) -> list[list[int]]:
    """Columns of groups: titles and parents, then the group of every layer."""
    return [texts.column(found.titles), found.parents, steps(found.of)]


def _short_name(layer: LayerInfo) -> str:
    """The last part of a name; if that is only the operator, the part before it."""
    parts = layer.node.split("/")[-2:]
    return parts[0] if parts[-1] == layer.op and parts[0] else parts[-1]


def _ranges(ranges: Sequence[RangeInfo], numbers: dict[str, int], texts: _Texts) -> dict[str, list[Any]]:
    return {
        "tensor": steps(numbers[info.tensor] for info in ranges),
        "amax": [_digits(info.amax, 4) for info in ranges],
        "method": texts.column(info.method for info in ranges),
        "words": texts.column(map(range_words, ranges)),
        "line": [_kept(info) for info in ranges],
        "profiles": texts.column(profile_words(info) for info in ranges),
        "clipped": [_digits(info.clipped, 3) for info in ranges],
        "sqnr": [_places(info.sqnr_db) for info in ranges],
        "outlier": [_places(info.outlier_ratio) for info in ranges],
        "samples": [info.samples for info in ranges],
        "bins": histogram_digits(ranges),
        "used": [int(info.quantized) for info in ranges],
    }


def _kept(info: RangeInfo) -> float | None:
    """The ratio of amax to the largest magnitude seen, at most 1."""
    largest = max(map(abs, info.observed)) if info.observed else 0.0
    return _digits(min(info.amax / largest, 1.0), 3) if largest > 0 else None


def profile_words(info: RangeInfo) -> str:
    """The amax of each profile in words, marked if they differ much."""
    words = ", ".join(f"{profile} {amax:.3g}" for profile, amax in info.per_profile.items())
    return f"{words} (unlike)" if unlike_profiles(info) else words


def _node(nodes: dict[str, int], texts: _Texts, name: str) -> int:
    """A node's index, or -1 minus its name's number in ``texts``, for a declined node that no longer exists."""
    return nodes[name] if name in nodes else -1 - texts[name]


def _harms(report: Report, nodes: dict[str, int]) -> list[list[Any]]:
    """By measured layer: node, SQNR alone, SQNR without, share of the loss, and whether it is kept in float."""
    return [
        [nodes[harm.node], _places(harm.alone_db), _places(harm.without_db), _digits(harm.share, 3), int(harm.kept)]
        for harm in report.harms
        if harm.node in nodes
    ]


def _reformats(report: Report, nodes: dict[str, int]) -> list[list[Any]]:
    """By group of nodes timed together: the nodes, and whether they need reformats."""
    against = next(iter(report.payoff.against.values()), None) if report.payoff is not None else None
    return [
        [[nodes[node] for node in group.nodes if node in nodes], int(any(t.reformat_ms for t in group.times.values()))]
        for group in (against.groups if against is not None else ())
    ]
