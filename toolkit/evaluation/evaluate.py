"""Measuring a model against its float original: the metric, the outputs, and the error of every node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.progress import Progress, silent
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.faults import at_fault
from toolkit.evaluation.answers import Answers
from toolkit.evaluation.clipping import Clipping, kept_amax
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.counterparts import counterparts
from toolkit.evaluation.difference import Difference, TensorError
from toolkit.evaluation.float_form import node_reference
from toolkit.evaluation.metric_base import MetricOptions
from toolkit.evaluation.outcome import compare, summed
from toolkit.evaluation.outputs import EvaluationResult, OutputComparison, is_float
from toolkit.evaluation.rounding import with_rounding
from toolkit.graph.model import Model
from toolkit.graph.runnable import not_run
from toolkit.graph.sessions import Session, session
from toolkit.graph.tensors import onnx_type
from toolkit.placement.default_rewrites import rewritten
from toolkit.placement.ops import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch, BatchSize, CalibrationData

_EXACT = (1, 24)
_TAP_BYTES = 256_000_000
# integer kernels round otherwise: below this level, and by as much worse, it is another model
_DEFAULT_SAMPLES, _FAIR_DB, _WORSE_DB = 16, 20.0, 6.0
_NARROW = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}


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
    prepared: Callable[[], Model] | None = None,
    answers: Answers | None = None,
    options: MetricOptions | None = None,
) -> EvaluationResult:
    """Run both models on the same samples in onnxruntime and compare them.

    Q/DQ pairs are computed as they are written. Raises what the data or a model raises.

    Args:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        metric: one that ``METRICS`` lists, or ``module:Name``.
        output: the output that the metric looks at.
        batch: samples to run at once.
        samples: use at most this many.
        layer_samples: samples for the error of every node.
        progress: called with what is being done, how much is done, and of how much.
        allow_code: whether ``metric`` may be code.
        prepared: gives ``subject`` before lowering, in float32 with its pairs. It is measured where onnxruntime cannot
            run ``subject``, which has no kernel for many operators in bfloat16; and its nodes' errors are against its
            own float form, since passes may rescale tensors. Without it they are against ``reference``.
        answers: reads outputs as the task says; None without a task.
        options: what the metric must know besides the output.
    """
    progress = progress or silent
    float_session = session(reference)
    comparison = OutputComparison(reference, metric, output, allow_code, float_session.outputs, answers, options)
    rounded, unrounded = _rounded(subject)
    measured, other_session, form, notes = _runnable(reference, float_session, rounded, data, prepared)
    named = counterparts(reference, measured, float_session.outputs)
    total = min(len(data), samples) if samples else len(data)
    fitted: set[str] = set()
    for part in first_samples(data, batch, samples):
        wanted = float_session.run(part.inputs)
        found = run_on(other_session, measured, part.inputs, named)
        with at_fault(part):
            comparison.add(wanted, found, part.labels, part.count)
        fitted.update(part.profiles)
        progress("evaluate", comparison.samples, total)
    result = comparison.result()
    result.form, result.notes = form, [*unrounded, *notes, *result.notes]
    result.notes += [
        EvaluationCode.PROFILE_NOT_EVALUATED(profile=name, samples=comparison.samples)
        for name in data.profiles.names
        if name not in fitted
    ]
    if form == "lowered":
        result.notes += _by_default(subject, measured, (float_session, other_session), named, data)
    del float_session, other_session
    # the rounding's own nodes are not in the graph that is reported on; its tensors have the names they have there
    exact, rescaled = reference, set[str]()
    paired = prepared() if prepared is not None else subject
    if prepared is not None:
        exact, rescaled, told = node_reference(
            reference, paired, lambda size, count: first_samples(data, size, count), batch, layer_samples
        )
        result.notes += told
    pairs = comparable(exact, subject if measured is rounded else measured)
    pairs = [pair for pair in pairs if pair[1] not in rescaled]
    result.clipping = _watched(exact, paired, rescaled)
    result.nodes, result.layer_samples = node_errors(
        exact, measured, data, layer_samples, progress, pairs, result.clipping
    )
    return result


def _rounded(subject: Model) -> tuple[Model, list[Finding]]:
    """The model with its 16-bit types' rounding written out, which onnxruntime's CPU provider leaves out; and notes."""
    if not _narrow_types(subject):
        return subject, []
    try:
        return with_rounding(subject), []
    except ModelError as error:
        return subject, [EvaluationCode.ROUNDING_PARTLY_MEASURED(types=_narrow_types(subject), why=error.what)]


def _runnable(
    reference: Model,
    float_session: Session,
    subject: Model,
    data: CalibrationData,
    instead: Callable[[], Model] | None,
) -> tuple[Model, Session, str, list[Finding]]:
    """The model to measure, its session, its form and notes: ``instead`` where onnxruntime cannot run ``subject``."""
    for part in data.batches(1):
        # whatever is wrong with the samples shows here, on the float model
        float_session.run(part.inputs)
        try:
            if instead is not None and _inexact(subject):
                raise ModelError(f"onnxruntime before {'.'.join(map(str, _EXACT))} quantizes float16 tensors inexactly")
            named = counterparts(reference, subject, float_session.outputs)
            found = session(subject, outputs=list(named.values()))
            run_on(found, subject, part.inputs)
            return subject, found, "lowered", []
        except ModelError as error:
            if instead is None:
                raise
            refusal = error.what
            other = instead()
            try:
                named = counterparts(reference, other, float_session.outputs)
                found = session(other, outputs=list(named.values()))
                run_on(found, other, part.inputs)
            except ModelError:
                raise error from None
        return (
            other,
            found,
            "float32",
            [EvaluationCode.MEASURED_IN_FLOAT32(types=_narrow_types(subject), why=refusal[:200])],
        )
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def _by_default(
    subject: Model, measured: Model, sessions: tuple[Session, Session], named: Mapping[str, str], data: CalibrationData
) -> list[Finding]:
    """What onnxruntime makes of the model with its default optimizations, where that is not what the pairs say.

    Asked only where something is there that they are known to change.
    """
    nodes = rewritten(subject)
    return [found] if nodes and (found := defaults_fault(subject, measured, sessions, named, data, nodes)) else []


def defaults_fault(
    subject: Model,
    measured: Model,
    sessions: tuple[Session, Session],
    named: Mapping[str, str],
    data: CalibrationData,
    nodes: Sequence[str] = (),
) -> Finding | None:
    """That onnxruntime refuses the model with its default optimizations, or computes something else of it.

    Args:
        subject: the model.
        measured: what stands for it where pairs are computed as they are written.
        sessions: those of the float model and of ``measured``.
        named: see ``counterparts``.
        data: the samples; a few tell, since whole layers go wrong.
        nodes: where it is known to happen.
    """
    try:
        default = session(subject, outputs=list(named.values()), packed=True, as_written=False)
        written, changed = [], []
        for part in first_samples(data, 1, _DEFAULT_SAMPLES):
            wanted = sessions[0].run(part.inputs)
            written.append(compare(wanted, run_on(sessions[1], measured, part.inputs, named), ()))
            changed.append(compare(wanted, run_on(default, subject, part.inputs, named), ()))
    except ModelError as error:
        return EvaluationCode.DEFAULTS_REFUSE(nodes=nodes, why=error.what.split(": ", 1)[-1][:200])
    before, after = summed(written).sqnr_db, summed(changed).sqnr_db
    if after < min(_FAIR_DB, before - _WORSE_DB):
        return EvaluationCode.DEFAULTS_CHANGE(nodes=nodes, sqnr_db=after, written_db=before)
    return None


def _inexact(model: Model) -> bool:
    """Whether this onnxruntime rounds where an engine does not: 1.23 quantizes float16 tensors in float16.

    Seen on strip_reader: 35.8 dB with 1.23.2, 43.4 dB with 1.31.1, 43.3 dB in float32 with both.
    """
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2] if part.isdigit())
    half = any(n.op == QUANTIZE and onnx_type(n.inputs[1].dtype) == TensorProto.FLOAT16 for n in model.nodes)
    return half and version < _EXACT


def run_on(
    loaded: Session, model: Model, inputs: Mapping[str, Array], named: Mapping[str, str] | None = None
) -> dict[str, Array]:
    """Run a model on samples of the float model's types: where the recipe gave an input another type, it is cast.

    ``named`` gives the tensors of the model by the names that their values are wanted under, see ``counterparts``.
    """
    wanted = {t.name: onnx_type(t.dtype) for t in model.graph.inputs}
    feed = {}
    for name, value in inputs.items():
        own = onnx.helper.tensor_dtype_to_np_dtype(wanted[name]) if wanted.get(name) else value.dtype
        feed[name] = value if value.dtype == own or not is_float(value.dtype) else value.astype(own)
    found = loaded.run(feed)
    return found if named is None else {name: found[own] for name, own in named.items()}


def _narrow_types(model: Model) -> list[str]:
    """The 16-bit float types that a model computes in, bf16 first."""
    types = set(model.facts().types.values())
    return [word for word, number in _NARROW.items() if number in types]


def first_samples(data: CalibrationData, batch: BatchSize, samples: int | None) -> Iterator[Batch]:
    """Batches of the data's first ``samples`` samples, of all where None; the last batch may reach beyond."""
    seen = 0
    for part in data.batches(batch):
        yield part
        seen += part.count
        if samples is not None and seen >= samples:
            return


def node_errors(
    reference: Model,
    subject: Model,
    data: CalibrationData,
    samples: int,
    progress: Progress,
    pairs: list[tuple[str, str, str]] | None = None,
    watched: Mapping[str, Clipping] | None = None,
) -> tuple[dict[str, TensorError], int]:
    """SQNR (dB) and largest difference of every node's first output that both models have, by node of ``subject``.

    Tensors are compared by name; at most about 256 MB of them are held at once, so large models run several times.

    Args:
        reference: the float model.
        subject: the other one.
        data: the samples.
        samples: how many of them to use, spread over the data.
        progress: called with what is being done, how much is done, and of how much.
        pairs: what to compare, see ``comparable``.
        watched: by tensor of ``reference`` what takes in its values.

    Returns:
        Errors by node name, and how many samples they are from.
    """
    pairs = comparable(reference, subject) if pairs is None else pairs
    watched = watched or {}
    names = list(dict.fromkeys([*(r for _, r, _ in pairs), *watched]))
    sizes = _sizes(reference, data, names)
    per_sample = max(sum(sizes.values()), 1)
    batch = max(1, min(16, _TAP_BYTES // (2 * per_sample)))
    groups = _groups(names, sizes, _TAP_BYTES // 2)
    found = {node: Difference() for node, _, _ in pairs}
    counted = 0
    compared: set[str] = set()
    for number, group in enumerate(groups):
        held = set(group)
        within = [pair for pair in pairs if pair[1] in held]
        a_session = session(reference, outputs=group)
        b_session = session(subject, outputs=sorted({s for _, _, s in within})) if within else None
        counted = 0
        for part in _spread(data, batch, samples):
            a = a_session.run(part.inputs)
            b = run_on(b_session, subject, part.inputs) if b_session is not None else {}
            for node, ref, sub in within:
                if a[ref].shape == b[sub].shape:
                    found[node].add(a[ref], b[sub])
                    compared.add(node)
            for name in group:
                if name in watched:
                    watched[name].add(a[name])
            counted += part.count
            progress("layer errors", number * samples + min(counted, samples), len(groups) * samples)
            if counted >= samples:
                break
    return {node: found[node].error for node in found if node in compared}, counted


def _spread(data: CalibrationData, batch: int, samples: int) -> Iterator[Batch]:
    """Batches that reach over all of the data rather than its first part."""
    total = len(data)
    keep = max(1, total // max(samples, 1))
    for index, part in enumerate(data.batches(batch)):
        if index % keep == 0 or total <= samples:
            yield part


def comparable(reference: Model, subject: Model) -> list[tuple[str, str, str]]:
    """(node of ``subject``, tensor of ``reference``, tensor of ``subject``) for tensors that mean the same."""
    facts, left, lost = reference.facts(), not_run(reference), not_run(subject)
    made = {t.name for n in reference.nodes for t in n.outputs if facts.is_float(t.name)} - left.tensors.keys()
    pairs = []
    for node in subject.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE, "Cast", "Constant") or not node.outputs:
            continue
        name = node.outputs[0].name
        if name in lost.tensors:
            continue
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


def _groups(names: list[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The tensors in groups of about ``limit`` bytes a sample in both models."""
    groups: list[list[str]] = []
    held = limit + 1
    for name in names:
        size = 2 * sizes.get(name, 0)
        if held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _watched(exact: Model, paired: Model, rescaled: set[str]) -> dict[str, Clipping]:
    """What watches the activations that ``paired`` quantizes, and the model's own float inputs, in ``exact``."""
    facts = exact.facts()
    inputs = [t.name for t in exact.graph.inputs if facts.is_float(t.name)]
    made = {*inputs, *(t.name for n in exact.nodes for t in n.outputs)} - rescaled - not_run(exact).tensors.keys()
    amax = kept_amax(paired)
    return {name: Clipping(amax.get(name)) for name in (*amax, *inputs) if name in made}
