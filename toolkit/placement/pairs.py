"""Decisions of placement: where Q/DQ pairs go, which layers they serve, which candidates are skipped and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from toolkit.contract.findings import Finding, finding


@dataclass(frozen=True)
class Use:
    """One input of one node."""

    node: str
    index: int


@dataclass
class Pair:
    """A Q/DQ pair needed on a tensor, shared by all its uses.

    Attributes:
        tensor: the float tensor's name.
        reason: why the pair is needed.
        uses: the node inputs that will read the dequantized tensor.
        axis: the channel axis of a weight's scales, or that of its blocks; None for one scale.
        block: how many values along ``axis`` share a scale; 0 for one scale per channel.
        weight: whether the tensor is a constant.
    """

    tensor: str
    reason: Finding
    uses: list[Use] = field(default_factory=list)
    axis: int | None = None
    weight: bool = False
    block: int = 0


@dataclass(frozen=True)
class Quantized:
    """The decision that a node is quantized.

    Attributes:
        reads: indices of its inputs that need a pair.
        reason: why.
        group: the layer for whose sake it is quantized.
    """

    reads: tuple[int, ...]
    reason: Finding
    group: str = ""


Decision = Finding | str | Quantized | None
"""That a node is quantized, or why not; None if nothing is decided."""


@dataclass(frozen=True)
class SkippedCandidate:
    """A skipped candidate, and why."""

    node: str
    op: str
    why: Finding


@dataclass
class Placement:
    """All decisions of one pass over the graph.

    Attributes:
        pairs: pairs to insert, activations and weights, keyed by (tensor, axis).
        layers: nodes that will compute in the quantized type, each with the reason.
        refusals: skipped candidates.
        same_scale: sets of tensors that must share one scale (the inputs and output of a Concat).
        complete: nodes that already had all their pairs.
        groups: for every target, the tensors that have pairs because of it.
        ranged: whether the pairs of activations need ranges.
        placer: the ``Placer`` that made the decisions; None if it will not be used again.
    """

    pairs: dict[tuple[str, int | None], Pair] = field(default_factory=dict)
    layers: dict[str, Finding] = field(default_factory=dict)
    refusals: list[SkippedCandidate] = field(default_factory=list)
    same_scale: list[set[str]] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    ranged: bool = True
    placer: Any = field(default=None, repr=False, compare=False)

    @property
    def activations(self) -> list[str]:
        """Names of the activation tensors that need a range, each once."""
        return list(dict.fromkeys(pair.tensor for pair in self.pairs.values() if self.needs_range(pair)))

    def needs_range(self, pair: Pair) -> bool:
        """Whether a pair's scale comes from the calibration of its tensor."""
        return self.ranged and not pair.weight


def request_pair(
    placement: Placement, tensor: str, use: Use, axis: int | None, weight: bool, reason: Finding, block: int = 0
) -> None:
    """Request a pair on a tensor, or share the existing one."""
    pair = placement.pairs.setdefault((tensor, axis), Pair(tensor, reason, axis=axis, weight=weight, block=block))
    if use not in pair.uses:
        pair.uses.append(use)


def release_placer(placement: Placement) -> None:
    """Release a placement's ``Placer`` and the parts of the model it refers to; it will not be used again."""
    if placement.placer is not None:
        placement.placer.network.close()
        placement.placer = None


def skip_candidate(placement: Placement, node: gs.Node, why: Finding | str) -> None:
    """Skip a candidate."""
    placement.refusals.append(SkippedCandidate(node.name, node.op, finding(why)))


def joined(sets: Iterable[set[str]]) -> list[set[str]]:
    """Merge sets that share a member, each at the position of its last part; linear in the number of members."""
    found: dict[int, set[str]] = {}
    owner: dict[str, set[str]] = {}
    for new in sets:
        met = {id(owner[name]): owner[name] for name in new if name in owner}
        for key in met:
            del found[key]
        # merge into the largest: in a chain, sets would otherwise be copied again and again
        whole, *others = sorted([*met.values(), set(new)], key=len, reverse=True)
        for other in others:
            whole |= other
            owner.update(dict.fromkeys(other, whole))
        owner.update(dict.fromkeys(new, whole))
        found[id(whole)] = whole
    return list(found.values())
