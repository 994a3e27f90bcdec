"""Which helper passes changed the model: in words, in the terminal, and on the page."""

from __future__ import annotations

from passes.equalize import Equalize
from passes.smooth import Smooth
from tests.conftest import normal
from tests.passes.test_smooth import outliers
from tests.toolkit.report.samples import HOSTILE, sample
from toolkit import Context
from toolkit.calibration.provider import Calibrator
from toolkit.contract.journal import Journal
from toolkit.data.dataset import CalibrationData
from toolkit.report.helpers import helper_lines
from toolkit.report.html import render_html
from toolkit.report.terminal import to_text


def journal_of(*steps):
    model = outliers()
    data = CalibrationData.open([{"x": normal(1, 3, 16, seed=i)} for i in range(16)], model)
    context = Context(provider=Calibrator(data, method="minmax"))
    for step in steps:
        step(model, context)
    return context.journal


def test_a_helper_of_the_recipe_tells_what_it_gained_or_that_nobody_measured():
    (line,) = helper_lines(journal_of(Smooth()))
    assert line.startswith("smooth: all layers in INT8 leave") and "before" in line
    assert helper_lines(journal_of(Smooth(measure=False))) == [
        "smooth: it changed 2 layers; what it gained was not measured"
    ]
    # no pair can be equalized in this model: nothing was changed, nothing is claimed
    assert helper_lines(journal_of(Equalize())) == []


def test_of_a_search_only_the_helpers_that_it_kept_are_named():
    journal = Journal()
    journal.by = "search_precision"
    journal.noted("equalize: all layers leave 14.0 dB, before 14.3 dB; it is not applied", rule="search-helper")
    journal.noted("smooth: all layers leave 38.9 dB, before 14.3 dB; it is applied", rule="search-helper")
    assert helper_lines(journal) == ["smooth: all layers leave 38.9 dB, before 14.3 dB"]


def test_the_line_is_in_the_terminal_and_on_the_page():
    report = sample()
    assert "Helper pass" not in to_text(report) and "Helper passes" not in render_html(report)
    report.summary.helpers = ["smooth: 38.9 dB, before 14.3 dB", HOSTILE[0]]
    assert "Helper pass smooth: 38.9 dB, before 14.3 dB" in to_text(report)
    page = render_html(report)
    assert "Smooth: 38.9 dB, before 14.3 dB." in page and HOSTILE[0] not in page
