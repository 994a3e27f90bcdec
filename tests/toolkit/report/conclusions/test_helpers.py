"""Which helper passes changed the model: in words, in the terminal, and on the page."""

from __future__ import annotations

from passes.equalize import Equalize
from passes.smooth import Smooth
from tests.conftest import normal
from tests.passes.test_smooth import outliers
from tests.toolkit.report.samples import HOSTILE, sample
from toolkit import Code, Context, Pass
from toolkit.calibration.provider import Calibrator
from toolkit.contract.journal import Journal
from toolkit.contract.roles import Role
from toolkit.data.dataset import CalibrationData
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.helpers import helpers_used, idle_helpers
from toolkit.report.findings import sentence
from toolkit.report.page.html import render_html
from toolkit.report.schema.report import PassInfo
from toolkit.report.terminal.report import to_text


def journal_of(*steps):
    model = outliers()
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    for step in steps:
        step(model, context)
    return context.journal


def test_a_helper_of_the_recipe_tells_what_it_gained_or_that_nobody_measured():
    (effect,) = [event for event in journal_of(Smooth()) if event.rule == "effect"]
    assert helpers_used(journal_of(Smooth())) == [effect.why]
    assert helpers_used(journal_of(Smooth(measure=False))) == [ReportCode.EFFECT_NOT_MEASURED(by="smooth", count=2)]
    # no pair can be equalized in this model: nothing was changed, nothing is claimed
    assert helpers_used(journal_of(Equalize())) == []


class Halve(Pass):
    """A helper from outside that changes a layer."""

    name = "halve"
    role = Role.HELP

    def apply(self, model, context):
        """Say so."""
        context.journal.changed(model.nodes[0].name, "halved", "for the test")


def test_a_helper_from_outside_is_found_by_the_part_it_plays():
    journal = journal_of(Halve())
    assert helpers_used(journal) == []
    own = PassInfo(use="somewhere:Halve", title="halve", role=Role.HELP)
    assert helpers_used(journal, [own]) == [ReportCode.EFFECT_NOT_MEASURED(by="halve", count=1)]


def test_a_helper_after_which_nothing_is_quantized_is_said_to_gain_nothing():
    layers, journal = sample().layers, journal_of(Smooth(measure=False))
    assert any(layer.asked_precision.quantized for layer in layers if layer.asked_precision is not None)
    assert idle_helpers(journal, [], layers) is None
    floats = [layer for layer in layers if layer.asked_precision is None or not layer.asked_precision.quantized]
    assert idle_helpers(journal, [], floats) == ReportCode.HELPERS_IDLE(passes=["smooth"])
    assert idle_helpers(journal_of(Equalize()), [], floats) is None


def test_of_a_search_only_the_helpers_that_it_kept_are_named():
    journal = Journal()
    journal.by = "search_precision"
    worse, better = (
        Code.SEARCH_HELPER(
            helper=name, applied=level > 14.3, dtype="int8", before_db=14.3, after_db=level, samples=8, output="y"
        )
        for name, level in (("equalize", 14.0), ("smooth", 38.9))
    )
    journal.noted(worse)
    journal.noted(better)
    assert helpers_used(journal) == [better]


def test_the_line_is_in_the_terminal_and_on_the_page():
    report = sample()
    assert "smooth" not in to_text(report) and "Helper passes" not in render_html(report)
    report.summary.helpers = ["smooth: 38.9 dB, before 14.3 dB.", HOSTILE[0]]
    assert "smooth: 38.9 dB, before 14.3 dB." in to_text(report)
    page = render_html(report)
    assert "smooth: 38.9 dB, before 14.3 dB." in page and HOSTILE[0] not in page


def test_a_helper_tells_a_metric_in_a_unit_of_any_size():
    known = {"helper": "equalize", "applied": True, "dtype": "int8", "before_db": 1.0, "after_db": 30.0, "samples": 8}
    shares = {"before_share": 5.4e-19, "after_share": 1.2e-20}
    told = sentence(Code.SEARCH_HELPER(**known, output="y", metric="mse", **shares))
    assert "mse 1.2e-20 (5.4e-19 before)" in told


def test_idle_helpers_are_named_in_the_number_that_they_have():
    told = [sentence(ReportCode.HELPERS_IDLE(passes=names)) for names in (["smooth"], ["equalize", "smooth"])]
    assert told[0].endswith("so that gains nothing. Quantize afterwards, or remove it from the recipe.")
    assert told[1].startswith("equalize and smooth changed") and told[1].endswith("or remove them from the recipe.")
