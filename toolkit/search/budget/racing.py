"""What a part of the samples says about a plan: it meets the budget, it misses it, or more samples are needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from toolkit.base.errors import RecipeError
from toolkit.base.files import sha256_json
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.search.budget.spending import Spending
from toolkit.simulation.simulation import Simulation

_PARTS = 8
_SLACK = ((0.2, 3.0), (0.4, 2.0), (1.0, 1.0))
"""How far away a limit must be, in dB and standard errors, on at most this share of the samples."""
_ERRORS, _LEAST_DB = 3.0, 0.1
_SURELY, _ON_ONE = 2.0, 0.8
"""How many standard errors less noise is more than chance, and which share of it where one batch tells no error."""


def rounds(batches: int) -> list[int]:
    """On how many of the batches a plan is run before it is looked at: an eighth, a quarter, half, all."""
    return sorted({max(1, batches * part // _PARTS) for part in (1, 2, 4, _PARTS)})


def clear(budget: Budget, outcome: Outcome, reference: Outcome, share: float) -> bool | None:
    """Whether a plan meets the budget as far as a part of the samples tells; None where it does not tell.

    The noise of many values varies little from batch to batch, and its spread shows how much. A share of answers can be
    missed clearly on few of them, but never be met.

    Args:
        budget: what must hold.
        outcome: the plan on this part.
        reference: the float model on it.
        share: how large the part is, 0 to 1.
    """
    slack = next(slack for most, slack in _SLACK if share <= most)
    known = slack
    if len(outcome.parts) > 1 and 0 < outcome.noise < math.inf:
        error = statistics.stdev(outcome.parts) / math.sqrt(len(outcome.parts)) / statistics.fmean(outcome.parts)
        # two batches that happen to be alike say little about how far batches differ
        known = 10 * math.log10(1 + _ERRORS * (1 + 2 / (len(outcome.parts) - 1)) * error) + _LEAST_DB
    least = budget.min_sqnr_db
    # a limit on the metric itself says nothing on samples where the float model misses it
    told = budget.on_subset(outcome, reference)
    loose = _loosened(told, slack, None if least is None else least - min(known, slack) + slack)
    if loose is not None and loose.lacks(outcome, reference):
        return False
    if least is None or budget.by_task or any(limit is not None for limit in budget.on_answers):
        return None
    strict = replace(budget, min_sqnr_db=least + known, max_ms=None)
    return None if strict.lacks(outcome, reference) else True


def _loosened(budget: Budget | None, slack: float, least: float | None) -> Budget | None:
    """The budget with every limit further away by ``slack``; None where it has no limit that a part tells of."""
    if budget is None:
        return None
    drops = {name: limit * (1 + slack) for name in ("max_drop", "max_relative_drop")
             if (limit := getattr(budget, name)) is not None}  # fmt: skip
    try:
        return replace(budget, margin=-slack, max_ms=None, min_value=None, min_sqnr_db=least, **drops)
    except RecipeError:
        return None


def significantly_less_noisy(parts: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one state has less noise than another by more than chance, both on the same batches.

    The ratio of the two means is held against its standard error by the jackknife (Miller, "The jackknife - a review",
    Biometrika 1974): batches of different noise are no objection, a single batch that decides the means is.

    Args:
        parts: the noise of each batch; one that is 0 or infinite in both states is left out.
        other: the noise of each batch in the other state.
    """
    both = [(one, noise) for one, noise in zip(parts, other, strict=True)
            if min(one, noise) < math.inf and max(one, noise) > 0]  # fmt: skip
    broken = sum(one == math.inf for one, _ in both), sum(noise == math.inf for _, noise in both)
    if any(broken):
        return broken[0] < broken[1]
    own, others = math.fsum(one for one, _ in both), math.fsum(noise for _, noise in both)
    if not others:
        return False
    count, ratio = len(both), own / others
    if count == 1:
        return ratio < _ON_ONE
    if any(noise == others for _, noise in both):
        return False
    without = [(own - one) / (others - noise) for one, noise in both]
    # few batches say little about how far they differ
    error = math.sqrt((count - 1) * statistics.pvariance(without)) * (1 + 2 / (count - 1))
    return ratio + _SURELY * error < 1


def plan_key(kept: Iterable[str], amax: Mapping[str, float]) -> str:
    """The key of a plan: the groups that stay float, and the ranges that differ from calibration's."""
    return sha256_json([sorted(kept), sorted(amax.items())])


def meets(budget: Budget, simulation: Simulation, amax: Mapping[str, float], spending: Spending) -> bool:
    """Whether everything quantized meets the budget on all samples, or on fewer, where these show that it does not.

    Args:
        budget: what must hold.
        simulation: the model and its samples.
        amax: ranges that differ from calibration's.
        spending: the account that pays for it.
    """
    runner, config = simulation.runner, simulation.config((), amax)
    run, paid, whole, key = runner.probe(config), 0.0, len(runner.feeds), plan_key((), amax)
    for count in rounds(whole):
        spending.pay(runner.price(config, count) - paid)
        spending.bought.add((key, count))
        outcome, reference, paid = run.run(count), runner.float_on(count), runner.price(config, count)
        if count < whole and clear(budget, outcome, reference, count / whole) is False:
            return False
    return not budget.lacks(outcome, reference)
