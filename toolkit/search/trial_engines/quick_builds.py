"""Trial builds: engines that are only compared with each other, built in less time if full builds take long."""

from __future__ import annotations

from collections.abc import Collection

from toolkit.contract.bench import LONG, Bench, Measurement
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.graph.model import Model
from toolkit.search.codes import TrialCode


def trials_pay(bench: Bench) -> bool:
    """Whether to compare trial builds: not if the first trial showed that building is quick."""
    return bench.has_trial_level and (bench.trial_seconds is None or bench.trial_seconds > LONG)


def trial_takes_long(bench: Bench) -> bool:
    """Whether an earlier trial shows that building takes long."""
    return bench.has_trial_level and (bench.trial_seconds or 0.0) > LONG


def some_build_takes_long(bench: Bench) -> bool:
    """Whether any engine took or is taking longer than ``LONG`` to build."""
    return bench.make_room() or (bench.trial_seconds or 0.0) > LONG


def compared(
    bench: Bench,
    model: Model,
    plan: PrecisionPlan,
    nodes: Collection[str],
    ranges: Ranges | None,
    journal: Journal,
    *,
    float_only: bool = False,
    rebuild: bool = False,
) -> Measurement:
    """Build and measure an engine for comparison with others from this function; see ``Bench.measure``.

    The first engine is a trial; its build time decides how it and all others are built.

    Args:
        bench: builds the engine.
        model: the model with the candidate's Q/DQ pairs; it is not changed.
        plan: its plan.
        nodes: the nodes to report times for.
        ranges: the ranges that the pairs are made from.
        journal: gets a single note that trials are compared.
        float_only: whether nothing is quantized.
        rebuild: build the engine again even if it was measured before.

    Raises:
        QtoolError: the engine cannot be built or timed.
    """
    bench.make_room()
    trial = trials_pay(bench)
    found = bench.measure(model, plan, nodes, ranges, float_only=float_only, rebuild=rebuild, trial=trial)
    if trial and not trials_pay(bench):
        return bench.measure(model, plan, nodes, ranges, float_only=float_only, rebuild=rebuild)
    if trial:
        note_trials(bench, journal)
    note_prebuild(found, journal)
    return found


def note_prebuild(found: Measurement, journal: Journal) -> None:
    """Note how early an engine's build was started and how many ran in parallel; or why it was built again."""
    if found.rebuilt:
        journal.noted(Code.TRIAL_BUILT_ANEW(why=found.rebuilt))
    if found.prebuild_s:
        journal.noted_once(TrialCode.AHEAD(seconds=found.prebuild_s, beside=found.parallel))


def note_trials(bench: Bench, journal: Journal) -> None:
    """Note, once per journal, that trial builds are compared, and why."""
    journal.noted_once(TrialCode.COMPARED(seconds=bench.trial_seconds))
