"""Layer times for a precision search: from the reports of earlier runs, or of two engines that are built for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.analysis.layer_times import LayerTimes, read_times
from toolkit.backends.gpu import find_gpu
from toolkit.backends.payoff_search import Trial, Unit
from toolkit.backends.payoff_trials import Candidate, TrialLog, Trials
from toolkit.backends.prepare import Bench
from toolkit.errors import BackendError, QtoolError
from toolkit.precision import Precision
from toolkit.text import count

if TYPE_CHECKING:
    from toolkit.graph_pass import Context


def earlier_times(
    paths: Sequence[str], layers: Sequence[str], quantized: Precision, context: Context, gpu: str
) -> LayerTimes:
    """The layer times in the reports of earlier runs, at the opt shapes of this run's first profile.

    Args:
        paths: report.json files or run folders, as the recipe names them.
        layers: names of the layers that can be quantized.
        quantized: the quantized precision.
        context: gives the profiles, the float type and the recipe, and gets a note for each report.
        gpu: the GPU that the rest is predicted for.

    Raises:
        RecipeError: see ``read_times``.
    """
    pipeline = context.services.get("pipeline")
    first = next(iter(context.profiles), None)
    found = read_times(
        [pipeline.recipe.resolve(path) if pipeline is not None else Path(path) for path in paths],
        layers, quantized, context.rest, first.name if first is not None else "",
        {name: extent.opt for name, extent in first.shapes.items()} if first is not None else None,
        pipeline.source().fingerprint() if pipeline is not None else "", gpu,
    )  # fmt: skip
    for note in found.notes:
        context.journal.noted(note, rule="search-times")
    return found


def measuring_bench(context: Context) -> Bench | None:
    """Where this run's engines can be built and measured; None where there is nothing to measure with.

    Outside a recipe's run only a backend that ``context.services`` names is used: a search in a script does not build
    engines unasked.
    """
    if not {"pipeline", "backend"} & set(context.services):
        return None
    try:
        bench = Bench.of(context)
    except QtoolError:
        return None  # the run's own build says what is wrong, with its remedy
    return None if not bench.settings.measure or bench.backend.cannot_measure() else bench


def measured_times(
    candidate: Candidate, work: Mapping[str, int], bench: Bench, context: Context, quantized: Precision, log: TrialLog
) -> LayerTimes:
    """Layer times of two engines that are built now: one with every layer quantized, one with none.

    Each engine's layer times are brought to the latency that it was measured with, since the profiler's own cost
    counts for every layer. Layers that TensorRT runs in one block share its time by their multiply-accumulates.

    Args:
        candidate: makes the model and plan in which the named layers stay float.
        work: multiply-accumulates by layer; the layers that can be quantized.
        bench: where engines are built.
        context: for notes, progress and profiles.
        quantized: the quantized precision.
        log: where measurements are kept, so that an interrupted search does not build again.

    Returns:
        No times where an engine cannot be built or measured; the journal says why.
    """
    found = LayerTimes(borders=True)
    units = [Unit(name, "layer", macs) for name, macs in work.items()]
    pipeline = context.services.get("pipeline")
    folder = pipeline.folder.hidden if pipeline is not None else context.services.get("folder")
    trials = Trials(candidate, units, bench, context, log, folder, 2, "search_precision")
    profile = next(iter(bench.profiles.names), "default")
    latency: dict[bool, float] = {}
    shared: set[str] = set()
    for whether, kept in ((True, frozenset[str]()), (False, frozenset(work))):
        try:
            trial = trials.measure(kept, 0)
        except BackendError as error:
            context.journal.noted(f"layer times are predicted, not measured: {error}", rule="search-times")
            return LayerTimes()
        if trial is None:  # the journal says why
            return LayerTimes()
        latency[whether] = trial.latency[profile].ms
        times, together = _layers(trial, profile, work)
        shared |= together
        found.seconds |= {(name, whether): ms / 1e3 for name, ms in times.items()}
    gpu = find_gpu()
    text = (
        f"layer times were measured{f' on the {gpu.name}' if gpu else ''}, profile '{profile}': the engine with "
        f"{count(len(work), 'layer')} in {quantized} takes {latency[True]:.4g} ms, "
        f"in {context.rest} {latency[False]:.4g} ms"
    )
    if shared:
        text += (
            f"; {count(len(shared), 'layer')} ran in one kernel or block with others and "
            f"{'shares' if len(shared) == 1 else 'share'} its time by multiply-accumulates"
        )
    context.journal.noted(text, rule="search-times")
    return found


def _layers(trial: Trial, profile: str, work: Mapping[str, int]) -> tuple[dict[str, float], set[str]]:
    """Milliseconds of each layer, whose sum is the engine's latency; and the layers that share some of it."""
    times = {name: trial.ms.get(name, {}).get(profile, 0.0) for name in work}
    groups = _groups(trial.ties) if any(times.values()) else [set(work)]
    if not any(times.values()):
        times = dict.fromkeys(work, trial.latency[profile].ms / len(work))
    for group in groups:
        inside = [name for name in group if name in times]
        whole, weight = sum(times[name] for name in inside), sum(work[name] for name in inside)
        for name in inside:
            times[name] = whole * (work[name] / weight if weight else 1 / len(inside))
    factor = trial.latency[profile].ms / (sum(times.values()) or 1.0)
    return {name: ms * factor for name, ms in times.items()}, {name for group in groups for name in group}


def _groups(ties: Sequence[Sequence[str]]) -> list[set[str]]:
    """Sets of layers that share some time, those with a layer in common as one."""
    found: list[set[str]] = []
    for tie in map(set, ties):
        touching = [group for group in found if group & tie]
        found = [group for group in found if not group & tie] + [tie.union(*touching)]
    return found
