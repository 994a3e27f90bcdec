"""Measuring a model against its float original: the metric, the outputs, and the error of every node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from onnx import TensorProto

from toolkit.base.collection import return_free_blocks
from toolkit.base.errors import BackendError, ModelError, QtoolError
from toolkit.base.progress import Progress, silent
from toolkit.base.text import on_one_line
from toolkit.base.threads import prefetched
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.data.faults import at_fault, run_samples
from toolkit.evaluation.arithmetic.ended_sessions import ended_sessions
from toolkit.evaluation.arithmetic.native_arithmetic import run_natively
from toolkit.evaluation.arithmetic.other_arithmetic import OtherArithmetic
from toolkit.evaluation.arithmetic.rounding import with_rounding
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.comparison.answers import Answers
from toolkit.evaluation.comparison.clipping import Clipping, kept_amax
from toolkit.evaluation.comparison.counterparts import Run, counterparts, run_on
from toolkit.evaluation.comparison.outcome import compare, summed
from toolkit.evaluation.comparison.outputs import EvaluationResult, OutputComparison
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.table import together
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.evaluation.node_errors.float_form import node_reference
from toolkit.evaluation.node_errors.float_outputs import FloatOutputs
from toolkit.evaluation.node_errors.layer_positions import LayerPositions
from toolkit.evaluation.node_errors.measure import MeasuredForm, comparable, extra_tensors, node_errors
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel, SerializedModel
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import MOST_NODES, Session, session
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.default_rewrites import rewritten
from toolkit.placement.ops import QUANTIZE
from toolkit.placement.qdq import without_pairs

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch, BatchSize, CalibrationData

_EXACT = (1, 24)
# integer kernels round differently: below this level, and by that much worse, it is another model
_FAIR_DB, _WORSE_DB = 20.0, 6.0
_FEW_SAMPLES, _FEW_OF = 16, 32
"""How many samples tell which form of a model to look at, at most, and no larger part of all than one in so many."""
_UNROUNDED_SHARE, _UNROUNDED_LEAST, _UNROUNDED_OF_FEW = 0.125, 32, 0.25
"""Of more than a few samples, the part that the model is run on as onnxruntime itself computes it, the fewest samples
that this may be, and the part where that would be more of them.

It costs two to four inferences of these samples, and explains a difference between runtimes: an estimate will do.
"""
_OFTEN = 64
"""From so many samples on a session that loads longer and runs faster pays: 3 of 40 ms a sample of a MobileNetV2."""
_MOST_UNROUNDED = 20_000
"""Nodes of a model for which that pays: with more, its session alone takes more time and memory than all runs."""
_NARROW = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}


def evaluate(
    reference: Model,
    subject: Model,
    data: CalibrationData,
    *,
    metric: str | None = None,
    output: str | None = None,
    batch: int = 8,
    samples: int | None = None,
    layer_samples: int | None = None,
    progress: Progress | None = None,
    allow_code: bool = False,
    prepared: Callable[[], Model] | None = None,
    float_form: Callable[[], Model] | None = None,
    answers: Answers | None = None,
    options: MetricOptions | None = None,
    kept: EvaluationCheckpoint | None = None,
) -> EvaluationResult:
    """Run both models on the same samples in onnxruntime and compare them; Q/DQ pairs are computed as they are written.

    Args:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        metric: one that ``METRICS`` lists, or ``module:Name``.
        output: the output that the metric reads.
        batch: the most samples to run at once.
        samples: use at most this many.
        layer_samples: samples for the error of every node; None for as many as cost little time, 64 at most.
        progress: called with the current task, the amount done, and the total.
        allow_code: whether ``metric`` may be code.
        prepared: returns ``subject`` before lowering: in float32, with its pairs. It is measured where onnxruntime
            cannot run ``subject``, as in bfloat16, for which many kernels are lacking; and the errors of its nodes are
            relative to its own float form, since passes may rescale tensors. Without it they are relative to
            ``reference``.
        float_form: returns ``prepared`` without its pairs; where None it is made here.
        answers: reads outputs as the task says; None without a task.
        options: what the metric must know besides the output.
        kept: what a killed evaluation had computed, and where this one stores it; None for nowhere.

    Raises:
        QtoolError: the samples do not fit, or a model or the metric fails on them.
    """
    progress, kept = progress or silent, kept or EvaluationCheckpoint()
    paired, plain = prepared() if prepared is not None else subject, None
    if prepared is not None:
        # before sessions are opened: it takes a copy of a large graph, most of which is freed again
        plain = float_form() if float_form is not None else without_pairs(paired).settle()
    batch = answers.batch(batch) if answers is not None else batch
    total = min(len(data), samples) if samples else len(data)
    floats = FloatOutputs(reference)
    steps = _EvaluationSteps(reference, subject, data, floats, kept, progress, total, batch, together(metric))
    exact, rescaled, told = reference, set[str](), list[Finding]()
    if plain is not None:
        exact, rescaled, told = node_reference(reference, plain, floats.session(), data, steps.few)
    lowered, rounding_notes = steps.lowered()
    form, other_session, notes = _runnable(reference, floats, lowered, data, prepared, total >= _OFTEN)
    named = counterparts(reference, form.model, floats.outputs)
    runs: list[Run] = [floats.run, partial(run_on, other_session, named=named)]
    native_runs, native_notes = steps.native_runs(form, named)
    compared = partial(OutputComparison, reference, metric, output, allow_code, floats.outputs, answers, options)
    result = steps.compare(runs, native_runs, compared, answers)
    result.form, result.notes = form.name, [*rounding_notes, *notes, *native_notes, *result.notes]
    # asked only where there is something that default optimizations are known to change
    nodes = rewritten(subject) if form.name == "lowered" else []
    outputs = outputs_of(runs, data, steps.few) if nodes else []
    del other_session, runs
    floats.give_back()
    return_free_blocks()
    fault = defaults_fault(subject, outputs, named, nodes) if nodes else None
    ended = ended_sessions(subject) if form.name == "lowered" else []
    result.notes += [*([fault] if fault is not None else []), *ended, *told]
    pairs = [pair for pair in comparable(exact, form.model) if pair[1] not in rescaled]
    result.clipping = _watched(exact, paired, rescaled)
    result.nodes, result.layer_samples = node_errors(
        exact, form, data, layer_samples, progress, pairs, result.clipping, kept,
        LayerPositions.of(answers.parts, reference) if answers is not None else None,
    )  # fmt: skip
    if kept.refused is not None:
        result.notes.append(EvaluationCode.NOTHING_TO_GO_ON_WITH(why=on_one_line(str(kept.refused), 400)))
    kept.remove()
    return result


@dataclass(frozen=True)
class _EvaluationSteps:
    """What the steps of an evaluation share.

    Attributes:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        floats: the float model's outputs.
        kept: what a killed evaluation had computed, and where this one stores it.
        progress: called with the current task, the amount done, and the total.
        total: how many of the samples are compared.
        batch: the most samples to run at once.
        together: how many successive samples the metric judges together.
    """

    reference: Model
    subject: Model
    data: CalibrationData
    floats: FloatOutputs
    kept: EvaluationCheckpoint
    progress: Progress
    total: int
    batch: int
    together: int

    @property
    def few(self) -> int:
        """How many samples tell which form of a model to look at."""
        return min(_FEW_SAMPLES, max(self.total // _FEW_OF, 1))

    def lowered(self) -> tuple[MeasuredForm, list[Finding]]:
        """The model as it is measured where onnxruntime can run it, and notes on its rounding.

        With very many nodes the float model's outputs are computed here, so that its session goes before this one's.
        """
        rounded, notes = _rounded(self.subject)
        if rounded is None:
            return MeasuredForm(self.subject), notes
        extra = extra_tensors(self.reference, self.subject, rounded, self.data, self.batch)
        if extra:
            parts = self._parts(self._computes_natively() and len(self.subject.graph.nodes) <= _MOST_UNROUNDED)
            asked = chain(first_samples(self.data, 1, self.few), *(some.batches(self.batch) for some in parts))
            self.floats.precompute((part.inputs for part in asked), self.kept.precomputed())
        # of a graph of so many nodes few runs do not pay for what is rewritten of it
        once = self.total <= _FEW_SAMPLES and len(rounded.proto.graph.node) > MOST_NODES
        return MeasuredForm(self.subject, SerializedModel.of(rounded), extra=extra, optimise=not once), notes

    def native_runs(self, form: MeasuredForm, named: Mapping[str, str]) -> tuple[list[Run], list[Finding]]:
        """Running the model as onnxruntime itself computes it where that may differ from ``form``; and notes.

        No run where it does not differ, has too many nodes, or fails.
        """
        if form.rounded is None or not self._computes_natively():
            return [], []
        size = len(self.subject.graph.nodes)
        if size > _MOST_UNROUNDED:
            return [], [EvaluationCode.UNROUNDED_LEFT_OUT(nodes=size, most=_MOST_UNROUNDED)]
        try:
            return [run_natively(self.subject, named, self.data)], []
        except (ModelError, BackendError) as error:
            return [], [EvaluationCode.UNROUNDED_NOT_RUN(why=on_one_line(error.what, 200))]

    def compare(
        self,
        runs: Sequence[Run],
        native_runs: list[Run],
        compared: Callable[..., OutputComparison],
        answers: Answers | None,
    ) -> EvaluationResult:
        """Compare the outputs for all samples, batch by batch.

        Args:
            runs: the float model's, and the measured model's.
            native_runs: what ``native_runs`` returned; emptied as soon as its samples have been run.
            compared: creates an object that compares outputs with the float model's.
            answers: reads outputs as the task says; None without a task.
        """
        judged = self._parts(bool(native_runs))
        whole, other = compared(parts=len(judged)), OtherArithmetic(compared, answers)
        fitted: set[str] = set()
        rounded_too = None
        for place, some in enumerate(judged, 1):
            # stopping it here waits for the batch being computed, which is kept; its sessions go when it ends
            with closing(
                prefetched(some.batches(self.batch), partial(_kept_outputs, self.kept, [*runs, *native_runs]))
            ) as batches:
                for part, (wanted, *found) in batches:
                    with at_fault(part):
                        whole.add(wanted, found[0], part.labels, part.count, part.inputs)
                        if native_runs:
                            other.add(wanted, found, part.labels, part.count, part.inputs)
                    fitted.update(part.profiles)
                    self.progress("evaluate", whole.samples, self.total)
            # the rest is not run so, and its session goes
            native_runs.clear()
            if place < len(judged):
                rounded_too = whole.so_far()
        result = whole.result()
        result.unrounded = other.result(whole.samples, rounded_too)
        left = [name for name in self.data.profiles.names if name not in fitted]
        result.notes += self.data.changed()
        result.notes += [EvaluationCode.PROFILE_NOT_EVALUATED(profile=name, samples=whole.samples) for name in left]
        return result

    def _computes_natively(self) -> bool:
        """Whether onnxruntime has kernels for the model's 16-bit types: for bfloat16 it has none."""
        return "bf16" not in _narrow_types(self.subject)

    def _parts(self, apart: bool) -> list[CalibrationData]:
        """The samples in two parts where some are run as onnxruntime itself computes the model: these, evenly spread,
        and the rest.
        """
        data = self.data.first(self.total)
        if not apart or len(data) <= _FEW_SAMPLES:
            return [data]
        share = max(_UNROUNDED_SHARE, min(_UNROUNDED_LEAST / max(len(data), 1), _UNROUNDED_OF_FEW))
        others, some = data.split(share, together=self.together)
        return [some, others]


def _kept_outputs(kept: EvaluationCheckpoint, runs: Sequence[Run], part: Batch) -> Sequence[Mapping[str, Array]]:
    """The outputs of the float model and of the others for the same samples, computed where they are not kept."""
    return kept.outputs(part.inputs, lambda inputs: [run_samples(part, run) for run in runs], len(runs))


def _rounded(subject: Model) -> tuple[LightModel | None, list[Finding]]:
    """The model with its 16-bit types' rounding written out, which onnxruntime's CPU provider leaves out; and notes.

    None where there is nothing to round.
    """
    if not _narrow_types(subject):
        return None, []
    unknown: list[str] = []
    rounded = with_rounding(subject, unknown)
    notes = [EvaluationCode.ROUNDING_PARTLY_MEASURED(types=_narrow_types(subject), nodes=unknown)] if unknown else []
    return rounded, notes


def _runnable(
    reference: Model,
    floats: FloatOutputs,
    lowered: MeasuredForm,
    data: CalibrationData,
    instead: Callable[[], Model] | None,
    often: bool,
) -> tuple[MeasuredForm, Session, list[Finding]]:
    """The form to measure, its session, and notes: ``instead`` where onnxruntime cannot run ``lowered``."""
    subject = lowered.model
    for part in data.batches(1):
        # whatever is wrong with the samples shows here, on the float model
        floats.run(part.inputs)
        try:
            if instead is not None and _inexact(subject):
                raise ModelError(f"onnxruntime before {'.'.join(map(str, _EXACT))} quantizes float16 tensors inexactly")
            named = counterparts(reference, subject, floats.outputs)
            found = lowered.session(list(named.values()), often=often)
            run_on(found, part.inputs, named)
            return lowered, found, []
        except ModelError as error:
            if instead is None:
                raise
            refusal = error.what
            other = MeasuredForm(instead(), name="float32")
            try:
                named = counterparts(reference, other.model, floats.outputs)
                found = other.session(list(named.values()), often=often)
                run_on(found, part.inputs, named)
            except ModelError:
                raise error from None
        why = on_one_line(refusal, 200)
        return other, found, [EvaluationCode.MEASURED_IN_FLOAT32(types=_narrow_types(subject), why=why)]
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def outputs_of(
    runs: Sequence[Run], data: CalibrationData, samples: int = _FEW_SAMPLES
) -> list[tuple[Mapping[str, Array], list[dict[str, Array]]]]:
    """The inputs of the first samples, one by one, each with the outputs of ``runs`` for it."""
    return [(part.inputs, [run(part.inputs) for run in runs]) for part in first_samples(data, 1, samples)]


def defaults_fault(
    subject: Model,
    outputs: Sequence[tuple[Mapping[str, Array], Sequence[Mapping[str, Array]]]],
    named: Mapping[str, str],
    nodes: Sequence[str] = (),
) -> Finding | None:
    """A finding that onnxruntime refuses the model with its default optimizations, or computes something else.

    Args:
        subject: the model.
        outputs: inputs, each with the outputs of the float model and those of ``subject`` where pairs are computed as
            they are written; a few samples tell, since whole layers go wrong.
        named: see ``counterparts``.
        nodes: where it is known to happen.
    """
    try:
        default = session(subject, outputs=list(named.values()), packed=True, as_written=False)
        found = [(compare(wanted, written, ()), compare(wanted, run_on(default, inputs, named), ()))
                 for inputs, (wanted, written) in outputs]  # fmt: skip
    except ModelError as error:
        return EvaluationCode.DEFAULTS_REFUSE(nodes=nodes, why=on_one_line(error.what.split(": ", 1)[-1], 200))
    before, after = (summed([pair[place] for pair in found]).sqnr_db for place in (0, 1))
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


def _narrow_types(model: Model) -> list[str]:
    """The 16-bit float types that a model computes in, bf16 first."""
    types = set(model.facts().types.values())
    inside = (node for node, graph in model.walk() if graph is not model.graph)
    types |= {onnx_type(t.dtype) for node in inside for t in (*node.inputs, *node.outputs) if t.dtype is not None}
    return [word for word, number in _NARROW.items() if number in types]


def first_samples(data: CalibrationData, batch: BatchSize, samples: int | None) -> Iterator[Batch]:
    """Batches of the data's first ``samples`` samples, of all where None; the last batch may reach beyond."""
    seen = 0
    for part in data.batches(batch):
        yield part
        seen += part.count
        if samples is not None and seen >= samples:
            return


def _watched(exact: Model, paired: Model, rescaled: set[str]) -> dict[str, Clipping]:
    """Clipping watchers for activations that ``paired`` quantizes, and the model's own float inputs, in ``exact``."""
    facts = exact.facts()
    inputs = [t.name for t in exact.graph.inputs if facts.is_float(t.name)]
    made = {*inputs, *(t.name for n in exact.nodes for t in n.outputs)} - rescaled - not_run(exact).tensors.keys()
    amax = kept_amax(paired)
    return {name: Clipping(amax.get(name)) for name in (*amax, *inputs) if name in made}
