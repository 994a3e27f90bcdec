"""Ranges from a calibration cache or script, matched to a model's tensors, and tensors that have no range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolkit.base.errors import RangesError, nearest
from toolkit.contract.findings import Code, Finding
from toolkit.contract.journal import Journal
from toolkit.contract.ranges import Range, Ranges
from toolkit.graph.model import Model
from toolkit.graph.proto.nodes import SAME_VALUES
from toolkit.placement.existing import pairs_of
from toolkit.placement.moved import data_inputs
from toolkit.report.migrate_codes import MigrateCode

_CUTS = frozenset(
    {"Relu", "Clip", "MaxPool", "Slice", "Gather", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)
_ONE_KERNEL = frozenset({"Relu", "Clip", "MaxPool"})
_UNNAMED = "(Unnamed Layer*"
_NEAR = 0.02


@dataclass(frozen=True)
class TensorTurn:
    """The outcome for one tensor's range.

    Attributes:
        tensor: the tensor's name, in the file that gave the range or in the model.
        amax: the range; None if there is none.
        why: where the range is used, or why it is not.
    """

    tensor: str
    amax: float | None
    why: Finding

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary, with the reason as a sentence."""
        from toolkit.report.findings import sentence

        return {"tensor": self.tensor, "amax": self.amax, "why": {**self.why.to_json(), "text": sentence(self.why)}}


@dataclass
class FittedRanges:
    """Given ranges, fitted to a model.

    Attributes:
        ranges: the ranges of the model's tensors, including derived ones.
        derived: for each tensor with a derived range, the tensor that it comes from.
        said: findings about the ranges as a whole.
    """

    ranges: Ranges
    derived: dict[str, str] = field(default_factory=dict)
    said: list[Finding] = field(default_factory=list)


def fitted(given: Ranges, model: Model, where: str) -> FittedRanges:
    """Fit ranges to a model's tensors; operators that only move or cut values propagate ranges, as in TensorRT.

    Raises:
        RangesError: none belongs to a tensor of the model.
    """
    known = model.graph.tensors()
    named = [name for name in given.tensors if not name.startswith(_UNNAMED)]
    mine = [name for name in named if name in known]
    if not named:
        raise RangesError("it holds no range for a named tensor", where=where, remedy="calibrate again, or give --data")
    if not mine:
        first = next(iter(named), "")
        raise RangesError(
            f"none of its {len(named)} named ranges belongs to a tensor of the model, whose first is "
            f"'{next(iter(known), '')}'; the file's is '{first}'",
            where=where,
            remedy="give the ranges that were made for this model",
        )
    found = FittedRanges(Ranges({name: given.tensors[name] for name in mine}, made_from=dict(given.made_from)))
    if len(mine) < len(named):
        strange = [name for name in named if name not in known]
        near = nearest(strange[0], known, 1)
        found.said.append(MigrateCode.OTHER_NETWORK(
            known=len(mine), of=len(named), tensors=strange, near=near[0] if near else None
        ))  # fmt: skip
    propagate_ranges(found, model)
    return found


def propagate_ranges(found: FittedRanges, model: Model) -> None:
    """Propagate ranges forwards through operators that compute no new values, then back through those that keep all."""
    moving = [node for node in model.nodes if node.op in SAME_VALUES | _CUTS and data_inputs(node)]
    for node in moving:
        for out in node.outputs:
            _take(found, out.name, node.inputs[0].name)
    for node in reversed(moving):
        if node.op in SAME_VALUES and model.constant(node.inputs[0]) is None:
            _take(found, node.inputs[0].name, node.outputs[0].name)


def propagate_ranges_back(found: FittedRanges, model: Model) -> None:
    """``propagate_ranges``, and also backwards within a kernel: the input of a ReLU or MaxPool gets its output's range.

    TensorRT needs a range for every tensor that an INT8 layer touches; see
    ``backends.building.weak_network.set_ranges``.
    """
    propagate_ranges(found, model)
    for node in reversed(model.nodes):
        if node.op in SAME_VALUES | _ONE_KERNEL and model.constant(node.inputs[0]) is None:
            _take(found, node.inputs[0].name, node.outputs[0].name)


def _take(found: FittedRanges, tensor: str, source: str) -> None:
    tensors = found.ranges.tensors
    if tensor not in tensors and source in tensors:
        tensors[tensor] = Range(tensors[source].amax, tensors[source].method, dtype=tensors[source].dtype)
        found.derived[tensor] = found.derived.get(source, source)


def tensor_turns(given: Ranges, fit: FittedRanges, source: Model, final: Model, journal: Journal) -> list[TensorTurn]:
    """The outcome of each given range, and of each tensor that needs one.

    Args:
        given: the ranges from the file or script.
        fit: the same ranges, fitted to the model.
        source: the model that they were given for.
        final: the model with Q/DQ pairs.
    """
    scales = dict(scales_of(final))
    known = source.graph.tensors()
    constants = {name for name, tensor in known.items() if source.constant(tensor) is not None}
    turns = []
    for name, one in given.tensors.items():
        turns.append(TensorTurn(name, one.amax, _turn(name, one.amax, scales, known, constants)))
    for name in given.made_from.get("without", ()):
        turns.append(TensorTurn(name, None, MigrateCode.TENSOR_WITHOUT()))
    for name, source_name in fit.derived.items():
        if name in scales:
            amax = fit.ranges.tensors[name].amax
            turns.append(TensorTurn(name, amax, MigrateCode.TENSOR_DERIVED(source=source_name)))
    lacking: dict[str, list[str]] = {}
    for event in journal.of("declined"):
        if event.why.code is Code.NO_RANGE:
            lacking.setdefault(str(event.why.values["tensor"]), []).append(event.node)
    turns += [
        TensorTurn(name, None, MigrateCode.TENSOR_MISSING(nodes=nodes))
        for name, nodes in lacking.items() if name not in given.made_from.get("without", ())
    ]  # fmt: skip
    return turns


def _turn(
    name: str, amax: float, scales: Mapping[str, float], known: Mapping[str, Any], constants: set[str]
) -> Finding:
    if name.startswith(_UNNAMED):
        return MigrateCode.TENSOR_UNNAMED()
    if name not in known:
        return MigrateCode.TENSOR_STRANGE(tensors=[name])
    if name in constants:
        return MigrateCode.TENSOR_CONSTANT()
    if name not in scales:
        return MigrateCode.TENSOR_INSIDE()
    if amax == 0:
        return MigrateCode.TENSOR_ZERO(scale=scales[name])
    # scales are rounded up to float16, which adds up to one part in a thousand
    near = abs(scales[name] * 127 - amax) <= _NEAR * amax
    return MigrateCode.TENSOR_PAIRED(scale=scales[name]) if near else MigrateCode.TENSOR_SHARED(
        scale=scales[name], own=amax / 127
    )  # fmt: skip


def scales_of(model: Model) -> Iterator[tuple[str, float]]:
    """The scale of each activation with a Q/DQ pair, and of the inputs of Casts before it (lowering adds some)."""
    for pair in pairs_of(model):
        if pair.scale is None or pair.scale.size != 1:
            continue
        for quantize in pair.quantizers:
            tensor, scale = quantize.inputs[0], float(np.reshape(pair.scale, -1)[0])
            names = [tensor.name]
            while tensor.inputs and tensor.inputs[0].op == "Cast":
                tensor = tensor.inputs[0].inputs[0]
                names.append(tensor.name)
            if model.constant(tensor) is None:
                yield from ((name, scale) for name in names)


def counts(turns: Sequence[TensorTurn]) -> dict[str, int]:
    """How many tensors have each outcome, by code."""
    return Counter(str(turn.why.code) for turn in turns)
