"""A rate of errors that a recipe gives no limit may grow by a part of the float model's own, not by a fixed share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.contract.journal import Journal
from toolkit.evaluation.codes import EvaluationCode
from toolkit.evaluation.metric_table import is_rate_of_errors, usual_drop
from toolkit.evaluation.outcome import Outcome
from toolkit.evaluation.outputs import EvaluationResult
from toolkit.run.judgement import judge
from toolkit.run.sections import BudgetSection
from toolkit.search.search_budget import Judged, budget_for

READINGS, CHARACTERS = 1000, 12_000
NONE = {"max_drop": None, "min_sqnr_db": None, "min_agreement": None, "min_unchanged": None}


@pytest.mark.parametrize(
    ("own", "samples", "answers", "limit"),
    [
        (0.0, 1000, 12_000, 0.01 / 12), (0.005, 1000, 12_000, 0.01 / 12), (0.04, 1000, 12_000, 0.002),
        (0.5, 1000, 12_000, 0.01), (0.0, 50, 600, 2 / 600), (0.0, 50, 50, 0.01),
    ],
)  # fmt: skip
def test_it_is_a_part_of_its_own_an_edit_in_some_readings_and_never_more_than_a_point(own, samples, answers, limit):
    assert usual_drop("cer", own, samples, answers) == pytest.approx(limit)


def test_which_metrics_are_rates_of_errors():
    assert [is_rate_of_errors(name) for name in ("cer", "wer", "mse", "perplexity", "ctc_exact", None)] == [
        True
    ] * 2 + [False] * 4


@pytest.mark.parametrize(("edits", "standing"), [(0, "met"), (10, "met"), (11, "missed"), (120, "missed")])
def test_a_run_and_a_search_without_a_budget_hold_the_same_limit(edits, standing):
    """Of 0.5 % wrong characters three times as many were usable: 120 edits more in 12,000."""
    before, after = 60 / CHARACTERS, (60 + edits) / CHARACTERS
    found = EvaluationResult(
        "cer", before, after, after - before, READINGS, metric_answers=CHARACTERS, metric_samples=READINGS, rising=False
    )
    judged = judge(found, BudgetSection(), None, False)
    assert (judged.standing, judged.limits["max_drop"]) == (standing, pytest.approx(0.01 / 12))
    journal = Journal()
    one = Judged(["y"], [], [], "cer", None, False)
    budget = budget_for(one, NONE, SimpleNamespace(), journal)
    outcome, reference = (
        Outcome(1e-9, metric=value, metric_answers=CHARACTERS, metric_samples=READINGS) for value in (after, before)
    )
    assert (not budget.lacks(outcome, reference)) is (standing == "met")
    assert [event.why.code for event in journal.events] == [EvaluationCode.USUAL_RATE_LIMIT]


def test_a_limit_that_a_recipe_gives_is_kept():
    found = EvaluationResult("cer", 0.005, 0.014, 0.009, READINGS, metric_answers=CHARACTERS, metric_samples=READINGS)
    assert judge(found, BudgetSection(max_drop=0.01), None, False).standing == "met"
