"""The error of every node of a model against the float one, on as many samples as the evaluation can afford."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from toolkit.base.cpu import cores
from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_json
from toolkit.base.profiles import fixed_profile
from toolkit.base.progress import Progress
from toolkit.base.threads import in_threads
from toolkit.base.types import Array
from toolkit.calibration.probes import bytes_per_sample
from toolkit.evaluation.arithmetic.rounding_order import fused_more
from toolkit.evaluation.comparison.clipping import Clipping
from toolkit.evaluation.comparison.counterparts import run_on
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.evaluation.node_errors.layer_positions import LayerPositions
from toolkit.evaluation.numerics.difference import Difference, TensorError
from toolkit.graph.large_models.partitions import Boundaries, by_partition, shared_weights
from toolkit.graph.layers.work import node_macs
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel, SerializedModel
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import MOST_NODES, Session, session
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.assemble import bodies
from toolkit.placement.ops import PAIR_OPERATORS

if TYPE_CHECKING:
    from toolkit.data.dataset import CalibrationData

Pairs = list[tuple[str, str, str]]

_MOST_SAMPLES = 64
"""More samples say no more about a layer."""
_TAP_BYTES = 768_000_000
_BATCH, _BATCH_BYTES = 16, 128_000_000
_SHARE, _LEAST_MACS = 0.5, 1e10
"""What the errors may cost, in plain inferences of all samples; small models may take about a third of a second."""
_TAPPED, _QUANTIZED = 1.6, 1.8
"""A run of the float model and one of the paired model in plain inferences, all tensors kept; as on ResNet-50."""
_MADE, _COMPARED = 10, 400
"""What making an element and comparing it with another costs, in multiply-accumulates."""
_REORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True)
class MeasuredForm:
    """A model that is measured.

    Attributes:
        model: its graph as it is reported on.
        rounded: the model with the rounding of its 16-bit floats written out, whose tensors have the names that they
            have there: it is run instead. None where the model itself is run.
        name: lowered, or float32 where onnxruntime cannot run the lowered one.
        extra: the tensors that all sessions give beside those that they are asked for; see ``extra_tensors``.
        optimise: whether onnxruntime rewrites it. Where not, values are the same but for last bits of float32 layers,
            since all results of ``rounded`` are rounded by nodes of their own; making a session saves thirty runs.
    """

    model: Model
    rounded: SerializedModel | None = None
    name: str = "lowered"
    extra: frozenset[str] = frozenset()
    optimise: bool = True
    _opened: list[Session] = field(default_factory=list)

    def session(self, outputs: Sequence[str], boundaries: Boundaries | None = None, often: bool = False) -> Session:
        """A session that returns these tensors, and maybe others; for ``often`` see ``session``."""
        for one in self._opened:
            if set(outputs) <= set(one.outputs):
                return one
        wanted = [*outputs, *sorted(self.extra)]
        source = self.model if self.rounded is None else self.rounded.light()
        # what sessions hand on to each other is from one graph, whose order depends on what is wanted
        apart = boundaries is None or (isinstance(source, LightModel) and not shared_weights(source))
        if isinstance(source, LightModel) and not self.extra and apart:
            fused_more(source, wanted)
        found = session(source, outputs=wanted, optimise=self.optimise, boundaries=boundaries, often=often)
        if self.extra:
            self._opened.append(found)
        return found


@dataclass(frozen=True)
class Taps:
    """The tensors of the float model that are looked at, and what one sample of them costs.

    Attributes:
        groups: their names; those of a group are held at once.
        batch: samples to run at once.
        samples: how many samples can be afforded.
        whole: the session that returns all of them, where they are one group.
    """

    groups: list[list[str]]
    batch: int
    samples: int
    whole: Session | None = None


@dataclass(frozen=True)
class _GroupRun:
    """The sessions of both models that return the tensors of one group.

    Attributes:
        group: the tensors of the float model.
        pairs: what is compared of them.
        reference: the float model's session.
        subject: the other model's; None where nothing is compared.
        positions: which values belong to padding, and do not count; None where none do.
    """

    group: list[str]
    pairs: Pairs
    reference: Session
    subject: Session | None
    positions: LayerPositions | None

    def compare(
        self,
        inputs: Mapping[str, Array],
        pool: ThreadPoolExecutor,
        found: Mapping[str, Difference],
        watched: Mapping[str, Clipping],
    ) -> list[str]:
        """Run both models on a batch, and add what differs to ``found`` and the float values to ``watched``.

        Returns:
            The nodes compared: those whose tensors have equal shapes in both models.
        """
        own = sorted({sub for _, _, sub in self.pairs})
        a = self.reference.run(inputs)
        b = run_on(self.subject, inputs, dict(zip(own, own))) if self.subject is not None else {}
        like = [(node, ref, sub) for node, ref, sub in self.pairs if a[ref].shape == b[sub].shape]
        on = {ref: self.positions.on(ref, a[ref], inputs) for _, ref, _ in like} if self.positions is not None else {}
        jobs = [partial(found[node].add, a[ref], b[sub], on=on.get(ref)) for node, ref, sub in like]
        jobs += [partial(watched[name].add, a[name]) for name in self.group if name in watched]
        in_threads(pool, cores(), lambda job: job(), jobs)
        return [node for node, _, _ in like]


def node_errors(
    reference: Model,
    subject: MeasuredForm,
    data: CalibrationData,
    samples: int | None,
    progress: Progress,
    pairs: Pairs | None = None,
    watched: Mapping[str, Clipping] | None = None,
    kept: EvaluationCheckpoint | None = None,
    positions: LayerPositions | None = None,
) -> tuple[dict[str, TensorError], int]:
    """SQNR (dB) and largest difference of every node's first output that both models have, by node of ``subject``.

    At most about 768 MB of tensors are held at once, so models whose tensors are larger run several times. What a node
    only reorders has its input's error and is not looked at.

    Args:
        reference: the float model.
        subject: the other model.
        data: the samples.
        samples: how many of them to use, spread over the data; where None 64, or as many as cost half a plain
            inference of all.
        progress: called with what is being done, how much is done, and of how much.
        pairs: what to compare, see ``comparable``.
        watched: by tensor of ``reference`` the object that takes in its values.
        kept: what an evaluation that was killed had summed, and where this one keeps it.
        positions: which values belong to padding, and do not count; None where none do.

    Returns:
        Errors by node name, and how many samples they are from.
    """
    pairs = comparable(reference, subject.model) if pairs is None else pairs
    watched = watched or {}
    alike = _reordered(reference, subject.model, pairs)
    looked_at = [pair for pair in pairs if pair[0] not in alike]
    taps = _taps(reference, data, list(dict.fromkeys([*(ref for _, ref, _ in looked_at), *watched])))
    chosen = data.spread(taps.samples if samples is None else samples)
    found = {node: Difference() for node, _, _ in looked_at}
    kept, wanted = kept or EvaluationCheckpoint(), len(chosen)
    state = kept.go_on(found, watched, sha256_json([taps.groups, taps.batch, wanted]))
    handed, handed_on = Boundaries(), Boundaries()
    with ThreadPoolExecutor(cores(), "layer errors") as pool:
        for group in taps.groups[state.groups :]:
            held = set(group)
            within = [pair for pair in looked_at if pair[1] in held]
            plain = taps.whole or session(reference, outputs=group, boundaries=handed)
            own = subject.session(sorted({sub for _, _, sub in within}), handed_on) if within else None
            run = _GroupRun(group, within, plain, own, positions)
            for part in islice(chosen.batches(taps.batch), state.batches, None):
                state.took(part.count, run.compare(part.inputs, pool, found, watched))
                kept.summed(state, found, watched)
                progress("layer errors", state.groups * wanted + state.samples, len(taps.groups) * wanted)
            state.next_group()
    compared = set(state.compared)
    own_errors = {node: found[node].error for node in found if node in compared}
    sources = {node: alike.get(node, node) for node, _, _ in pairs}
    return {node: own_errors[source] for node, source in sources.items() if source in own_errors}, state.counted


def extra_tensors(
    reference: Model, subject: Model, rounded: LightModel, data: CalibrationData, batch: int
) -> frozenset[str]:
    """The tensors ``node_errors`` may look at in a model with so many nodes that making its session twice dominates.

    Nothing where a batch of these tensors may be large: then outputs are computed by a session without them. All
    results of ``rounded`` are rounded by separate nodes, so that onnxruntime fuses just as little where it keeps them.
    """
    if len(rounded.proto.graph.node) <= MOST_NODES:
        return frozenset()
    pairs, first = comparable(reference, subject), next(data.batches(1), None)
    facts = _facts_for(reference, first.inputs) if first is not None else Facts()
    sizes = bytes_per_sample(facts, [tensor for _, tensor, _ in pairs]).values()
    small = all(sizes) and min(batch, len(data)) * sum(sizes) <= _TAP_BYTES
    return frozenset(tensor for _, _, tensor in pairs) if small else frozenset()


def comparable(reference: Model, subject: Model) -> Pairs:
    """(node of ``subject``, tensor of ``reference``, tensor of ``subject``) for tensors that mean the same.

    What is computed from constants alone, such as a transposed weight, is a weight and no result of a layer.
    """
    facts, left, lost = reference.facts(), not_run(reference), not_run(subject)
    made = {t.name for n in reference.nodes for t in n.outputs if facts.is_float(t.name)} - left.tensors.keys()
    pairs, constant = [], set[int]()
    for node in subject.nodes:
        fixed = all(isinstance(t, gs.Constant) or t.is_empty() or id(t) in constant for t in node.inputs)
        # what a body reads is no input of its node
        if fixed and not bodies(node):
            constant.update(id(tensor) for tensor in node.outputs)
            continue
        if node.op in PAIR_OPERATORS | {"Cast", "Constant"} or not node.outputs:
            continue
        name = node.outputs[0].name
        if name in lost.tensors:
            continue
        if name in made:
            pairs.append((node.name, name, name))
            continue
        # lowering gives an output's own name to the Cast after the node that computes it
        for reader in node.outputs[0].outputs:
            if reader.op == "Cast" and reader.outputs[0].name in made:
                pairs.append((node.name, reader.outputs[0].name, name))
                break
    return pairs


def _reordered(reference: Model, subject: Model, pairs: Pairs) -> dict[str, str]:
    """The nodes that only reorder the result of another node of ``pairs``, in both models, each with that node."""
    makers = {tensor.name: node for node in reference.nodes for tensor in node.outputs}
    nodes = {node.name: node for node in subject.nodes}
    by_tensors = {(ref, sub): node for node, ref, sub in pairs}
    found: dict[str, str] = {}
    for name, ref, _ in pairs:
        node, maker = nodes[name], makers.get(ref)
        if node.op not in _REORDER or maker is None or maker.op != node.op:
            continue
        read: tuple[gs.Tensor, gs.Tensor] = (maker.inputs[0], node.inputs[0])
        source = by_tensors.get((read[0].name, read[1].name))
        if source is not None:
            found[name] = found.get(source, source)
    return found


def _taps(model: Model, data: CalibrationData, names: list[str]) -> Taps:
    """How to look at these tensors, from what they and the model's arithmetic are on one sample."""
    if not names:
        return Taps([], 1, 1)
    probe = session(model, outputs=names)
    for part in data.batches(1):
        arrays = probe.run(part.inputs)
        sizes = {name: int(value.nbytes) for name, value in arrays.items()}
        elements = sum(value.size for value in arrays.values())
        parts = [list(_groups(part, sizes)) for part in by_partition(model, names)]
        groups = [group for part in parts for group in part]
        plain = _macs(model, part.inputs) + _MADE * elements
        # each part is run for its own groups alone
        cost = (_TAPPED + _QUANTIZED) * plain * max(map(len, parts)) + _COMPARED * elements
        affordable = max(_SHARE * plain * len(data), _LEAST_MACS) / max(cost, 1)
        batch = max(1, min(_BATCH, _BATCH_BYTES // max(2 * sum(sizes.values()), 1)))
        samples = max(1, min(_MOST_SAMPLES, int(affordable)))
        return Taps(groups, batch, samples, probe if len(groups) == 1 else None)
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def _macs(model: Model, inputs: Mapping[str, Array]) -> int:
    """Multiply-accumulates of a run on these inputs, as far as they are known."""
    return sum(count for count in node_macs(model, _facts_for(model, inputs)).values() if count is not None)


def _facts_for(model: Model, inputs: Mapping[str, Array]) -> Facts:
    """Types and shapes with inputs of these shapes."""
    return model.facts(fixed_profile({name: np.shape(value) for name, value in inputs.items()}))


def _groups(names: list[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The tensors in groups that take, for one sample and in both models, about the bytes that may be held."""
    group: list[str] = []
    held = 0
    for name in names:
        size = 2 * sizes[name]
        if group and held + size > _TAP_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group
