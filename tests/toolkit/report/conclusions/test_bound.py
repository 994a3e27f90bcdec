"""Why a search left work in float: in its own figures, and only where its budget is why."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import normal
from tests.toolkit.report.samples import sample
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.roles import Role
from toolkit.report.bound_codes import BoundCode
from toolkit.report.conclusions.bound import _OF_FP8, MUCH, bound, bound_advice, bounded
from toolkit.report.findings import sentence
from toolkit.report.page.html import render_html
from toolkit.report.schema.search import CauseInfo, LayerHarm, PlanPoint, SearchInfo, WeakSpotInfo
from toolkit.report.terminal.report import to_text


def point(share, kept, db, expected, **more):
    lacks = {"min_unchanged": expected - 0.004} if (expected or 0.0) > 0.004 else {}
    base = {"meets": not lacks, "unchanged": 1.0, "expected": expected, "samples": 64, "lacks": lacks}
    return PlanPoint(
        predicted_ms=1.0, noise=10 ** (-db / 10), sqnr_db=db, quantized_share=share, kept=kept,
        **{**base, **more},
    )  # fmt: skip


def harm(node, share, without=None, kept=True):
    return LayerHarm(node=node, op="Conv", alone_db=30.0, without_db=without, share=share, kept=kept)


def info(**more):
    plans = [
        point(1.0, 0, 20.2, 0.09), point(1.0, 0, 21.8, 0.05, unchanged=0.875, samples=16), point(0.58, 28, 32.7, 0.013),
        point(0.207, 43, 40.2, 0.0049), point(0.129, 46, 43.3, 0.0035, chosen=True), point(0.09, 47, 45.8, 0.0026),
    ]  # fmt: skip
    layers = [harm("stem", 0.4, 24.9), harm("b", 0.2, 21.0), harm("c", 0.1), harm("d", 0.05, kept=False)]
    given = {
        "precision": "int8", "rest": "fp16", "gpu": "", "met": True, "evaluations": len(plans), "float_ms": 2.0,
        "allowed": 0.004, "types_db": 41.1, "types_expected": 0.0043, "full_db": 20.6, "output": "scores",
        "plans": plans, "layers": layers,
    }  # fmt: skip
    return SearchInfo(**{**given, **more})


LAYERS = [SimpleNamespace(node=name, macs=macs) for name, macs in (("stem", 5), ("b", 3), ("c", 2), ("d", 90))]


def test_what_was_measured_says_why_there_is_not_more_in_int8():
    journal = Journal()
    helper = {"dtype": "int8", "before_db": 16.6, "after_db": 17.1, "samples": 16, "output": "scores"}
    journal.noted(Code.SEARCH_HELPER(helper="equalize", applied=True, **helper))
    journal.noted(
        Code.SEARCH_HELPER(helper="shift", applied=False, rest="fp16", rest_before_db=45.5, rest_db=39.6, **helper)
    )
    found = bound(info(), journal, LAYERS)
    everything, more, last, types, single, costly, refused = (sentence(one) for one in found)
    # the ranges with the least noise, on as many samples as those were run on
    assert "'scores' at 21.8 dB SQNR, 87.5 % of the answers unchanged on 16 samples" in everything
    assert "5.00 % are expected to change on other samples" in everything and "allows 0.40 %" in everything
    assert "next larger plan" in more and "20.7 % of the multiply-accumulates in INT8: 40.2 dB SQNR, 0.49 %" in more
    assert "largest plan" in last and last.endswith("32.7 dB SQNR, 1.30 % of the answers are expected to change.")
    assert "41.1 dB SQNR instead of 43.3 dB and 0.43 % instead of 0.35 %" in types
    assert single == "With one layer kept in float, 'stem', the best of 2 tried, SQNR is 24.9 dB instead of 20.6 dB."
    assert costly == (
        "'stem', 'b' and 'c' cost most: 70 % of what all 4 layers lose individually, with 10.0 % of the "
        "multiply-accumulates; all stay in float."
    )
    alone = {"nodes": ("head",), "loss": 1.0, "work": 0.25, "layers": 1, "kept": 1}
    assert sentence(BoundCode.COSTLIEST(**alone)) == (
        "'head' is the only layer that could be quantized, with 25.0 % of the multiply-accumulates; it stays in float."
    )
    assert sentence(BoundCode.COSTLIEST(**{**alone, "layers": 4})).startswith("'head' costs most: 100 % of what all 4")
    some = sentence(BoundCode.COSTLIEST(**{**alone, "layers": 120, "unmeasured": 180}))
    assert "100 % of what 120 measured layers lose individually" in some
    assert some.endswith("all stay in float. 180 layers were not measured.")
    assert "shift" in refused and "not applied, since FP16 alone, with nothing quantized, has 39.6 dB" in refused


def test_limits_that_no_count_of_answers_tells_are_said_by_what_lacks():
    plans = [
        point(1.0, 0, 18.0, None, lacks={"min_sqnr_db": 3.5}, unchanged=None, meets=False),
        point(0.5, 3, 22.0, None, unchanged=None, chosen=True),
    ]
    by_noise = info(plans=plans, allowed=None, types_db=None, layers=[], full_db=None)
    (everything,) = (sentence(one) for one in bound(by_noise, Journal(), LAYERS))
    assert everything.endswith("'scores' at 18.0 dB SQNR, it misses min_sqnr_db by 3.5 dB on 64 samples.")
    broken = [point(1.0, 0, 1.0, None, lacks={"max_drop": None}, metric=0.2, meets=False), plans[1]]
    by_metric = info(plans=broken, metric="top1", float_metric=0.9, allowed=None, types_db=None, layers=[])
    (everything,) = (sentence(one) for one in bound(by_metric, Journal(), LAYERS))
    assert "top1 0.200 on 64 samples, which misses max_drop (no finite figure)" in everything
    assert everything.endswith(" (0.900 float).")


@pytest.mark.parametrize(
    "plans",
    [
        [point(1.0, 0, 20.0, 0.05), point(MUCH, 4, 40.0, 0.001, chosen=True)],
        # fast enough, or no layer takes pairs: the budget is not why
        [point(1.0, 0, 30.0, 0.001), point(0.2, 4, 40.0, 0.001, chosen=True)],
        [point(1.0, 0, 30.0, 0.001, lacks={"max_ms": 1.0}), point(0.2, 4, 40.0, 0.001, chosen=True)],
        [point(0.2, 0, 30.0, 0.001, chosen=True)],
        # every layer that takes pairs has them, with ranges that keep more answers than quieter ones
        [point(0.2, 0, 32.0, 0.05), point(0.2, 0, 29.0, 0.001, chosen=True)],
    ],
)
def test_nothing_is_said_where_accuracy_is_not_why(plans):
    assert not bounded(info(plans=plans)) and not bound(info(plans=plans), Journal(), LAYERS)
    assert not bound_advice(info(plans=plans), [], [])


@pytest.mark.parametrize(
    ("types_db", "expected", "said"),
    [(43.2, 0.0043, 1), (43.3, 0.0043, 0), (43.5, 0.0043, 0), (41.1, 0.0035, 0), (41.1, None, 1)],
)
def test_a_float_type_is_named_only_where_it_adds_noise_that_changes_answers(types_db, expected, said):
    found = bound(info(types_db=types_db, types_expected=expected), Journal(), LAYERS)
    assert sum(one.code is BoundCode.FLOAT_TYPE for one in found) == said


def test_fp8_is_advised_where_it_is_not_tried_already():
    (one,) = bound_advice(info(), [], [])
    assert one.finding == BoundCode.WHAT_NEXT(precision=Precision.INT8, other="fp8") and 'also = "fp8"' in one.fragment
    assert 'with also = "fp8"' in sentence(one.finding)
    own = SimpleNamespace(role=Role.SEARCH, use="search_precision", settings={"also": "fp8"})
    assert not bound_advice(info(), [own], []) and not bound_advice(info(precision="fp8"), [], [])


def spot(level, kept=True, kind="rounding"):
    return WeakSpotInfo(
        node="n", kept=kept, source="search", causes=[CauseInfo(kind=kind, value=level, text="", remedy="")]
    )


@pytest.mark.parametrize(
    ("spots", "advised"),
    [
        # INT8 leaves more at every layer than FP8 leaves at any
        ([spot(41.7), spot(33.0)], False), ([spot(41.7), spot(22.0)], True), ([spot(41.7), spot(22.0, kept=False)], False),
        ([spot(41.7, kind="outliers")], True), ([spot(None)], True),
        # at one of them INT8 clips, and what its rounding leaves is not known
        ([spot(41.7), spot(41.7, kind="unlike-data")], True), ([spot(41.7, kind="near-ties")], True),
    ],
)  # fmt: skip
def test_fp8_is_advised_only_where_it_can_leave_less_noise_than_int8(spots, advised):
    (one,) = bound_advice(info(), [], spots)
    assert ("fp8" in one.fragment) is advised and ("FP8" in sentence(one.finding)) is advised


def test_what_fp8_leaves_at_a_layer_is_the_figure_of_its_rounding():
    """Whatever the spread of the values: two operands of E4M3."""
    import ml_dtypes

    for spread in (0.2, 1.0):
        a, b = (np.exp(spread * normal(300, 400, seed=seed)) * normal(300, 400, seed=seed + 9) for seed in (1, 2))
        rounded = [one.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) for one in (a, b)]
        noise = np.square(a @ b.T - rounded[0] @ rounded[1].T).mean()
        assert 10 * np.log10(np.square(a @ b.T).mean() / noise) == pytest.approx(_OF_FP8, abs=1)


def test_page_and_terminal_show_it():
    report = sample()
    report.search, report.summary.bound = info(), ["All layers in INT8: too few.", "FP16 adds error."]
    text, page = to_text(report), render_html(report)
    assert "What keeps 87.1 % of the multiply-accumulates out of INT8:\n- All layers in INT8: too few.\n" in text
    assert "<li>FP16 adds error.</li>" in page and "What keeps 87.1 % of the multiply-accumulates out of INT8:" in page
    report.summary.bound = []
    assert "What keeps" not in to_text(report) and "What keeps" not in render_html(report)


def test_a_plan_that_only_misses_for_what_its_float_type_adds_is_said_to():
    plans = [point(1.0, 0, 20.2, 0.09), point(0.58, 28, 54.6, 0.0, lacks={"min_unchanged": 0.184}),
             point(0.0, 48, 150.0, 0.0, chosen=True)]  # fmt: skip
    told = " ".join(sentence(one) for one in bound(info(plans=plans), Journal(), LAYERS))
    assert "54.6 dB SQNR, 100.0 % of the answers unchanged on 64 samples, which misses" in told
    assert told.count("once the error that FP16 adds is counted") == 1
    # what answers that changed or another limit miss is not for the type to answer for
    for plan in (point(0.58, 28, 54.6, 0.0, unchanged=0.5, lacks={"min_unchanged": 0.49}),
                 point(0.58, 28, 54.6, 0.0, lacks={"max_drop": 0.02})):  # fmt: skip
        told = " ".join(sentence(one) for one in bound(info(plans=[plans[0], plan, plans[2]]), Journal(), LAYERS))
        assert "which misses" in told and "once the error that" not in told
