"""Measuring a model against its float original: the metric, the outputs, and the error of every node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from toolkit.analysis.metrics import Metric, make_metric
from toolkit.errors import ModelError, QtoolError
from toolkit.model import Model, onnx_type
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE
from toolkit.runtime import Session, session

if TYPE_CHECKING:
    from toolkit.data import Batch, CalibrationData

Array = np.ndarray[Any, Any]
_EXACT = (1, 24)
_MASK, _FEW_SAMPLES = 1e9, 8
_TAP_BYTES = 256_000_000
_NARROW = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}


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
    sums: dict[tuple[int, ...], tuple[int, Array]] = field(default_factory=dict)

    def add(self, reference: Array, value: Array, winners: bool = False) -> None:
        """Take in one batch of both tensors, of equal shape."""
        a = np.asarray(reference, np.float32)
        b = np.asarray(value, np.float32)
        usable = np.isfinite(a)
        broken = usable & ~np.isfinite(b)
        if broken.any():
            self.broken += int(broken.sum())
        keep = usable & ~broken
        # masks of -1e9 and beyond are no values: their difference would drown everything else
        keep &= np.abs(a) < _MASK
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

    def merge(self, other: Difference) -> None:
        """Take in what another part of the samples showed."""
        for name in ("signal", "noise", "cross", "power", "broken", "same", "winners"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        for shape, (count, total) in other.sums.items():
            mine, held = self.sums.get(shape, (0, np.zeros(shape)))
            self.sums[shape] = mine + count, held + total

    def add_equal(self, reference: Array, value: Array) -> None:
        """Take in one batch of tensors that are no floats: how many elements are equal, and how far the others are."""
        self.same += int((reference == value).sum())
        self.winners += reference.size
        if reference.dtype.kind in "iub" and reference.size:
            apart = np.abs(reference.astype(np.float64) - value.astype(np.float64))
            self.max_abs = max(self.max_abs, float(apart.max()))
        elif self.same < self.winners:
            self.max_abs = 1.0

    def _winners(self, a: Array, b: Array) -> None:
        """Count positions whose winner is the float model's; a tie in the float scores counts as agreement."""
        chosen = np.take_along_axis(a, b.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        best = a.max(axis=-1)
        slack = 1e-6 * np.maximum(np.abs(best), 1e-30)
        self.same += int((chosen >= best - slack).sum())
        self.winners += best.size

    def follow(self, reference: Array) -> None:
        """Remember the mean of a batched output by shape, for ``variation_db``."""
        if reference.ndim == 0 or not np.isfinite(reference).all():
            return
        rows = np.asarray(reference, np.float64)
        count, total = self.sums.get(rows.shape[1:], (0, np.zeros(rows.shape[1:])))
        self.sums[rows.shape[1:]] = count + len(rows), total + rows.sum(axis=0)

    @property
    def sqnr_db(self) -> float | None:
        """SQNR in dB, at most 150 (float32 has no more); None where the tensors are identical or not comparable."""
        if self.noise == 0 or self.signal == 0 or self.broken:
            return None
        return min(10 * math.log10(self.signal / self.noise), 150.0)

    @property
    def steady(self) -> bool:
        """Whether the float output hardly differs from sample to sample."""
        count = sum(n for n, _ in self.sums.values())
        power = sum(float((total * total).sum()) / n for n, total in self.sums.values())
        return count >= _FEW_SAMPLES * max(len(self.sums), 1) and 0 < self.signal <= power * (1 + 1e-7)

    @property
    def variation_db(self) -> float | None:
        """Power of what differs from sample to sample over the noise, in dB; None where too few samples were seen.

        A model that gives the same answer to every input can have a fine SQNR; here it has 0 dB or less.
        """
        steady = sum(float((total * total).sum()) / count for count, total in self.sums.values())
        samples = sum(count for count, _ in self.sums.values())
        varying = self.signal - steady
        if samples < _FEW_SAMPLES * len(self.sums) or not self.sums or self.noise == 0 or self.broken:
            return None
        return 10 * math.log10(max(varying, 1e-30) / self.noise) if varying > 1e-9 * self.signal else None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both tensors, or None where one is zero."""
        norm = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.cross / norm if norm > 0 else None

    @property
    def agreement(self) -> float | None:
        """Share of positions with the same winner, or of equal elements; None where neither was compared."""
        return self.same / self.winners if self.winners else None

    def summary(self) -> dict[str, float | None]:
        """sqnr_db, cosine, agreement and max_abs; max_abs is None where NaN or infinity appeared."""
        return {
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "agreement": self.agreement,
            "max_abs": None if self.broken else self.max_abs,
            "variation_db": self.variation_db,
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
        outputs: sqnr_db, cosine, agreement, max_abs by output that could be compared. Of integers and the like
            agreement is the share of equal elements.
        unlike: by output how many samples could not be compared, since its shape differs between the models.
        discrete: the outputs that hold integers and the like, not floats.
        form: which form of the other model ran: lowered, or float32 where onnxruntime cannot run the lowered one.
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
    unlike: dict[str, int] = field(default_factory=dict)
    discrete: list[str] = field(default_factory=list)
    form: str = "lowered"

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
    progress: Progress | None = None,
    allow_code: bool = False,
    instead: Callable[[], Model] | None = None,
) -> Evaluation:
    """Run both models on the same samples in onnxruntime and compare them.

    Q/DQ pairs are computed as they are written. Raises what the data or a model raises.

    Args:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        metric: top1, top5, exact, mse, or ``module:Name``.
        output: the output that the metric looks at.
        batch: samples to run at once.
        samples: use at most this many.
        layer_samples: samples for the error of every node.
        progress: called with what is being done, how much is done, and of how much.
        allow_code: whether ``metric`` may be code.
        instead: gives the form of ``subject`` to measure where onnxruntime cannot run it, which has no kernel for
            many operators in bfloat16.
    """
    progress = progress or (lambda what, done, total: None)
    result = Evaluation(metric=metric)
    mine, theirs = _maybe_metric(metric, output, allow_code), _maybe_metric(metric, output, allow_code)
    names = [t.name for t in reference.graph.outputs]
    class_like = {t.name for t in reference.graph.outputs if _class_like(t.shape)}
    float_session = session(reference)
    subject, other_session = _runnable(float_session, subject, data, instead, result)
    outputs = {name: Difference() for name in names}
    shapes: dict[str, str] = {}
    discrete: set[str] = set()
    total = min(len(data), samples) if samples else len(data)
    for part in _first(data, batch, samples):
        a, b = float_session.run(part.inputs), _run(other_session, subject, part.inputs)
        for name in names:
            if a[name].shape != b[name].shape:
                result.unlike[name] = result.unlike.get(name, 0) + part.count
                shapes.setdefault(name, f"{list(a[name].shape)} and {list(b[name].shape)}")
            elif _is_float(a[name].dtype):
                outputs[name].add(a[name], b[name], name in class_like and a[name].size > 0)
                outputs[name].follow(a[name])
            else:
                outputs[name].add_equal(a[name], b[name])
                discrete.add(name)
        if mine is not None and theirs is not None:
            mine.update({n: _widened(v) for n, v in a.items()}, part.labels or {})
            theirs.update({n: _widened(v) for n, v in b.items()}, part.labels or {})
        result.samples += part.count
        progress("evaluate", result.samples, total)
    # an output that never had the same shape has no figures, which is not the same as perfect ones
    result.outputs = {name: d.summary() for name, d in outputs.items() if result.unlike.get(name, 0) < result.samples}
    result.discrete = sorted(discrete)
    for name, difference in outputs.items():
        if difference.steady:
            result.notes.append(
                f"output '{name}' is the same for every sample, so its figures say little: check the samples"
            )
    for name, count in result.unlike.items():
        result.notes.append(
            f"output '{name}' has another shape than the float model's on {count} of {result.samples} samples "
            f"({shapes[name]}, say): these were not compared"
        )
    if mine is not None and theirs is not None:
        before, after = float(mine.value()), float(theirs.value())
        sign = 1.0 if mine.higher_is_better else -1.0
        result.float_value, result.value = _finite(before), _finite(after)
        result.drop = _finite(sign * (before - after))
        if result.drop is None:
            result.notes.append(f"the metric is {before} for the float model and {after} for this one: no drop known")
    del float_session, other_session
    result.nodes, result.layer_samples = node_errors(reference, subject, data, layer_samples, progress)
    return result


def _runnable(
    float_session: Session,
    subject: Model,
    data: CalibrationData,
    instead: Callable[[], Model] | None,
    result: Evaluation,
) -> tuple[Model, Session]:
    """The model to measure and its session: ``subject``, or ``instead`` where onnxruntime cannot run it."""
    for part in data.batches(1):
        # whatever is wrong with the samples shows here, on the float model
        float_session.run(part.inputs)
        try:
            if instead is not None and _inexact(subject):
                raise ModelError(f"onnxruntime before {'.'.join(map(str, _EXACT))} quantizes float16 tensors inexactly")
            found = session(subject)
            _run(found, subject, part.inputs)
            return subject, found
        except ModelError as error:
            if instead is None:
                raise
            refusal = error.what
            other = instead()
            try:
                found = session(other)
                _run(found, other, part.inputs)
            except ModelError:
                raise error from None
        result.form = "float32"
        types = " and ".join(_narrow_types(subject)) or "its"
        result.notes.append(
            "onnxruntime cannot run the lowered model well, so its float32 form with the same pairs was measured: "
            f"{types} rounding is not in the accuracy figures ({refusal[:200]})"
        )
        return other, found
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def _inexact(model: Model) -> bool:
    """Whether this onnxruntime rounds where an engine does not: 1.23 quantizes float16 tensors in float16.

    Seen on strip_reader: 35.8 dB with 1.23.2, 43.4 dB with 1.31.1, 43.3 dB in float32 with both.
    """
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2] if part.isdigit())
    half = any(n.op == QUANTIZE and onnx_type(n.inputs[1].dtype) == TensorProto.FLOAT16 for n in model.nodes)
    return half and version < _EXACT


def _run(loaded: Session, model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model on samples of the float model's types: where the recipe gave an input another type, it is cast."""
    wanted = {t.name: onnx_type(t.dtype) for t in model.graph.inputs}
    feed = {}
    for name, value in inputs.items():
        own = onnx.helper.tensor_dtype_to_np_dtype(wanted[name]) if wanted.get(name) else value.dtype
        feed[name] = value if value.dtype == own or not _is_float(value.dtype) else value.astype(own)
    return loaded.run(feed)


def _narrow_types(model: Model) -> list[str]:
    """The 16-bit float types that a model computes in, bf16 first."""
    types = set(model.facts().types.values())
    return [word for word, number in _NARROW.items() if number in types]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_float(dtype: np.dtype[Any]) -> bool:
    """Whether an array holds floats; numpy itself does not know that bfloat16 and float8 are some."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name.startswith(("bfloat", "float")))


def _widened(value: Array) -> Array:
    return np.asarray(value, np.float32) if _is_float(value.dtype) else value


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
    compared: set[str] = set()
    for number, group in enumerate(groups):
        a_session = session(reference, outputs=sorted({r for _, r, _ in group}))
        b_session = session(subject, outputs=sorted({s for _, _, s in group}))
        counted = 0
        for part in _spread(data, batch, samples):
            a, b = a_session.run(part.inputs), _run(b_session, subject, part.inputs)
            for node, ref, sub in group:
                if a[ref].shape == b[sub].shape:
                    found[node].add(a[ref], b[sub])
                    compared.add(node)
            counted += part.count
            progress("layer errors", number * samples + min(counted, samples), len(groups) * samples)
            if counted >= samples:
                break
    keep = ("sqnr_db", "max_abs")
    errors = {n: {k: v for k, v in d.summary().items() if k in keep} for n, d in found.items() if n in compared}
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
