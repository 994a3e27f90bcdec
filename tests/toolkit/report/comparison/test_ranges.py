"""Two files of ranges beside each other."""

from __future__ import annotations

import pytest

from toolkit.contract.ranges import Range, Ranges
from toolkit.report.comparison.ranges import compare_ranges


@pytest.mark.parametrize(("model", "differ"), [("b", True), ("a", False), (None, False)])
def test_ranges_of_different_models_are_called_that_first(model, differ):
    first = Ranges({"x": Range(1.0, "mse")}, made_from={"model": "a", "settings": {}})
    second = Ranges({"x": Range(2.0, "mse")}, made_from={"model": model, "settings": {}} if model else {})
    found = compare_ranges(first, second, ("one", "two"))
    assert found.other_models is differ and found.to_json()["other_models"] is differ and found.median_ratio == 2.0
    assert found.to_text().startswith("The ranges are of DIFFERENT MODELS") is differ
