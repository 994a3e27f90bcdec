"""What one search after the other says of plans that none of them tried."""

from __future__ import annotations

import json
import math

import pytest

from passes.search_precision import SearchPrecision
from tests.conftest import MODELS
from tests.toolkit.search.planted import chain, feeds, simulation, trained
from toolkit import Context
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.evaluation.budget import Budget
from toolkit.evaluation.comparison.outcome import Outcome
from toolkit.report.findings import sentence
from toolkit.search.budget.spending import Spending
from toolkit.search.codes import SearchEndCode
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.plans.search import SearchResult
from toolkit.search.plans.searched_plan import SearchedPlan
from toolkit.search.stages.searches import Searches

DIGITS = str(MODELS / "digits_calibration.npz")
SAID = (
    "The search ran out of inferences with plans untried that may quantize much more; "
    "inferences = 30 allows at least twice as many."
)


@pytest.mark.parametrize(
    ("best", "promise", "left", "told"),
    [
        (0.4, 0.2, 0.5, True),
        # enough is quantized, hardly more is expected, nothing is known of further plans, one more could be run
        (0.6, 0.2, 0.5, False),
        (0.4, 0.05, 0.5, False),
        (0.4, math.inf, 0.5, False),
        (0.4, 0.2, 1.5, False),
    ],
)
def test_plans_that_promise_much_are_said_to_be_left_out_where_inferences_ran_out(best, promise, left, told):
    sim = simulation(chain(), feeds())
    cost, whole, account = CostModel(sim.switches, sim.facts, gpu_spec("A10")), sim.quantized_share(), Spending(14.0)
    account.pay(14.0 - left)
    searches = Searches(sim, cost, "int8", Budget(min_sqnr_db=20), None, None, account)
    plan = SearchedPlan((), {}, Outcome(1e-3), {}, 1.0, best * whole)
    found = searches.left_out(SearchResult(plan, [plan], 1, None, Outcome(0.0), promise=promise * whole))
    assert (sentence(found) if found is not None else None) == (SAID if told else None)


@pytest.mark.parametrize(("inferences", "told"), [(7.0, True), (20.0, False)])
def test_a_search_with_too_few_inferences_says_what_to_set_in_its_record_and_journal(inferences, told, tmp_path):
    model = trained("digits_uneven")
    context = Context(provider=Calibrator(CalibrationData.open(DIGITS, model)), folder=tmp_path)
    SearchPrecision(min_sqnr_db=15, inferences=inferences)(model, context)
    notes = [note["code"] for note in json.loads((tmp_path / "search.json").read_text())["notes"]]
    said = [event.why for event in context.journal.events if event.why and event.why.code is SearchEndCode.LEFT_OUT]
    assert (SearchEndCode.LEFT_OUT in notes) is bool(said) is told
    # more than there were
    assert all(one.values["inferences"] > inferences for one in said)
