"""Measures the error of every node relative to the float model, on as many samples as time allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
from toolkit.evaluation.node_errors.row_match import TopKRows, matched, rows_of_top_k
from toolkit.evaluation.node_errors.row_order import selected_rows
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
"""The most samples: more hardly change a layer's error."""
_TAP_BYTES = 768_000_000
_BATCH, _BATCH_BYTES = 16, 128_000_000
_SHARE, _LEAST_MACS = 0.5, 1e10
"""The most cost of the errors, in plain inferences of all samples; small models may take about a third of a second."""
_TAPPED, _QUANTIZED = 1.6, 1.8
"""The cost of a run of the float model and of the paired model with all tensors kept, in plain inferences
(ResNet-50).
"""
_MADE, _COMPARED = 10, 400
"""The cost of computing an element and of comparing it with another, in multiply-accumulates."""
_REORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True)
class MeasuredForm:
    """The form in which a model is measured.

    Attributes:
        model: the graph that the report is about.
        rounded: the model to run in its place, with explicit rounding to 16-bit floats and the same tensor names; None
            to run the model itself.
        name: lowered, or float32 if onnxruntime cannot run the lowered one.
        extra: the tensors that all sessions return besides those requested; see ``extra_tensors``.
        optimise: whether onnxruntime optimizes the graph. Without, values differ only in the last bits of float32
            layers, since all results of ``rounded`` are rounded by separate nodes; creating a session then takes thirty
            runs less.
    """

    model: Model
    rounded: SerializedModel | None = None
    name: str = "lowered"
    extra: frozenset[str] = frozenset()
    optimise: bool = True
    _opened: list[Session] = field(default_factory=list)

    def session(self, outputs: Sequence[str], boundaries: Boundaries | None = None, often: bool = False) -> Session:
        """A session that returns these tensors, and possibly others; for ``often`` see ``session``."""
        for one in self._opened:
            if set(outputs) <= set(one.outputs):
                return one
        wanted = [*outputs, *sorted(self.extra)]
        source = self.model if self.rounded is None else self.rounded.light()
        # sessions of partitions must share one graph, and its order depends on the requested tensors
        apart = boundaries is None or (isinstance(source, LightModel) and not shared_weights(source))
        if isinstance(source, LightModel) and not self.extra and apart:
            fused_more(source, wanted)
        found = session(
            source, outputs=wanted, optimise=self.optimise, arena="shared", boundaries=boundaries, often=often
        )
        if self.extra:
            self._opened.append(found)
        return found


@dataclass(frozen=True)
class Taps:
    """The tensors of the float model to measure, and on how many samples.

    Attributes:
        groups: names of the tensors; those of a group are in memory at once.
        batch: samples to run at once.
        samples: number of samples that time allows.
        whole: the session that returns all tensors, if there is only one group.
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
        pairs: the tensors to compare, see ``comparable``.
        reference: the float model's session.
        subject: the other model's session; None if nothing is compared.
        positions: finds values that belong to padding, which do not count; None if there is no padding.
        rows: by tensor of the float model, the TopK that selects its rows, which are matched by their indices.
    """

    group: list[str]
    pairs: Pairs
    reference: Session
    subject: Session | None
    positions: LayerPositions | None
    rows: Mapping[str, TopKRows]

    def compare(
        self,
        inputs: Mapping[str, Array],
        pool: ThreadPoolExecutor,
        found: Mapping[str, Difference],
        watched: Mapping[str, Clipping],
    ) -> list[str]:
        """Run both models on a batch; adds the differences to ``found`` and the float values to ``watched``.

        Returns:
            The compared nodes: those with equal shapes in both models, and with rows of the same objects.
        """
        own = sorted({sub for _, _, sub in self.pairs} | indices_of(self.pairs, self.rows))
        a = self.reference.run(inputs)
        b = run_on(self.subject, inputs, dict(zip(own, own))) if self.subject is not None else {}
        like = [(node, ref, sub) for node, ref, sub in self.pairs if a[ref].shape == b[sub].shape]
        on = {ref: self.positions.on(ref, a[ref], inputs) for _, ref, _ in like} if self.positions is not None else {}
        jobs = [partial(watched[name].add, a[name]) for name in self.group if name in watched]
        compared = []
        for node, ref, sub in like:
            values, counted = (a[ref], b[sub]), on.get(ref)
            if ref in self.rows:
                both = matched(*values, self.rows[ref], a, b)
                if both is None or not both[2].any():
                    continue
                values, counted = both[:2], both[2]
            jobs.append(partial(found[node].add, *values, on=counted))
            compared.append(node)
        in_threads(pool, cores(), lambda job: job(), jobs)
        return compared


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
    """SQNR in dB and largest difference of every node's first output, if both models have it, by node of ``subject``.

    At most about 768 MB of tensors are in memory at once, so models with larger tensors run several times. A node that
    only reorders its input has its input's error and is not measured.

    Args:
        subject: the other model.
        samples: number of samples to use, spread over the data; None for 64, or as many as cost half a plain inference
            of all.
        progress: called with the current task, the amount done, and the total.
        pairs: the tensors to compare, see ``pairs_of``; None for all.
        watched: by tensor of ``reference``, the statistics to add its values to.
        kept: checkpoint with sums of an interrupted evaluation, which receives those of this one.
        positions: finds values that belong to padding, which do not count; None if there is no padding.

    Returns:
        Errors by node name, and the number of samples behind them.
    """
    rows = rows_of_top_k(reference, subject.model)
    if pairs is None:
        pairs = pairs_of(reference, subject.model)
    watched = watched or {}
    alike = _reordered(reference, subject.model, pairs)
    looked_at = [pair for pair in pairs if pair[0] not in alike]
    read = [*(ref for _, ref, _ in looked_at), *watched, *sorted(indices_of(looked_at, rows))]
    taps = _taps(reference, data, list(dict.fromkeys(read)))
    chosen = data.spread(taps.samples if samples is None else samples)
    found = {node: Difference() for node, _, _ in looked_at}
    kept, wanted = kept or EvaluationCheckpoint(), len(chosen)
    state = kept.go_on(found, watched, sha256_json([taps.groups, taps.batch, wanted]))
    handed, handed_on = Boundaries(), Boundaries()
    with ThreadPoolExecutor(cores(), "layer errors") as pool:
        for group in taps.groups[state.groups :]:
            held = set(group)
            within = [pair for pair in looked_at if pair[1] in held]
            by = indices_of(within, rows)
            outputs = [*group, *sorted(by - held)]
            plain = taps.whole or session(reference, outputs=outputs, arena="shared", boundaries=handed)
            own = subject.session(sorted({sub for _, _, sub in within} | by), handed_on) if within else None
            run = _GroupRun(group, within, plain, own, positions, rows)
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
    """The tensors for ``node_errors`` in a model with so many nodes that creating a second session would dominate.

    Empty if a batch of these tensors may be large: then outputs are computed by a session without them. All results of
    ``rounded`` are rounded by separate nodes, so returning these tensors prevents no further fusions.
    """
    if len(rounded.proto.graph.node) <= MOST_NODES:
        return frozenset()
    pairs, first = pairs_of(reference, subject), next(data.batches(1), None)
    facts = _facts_for(reference, first.inputs) if first is not None else Facts()
    sizes = bytes_per_sample(facts, [tensor for _, tensor, _ in pairs]).values()
    small = all(sizes) and min(batch, len(data)) * sum(sizes) <= _TAP_BYTES
    by = indices_of(pairs, rows_of_top_k(reference, subject))
    return frozenset(tensor for _, _, tensor in pairs) | by if small else frozenset()


def indices_of(pairs: Pairs, rows: Mapping[str, TopKRows]) -> frozenset[str]:
    """The indices by which the rows of some of these tensors are matched."""
    return frozenset(rows[ref].indices for _, ref, _ in pairs if ref in rows)


def pairs_of(reference: Model, subject: Model) -> Pairs:
    """The tensors to compare: those that are ``comparable``, and those whose rows are matched."""
    return [*comparable(reference, subject), *_row_pairs(reference, subject)]


def comparable(reference: Model, subject: Model) -> Pairs:
    """(node of ``subject``, tensor of ``reference``, tensor of ``subject``) for corresponding tensors.

    A tensor computed only from constants, such as a transposed weight, does not count as the result of a layer. Rows
    that the model selects by value are left out: one decision that differs moves all rows after it.
    """
    return _corresponding(subject, _float_results(reference) - selected_rows(reference).keys())


def _row_pairs(reference: Model, subject: Model) -> Pairs:
    """As ``comparable``, for tensors whose rows are to be matched, see ``rows_of_top_k``."""
    rows = rows_of_top_k(reference, subject)
    return _corresponding(subject, _float_results(reference) & rows.keys()) if rows else []


def _float_results(reference: Model) -> set[str]:
    """The float tensors that nodes compute and onnxruntime can run."""
    facts, left = reference.facts(), not_run(reference)
    return {t.name for n in reference.nodes for t in n.outputs if facts.is_float(t.name)} - left.tensors.keys()


def _corresponding(subject: Model, made: Collection[str]) -> Pairs:
    """``comparable``, for the tensors ``made`` of the float model."""
    lost = not_run(subject)
    pairs, constant = [], set[int]()
    for node in subject.nodes:
        fixed = all(isinstance(t, gs.Constant) or t.is_empty() or id(t) in constant for t in node.inputs)
        # tensors that a body reads are not inputs of its node
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
        # lowering gives an output's name to the Cast after the node that computes it
        for reader in node.outputs[0].outputs:
            if reader.op == "Cast" and reader.outputs[0].name in made:
                pairs.append((node.name, reader.outputs[0].name, name))
                break
    return pairs


def _reordered(reference: Model, subject: Model, pairs: Pairs) -> dict[str, str]:
    """The nodes that in both models only reorder the result of another node of ``pairs``, with that node."""
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
    """How to measure these tensors, by their sizes and the model's arithmetic on one sample."""
    if not names:
        return Taps([], 1, 1)
    probe = session(model, outputs=names, arena="shared")
    for part in data.batches(1):
        arrays = probe.run(part.inputs)
        sizes = {name: int(value.nbytes) for name, value in arrays.items()}
        elements = sum(value.size for value in arrays.values())
        parts = [list(_groups(part, sizes)) for part in by_partition(model, names)]
        groups = [group for part in parts for group in part]
        plain = _macs(model, part.inputs) + _MADE * elements
        # each partition is run only for its own groups
        cost = (_TAPPED + _QUANTIZED) * plain * max(map(len, parts)) + _COMPARED * elements
        affordable = max(_SHARE * plain * len(data), _LEAST_MACS) / max(cost, 1)
        batch = max(1, min(_BATCH, _BATCH_BYTES // max(2 * sum(sizes.values()), 1)))
        samples = max(1, min(_MOST_SAMPLES, int(affordable)))
        return Taps(groups, batch, samples, probe if len(groups) == 1 else None)
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def _macs(model: Model, inputs: Mapping[str, Array]) -> int:
    """Multiply-accumulates of a run on these inputs, as far as known."""
    return sum(count for count in node_macs(model, _facts_for(model, inputs)).values() if count is not None)


def _facts_for(model: Model, inputs: Mapping[str, Array]) -> Facts:
    """Types and shapes with inputs of these shapes."""
    return model.facts(fixed_profile({name: np.shape(value) for name, value in inputs.items()}))


def _groups(names: list[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The tensors in groups whose size, for one sample in both models, fits the memory limit."""
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
