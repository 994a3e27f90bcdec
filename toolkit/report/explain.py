"""Explanation of one node of a run: requested and actual precision and why, its neighbours, ranges, error and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property

from pydantic import Field

from toolkit.base.errors import QtoolError, did_you_mean
from toolkit.base.text import plain, text_of
from toolkit.report.conclusions.verdict import quantized_type
from toolkit.report.findings.commands.explanation import (
    Fact,
    Known,
    facts,
    folded_words,
    range_words,
    tensor_words,
)
from toolkit.report.findings.words import quoted
from toolkit.report.fragments import keep_fragment
from toolkit.report.schema.part import Part
from toolkit.report.schema.report import Declined, LayerInfo, RangeInfo, Report, TensorInfo
from toolkit.report.schema.search import CauseInfo, LayerHarm
from toolkit.report.sections.shares import work_in
from toolkit.report.sections.wiring import Connection, Mark, Wiring, folded, wiring


class Neighbour(Part):
    """A tensor that a node reads or writes, and the nodes at its other end.

    ``nodes`` produce or read it, looking through Q/DQ nodes and Casts; empty for the model's inputs, outputs and
    weights.
    """

    tensor: str
    shape: list[int | str | None] | None = None
    nodes: list[str] = Field(default_factory=list)
    weights: bool = False
    dtype: str = Field(default="", description="its element type, such as float32 or int64; empty if unknown")
    pair: bool = Field(default=False, description="whether there is a Q/DQ pair in between")
    range: RangeInfo | None = Field(default=None, description="its calibrated range, if it has one")
    text: str = Field(default="", description="its type, shape and range, and the conversions in between, in words")


class FactInfo(Part):
    """One fact about a node, in words."""

    term: str
    text: str


class Explanation(Part):
    """Everything a run's report says about one node."""

    layer: LayerInfo
    why: str
    facts: list[FactInfo]
    inputs: list[Neighbour]
    outputs: list[Neighbour]
    declined: list[Declined] = Field(default_factory=list)
    harm: LayerHarm | None = Field(default=None, description="the accuracy that quantizing it costs, if measured")
    causes: list[CauseInfo] = Field(default_factory=list, description="why it loses accuracy; for the worst layers")
    work_share: float | None = Field(default=None, description="its share of the model's work, 0 to 1")
    keep: str = Field(default="", description="for a quantized node, a recipe fragment that keeps it in float")


class NodeFacts:
    """The facts in a report about each of its nodes: ``qtool explain`` shows those of one node, the HTML page all.

    Args:
        other: the layers of the run to compare with, by the names of their counterparts in this run.
        label: the name of the other run.
    """

    def __init__(self, report: Report, other: Mapping[str, LayerInfo] | None = None, label: str = "") -> None:
        self.report, self._other, self._label = report, other or {}, label
        self._declined: dict[str, list[Declined]] = defaultdict(list)
        for entry in report.declined:
            self._declined[entry.node].append(entry)
        self._harms = {harm.node: harm for harm in report.harms}
        self._kept = set(report.bisection.kept if report.bisection is not None else ())
        spots = report.sensitivity.weak_spots if report.sensitivity is not None else report.weak_spots
        self._causes = {spot.node: spot.causes for spot in spots}
        against = report.payoff.against if report.payoff is not None else {}
        self._against = next(iter(against), "")
        groups = against[self._against].groups if against else ()
        self._groups = {node: group for group in groups for node in group.nodes}
        self._work = work_in(report.layers)
        self._folded: dict[tuple[int, str], str] = {}
        self._worded: dict[tuple[str, tuple[int | str | None, ...] | None], str] = {}

    def known(self, layer: LayerInfo) -> Known:
        """The entries of the report that concern a node."""
        name = layer.node
        # by position, in two thirds of the time that keywords take: a page calls this for every node
        return Known(
            layer,
            self._declined.get(name, ()),
            self._harms.get(name),
            name in self._kept,
            self._causes.get(name, ()),
            self._groups.get(name),
            self._against,
            self._work.macs_share(name),
            self._other.get(name),
            self._label,
        )

    def facts(self, layer: LayerInfo) -> list[Fact]:
        """The facts about a node, those asked for most often first."""
        return facts(self.known(layer))

    @cached_property
    def wiring(self) -> Wiring:
        """How the nodes are connected."""
        return wiring(self.report)

    @cached_property
    def _tensors(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.report.tensors}

    @cached_property
    def _ranges(self) -> dict[str, RangeInfo]:
        return {info.tensor: info for info in self.report.ranges or ()}

    def carries(self, tensor: str) -> str:
        """A tensor's type and shape in words; empty where neither is known."""
        info = self._tensors.get(tensor)
        if info is None:
            return ""
        key = info.dtype, None if info.shape is None else tuple(info.shape)
        if key not in self._worded:
            self._worded[key] = tensor_words(*key)
        return self._worded[key]

    def between(self, one: Connection) -> str:
        """The pairs and Casts on a connection, in words."""
        info = self._tensors.get(one.carried)
        carried = info.dtype if info is not None else ""
        key = int(one.marks), carried
        if key not in self._folded:
            self._folded[key] = folded_words(bool(one.marks & Mark.PAIR), bool(one.marks & Mark.CAST), carried)
        return self._folded[key]

    def neighbours(self, layer: LayerInfo, reads: bool) -> list[Neighbour]:
        """The tensors that a node reads, weights last, or (``reads`` is False) those that it writes."""
        index = self.report.layers.index(layer)
        every = self.wiring.connections
        found = [one for one in every if (one.target if reads else one.source) == index]
        weights = [one for one in self.wiring.weights if reads and one.target == index]
        by_tensor: dict[str, list[Connection]] = defaultdict(list)
        for one in (*found, *weights):
            by_tensor[one.tensor].append(one)
        return [self._neighbour(ends, reads, ends[0] in weights) for ends in by_tensor.values()]

    def _neighbour(self, ends: list[Connection], reads: bool, weights: bool) -> Neighbour:
        first = ends[0]
        tensor = self._tensors.get(first.tensor)
        indices = dict.fromkeys(one.source if reads else one.target for one in ends)
        info = self._ranges.get(first.tensor)
        words = [self.carries(first.tensor), self.between(first), range_words(info) if info is not None else ""]
        return Neighbour(
            tensor=first.tensor,
            shape=tensor.shape if tensor is not None else None,
            nodes=[self.report.layers[i].node for i in indices if i >= 0],
            weights=weights,
            dtype=tensor.dtype if tensor is not None else "",
            pair=bool(first.marks & Mark.PAIR),
            range=info,
            text=", ".join(filter(None, words)),
        )


def explain(report: Report, name: str) -> Explanation:
    """Explain a node.

    Args:
        name: of the node, or of a tensor that it produces.

    Raises:
        QtoolError: the run has no such node or tensor; the remedy suggests similar names, or the readers of a model
            input.
    """
    layer = _named(report, name)
    answers = NodeFacts(report)
    known = answers.known(layer)
    return Explanation(
        layer=layer,
        why=layer.why,
        facts=[FactInfo(term=fact.term, text=fact.text) for fact in answers.facts(layer)],
        inputs=answers.neighbours(layer, reads=True),
        outputs=answers.neighbours(layer, reads=False),
        declined=list(known.declined),
        harm=known.harm,
        causes=list(known.causes),
        work_share=known.work_share,
        keep=keep_fragment([layer.node], "fp16") if quantized_type(layer) is not None else "",
    )


def _named(report: Report, name: str) -> LayerInfo:
    """The node of this name, or the producer of the tensor of this name, looking through pairs and Casts.

    The name may also be as it is printed, with control characters made visible.
    """
    layers = {layer.node: layer for layer in report.layers}
    makers = {tensor: layer for layer in report.layers for tensor in layer.outputs}
    if name not in layers and name not in makers:
        name = next((one for one in (*layers, *makers) if plain(one) == name), name)
    found, tensor = layers.get(name), name
    while found is None and tensor in makers:
        maker = makers[tensor]
        found, tensor = (None, maker.inputs[0]) if folded(maker) else (maker, tensor)
    if found is not None:
        return found
    if any(one.name == tensor for one in report.model.inputs):
        ends = [one.target for one in wiring(report).connections if one.tensor == tensor and one.target >= 0]
        readers = [report.layers[index].node for index in dict.fromkeys(ends)]
        raise QtoolError(
            f"'{tensor}' is an input of the model, which no node produces", remedy=f"ask for a node: {quoted(readers)}"
        )
    raise QtoolError(
        f"the run has no node '{name}', and no node produces a tensor of that name", remedy=did_you_mean(name, layers)
    )


def explanation_text(found: Explanation) -> str:
    """An explanation for the terminal."""
    return text_of(_lines(found))


def _lines(found: Explanation) -> Iterable[str]:
    yield f"{found.layer.node} ({found.layer.op})"
    for fact in found.facts:
        yield f"  {fact.term.lower():13} {fact.text}"
    for title, sides in (("reads", found.inputs), ("feeds", found.outputs)):
        for side in sides:
            ends = f" {'from' if title == 'reads' else 'to'} {quoted(side.nodes, 12)}" if side.nodes else ""
            yield f"  {'weights' if side.weights else title:13} '{side.tensor}'{ends}{side.text and f': {side.text}'}"
    if found.keep:
        yield "  to keep it in float, put this before the pass that quantizes:"
        yield from (f"    {line}" for line in found.keep.splitlines())
