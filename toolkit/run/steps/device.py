"""The step "device": the engine run on this machine's GPU, compared with the float model in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from toolkit.base.errors import BackendError, DataError
from toolkit.base.temporary import temporary_folder
from toolkit.base.versions import code_fingerprint, versions
from toolkit.contract.findings import Finding
from toolkit.evaluation.comparison.outputs import EvaluationResult, OutputComparison
from toolkit.graph.model import Model
from toolkit.report.codes import ReportCode
from toolkit.run.inputs.feeds import Feed, Tally, batch_limits, chunks, notes, own_rows, run_chunk, samples_of, split
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.keys.keys import evaluation_key, gpu_here
from toolkit.run.keys.step import Record, Step
from toolkit.run.keys.user_code import measuring_uses_own_code
from toolkit.run.steps.engine import EngineRecord
from toolkit.run.task.task import TaskRecord, metric_options


class DeviceRecord(Record):
    """The results of the engine on the GPU.

    Attributes:
        status: whether it ran, failed, or was skipped.
        why: why it failed or was skipped; None if it ran.
        gpu: the GPU's name; empty if there is none.
        samples: how many samples were run.
        left_out: samples left out, counted once per profile, since their batches fit no shape of the profile.
        notes: findings about the samples for the reader.
        held_out: whether the samples were not used for calibration.
        random: whether the samples are random.
        found: the figures over all profiles.
        profiles: the figures of each profile.
    """

    status: Literal["ran", "failed", "skipped"]
    why: Finding | None = None
    gpu: str = ""
    samples: int = 0
    left_out: int = 0
    notes: list[Finding] = Field(default_factory=list)
    held_out: bool = True
    random: bool = False
    found: EvaluationResult | None = None
    profiles: dict[str, EvaluationResult] = Field(default_factory=dict)

    @property
    def final(self) -> bool:
        """False if the engine failed: the cause may be temporary, such as another program using the GPU's memory."""
        return self.status != "failed"


def skipped(why: Finding) -> DeviceRecord:
    """The record for an engine that is not run."""
    return DeviceRecord(status="skipped", why=why, gpu=_gpu_name())


class DeviceStep(Step[DeviceRecord]):
    """Runs the engine on the evaluation samples, each in every profile that it fits.

    The engine runs in a child process, so that a crash fails only this check.
    """

    name = "device"
    kind = DeviceRecord

    def __init__(self, inputs: Inputs, task: TaskRecord, engine: EngineRecord) -> None:
        super().__init__(inputs)
        self.task = task
        self.engine = engine

    def key(self) -> Mapping[str, Any]:
        """The float model, the engine, the GPU, and the inputs of measuring."""
        return {
            "float": self.inputs.prints.of_model(),
            **self.engine.engine_key(),
            "task": self.task.content(),
            "gpu": gpu_here(),
            "versions": versions(),
            "code": code_fingerprint(),
            **evaluation_key(self.inputs),
        }

    def calls_users_code(self) -> bool:
        """True if the metric is user code, or a pass that strips pairs from the reference model."""
        return measuring_uses_own_code(self.job)

    def run(self) -> DeviceRecord:
        """Run the engine on the samples and compare its outputs.

        Raises:
            QtoolError: the samples or the float model cannot be used.
        """
        from toolkit.data.sample import EVERYTHING
        from toolkit.evaluation.evaluate import first_samples
        from toolkit.graph.sessions.session import session

        section, source, profiles = self.recipe.evaluation, self.inputs.reference(), self.job.profiles
        data, held_out = self.inputs.evaluation_data(source)
        if data is None or len(data) == 0:
            raise DataError("there is no sample to run the engine on", remedy="add [evaluation] data")
        known = profiles.names or [EVERYTHING]
        reference = session(source)
        # an engine does not return the tensors before a plugin, so only the float model's own outputs can be compared
        own_outputs = [t.name for t in source.graph.outputs if t.name in reference.outputs]
        if not own_outputs:
            return skipped(ReportCode.NO_OUTPUT_TO_COMPARE(plugins=sorted(reference.left.plugins)))
        compared = _Compared(
            self._comparison(source, own_outputs), {name: self._comparison(source, own_outputs) for name in known}
        )
        size = max([section.batch, *(batch_limits(profile, data)[0] for profile in profiles)])
        read = min(len(data), section.samples) if section.samples else len(data)
        feeds = (feed for b in first_samples(data, size, section.samples) for feed in split(b, data, compared.tally))
        for chunk in chunks(feeds):
            with temporary_folder("device") as folder:
                try:
                    answers = self._outputs(chunk, folder)
                except BackendError as error:
                    return self._failed(ReportCode.ENGINE_ERROR(error=str(error)))
                for feed, outputs in zip(chunk, answers):
                    refusal = compared.add(feed, reference.run(samples_of(feed), own_outputs), outputs)
                    if refusal is not None:
                        return self._failed(refusal)
                    self.job.progress("device", min(len(compared.seen), read), read)
        tally, each = compared.tally, compared.each
        if not compared.seen:
            return skipped(ReportCode.SAMPLES_MIXED() if tally.mixed else ReportCode.NO_SAMPLE_FITS())
        return DeviceRecord(
            status="ran",
            gpu=_gpu_name(),
            samples=len(compared.seen),
            left_out=tally.left_out,
            held_out=held_out,
            random=data.random,
            notes=notes(tally, data, [name for name in known if not each[name].samples], section.samples is None),
            found=compared.total.result(),
            profiles={name: one.result() for name, one in each.items() if one.samples},
        )

    def _comparison(self, source: Model, outputs: list[str]) -> OutputComparison:
        """The comparison of the engine's outputs with the float model's."""
        section = self.recipe.evaluation
        return OutputComparison(
            source,
            section.metric,
            section.output,
            self.job.allow_code,
            outputs,
            self.task.answers,
            metric_options(section, self.task),
        )

    def _outputs(self, chunk: list[Feed], folder: Path) -> Any:
        """The engine's outputs for feeds, computed in a child process."""
        engine = self.engine.engine_file
        assert engine is not None
        return run_chunk(self.job, engine, self.engine.build.backend, chunk, folder)

    def _failed(self, why: Finding) -> DeviceRecord:
        return DeviceRecord(status="failed", why=why, gpu=_gpu_name())


@dataclass
class _Compared:
    """Compares the engine's outputs with the float model's, feed by feed.

    Attributes:
        total: the comparison over all feeds.
        each: the comparisons by profile.
        tally: counts of samples that could not be compared.
        seen: the positions of the compared samples.
    """

    total: OutputComparison
    each: Mapping[str, OutputComparison]
    tally: Tally = field(default_factory=Tally)
    seen: set[int] = field(default_factory=set)

    def add(self, feed: Feed, wanted: Mapping[str, Any], outputs: Mapping[str, Any]) -> Finding | None:
        """Add the outputs for one feed; returns why they cannot be judged, or None.

        Args:
            feed: the engine's inputs.
            wanted: the float model's outputs.
            outputs: the engine's outputs.
        """
        from toolkit.data.sample import EVERYTHING

        lost = [output for output in wanted if output not in outputs]
        if lost:
            return ReportCode.OUTPUT_LACKING(output=lost[0])
        own = outputs if feed.rows <= feed.count else own_rows(wanted, outputs, feed)
        if own is None:
            self.tally.mixed += feed.count
            return None
        try:
            for comparison in (self.total, self.each[feed.profile or EVERYTHING]):
                comparison.add(wanted, own, feed.labels, feed.count, samples_of(feed))
        except Exception as error:
            # the metric accepted the simulation's outputs, but may fail on the engine's
            return ReportCode.METRIC_REFUSES_OUTPUTS(error=f"{type(error).__name__}: {error}")
        self.seen.update(feed.origins)
        return None


def _gpu_name() -> str:
    """The name of this machine's GPU; empty if there is none."""
    from toolkit.base.gpu import find_gpu

    gpu = find_gpu()
    return gpu.name if gpu is not None else ""
