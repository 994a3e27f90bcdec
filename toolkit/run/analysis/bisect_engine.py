"""The check of ``qtool bisect --on engine``: each candidate is built, run on this machine's GPU and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.backends.trials.bench import EngineBench
from toolkit.base.errors import BackendError, DataError, ModelError
from toolkit.base.files import sha256_json, write_bytes
from toolkit.base.precision import Precision
from toolkit.base.temporary import temporary_folder
from toolkit.base.types import Array
from toolkit.contract.findings import Finding
from toolkit.run.inputs.feeds import Feed, Tally, batch_limits, chunks, notes, own_rows, run_chunk, samples_of, split
from toolkit.search.sensitivity.bisect import Answer

if TYPE_CHECKING:
    from toolkit.contract.plan import PrecisionPlan
    from toolkit.evaluation.budget import Budget
    from toolkit.graph.model import Model
    from toolkit.run.analysis.quantizing import QuantizingRecipe


class EngineCheck:
    """Check whether the engine passes with the given layers in float; a ``Check`` for ``bisect``.

    The samples are those of the simulation, each in every profile that it fits. The engine's outputs are compared with
    onnxruntime's outputs of the float model, and the limits are judged by the same code as in simulation.

    Args:
        ready: the recipe up to its quantizing pass.
        precision: the type of kept layers: fp16, bf16 or fp32.

    Raises:
        DataError: no sample fits the batch sizes of any profile.
    """

    def __init__(self, ready: QuantizingRecipe, budget: Budget, precision: Precision) -> None:
        from toolkit.graph.sessions.session import session

        self.ready, self.budget, self.precision = ready, budget, precision
        bench = ready.context.bench
        assert isinstance(bench, EngineBench)
        self.ranges = ready.context.known_ranges
        self.bench = replace(bench, settings=bench.settings.model_copy(update={"measure": False}))
        self._last: tuple[frozenset[str], Model, PrecisionPlan] | None = None
        self._tally = Tally()
        self._chunks = self._samples()
        reference = session(ready.simulation.model)
        outputs = [t.name for t in ready.simulation.model.graph.outputs if t.name in reference.outputs]
        if not outputs:
            raise ModelError(
                f"onnxruntime cannot run {', '.join(reference.left.plugins)}, so there is no output to compare an "
                "engine's with",
                where=str(ready.job.model_path),
                remedy="bisect on the simulation: leave out --on engine",
            )
        self._wanted = [[reference.run(samples_of(feed), outputs) for feed in chunk] for chunk in self._chunks]
        self._mixed: dict[tuple[str, tuple[int, ...]], int] = {}

    def _samples(self) -> list[list[Feed]]:
        from toolkit.simulation.simulation import chosen

        simulation, profiles = self.ready.simulation, self.ready.job.profiles
        data = chosen(simulation.data, simulation.settings)
        size = max([simulation.settings.batch, *(batch_limits(profile, data)[0] for profile in profiles)])
        found = list(chunks(feed for batch in data.batches(size) for feed in split(batch, data, self._tally)))
        if not found:
            raise DataError(
                "no sample fits the batches of any profile", where=data.name, remedy="add samples that fit a profile"
            )
        return found

    def fingerprint(self) -> str:
        """Digest of what the verdicts depend on besides the lowered model: samples, limits, settings, GPU, versions."""
        found = [self.bench.fingerprint(), self.ready.simulation.fingerprint(), repr(self.budget)]
        if self.bench.settings.calibrator != "ranges":
            # TensorRT's own calibrator reads these samples, whichever samples the answers are judged on
            section = self.ready.job.recipe.calibration
            found += [section.model_dump_json(), self.ready.inputs.prints.of_data(section.data)]
        return sha256_json(found)

    def content(self, kept: frozenset[str]) -> str:
        """A digest of the engine with these layers in float: the lowered model, requested precisions and ranges."""
        model, plan = self._lowered(kept)
        return self.bench.key(model, plan, self.ranges, self.bench.settings)

    def __call__(self, kept: frozenset[str]) -> Answer:
        """Build the engine, run it and judge its outputs.

        A candidate that cannot be built or run fails, and the answer says why.

        Raises:
            BackendError: the engine with every layer in float cannot be built or run.
        """
        try:
            with temporary_folder("bisect") as folder:
                return self._judged(self._built(kept, folder), folder)
        except BackendError as error:
            if len(kept) == len(self.ready.simulation.names):
                raise BackendError(
                    f"the engine with every layer float fails: {error.what}",
                    where=error.where,
                    remedy=error.remedy or "see what `qtool run` says about the recipe without its quantizing pass",
                ) from error
            return Answer(False, str(error))

    def notes(self) -> list[Finding]:
        """Findings about samples that were skipped or padded, and about profiles that got none."""
        self._tally.mixed = sum(self._mixed.values())
        found = {feed.profile for chunk in self._chunks for feed in chunk}
        empty = [name for name in self.ready.job.profiles.names if name not in found]
        whole = self.ready.simulation.settings.samples is None
        return notes(self._tally, self.ready.simulation.data, empty, whole)

    # ---------------------------------------------------------------- the engine

    def _lowered(self, kept: frozenset[str]) -> tuple[Model, PrecisionPlan]:
        """The lowered candidate; the last one is cached, since its digest is taken before it is built."""
        if self._last is None or self._last[0] != kept:
            model, context = self.ready.candidate(kept, self.precision)
            self._last = kept, *self.bench.lowered(model, context.plan, self.ranges)
        return self._last[1], self._last[2]

    def _built(self, kept: frozenset[str], folder: Path) -> Path:
        model, plan = self._lowered(kept)
        build = self.bench.build(model, plan, self.ranges, folder / "candidate.onnx")
        if build.engine is None:
            raise BackendError("the backend built no engine", where="--on engine", remedy="use another backend")
        path = folder / "candidate.engine"
        write_bytes(path, bytes(build.engine))
        return path

    # ---------------------------------------------------------------- the verdict

    def _judged(self, engine: Path, folder: Path) -> Answer:
        from toolkit.evaluation.comparison.outcome import BatchOutcome, Outcome, compare, summed, varying_shares
        from toolkit.evaluation.comparison.outputs import OutputComparison
        from toolkit.evaluation.numerics.resampling import MetricScore

        simulation = self.ready.simulation
        own = simulation.settings
        # both metric values are of exactly the batches that are compared
        scores = OutputComparison(simulation.model, own.metric, own.output, own.allow_code, options=own.options)
        parts: list[BatchOutcome] = []
        references: list[Mapping[str, Array]] = []
        given: list[Mapping[str, Array]] = []
        for chunk, wanted_of in zip(self._chunks, self._wanted):
            with tempfile.TemporaryDirectory(prefix="batches-", dir=folder) as name:
                answers = run_chunk(self.ready.job, engine, self.bench.builder.name, chunk, Path(name))
                for feed, outputs, wanted in zip(chunk, answers, wanted_of):
                    lost = [output for output in wanted if output not in outputs]
                    if lost:
                        return Answer(False, f"the engine has no output '{lost[0]}'")
                    found = outputs if feed.rows <= feed.count else own_rows(wanted, outputs, feed)
                    if found is None:
                        self._mixed[feed.profile, feed.origins] = feed.count
                        continue
                    inputs = samples_of(feed)
                    try:
                        scores.add(wanted, found, feed.labels, feed.count, inputs)
                    except Exception as error:
                        # a user's metric that accepted the simulation's outputs may not accept the engine's
                        why = f"the metric does not accept the engine's outputs: {type(error).__name__}: {error}"
                        return Answer(False, why)
                    parts.append(compare(wanted, found, simulation.classes, own.answers, inputs))
                    references.append(wanted)
                    given.append(inputs)
        if not parts:
            raise DataError(
                "no batch of the engine's outputs can be compared: all were padded, and an output without an axis "
                "of samples mixes samples with padding", remedy="give samples that fill a profile's batch",
            )  # fmt: skip
        result = scores.result()
        if own.metric is not None and result.value is None:
            return Answer(False, f"the metric {own.metric} of the engine's outputs is not a number")
        before, after = (tuple(one[of] for one in result.left_out) for of in (0, 1))
        score = MetricScore(result.value, result.metric_answers, after, result.samples, result.metric_spread)
        outcome = summed(parts, score, varying_shares(references, own.answers, given), own.answers)
        lacks = self.budget.lacks(outcome, Outcome(0.0, metric=result.float_value, metric_left_out=before))
        return Answer(not lacks, "; ".join(f"{name} is missed by {lack:.4g}" for name, lack in lacks.items()))
