"""Measuring a model against its float original: the metric, the outputs, and the error of every node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.analysis.metrics import Metric, make_metric
from toolkit.errors import QtoolError
from toolkit.journal import Journal
from toolkit.model import Model
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.runtime import Session, session

if TYPE_CHECKING:
    from toolkit.data import Batch, CalibrationData

Array = np.ndarray[Any, Any]
_TAP_BYTES = 256_000_000


@dataclass
class Difference:
    """How far a tensor is from its float original, gathered over batches.

    Sums are float64. SQNR = 10 log10(sum(reference^2) / sum((reference - value)^2)), in dB.
    """

    signal: float = 0.0
    noise: float = 0.0
    cross: float = 0.0
    power: float = 0.0
    max_abs: float = 0.0
    broken: int = 0
    same: int = 0
    winners: int = 0

    def add(self, reference: Array, value: Array, winners: bool = False) -> None:
        """Take in one batch of both tensors, of equal shape."""
        a = np.asarray(reference, np.float32)
        b = np.asarray(value, np.float32)
        usable = np.isfinite(a)
        broken = usable & ~np.isfinite(b)
        if broken.any():
            self.broken += int(broken.sum())
        keep = usable & ~broken
        if not keep.all():
            a, b = np.where(keep, a, 0), np.where(keep, b, 0)
        d = a - b
        flat_a, flat_b, flat_d = a.reshape(-1), b.reshape(-1), d.reshape(-1)
        self.signal += _dot(flat_a, flat_a)
        self.noise += _dot(flat_d, flat_d)
        self.cross += _dot(flat_a, flat_b)
        self.power += _dot(flat_b, flat_b)
        self.max_abs = max(self.max_abs, float(np.abs(flat_d).max(initial=0.0)))
        if winners:
            self._winners(a, b)

    def _winners(self, a: Array, b: Array) -> None:
        """Count positions whose winner is the float model's; a tie in the float scores counts as agreement."""
        chosen = np.take_along_axis(a, b.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        best = a.max(axis=-1)
        slack = 1e-6 * np.maximum(np.abs(best), 1e-30)
        self.same += int((chosen >= best - slack).sum())
        self.winners += best.size

    @property
    def sqnr_db(self) -> float | None:
        """SQNR in dB; None where the tensors are identical or cannot be compared."""
        if self.noise == 0 or self.signal == 0 or self.broken:
            return None
        return 10 * math.log10(self.signal / self.noise)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both tensors, or None where one is zero."""
        norm = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.cross / norm if norm > 0 else None

    @property
    def agreement(self) -> float | None:
        """Share of positions with the same winner, or None where winners were not compared."""
        return self.same / self.winners if self.winners else None

    def summary(self) -> dict[str, float | None]:
        """sqnr_db, cosine, agreement and max_abs; max_abs is None where NaN or infinity appeared."""
        return {
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "agreement": self.agreement,
            "max_abs": None if self.broken else self.max_abs,
        }


def _dot(a: Array, b: Array) -> float:
    # float32 products summed pairwise in blocks, blocks in float64: exact enough and five times faster than float64
    block = 1 << 16
    if a.size <= block:
        return float(np.dot(a.astype(np.float64), b.astype(np.float64)))
    return float(sum(float(np.dot(a[i : i + block], b[i : i + block])) for i in range(0, a.size, block)))


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        metric: its name, or None.
        float_value: the metric of the float model.
        value: the metric of the other model.
        drop: how much worse it is, in the metric's units; negative where it is better.
        samples: how many samples the metric saw.
        outputs: sqnr_db, cosine, agreement, max_abs by output.
        nodes: sqnr_db and max_abs by node of the other model.
        layer_samples: how many samples the nodes' errors are from.
        notes: what the reader should know.
    """

    metric: str | None = None
    float_value: float | None = None
    value: float | None = None
    drop: float | None = None
    samples: int = 0
    outputs: dict[str, dict[str, float | None]] = field(default_factory=dict)
    nodes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    layer_samples: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return asdict(self)


Progress = Callable[[str, int, int], None]


def evaluate(
    reference: Model,
    subject: Model,
    data: CalibrationData,
    *,
    metric: str | None = None,
    output: str | None = None,
    batch: int = 32,
    samples: int | None = None,
    layer_samples: int = 64,
    journal: Journal | None = None,
    progress: Progress | None = None,
    allow_code: bool = False,
) -> Evaluation:
    """Run both models on the same samples in onnxruntime and compare them.

    Q/DQ pairs are computed as they are written. Raises what the data or a model raises.
    """
    journal = journal if journal is not None else Journal()
    progress = progress or (lambda what, done, total: None)
    result = Evaluation(metric=metric)
    mine, theirs = _maybe_metric(metric, output, allow_code), _maybe_metric(metric, output, allow_code)
    names = [t.name for t in reference.graph.outputs]
    class_like = {t.name for t in reference.graph.outputs if _class_like(t.shape)}
    float_session, other_session = session(reference), session(subject)
    outputs = {name: Difference() for name in names}
    total = min(len(data), samples) if samples else len(data)
    for part in _first(data, batch, samples):
        a, b = float_session.run(part.inputs), other_session.run(part.inputs)
        for name in names:
            if np.issubdtype(a[name].dtype, np.floating):
                outputs[name].add(a[name], b[name], name in class_like)
        if mine is not None and theirs is not None:
            mine.update(
                {n: np.asarray(v, np.float32) if v.dtype.kind == "f" else v for n, v in a.items()}, part.labels or {}
            )
            theirs.update(
                {n: np.asarray(v, np.float32) if v.dtype.kind == "f" else v for n, v in b.items()}, part.labels or {}
            )
        result.samples += part.count
        progress("evaluate", result.samples, total)
    result.outputs = {name: d.summary() for name, d in outputs.items() if d.signal or d.noise or d.broken or d.winners}
    if mine is not None and theirs is not None:
        result.float_value, result.value = mine.value(), theirs.value()
        sign = 1.0 if mine.higher_is_better else -1.0
        result.drop = sign * (result.float_value - result.value)
    del float_session, other_session
    result.nodes, result.layer_samples = node_errors(reference, subject, data, layer_samples, progress)
    return result


def _maybe_metric(name: str | None, output: str | None, allow_code: bool) -> Metric | None:
    return make_metric(name, output, allow_code) if name is not None else None


def _class_like(shape: Sequence[Any] | None) -> bool:
    """[batch, classes] or [batch, positions, classes] with a fixed number of classes."""
    return shape is not None and len(shape) in (2, 3) and isinstance(shape[-1], int) and shape[-1] > 1


def _first(data: CalibrationData, batch: int, samples: int | None) -> Iterator[Batch]:
    seen = 0
    for part in data.batches(batch):
        yield part
        seen += part.count
        if samples is not None and seen >= samples:
            return


def node_errors(
    reference: Model, subject: Model, data: CalibrationData, samples: int, progress: Progress
) -> tuple[dict[str, dict[str, float | None]], int]:
    """SQNR (dB) and largest difference of every node's first output that both models have, by node of ``subject``.

    Tensors are compared by name; at most about 256 MB of them are held at once, so large models run several times.

    Returns:
        Errors by node name, and how many samples they are from.
    """
    pairs = comparable(reference, subject)
    sizes = _sizes(reference, data, sorted({r for _, r, _ in pairs}))
    per_sample = max(sum(sizes.values()), 1)
    batch = max(1, min(16, _TAP_BYTES // (2 * per_sample)))
    groups = _groups(pairs, sizes, _TAP_BYTES // 2)
    found = {node: Difference() for node, _, _ in pairs}
    counted = 0
    for number, group in enumerate(groups):
        a_session = session(reference, outputs=sorted({r for _, r, _ in group}))
        b_session = session(subject, outputs=sorted({s for _, _, s in group}))
        counted = 0
        for part in _spread(data, batch, samples):
            a, b = a_session.run(part.inputs), b_session.run(part.inputs)
            for node, ref, sub in group:
                if a[ref].shape == b[sub].shape:
                    found[node].add(a[ref], b[sub])
            counted += part.count
            progress("layer errors", number * samples + min(counted, samples), len(groups) * samples)
            if counted >= samples:
                break
    keep = ("sqnr_db", "max_abs")
    errors = {n: {k: v for k, v in d.summary().items() if k in keep} for n, d in found.items()}
    return errors, counted


def _spread(data: CalibrationData, batch: int, samples: int) -> Iterator[Batch]:
    """Batches that reach over all of the data rather than its first part."""
    total = len(data)
    keep = max(1, total // max(samples, 1))
    for index, part in enumerate(data.batches(batch)):
        if index % keep == 0 or total <= samples:
            yield part


def comparable(reference: Model, subject: Model) -> list[tuple[str, str, str]]:
    """(node of ``subject``, tensor of ``reference``, tensor of ``subject``) for tensors that mean the same."""
    facts = reference.facts()
    made = {t.name for n in reference.nodes for t in n.outputs if facts.is_float(t.name)}
    pairs = []
    for node in subject.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE, "Cast", "Constant") or not node.outputs:
            continue
        name = node.outputs[0].name
        if name in made:
            pairs.append((node.name, name, name))
            continue
        # lowering gives an output's own name to the Cast behind the node that computes it
        for reader in node.outputs[0].outputs:
            if reader.op == "Cast" and reader.outputs[0].name in made:
                pairs.append((node.name, reader.outputs[0].name, name))
                break
    return pairs


def _sizes(model: Model, data: CalibrationData, names: list[str]) -> dict[str, int]:
    if not names:
        return {}
    probe: Session = session(model, outputs=names)
    for part in data.batches(1):
        return {name: int(value.nbytes) for name, value in probe.run(part.inputs).items()}
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def _groups(
    pairs: list[tuple[str, str, str]], sizes: Mapping[str, int], limit: int
) -> list[list[tuple[str, str, str]]]:
    groups: list[list[tuple[str, str, str]]] = []
    held = limit + 1
    for pair in pairs:
        size = 2 * sizes.get(pair[1], 0)
        if held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(pair)
        held += size
    return groups
