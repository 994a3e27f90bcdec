"""New measurements of the latency of finished runs' engines, on this machine's GPU."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import BackendError, QtoolError
from toolkit.base.progress import Progress, silent
from toolkit.report.schema.prediction import PredictionInfo
from toolkit.run.result import no_engine
from toolkit.run.results.finished_run import FinishedRun

ROUNDS = 5


@dataclass(frozen=True)
class LatencyAgain:
    """Latency of one engine in one profile, at its opt shapes, in milliseconds.

    Attributes:
        engine: the run's name, and the precision for an engine of the unquantized model.
        profile: the profile.
        median: median of all rounds; each round is the median of many inferences.
        least: the fastest round.
        most: the slowest round.
        before: the run's own measurement; None if there is none.
    """

    engine: str
    profile: str
    median: float
    least: float
    most: float
    before: float | None = None


@dataclass(frozen=True)
class TimedAgain:
    """The result of measuring latency again.

    Attributes:
        gpu: the GPU's name.
        times: latencies, one entry per profile and engine.
        layers: milliseconds by engine, layer and profile; empty if not requested.
        lacks: why nothing was measured, by profile, or by engine and profile.
    """

    gpu: str
    times: list[LatencyAgain]
    layers: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serializable dictionary."""
        return asdict(self)


def remeasure_latency(
    runs: Sequence[FinishedRun],
    rounds: int = ROUNDS,
    layers: bool = False,
    allow_code: bool = False,
    progress: Progress = silent,
) -> TimedAgain:
    """Measure the runs' engines, including those of the unquantized model built for comparison, in turn.

    Args:
        runs: one or several runs, with the same backend and profiles.
        rounds: how often each engine is measured.
        layers: whether to measure the layers of each run's engine too, with TensorRT's profiler.
        allow_code: whether an engine may contain host code, as version compatible engines do.
        progress: called with the progress.

    Raises:
        BackendError: nothing can be measured here, a run built no engine, or an engine cannot be opened.
        QtoolError: the runs have different profiles or backends.
    """
    from toolkit.backends.choose import choose
    from toolkit.backends.processes.turns import measure_turns
    from toolkit.base.gpu import find_gpu

    first, several = runs[0], len(runs) > 1
    engines = {name: path for run in runs for name, path in _engines(run, several).items()}
    for run in runs[1:]:
        _require_comparable(first, run)
    obstacle = choose(first.engine.build.backend)[0].cannot_measure()
    if obstacle:
        raise BackendError(
            f"latency cannot be measured: {obstacle}",
            where=str(first.folder),
            remedy="run on a machine with the engine's GPU, TensorRT and cuda-python (`qtool doctor` looks for them), "
            "or predict it with --gpu, such as --gpu L4",
        )
    answer = measure_turns(
        first.engine.build.backend, engines, first.job.profiles, progress, rounds=rounds, host_code=allow_code
    )
    unmeasured = dict(answer.lacks)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs if layers else ():
        name = _names(run, several)[0]
        found[name], why_not = _layer_times(run, allow_code, progress)
        unmeasured |= {f"{name}, {profile}": why for profile, why in why_not.items()}
    before = {name: known for run in runs for name, known in _before(run, several).items()}
    times = [
        LatencyAgain(
            name, profile, statistics.median(turns), min(turns), max(turns), before.get(name, {}).get(profile)
        )
        for profile, of_profile in answer.turns.items()
        for name, turns in of_profile.items()
    ]  # fmt: skip
    gpu = find_gpu()
    return TimedAgain(gpu.name if gpu is not None else "", times, found, unmeasured)


def _require_comparable(first: FinishedRun, other: FinishedRun) -> None:
    """Check that the engines of two runs can be measured in turn."""
    for what, own, wanted in (
        ("profiles", repr(other.job.profiles), repr(first.job.profiles)),
        ("backends", other.engine.build.backend, first.engine.build.backend),
    ):
        if own != wanted:
            raise QtoolError(
                f"the runs have different {what}: their latencies cannot be compared",
                where=f"{first.folder}, {other.folder}",
                remedy="time them one at a time",
            )


def _layer_times(
    run: FinishedRun, allow_code: bool, progress: Progress
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Milliseconds by layer and profile of a run's engine; and by profile the reason why nothing was measured."""
    from toolkit.backends.processes.exchange import profiles_to_json
    from toolkit.backends.processes.process import run_job

    wanted = {
        "folder": str(run.folder.resolve()),
        "profiles": profiles_to_json(run.job.profiles),
        "inspect": False,
        "measure": True,
        "version_compatible": allow_code,
    }
    measured = run_job("examine_tensorrt", wanted, progress=progress)
    return measured["time_ms"], measured["lacks"]


def predict_again(run: FinishedRun, gpu: str) -> PredictionInfo:
    """Predict the latency of a run's final graph on a GPU from its datasheet; the GPU need not be present.

    Raises:
        RecipeError: no datasheet figures are known for the GPU.
    """
    from toolkit.graph.layers.work import facts_at_opt
    from toolkit.report.schema.prediction import predicted_time
    from toolkit.report.sections.shares import computes

    model, profiles = run.lowering.model(), run.job.profiles
    name = next(iter(profiles.names), "default")
    return predicted_time(gpu, model, facts_at_opt(model, profiles), computes(run.report.layers), run.recipe.rest, name)


def _names(run: FinishedRun, several: bool) -> tuple[str, dict[str, str]]:
    """The name of a run's engine, and by precision those of the unquantized model's engines."""
    compared = run.compare.engines if run.compare is not None else {}
    name = str(run.folder) if several else run.name
    return name, {precision: f"{name}, unquantized {precision}" for precision in compared}


def _engines(run: FinishedRun, several: bool) -> dict[str, Path]:
    if run.engine.engine_file is None:
        raise no_engine(run.folder, run.report)
    name, compared = _names(run, several)
    found = {name: run.engine.engine_file}
    for precision, other in compared.items():
        assert run.compare is not None
        path = run.compare.engine_file(precision)
        found |= {other: path} if path is not None else {}
    return found


def _before(run: FinishedRun, several: bool) -> dict[str, dict[str, float]]:
    """The latencies that the run measured right after the build, by engine and profile, in milliseconds."""
    name, compared = _names(run, several)
    builds = {name: run.engine.build}
    if run.compare is not None:
        builds |= {other: run.compare.engines[precision].build for precision, other in compared.items()}
    return {
        engine: {profile: times["opt"] for profile, times in build.latency.items() if "opt" in times}
        for engine, build in builds.items()
    }
