"""What a few answers do not tell of a plan, its noise does."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from toolkit.contract.findings import Code
from toolkit.contract.ranges import Ranges
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.evaluation.tasks.base import AnswerTally, OutputPart
from toolkit.search.plans.few_answers import is_less_noisy, with_quiet
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan

BUDGET = Budget(max_drop=0.02, margin=1.0)
PART = OutputPart("ctc", ("y",))


def plan(kept: int, noise: float, answers: int = 96, metric: float = 0.8, counted: int | None = None) -> SearchedPlan:
    """A plan under which so many of the answers stay, of which the metric counts as many or another number."""
    tally = AnswerTally(PART, float(kept), answers, 0.99)
    outcome = Outcome(noise, metric=metric, metric_answers=answers if counted is None else counted, tallies=(tally,))
    return SearchedPlan((), {}, outcome, {}, 1.0, 1.0)


def asked(best: SearchedPlan, *others: SearchedPlan, budget: Budget = BUDGET) -> float | None:
    found = with_quiet(budget, best, [best, *others], Outcome(0.0, metric=0.8))
    return found[0].min_sqnr_db if found is not None else None


def test_a_drop_that_few_answers_decide_by_chance_becomes_a_limit_on_noise():
    # 7 of 96 readings change at 23 dB: as many are won as lost, which on 150 others is 2.2 points give or take
    least = asked(plan(89, 10**-2.3))
    most = 150 * (0.02 / 1.645) ** 2
    assert least == pytest.approx(23 + 20 * math.log10(7 / 96 / most) - 1, abs=1e-6) and least > 32
    # what other plans show counts too: one that is 6 dB louder and changes twice as many says the same
    assert asked(plan(89, 10**-2.3), plan(82, 4 * 10**-2.3)) == pytest.approx(least, abs=1e-6)
    assert asked(plan(89, 10**-2.3), plan(89, 4 * 10**-2.3)) < least
    stricter = replace(BUDGET, min_sqnr_db=50.0)
    assert asked(plan(89, 10**-2.3), budget=stricter) == 50.0


def test_so_many_may_change_that_the_drop_of_others_is_nearly_always_within_the_limit():
    one = BUDGET.untold_drop(plan(89, 0.01).outcome, Outcome(0.0, metric=0.8))
    assert one is not None and one.few
    rng, changed = np.random.default_rng(0), BUDGET.may_change(one)
    # each answer is lost or won by half of the chance that it changes
    lost, _, won = rng.multinomial(150, [changed / 2, 1 - changed, changed / 2], 20_000).T
    assert ((lost - won) / 150 <= 0.02 + 1e-9).mean() > 0.95
    assert ((lost - won) / 150 <= 0.01).mean() < 0.9


@pytest.mark.parametrize(
    ("best", "budget"),
    [
        (plan(95, 0.01), BUDGET),
        (plan(180, 0.01, answers=200), BUDGET),
        (plan(89, 0.01, counted=0), BUDGET),
        (plan(89, 0.01), Budget(max_drop=0.02)),
        (plan(89, 0.01), Budget(min_unchanged=0.9, margin=1.0)),
    ],
    ids=["one-answer", "enough", "no-share-of-answers", "no-margin", "no-metric"],
)
def test_nothing_is_asked_where_answers_tell_or_nobody_asks_them(best, budget):
    assert asked(best, budget=budget) is None


@pytest.mark.parametrize(
    ("kept", "share", "noise", "taken"),
    [(93, 0.9, 0.002, True), (93, 0.9, 0.004, False), (93, 0.3, 0.002, False), (90, 0.9, 0.002, False)],
    ids=["nearly", "no-quieter", "too-little", "worse"],
)
def test_a_plan_that_lacks_little_of_the_noise_limit_is_better_than_the_one_before(kept, share, noise, taken):
    before = plan(89, 0.005)
    metric = 0.8 - (96 - kept) / 96 + 2 / 96
    nearly = replace(plan(kept, noise, metric=metric), quantized=share, lacks={"min_sqnr_db": 0.1})
    nothing = replace(plan(96, 0.0), quantized=0.0, lacks={})
    found = SearchResult(nearly, [nearly], 1, None, Outcome(0.0, metric=0.8), notes=[Code.SEARCH_NEAREST()])
    simulation = SimpleNamespace(ranges=Ranges())
    assert is_less_noisy(found, simulation, before, BUDGET, 0.5) is taken
    assert (found.best.lacks, found.notes) == (({}, []) if taken else (nearly.lacks, [Code.SEARCH_NEAREST()]))
    # one within the limit that quantizes nothing is no better
    found = SearchResult(nothing, [nothing, nearly], 2, None, Outcome(0.0, metric=0.8))
    assert is_less_noisy(found, simulation, before, BUDGET, 0.5) is taken and (found.best.quantized == share) is taken
    safe = replace(nearly, lacks={}, quantized=0.9)
    found = SearchResult(safe, [safe, nearly], 2, None, Outcome(0.0, metric=0.8))
    assert is_less_noisy(found, simulation, before, BUDGET, 0.5) and found.best is safe
