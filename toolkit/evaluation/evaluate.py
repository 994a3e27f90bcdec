"""Measure a model against its float original: the metric, the outputs, and the error of every node."""

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
from toolkit.evaluation.comparison.outputs import EvaluationResult, OutputComparison
from toolkit.evaluation.default_optimizations import TOLD_BY, defaults_fault
from toolkit.evaluation.metric import MetricOptions
from toolkit.evaluation.metrics.table import together
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.evaluation.node_errors.float_form import node_reference
from toolkit.evaluation.node_errors.float_outputs import FloatOutputs
from toolkit.evaluation.node_errors.layer_positions import LayerPositions
from toolkit.evaluation.node_errors.measure import MeasuredForm, extra_tensors, node_errors, pairs_of
from toolkit.evaluation.node_errors.row_order import rows_by_value
from toolkit.graph.large_models.run_memory import run_pool
from toolkit.graph.model import Model
from toolkit.graph.proto.light import LightModel, SerializedModel
from toolkit.graph.sessions.ort_session import cause_of
from toolkit.graph.sessions.runnable import not_run
from toolkit.graph.sessions.session import MOST_NODES, Session
from toolkit.graph.surgery.tensors import onnx_type
from toolkit.placement.default_rewrites import rewritten
from toolkit.placement.ops import QUANTIZE
from toolkit.placement.qdq import without_pairs

if TYPE_CHECKING:
    from toolkit.data.dataset import Batch, BatchSize, CalibrationData

_EXACT = (1, 24)
"""The first onnxruntime release that quantizes float16 tensors exactly, see ``_inexact``."""
_FEW_SAMPLES, _FEW_OF = 16, 32
"""Samples used to choose the form of a model to measure: at most the first number, and one in the second number."""
_UNROUNDED_SHARE, _UNROUNDED_LEAST, _UNROUNDED_OF_FEW = 0.125, 32, 0.25
"""Samples on which the model is also run in onnxruntime's own arithmetic, if there are more than a few: this share of
all, but at least this many, and of few samples at most this share. This run costs two to four inferences per sample and
only explains a difference between runtimes: an estimate will do."""
_OFTEN = 64
"""Samples from which on a session that loads slower but runs faster pays: MobileNetV2 saves 3 of 40 ms per sample."""
_MOST_UNROUNDED = 20_000
"""Most nodes for that run: with more, its session alone takes more time and memory than all other runs."""
_NARROW = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}


@run_pool.freed_after()
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
    """Run both models on the same samples in onnxruntime, with Q/DQ pairs computed as written, and compare them.

    Args:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        metric: a name in ``METRICS``, or ``module:Name``; None for no metric.
        output: the output that the metric reads; None for the first.
        batch: the largest number of samples to run at once.
        samples: the largest number of samples to use; None for all.
        layer_samples: samples for the error of every node; None for as many as cost little time, 64 at most.
        progress: called with the current task, the amount done, and the total.
        allow_code: whether ``metric`` may be code.
        prepared: returns ``subject`` before lowering: in float32, with its pairs. It is measured if onnxruntime cannot
            run ``subject``, for example in bfloat16, for which many kernels are missing. Node errors are relative to
            its own float form, since passes may rescale tensors; if None, they are relative to ``reference``.
        float_form: returns ``prepared`` without its pairs; if None, they are removed here.
        answers: reads the outputs by their tasks; None if there is no task.
        options: the metric's settings besides the output.
        kept: the results of an interrupted evaluation, and where to store those of this one; None for nowhere.

    Raises:
        QtoolError: the samples do not fit, or a model or the metric fails on them.
    """
    progress, kept = progress or silent, kept or EvaluationCheckpoint()
    paired, plain = prepared() if prepared is not None else subject, None
    if prepared is not None:
        # before any session is opened, because it needs a temporary copy of the graph
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
    nodes = rewritten(subject) if form.name == "lowered" else []  # which default optimizations are known to change
    outputs = outputs_of(runs, data, steps.looked_at) if nodes else []
    del other_session, runs
    floats.give_back()
    return_free_blocks()
    fault = defaults_fault(subject, outputs, named, nodes) if nodes else None
    run_pool.shrink()  # layer errors need blocks of other sizes
    ended = ended_sessions(subject) if form.name == "lowered" else []
    result.notes += [*([fault] if fault is not None else []), *ended, *told]
    pairs = [pair for pair in pairs_of(exact, form.model) if pair[1] not in rescaled]
    result.clipping = _watched(exact, paired, rescaled)
    result.nodes, result.layer_samples = node_errors(
        exact, form, data, layer_samples, progress, pairs, result.clipping, kept,
        LayerPositions.of(answers.parts, reference) if answers is not None else None,
    )  # fmt: skip
    result.notes += rows_by_value(exact, result.nodes)
    if kept.refused is not None:
        result.notes.append(EvaluationCode.NOTHING_TO_GO_ON_WITH(why=on_one_line(str(kept.refused), 400)))
    kept.remove()
    return result


@dataclass(frozen=True)
class _EvaluationSteps:
    """The steps of an evaluation and the data that they share.

    Attributes:
        reference: the float model.
        subject: the model to be measured.
        data: the samples.
        floats: the float model's outputs.
        kept: the results of an interrupted evaluation, and where to store those of this one.
        progress: called with the current task, the amount done, and the total.
        total: the number of samples to compare.
        batch: the largest number of samples to run at once.
        together: the number of successive samples that the metric judges together.
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
        """The number of samples used to choose the form of a model to measure."""
        return min(_FEW_SAMPLES, max(self.total // _FEW_OF, 1))

    @property
    def looked_at(self) -> int:
        """The number of samples on which onnxruntime's default optimizations are looked at."""
        return max(self.few, min(TOLD_BY, self.total))

    def lowered(self) -> tuple[MeasuredForm, list[Finding]]:
        """The form of the model to measure if onnxruntime can run it, and notes on its rounding.

        With very many nodes, the float model's outputs are computed first, so that its session can be closed before.
        """
        rounded, notes = _rounded(self.subject)
        if rounded is None:
            return MeasuredForm(self.subject), notes
        extra = extra_tensors(self.reference, self.subject, rounded, self.data, self.batch)
        if extra:
            parts = self._parts(self._computes_natively() and len(self.subject.graph.nodes) <= _MOST_UNROUNDED)
            asked = chain(first_samples(self.data, 1, self.looked_at), *(some.batches(self.batch) for some in parts))
            self.floats.precompute((part.inputs for part in asked), self.kept.precomputed())
        # with so many nodes, optimizing the graph takes longer than it saves in few runs
        once = self.total <= _FEW_SAMPLES and len(rounded.proto.graph.node) > MOST_NODES
        return MeasuredForm(self.subject, SerializedModel.of(rounded), extra=extra, optimise=not once), notes

    def native_runs(self, form: MeasuredForm, named: Mapping[str, str]) -> tuple[list[Run], list[Finding]]:
        """A function that runs the model in onnxruntime's own arithmetic, and notes.

        No function if that does not differ from ``form``, the model has too many nodes, or onnxruntime fails.
        """
        if form.rounded is None or not self._computes_natively():
            return [], []
        size = len(self.subject.graph.nodes)
        if size > _MOST_UNROUNDED:
            return [], [EvaluationCode.UNROUNDED_LEFT_OUT(nodes=size, most=_MOST_UNROUNDED)]
        try:
            return [run_natively(self.subject, named, self.data)], []
        except (ModelError, BackendError) as error:
            return [], [EvaluationCode.UNROUNDED_NOT_RUN(why=cause_of(error))]

    def compare(
        self,
        runs: Sequence[Run],
        native_runs: list[Run],
        compared: Callable[..., OutputComparison],
        answers: Answers | None,
    ) -> EvaluationResult:
        """Compare the outputs for all samples, batch by batch.

        Args:
            runs: functions that run the float model and the measured model.
            native_runs: the result of ``native_runs``; emptied as soon as its samples have been run.
            compared: creates an object that compares outputs with the float model's.
            answers: reads the outputs by their tasks; None if there is no task.
        """
        judged = self._parts(bool(native_runs))
        whole, other = compared(parts=len(judged)), OtherArithmetic(compared, answers)
        fitted: set[str] = set()
        rounded_too = None
        for place, some in enumerate(judged, 1):
            # closing waits for the batch being computed, which is stored; the sessions are freed afterwards
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
            # only the first part is run natively, so that session is freed
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
        """The samples in one part, or, if ``apart``, in two: evenly spread ones for the native run, and the rest.

        Few samples remain one part.
        """
        data = self.data.first(self.total)
        if not apart or len(data) <= _FEW_SAMPLES:
            return [data]
        share = max(_UNROUNDED_SHARE, min(_UNROUNDED_LEAST / max(len(data), 1), _UNROUNDED_OF_FEW))
        others, some = data.split(share, together=self.together)
        return [some, others]


def _kept_outputs(kept: EvaluationCheckpoint, runs: Sequence[Run], part: Batch) -> Sequence[Mapping[str, Array]]:
    """The outputs of all runs for one batch, read from the checkpoint if it has them."""
    return kept.outputs(part.inputs, lambda inputs: [run_samples(part, run) for run in runs], len(runs))


def _rounded(subject: Model) -> tuple[LightModel | None, list[Finding]]:
    """The model with Casts for the rounding of its 16-bit types, which onnxruntime's CPU provider omits; and notes.

    None if the model has no 16-bit types.
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
    """The form to measure, its session, and notes; the form is ``instead`` if onnxruntime cannot run ``lowered``."""
    subject = lowered.model
    for part in data.batches(1):
        # faulty samples are reported here, by the float model's run
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
            refusal = cause_of(error)
            other = MeasuredForm(instead(), name="float32")
            try:
                named = counterparts(reference, other.model, floats.outputs)
                found = other.session(list(named.values()), often=often)
                run_on(found, part.inputs, named)
            except ModelError:
                raise error from None
        return other, found, [EvaluationCode.MEASURED_IN_FLOAT32(types=_narrow_types(subject), why=refusal)]
    raise QtoolError("the evaluation data holds no sample", remedy="give at least one sample")


def outputs_of(
    runs: Sequence[Run], data: CalibrationData, samples: int = _FEW_SAMPLES
) -> list[tuple[Mapping[str, Array], list[dict[str, Array]]]]:
    """For each of the first samples, its inputs and the outputs of all ``runs``."""
    return [(part.inputs, [run(part.inputs) for run in runs]) for part in first_samples(data, 1, samples)]


def _inexact(model: Model) -> bool:
    """Whether this onnxruntime quantizes float16 tensors in float16, as 1.23 does, unlike engines.

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
    """Batches of the data's first ``samples`` samples (all if None); the last batch may contain further ones."""
    seen = 0
    for part in data.batches(batch):
        yield part
        seen += part.count
        if samples is not None and seen >= samples:
            return


def _watched(exact: Model, paired: Model, rescaled: set[str]) -> dict[str, Clipping]:
    """Objects that measure clipping by tensor of ``exact``: activations that ``paired`` quantizes, and float inputs."""
    facts = exact.facts()
    inputs = [t.name for t in exact.graph.inputs if facts.is_float(t.name)]
    made = {*inputs, *(t.name for n in exact.nodes for t in n.outputs)} - rescaled - not_run(exact).tensors.keys()
    amax = kept_amax(paired)
    return {name: Clipping(amax.get(name)) for name in (*amax, *inputs) if name in made}
