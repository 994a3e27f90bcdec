"""A helper pass is kept only where it helps by the number that is shown; it can be forced."""

from __future__ import annotations

import math

import numpy as np
import pytest

from passes.correct_bias import CorrectBias
from passes.equalize import Equalize
from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from tests.conftest import build, node, normal, run, said
from toolkit import Code, Context, Harm, Helper, Model, Pass, Precision, Range, Ranges, Role, make_constant
from toolkit import run as run_recipe
from toolkit.calibration.provider import Calibrator
from toolkit.contract.helping import LEAST_DB, Effect
from toolkit.data.dataset import CalibrationData
from toolkit.report.conclusions.helpers import helpers_used
from toolkit.report.findings import sentence


def network(spread=1.0):
    """Two layers with channels that differ by ``spread``: what one makes larger the other makes smaller again."""
    scale = np.ones(8, np.float32)
    scale[::2] = spread
    parts = [
        node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "v"], ["y"], name="second"),
    ]
    weights = {
        "w": normal(6, 8, seed=1) * scale,
        "b": normal(8, seed=2) * scale,
        "v": normal(8, 4, seed=3) / scale[:, None],
    }
    return build(parts, {"x": ["n", 6]}, {"y": ["n", 4]}, weights)


def context_for(model, **more):
    data = CalibrationData.open([{"x": normal(1, 6, seed=i)} for i in range(24)], model)
    return Context(provider=Calibrator(data, method="minmax"), **more)


class Rescale(Pass):
    """Somebody's helper: makes every other channel between the layers larger by a factor."""

    name = "rescale"
    role = Role.HELP
    factor: float = 1.0
    spoils: bool = False

    def apply(self, model, context):
        first, second = model.node("first"), model.node("second")
        scale = np.ones(8, np.float32)
        scale[::2] = self.factor
        inverse = np.ones(8, np.float32) if self.spoils else 1 / scale
        for one, index, factor in ((first, 1, scale), (first, 2, scale), (second, 1, inverse[:, None])):
            values = model.constant(one.inputs[index])
            one.inputs[index] = make_constant(model.unique_tensor("rescaled"), (values * factor).astype(np.float32))
        context.known_ranges = None
        context.plan.ask("first", "fp32", "for the test")
        context.journal.changed("first", "rescaled", "for the test")
        context.journal.declined("second", "for the test")


class Settled(Rescale, Helper):
    """The same with the settings that force it."""

    name = "settled"


def applied(step, spread=1.0, **more):
    model = Model.from_proto(network(spread))
    before, context = model.fingerprint(), context_for(model, **more)
    step(model, context)
    return model, context, model.fingerprint() != before


@pytest.mark.parametrize("kind", [Rescale, Settled])
@pytest.mark.parametrize(("factor", "spread", "helps"), [(300.0, 1.0, False), (1 / 300, 300.0, True)])
def test_somebodys_helper_is_kept_only_where_it_helps(kind, factor, spread, helps):
    model, context, changed = applied(kind(factor=factor), spread)
    assert changed is helps
    (shown,) = said(context.journal, Code.EFFECT)
    assert (shown["by"], shown["quantized"], shown["applied"], shown["helps"]) == (kind.name, "int8", helps, helps)
    assert (shown["after_db"] >= shown["before_db"] + LEAST_DB) is helps and min(
        shown["after_db"], shown["before_db"]
    ) > 0
    assert bool(context.journal.of("changed")) is helps and (context.plan.get("first") is not None) is helps
    assert [e.rule for e in context.journal.of("declined", node="first")] == ([] if helps else ["no-gain"])
    assert len(context.journal.of("declined", node="second")) == 1
    x = {"x": normal(3, 6, seed=9)}
    np.testing.assert_allclose(run(model, x)[0], run(network(spread), x)[0], rtol=1e-3, atol=1e-4)


def test_a_helper_that_changes_the_function_is_seen_to_do_so():
    """Held against the float model before it, not against its own: one that quantizes well all the same."""
    _, context, changed = applied(Rescale(factor=2.0, spoils=True))
    (shown,) = said(context.journal, Code.EFFECT)
    assert not changed and shown["after_db"] < 10 < shown["before_db"]


@pytest.mark.parametrize("settings", [{"only_if_better": False}, {"measure": False}])
def test_it_can_be_forced(settings):
    _, context, changed = applied(Settled(factor=300.0, **settings))
    shown = said(context.journal, Code.EFFECT)
    assert changed and context.journal.of("changed")
    assert [(one["applied"], one["helps"]) for one in shown] == (
        [(True, False)] if settings.get("measure", True) else []
    )
    assert all(one["after_db"] < one["before_db"] for one in shown)


class Says(Pass):
    """A helper that writes of changes and makes none."""

    role = Role.HELP

    def apply(self, model, context):
        context.journal.changed("first", "looked at", "for the test")


def test_what_changes_nothing_is_not_measured():
    _, context, changed = applied(Says())
    assert not changed and not said(context.journal, Code.EFFECT) and context.journal.of("changed")


def uneven(seed):
    """The network with input channels of its second layer that differ by 2 to the 12th, in one order or another."""
    model = Model.from_proto(network())
    values = np.exp2(np.linspace(-6, 6, 8)).astype(np.float32)
    np.random.default_rng(seed).shuffle(values)
    second = model.node("second")
    second.inputs[1] = make_constant("uneven", np.asarray(model.constant(second.inputs[1])) * values[:, None])
    return model


@pytest.mark.parametrize(("seed", "helps"), [(0, True), (3, False)])
def test_equalize_helps_one_model_and_harms_another(seed, helps):
    model = uneven(seed)
    before, context = model.fingerprint(), context_for(model)
    Equalize()(model, context)
    (shown,) = said(context.journal, Code.EFFECT)
    assert (model.fingerprint() != before) is shown["applied"] is shown["helps"] is helps
    assert (shown["after_db"] > shown["before_db"]) is helps
    Equalize(only_if_better=False)(model, context)
    assert model.fingerprint() != before


@pytest.mark.parametrize("samples", [1, 64])
def test_a_correction_of_biases_is_held_to_its_number(samples):
    """E[x] of one sample is no mean: whatever comes of it, the journal's number decides."""
    model = Model.from_proto(network())
    context = context_for(model)
    InsertQDQ()(model, context)
    before = model.fingerprint()
    CorrectBias(samples=samples)(model, context)
    (shown,) = said(context.journal, Code.EFFECT)
    assert (shown["by"], shown["quantized"]) == ("correct_bias", "")
    assert (model.fingerprint() != before) is shown["applied"] is (shown["after_db"] >= shown["before_db"] + LEAST_DB)
    assert {e.rule for e in context.journal.of("declined", by="correct_bias")} == (
        set() if shown["applied"] else {"no-gain"}
    )


class Misleads(Helper):
    """A correction that shifts what it should correct."""

    role = None
    mends = Harm.SHIFTED_MEAN

    def apply(self, model, context):
        first = model.node("first")
        values = model.constant(first.inputs[2])
        first.inputs[2] = make_constant(model.unique_tensor("shifted"), (values + 1).astype(np.float32))
        context.journal.changed("first", "shifted", "for the test")


def test_what_says_that_it_mends_something_is_held_to_it():
    model = Model.from_proto(network())
    context = context_for(model)
    InsertQDQ()(model, context)
    before = model.fingerprint()
    Misleads()(model, context)
    (shown,) = said(context.journal, Code.EFFECT)
    assert model.fingerprint() == before and not shown["applied"] and shown["after_db"] < shown["before_db"] - 5
    Misleads(only_if_better=False)(model, context)
    assert model.fingerprint() != before


def test_without_samples_nothing_shows_that_it_helps():
    known = Ranges({name: Range(4.0, "manual") for name in ("x", "h", "r", "y")})
    for context in (Context(known_ranges=known), Context(provider=Calibrator(None, manual={"x": 1.0}))):
        model = Model.from_proto(network(300.0))
        before, ranges = model.fingerprint(), context.known_ranges
        Rescale(factor=1 / 300)(model, context)
        assert model.fingerprint() == before and context.known_ranges == ranges
        assert said(context.journal, Code.HELPER_UNMEASURED) == [{"by": "rescale"}]
        assert [(e.node, e.rule) for e in context.journal.of("declined", node="first")] == [("first", "gain-unknown")]
        Settled(factor=1 / 300, only_if_better=False)(model, context)
        assert model.fingerprint() != before
    # nothing is known of ranges, and nothing can be spoilt
    model = Model.from_proto(network(300.0))
    Rescale(factor=1 / 300)(model, Context())
    assert model.fingerprint() != Model.from_proto(network(300.0)).fingerprint()


def test_in_a_dry_run_nothing_is_measured():
    _, context, changed = applied(Rescale(factor=300.0), dry_run=True)
    assert changed and said(context.journal, Code.DRY_RUN) == [{"step": "helpers"}]


@pytest.mark.parametrize(
    ("before", "after", "helps"),
    [(26.8, 26.5, False), (26.8, 26.8, False), (26.8, 26.95, True), (math.inf, math.inf, False), (-math.inf, 3.0, True),
     (-math.inf, -math.inf, False), (20.0, math.nan, False), (math.nan, 20.0, False), (20.0, math.inf, True)],
)  # fmt: skip
def test_what_counts_as_help(before, after, helps):
    assert Effect(before, after).helps is helps


RECIPE = """
[model]
path = "m.onnx"
[calibration]
data = "calib.npz"
method = "minmax"
{passes}
[engine]
backend = "none"
[evaluation]
budget = {{ min_sqnr_db = 45.0 }}
"""


@pytest.mark.parametrize(("seed", "forced", "kept"), [(0, False, True), (3, False, False), (3, True, True)])
def test_a_run_says_with_and_without_and_what_was_decided(tmp_path, seed, forced, kept):
    uneven(seed).save(tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=normal(30, 6, seed=5))
    lines = f'[[pass]]\nuse = "equalize"\nonly_if_better = {str(not forced).lower()}\n[[pass]]\nuse = "insert_qdq"'
    (tmp_path / "r.toml").write_text(RECIPE.format(passes=lines))
    report = run_recipe(tmp_path / "r.toml", tmp_path / "out").report
    (effect,) = _effects((tmp_path / "out" / "journal.jsonl").read_text())
    assert report.summary.helpers == [sentence(effect)]
    assert effect.values["applied"] is kept and effect.values["helps"] is (seed == 0)
    assert bool([one for one in report.declined if one.rule == "no-gain"]) is not kept


def _effects(text):
    from toolkit.contract.journal import Journal

    return [event.why for event in Journal.from_jsonl(text) if event.why.code is Code.EFFECT]


def test_a_search_takes_no_helper_that_lowers_what_it_shows():
    for factor, spread in ((300.0, 1.0), (1 / 300, 300.0)):
        model = Model.from_proto(network(spread))
        # what a helper does to float16 is decided apart
        context = context_for(model, rest=Precision.FP32)
        step = SearchPrecision(
            min_sqnr_db=60, helpers=[f"{__name__}:{'Spread' if factor > 1 else 'Even'}"], evaluations=4
        )
        step(model, context)
        (shown,) = said(context.journal, Code.SEARCH_HELPER)
        assert shown["samples"] > 0 and shown["output"] == "y"
        assert shown["applied"] is (factor < 1) is (shown["after_db"] > shown["before_db"])
        assert not said(context.journal, Code.EFFECT)


class Spread(Rescale):
    """Makes channels uneven."""

    factor: float = 300.0


class Even(Rescale):
    """Makes them even again."""

    factor: float = 1 / 300


def test_the_report_names_those_that_were_not_kept():
    _, context, _ = applied(Rescale(factor=300.0))
    (effect,) = [e.why for e in context.journal.of("noted") if e.why.code is Code.EFFECT]
    assert helpers_used(context.journal) == [effect] and "NOT" in sentence(effect)


def test_the_answers_that_stay_are_told_too():
    from toolkit import Evaluation
    from toolkit.evaluation.comparison.answers import Answers
    from toolkit.evaluation.tasks import OutputPart

    answers = Answers([OutputPart("classification", ("y",))])
    _, context, changed = applied(Rescale(factor=1 / 30), 30, evaluation=Evaluation(answers=answers))
    (shown,) = said(context.journal, Code.EFFECT)
    assert changed and 0 < shown["before_share"] <= shown["after_share"] <= 1
    assert (shown["samples"], shown["output"]) == (24, "y")
    assert "of the answers unchanged" in sentence(Code.EFFECT(**shown))
