"""What a subset of the samples says of a plan: it meets the budget, misses it, or needs more samples."""

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
"""The slack of limits in dB, standard errors and as a share of a drop, if at most this share of the samples was run."""
_ERRORS, _LEAST_DB = 3.0, 0.1
_SURELY, _ON_ONE = 2.0, 0.8
"""By how many standard errors less noise is significant; the ratio that a single batch must be below."""


def rounds(batches: int) -> list[int]:
    """The numbers of batches after which a plan is judged: an eighth, a quarter, half, and all of them."""
    return sorted({max(1, batches * part // _PARTS) for part in (1, 2, 4, _PARTS)})


def clear(budget: Budget, outcome: Outcome, reference: Outcome, share: float) -> bool | None:
    """Whether a plan clearly meets or misses the budget on a subset of the samples; None if it is unclear.

    The noise of many values varies little between batches, and its spread is known. A limit on a share of answers can
    be clearly missed on few answers, but never clearly met.

    Args:
        budget: the limits that a plan must meet.
        outcome: the plan's outcome on the subset.
        reference: the float model's outcome on it.
        share: the size of the subset as a share of all samples, 0 to 1.
    """
    slack = next(slack for most, slack in _SLACK if share <= most)
    known = slack
    if len(outcome.parts) > 1 and 0 < outcome.noise < math.inf:
        error = statistics.stdev(outcome.parts) / math.sqrt(len(outcome.parts)) / statistics.fmean(outcome.parts)
        # two batches that happen to be alike say little about the spread
        known = 10 * math.log10(1 + _ERRORS * (1 + 2 / (len(outcome.parts) - 1)) * error) + _LEAST_DB
    least = budget.min_sqnr_db
    # a limit on the metric itself means nothing on samples on which the float model misses it
    told = budget.on_subset(outcome, reference)
    loose = _loosened(told, slack, None if least is None else least - min(known, slack) + slack)
    if loose is not None and loose.lacks(outcome, reference):
        return False
    if least is None or budget.by_task or any(limit is not None for limit in budget.on_answers):
        return None
    strict = replace(budget, min_sqnr_db=least + known, max_ms=None)
    return None if strict.lacks(outcome, reference) else True


def _loosened(budget: Budget | None, slack: float, least: float | None) -> Budget | None:
    """The budget with every limit relaxed by ``slack``; None if no limit can be judged on a subset."""
    if budget is None:
        return None
    drops = {name: limit * (1 + slack) for name in ("max_drop", "max_relative_drop")
             if (limit := getattr(budget, name)) is not None}  # fmt: skip
    try:
        return replace(budget, margin=-slack, max_ms=None, min_value=None, min_sqnr_db=least, **drops)
    except RecipeError:
        return None


def significantly_less_noisy(parts: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one state has less noise than another by more than chance, on the same batches.

    The ratio of the two means is compared with its jackknife standard error (Miller, "The jackknife - a review",
    Biometrika 1974): batches may differ in noise, but a single batch must not decide the means.

    Args:
        parts: the noise of each batch; batches with 0 or infinite noise in both states are left out.
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
    # few batches say little about their spread
    error = math.sqrt((count - 1) * statistics.pvariance(without)) * (1 + 2 / (count - 1))
    return ratio + _SURELY * error < 1


def plan_key(kept: Iterable[str], amax: Mapping[str, float]) -> str:
    """The key of a plan: the groups that stay float, and the ranges that differ from the recipe's calibration."""
    return sha256_json([sorted(kept), sorted(amax.items())])


def meets(budget: Budget, simulation: Simulation, amax: Mapping[str, float], spending: Spending) -> bool:
    """Whether full quantization meets the budget on all samples; stops early if a subset clearly misses it.

    Args:
        budget: the limits that a plan must meet.
        simulation: the model and its samples.
        amax: the ranges that differ from the recipe's calibration.
        spending: the account that the inferences are charged to.
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
